package volume

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// ramp holds 1, 2, 3, ... so that every voxel tells where it came from.
func ramp(c, d, h, w int) *Volume {
	v := New(c, d, h, w)
	for i := range v.Data {
		v.Data[i] = float32(i + 1)
	}
	return v
}

func TestCropPad(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 5)
		v := ramp(rapid.IntRange(1, 2).Draw(t, "c"), size.Draw(t, "d"), size.Draw(t, "h"), size.Draw(t, "w"))
		v.Geometry.Affine = [3][4]float64{{0, 0, 2, 5}, {0, -3, 0, 6}, {4, 0, 0, 7}}
		shape := [3]int{size.Draw(t, "d2"), size.Draw(t, "h2"), size.Draw(t, "w2")}
		out, offset, err := CropPad(v, shape)
		if err != nil {
			t.Fatal(err)
		}
		if out.Dims() != shape || out.Channels != v.Channels {
			t.Fatalf("shape %s", out.Shape())
		}
		for i, n := range v.Dims() {
			// Centred: what is cut off (or added) before and after differs by at most one, with the extra one behind.
			before, after := offset[i], n-shape[i]-offset[i]
			if before < 0 || after < 0 {
				before, after = -before, -after
			}
			if after-before < 0 || after-before > 1 {
				t.Fatalf("axis %d: %d to %d, offset %d", i, n, shape[i], offset[i])
			}
		}
		// By hand: a step along D is 4 mm of z, along H -3 mm of y, along W 2 mm of x.
		at := [3]float64{5 + 2*float64(offset[2]), 6 - 3*float64(offset[1]), 7 + 4*float64(offset[0])}
		if want := (Affine{{0, 0, 2, at[0]}, {0, -3, 0, at[1]}, {4, 0, 0, at[2]}}); out.Geometry.Affine != want {
			t.Fatalf("affine %v after offset %v, want %v", out.Geometry.Affine, offset, want)
		}
		for c := range v.Channels {
			for d := range shape[0] {
				for h := range shape[1] {
					for w := range shape[2] {
						got := out.Channel(c)[(d*shape[1]+h)*shape[2]+w]
						want := float32(0)
						x, y, z := d+offset[0], h+offset[1], w+offset[2]
						if x >= 0 && x < v.Depth && y >= 0 && y < v.Height && z >= 0 && z < v.Width {
							want = v.Channel(c)[(x*v.Height+y)*v.Width+z]
						}
						if got != want {
							t.Fatalf("[%d %d %d %d] = %v, want %v", c, d, h, w, got, want)
						}
					}
				}
			}
		}
	})
}

func TestScale(t *testing.T) {
	for name, want := range map[string][]float32{
		"none":   {0, 51, 102, 255},
		"div255": {0, 0.2, 0.4, 1},
		"minmax": {0, 0.2, 0.4, 1},
		// mean 102, standard deviation sqrt((102^2 + 51^2 + 0 + 153^2)/4)
		"zscore": {-1.0690450, -0.5345225, 0, 1.6035675},
	} {
		v := &Volume{Data: []float32{0, 51, 102, 255}, Channels: 1, Depth: 1, Height: 1, Width: 4}
		s, err := Scale(v, name)
		if err != nil || s.Name != name {
			t.Fatal(err)
		}
		for i := range want {
			if math.Abs(float64(v.Data[i]-want[i])) > 1e-6 {
				t.Errorf("%s: %v, want %v", name, v.Data, want)
				break
			}
		}
	}
	for _, name := range []string{"minmax", "zscore"} {
		v := New(1, 1, 1, 3)
		for i := range v.Data {
			v.Data[i] = 0.1
		}
		if _, err := Scale(v, name); err == nil {
			t.Errorf("%s of a constant volume: no error", name)
		}
	}
	if _, err := Scale(ramp(1, 1, 1, 2), "log"); err == nil {
		t.Error("unknown scaling: no error")
	}
	if _, err := Scale(&Volume{}, "minmax"); err == nil {
		t.Error("a volume without voxels: no error")
	}
	if _, _, err := CropPad(ramp(1, 2, 2, 2), [3]int{2, 0, 2}); err == nil {
		t.Error("a size of 0: no error")
	}
}
