package noise

import "testing"

func BenchmarkFill(b *testing.B) {
	s, err := New(1, "bench", 0)
	if err != nil {
		b.Fatal(err)
	}
	dst := make([]float32, 1<<16)
	b.Run("Fill", func(b *testing.B) {
		for b.Loop() {
			s.Fill(dst, 0)
		}
		b.ReportMetric(float64(b.N)*float64(len(dst))/b.Elapsed().Seconds()/1e6, "Mnormals/s")
	})
	b.Run("AddTo", func(b *testing.B) {
		for b.Loop() {
			s.AddTo(dst, dst, 0, 0)
		}
		b.ReportMetric(float64(b.N)*float64(len(dst))/b.Elapsed().Seconds()/1e6, "Mnormals/s")
	})
	b.Run("FillSlab2", func(b *testing.B) {
		for b.Loop() {
			s.FillSlab(dst, Slab{Channels: 2, Voxels: len(dst) / 2})
		}
		b.ReportMetric(float64(b.N)*float64(len(dst))/b.Elapsed().Seconds()/1e6, "Mnormals/s")
	})
}
