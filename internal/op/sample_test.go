package op_test

import (
	"math"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// Grids of a line 1, 2, 4, 8, ... that was sampled again, with the values of ONNX's reference implementation (onnx 1.23, whose weights are float32).
func TestTaps(t *testing.T) {
	line := []float64{1, 2, 4, 8, 16, 32}
	for _, c := range []struct {
		n, out               int
		scale                float64
		mode, coord, nearest string
		want                 []float64
	}{
		{4, 8, 8. / 4, "nearest", "half_pixel", "round_prefer_floor", []float64{1, 1, 2, 2, 4, 4, 8, 8}},
		{5, 3, 3. / 5, "nearest", "asymmetric", "round_prefer_floor", []float64{1, 4, 8}},
		{4, 6, 6. / 4, "nearest", "asymmetric", "round_prefer_floor", []float64{1, 2, 2, 4, 8, 8}},
		{2, 5, 5. / 2, "nearest", "align_corners", "round_prefer_floor", []float64{1, 1, 1, 2, 2}},
		{4, 8, 8. / 4, "nearest", "half_pixel", "round_prefer_ceil", []float64{1, 1, 2, 2, 4, 4, 8, 8}},
		{5, 3, 3. / 5, "nearest", "asymmetric", "round_prefer_ceil", []float64{1, 4, 8}},
		{4, 6, 6. / 4, "nearest", "asymmetric", "round_prefer_ceil", []float64{1, 2, 2, 4, 8, 8}},
		{2, 5, 5. / 2, "nearest", "align_corners", "round_prefer_ceil", []float64{1, 1, 2, 2, 2}},
		{4, 8, 8. / 4, "nearest", "half_pixel", "floor", []float64{1, 1, 1, 2, 2, 4, 4, 8}},
		{5, 3, 3. / 5, "nearest", "asymmetric", "floor", []float64{1, 2, 8}},
		{4, 6, 6. / 4, "nearest", "asymmetric", "floor", []float64{1, 1, 2, 4, 4, 8}},
		{2, 5, 5. / 2, "nearest", "align_corners", "floor", []float64{1, 1, 1, 1, 2}},
		{4, 8, 8. / 4, "nearest", "half_pixel", "ceil", []float64{1, 2, 2, 4, 4, 8, 8, 8}},
		{5, 3, 3. / 5, "nearest", "asymmetric", "ceil", []float64{1, 4, 16}},
		{4, 6, 6. / 4, "nearest", "asymmetric", "ceil", []float64{1, 2, 4, 4, 8, 8}},
		{2, 5, 5. / 2, "nearest", "align_corners", "ceil", []float64{1, 2, 2, 2, 2}},
		{4, 7, 7. / 4, "linear", "half_pixel", "", []float64{1, 1.357142857, 1.928571429, 3, 4.285714286, 6.571428571, 8}},
		{3, 1, 1. / 3, "linear", "half_pixel", "", []float64{2}},
		{4, 6, 1.6, "linear", "half_pixel", "", []float64{1, 1.437499986, 2.124999953, 3.374999935, 5.249999832, 7.749999795}},
		{4, 6, 1.2, "linear", "asymmetric", "", []float64{1, 1.8333333, 3.3333333, 6, 8, 8}}, // behind the last element, which goes on
		{6, 3, 3. / 6, "linear", "half_pixel", "", []float64{1.5, 6, 24}},
		{4, 7, 7. / 4, "linear", "pytorch_half_pixel", "", []float64{1, 1.357142857, 1.928571429, 3, 4.285714286, 6.571428571, 8}},
		{3, 1, 1. / 3, "linear", "pytorch_half_pixel", "", []float64{1}},
		{4, 6, 1.6, "linear", "pytorch_half_pixel", "", []float64{1, 1.437499986, 2.124999953, 3.374999935, 5.249999832, 7.749999795}},
		{6, 3, 3. / 6, "linear", "pytorch_half_pixel", "", []float64{1.5, 6, 24}},
		{4, 7, 7. / 4, "linear", "align_corners", "", []float64{1, 1.5, 2, 3, 4, 6, 8}},
		{3, 1, 1. / 3, "linear", "align_corners", "", []float64{1}},
		{6, 3, 3. / 6, "linear", "align_corners", "", []float64{1, 6, 32}},
		{4, 7, 7. / 4, "linear", "asymmetric", "", []float64{1, 1.571428571, 2.285714286, 3.428571429, 5.142857143, 7.428571429, 8}},
		{3, 1, 1. / 3, "linear", "asymmetric", "", []float64{1}},
		{4, 6, 1.6, "linear", "asymmetric", "", []float64{1, 1.624999991, 2.499999963, 3.749999944, 5.999999851, 8}},
		{6, 3, 3. / 6, "linear", "asymmetric", "", []float64{1, 4, 16}},
		{4, 7, 7. / 4, "linear", "half_pixel_symmetric", "", []float64{1, 1.357142857, 1.928571429, 3, 4.285714286, 6.571428571, 8}},
		{3, 1, 1. / 3, "linear", "half_pixel_symmetric", "", []float64{2}},
		{4, 6, 1.6, "linear", "half_pixel_symmetric", "", []float64{1, 1.562500014, 2.375000009, 3.624999991, 5.749999944, 8}},
		{6, 3, 3. / 6, "linear", "half_pixel_symmetric", "", []float64{1.5, 6, 24}},
		{4, 7, 7. / 4, "cubic", "half_pixel", "", []float64{0.900783718, 1.217746437, 1.850399971, 2.71875, 4.321246386, 6.760020971, 8.396864414}},
		{3, 1, 1. / 3, "cubic", "half_pixel", "", []float64{2}},
		{4, 6, 1.6, "cubic", "half_pixel", "", []float64{0.907165527, 1.268310547, 2.129577637, 3.022522211, 5.390990257, 7.806762934}},
		{6, 3, 3. / 6, "cubic", "half_pixel", "", []float64{1.3125, 5.4375, 24.75}},
		{4, 7, 7. / 4, "cubic", "pytorch_half_pixel", "", []float64{0.900783718, 1.217746437, 1.850399971, 2.71875, 4.321246386, 6.760020971, 8.396864414}},
		{4, 6, 1.6, "cubic", "pytorch_half_pixel", "", []float64{0.907165527, 1.268310547, 2.129577637, 3.022522211, 5.390990257, 7.806762934}},
		{6, 3, 3. / 6, "cubic", "pytorch_half_pixel", "", []float64{1.3125, 5.4375, 24.75}},
		{4, 7, 7. / 4, "cubic", "align_corners", "", []float64{1, 1.3125, 2, 2.71875, 4, 6.1875, 8}},
		{3, 1, 1. / 3, "cubic", "align_corners", "", []float64{1}},
		{6, 3, 3. / 6, "cubic", "align_corners", "", []float64{1, 5.4375, 32}},
		{4, 7, 7. / 4, "cubic", "asymmetric", "", []float64{1, 1.370262742, 2.268222213, 3.078715682, 5.274056435, 7.542273998, 8.4198246}},
		{3, 1, 1. / 3, "cubic", "asymmetric", "", []float64{1}},
		{4, 6, 1.6, "cubic", "asymmetric", "", []float64{1, 1.419921875, 2.41796875, 3.514160156, 6.187499285, 8.287108898}},
		{6, 3, 3. / 6, "cubic", "asymmetric", "", []float64{1, 4, 16}},
		{4, 7, 7. / 4, "cubic", "half_pixel_symmetric", "", []float64{0.900783718, 1.217746437, 1.850399971, 2.71875, 4.321246386, 6.760020971, 8.396864414}},
		{3, 1, 1. / 3, "cubic", "half_pixel_symmetric", "", []float64{2}},
		{4, 6, 1.6, "cubic", "half_pixel_symmetric", "", []float64{0.95880127, 1.362548828, 2.334533691, 3.322692871, 5.926879883, 8.164794922}},
		{6, 3, 3. / 6, "cubic", "half_pixel_symmetric", "", []float64{1.3125, 5.4375, 24.75}},
	} {
		a := op.ResizeAttr{Out: []int{7, c.out}, Scale: []float64{1, c.scale}, Mode: c.mode, Coord: c.coord, Nearest: c.nearest, CubicA: -0.75}
		taps := a.Taps(1, c.n)
		for i, want := range c.want {
			got, sum := 0.0, 0.0
			for _, tap := range taps[i] {
				got += tap.Weight * line[tap.Index]
				sum += tap.Weight
			}
			if math.Abs(got-want) > 1e-5 || math.Abs(sum-1) > 1e-12 {
				t.Errorf("%d to %d by %v, %s %s %s: value %d is %v, want %v; weights sum to %v", c.n, c.out, c.scale, c.mode, c.coord, c.nearest, i, got, want, sum)
			}
		}
		if len(taps) != len(c.want) {
			t.Errorf("%d positions instead of %d", len(taps), len(c.want))
		}
		if c.mode == "nearest" && slices.ContainsFunc(taps, func(of []ir.Tap) bool { return len(of) != 1 }) {
			t.Errorf("nearest is made of several: %v", taps)
		}
	}
	// What is not resized is one element each, whatever the mode; another scale of the same size is resized.
	same := op.ResizeAttr{Out: []int{3}, Scale: []float64{1}, Mode: "cubic", Coord: "half_pixel"}
	if taps := same.Taps(0, 3); !slices.EqualFunc(taps, [][]ir.Tap{{{Index: 0, Weight: 1}}, {{Index: 1, Weight: 1}}, {{Index: 2, Weight: 1}}}, slices.Equal) {
		t.Errorf("a grid that stays: %v", taps)
	}
	same = op.ResizeAttr{Out: []int{3}, Scale: []float64{1.25}, Mode: "nearest", Coord: "asymmetric", Nearest: "ceil"}
	if taps := same.Taps(0, 3); taps[1][0].Index != 1 || taps[2][0].Index != 2 {
		t.Errorf("a grid that is scaled: %v", taps)
	}
	same.Scale[0] = 0.5
	if taps := same.Taps(0, 3); taps[1][0].Index != 2 || taps[2][0].Index != 2 {
		t.Errorf("a grid that is cut: %v", taps)
	}
}

// Sources of padded elements are those of numpy.pad.
func TestPadSource(t *testing.T) {
	for _, c := range []struct {
		mode             string
		n, before, after int
		want             []int
	}{
		{op.PadReflect, 4, 3, 2, []int{3, 2, 1, 0, 1, 2, 3, 2, 1}},
		{op.PadReflect, 4, 7, 9, []int{1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0}},
		{op.PadReflect, 1, 2, 2, []int{0, 0, 0, 0, 0}},
		{op.PadReflect, 2, 3, 3, []int{1, 0, 1, 0, 1, 0, 1, 0}},
		{op.PadEdge, 4, 3, 2, []int{0, 0, 0, 0, 1, 2, 3, 3, 3}},
		{op.PadEdge, 1, 2, 2, []int{0, 0, 0, 0, 0}},
		{op.PadWrap, 4, 3, 2, []int{1, 2, 3, 0, 1, 2, 3, 0, 1}},
		{op.PadWrap, 4, 7, 9, []int{1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0}},
		{op.PadConstant, 4, 3, 2, []int{-1, -1, -1, 0, 1, 2, 3, -1, -1}},
		{op.PadConstant, 4, -1, -2, []int{1}},
		{op.PadEdge, 4, -3, 2, []int{3, 3, 3}},
	} {
		a := op.PadAttr{Before: []int{5, c.before}, After: []int{5, c.after}, Mode: c.mode}
		var got []int
		for i := range c.before + c.n + c.after {
			got = append(got, a.Source(1, i, c.n))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s of %d by %d and %d: %v, want %v", c.mode, c.n, c.before, c.after, got, c.want)
		}
	}
}

// Divisors of an average: PyTorch's avg_pool1d of ones with ceil_mode, which counts padding but not what is behind it.
func TestDivisor(t *testing.T) {
	for _, c := range []struct {
		kernel, stride, dilation, before, after, n int
		countPad                                   bool
		want                                       []int
	}{
		{3, 2, 1, 1, 1, 6, false, []int{2, 3, 3, 1}},
		{3, 2, 1, 1, 1, 6, true, []int{3, 3, 3, 2}},
		{3, 2, 2, 0, 2, 5, false, []int{3, 2, 1}},
		{3, 2, 2, 0, 2, 5, true, []int{3, 3, 2}},
		{2, 3, 1, 1, 0, 4, false, []int{1, 2}},
		{2, 3, 1, 1, 0, 4, true, []int{2, 2}},
	} {
		a := op.PoolAttr{Kernel: [3]int{9, c.kernel, 9}, Stride: [3]int{9, c.stride, 9}, Dilation: [3]int{9, c.dilation, 9},
			Before: [3]int{9, c.before, 9}, After: [3]int{9, c.after, 9}, CountPad: c.countPad}
		for i, want := range c.want {
			if got := a.Divisor(1, i*c.stride-c.before, c.n); got != want {
				t.Errorf("%+v: window %d divides by %d, want %d", c, i, got, want)
			}
		}
	}
}
