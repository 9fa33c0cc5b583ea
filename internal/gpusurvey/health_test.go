package gpusurvey

import (
	"testing"

	"github.com/voxcam/voxcam/internal/bytesize"
)

func TestJudge(t *testing.T) {
	const gb = bytesize.GiB
	for _, c := range []struct {
		free  int
		split float64
		want  Health
	}{
		{6 * gb, 0, Healthy}, {5 * gb, 0, Caution}, {5*gb + 1, 0.0999, Healthy}, {5*gb + 1, 0.10, Caution}, {gb, 0.25, Caution},
		{gb - 1, 0, Warning}, {gb / 2, 0.5, Warning}, {gb/2 - 1, 0, Critical}, {0, 0, Critical},
		// The worse of the two.
		{80 * gb, 0.26, Warning}, {80 * gb, 0.51, Critical}, {gb / 2, 0.2, Warning}, {2 * gb, 0.9, Critical},
	} {
		if got := DefaultBands().Judge(c.free, c.split); got != c.want {
			t.Errorf("%s free, %g fragmented is %s, not %s", bytesize.Format(c.free), c.split, got, c.want)
		}
	}
}

func TestBandsAsFlag(t *testing.T) {
	b := DefaultBands()
	if again, err := ParseBands(b.String()); err != nil || again != b {
		t.Errorf("%s became %s: %v", b, again, err)
	}
	if err := b.Set("8GiB, 2GiB,1GiB"); err != nil || b.Free != [3]int{8 * bytesize.GiB, 2 * bytesize.GiB, bytesize.GiB} || b.Fragmentation != DefaultBands().Fragmentation {
		t.Errorf("%s: %v", b, err)
	}
	if err := b.Set("3GiB,2GiB,1GiB,1%,2.5%,3%"); err != nil || b.Fragmentation != [3]float64{0.01, 0.025, 0.03} {
		t.Errorf("%s: %v", b, err)
	}
	for _, text := range []string{"", "1GiB", "1GiB,2GiB,3GiB", "3GiB,2GiB,much", "3GiB,2GiB,1GiB,1,2,3", "3GiB,2GiB,1GiB,3%,2%,1%", "3GiB,2GiB,1GiB,1%,2%,200%"} {
		if got, err := ParseBands(text); err == nil {
			t.Errorf("%q became %s", text, got)
		}
	}
}

func TestHealthAsText(t *testing.T) {
	for h := Unknown; h <= Critical; h++ {
		text, err := h.MarshalText()
		var back Health
		if err != nil || back.UnmarshalText(text) != nil || back != h {
			t.Errorf("%s became %s", h, back)
		}
	}
	if new(Health).UnmarshalText([]byte("fine")) == nil {
		t.Error("fine is taken")
	}
}
