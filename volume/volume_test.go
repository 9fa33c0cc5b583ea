package volume

import "testing"

// Channel c holds the voxels [c, d, h, w] in row-major order, and nothing else.
func TestChannel(t *testing.T) {
	v := New(3, 2, 4, 5)
	for i := range v.Data {
		v.Data[i] = float32(i)
	}
	if v.Voxels() != 40 || v.Dims() != [3]int{2, 4, 5} || v.Shape() != "3x2x4x5" {
		t.Errorf("%d voxels, %v, %s", v.Voxels(), v.Dims(), v.Shape())
	}
	for c, first := range []float32{0, 40, 80} {
		if got := v.Channel(c); len(got) != 40 || got[0] != first || got[39] != first+39 {
			t.Errorf("channel %d: %v", c, got)
		}
	}
}
