package cuda

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// openTensor opens a device whose convolutions run on tensor cores however small they are.
func openTensor(t testing.TB, p Precision) *Backend {
	t.Helper()
	b := open(t, Options{Precision: p})
	b.precise = 0
	b.builders[op.Conv] = func(c *compiler, n *ir.Node) (action, error) {
		run, _, err := c.ownConv("tensor", n, n.Attr.(op.ConvAttr), false)
		return run, err
	}
	b.builders[op.ConvBackwardData] = func(c *compiler, n *ir.Node) (action, error) {
		run, _, err := c.ownConv("tensor", n, n.Attr.(op.ConvBackwardDataAttr).Conv, true)
		return run, err
	}
	return b
}

// tensorCase is a convolution that is large enough to have several tiles, chunks, or groups.
type tensorCase struct {
	name   string
	x      tensor.Shape
	out    int
	kernel [3]int
	attr   op.ConvAttr
}

var (
	ones  = [3]int{1, 1, 1}
	twos  = [3]int{2, 2, 2}
	cubes = [3]int{3, 3, 3}
)

var tensorCases = []tensorCase{
	{"cube", tensor.Shape{1, 2, 10, 17, 36}, 70, cubes, op.ConvAttr{Stride: ones, Dilation: ones, Before: ones, After: ones, Groups: 1}},
	{"twoChunks", tensor.Shape{1, 1, 9, 9, 68}, 130, [3]int{1, 3, 3}, op.ConvAttr{Stride: ones, Dilation: ones, Before: [3]int{0, 1, 1}, After: [3]int{0, 1, 1}, Groups: 1}},
	{"tall", tensor.Shape{1, 1, 40, 12, 8}, 24, [3]int{1, 3, 3}, op.ConvAttr{Stride: ones, Dilation: ones, Before: [3]int{0, 1, 1}, After: [3]int{0, 1, 1}, Groups: 1}},
	{"stride", tensor.Shape{1, 4, 11, 20, 12}, 20, cubes, op.ConvAttr{Stride: twos, Dilation: ones, Before: ones, After: ones, Groups: 1}},
	{"strideAsymmetric", tensor.Shape{1, 3, 11, 13, 12}, 16, cubes, op.ConvAttr{Stride: [3]int{1, 3, 2}, Dilation: ones, Before: [3]int{1, 0, 2}, After: [3]int{0, 1, 1}, Groups: 1}},
	{"pointwise", tensor.Shape{1, 3, 9, 17, 24}, 136, ones, op.ConvAttr{Stride: ones, Dilation: ones, Groups: 1}},
	{"pointwiseOdd", tensor.Shape{2, 2, 5, 9, 33}, 71, ones, op.ConvAttr{Stride: ones, Dilation: ones, Groups: 1}},
	{"dilated", tensor.Shape{1, 4, 9, 10, 12}, 8, cubes, op.ConvAttr{Stride: ones, Dilation: [3]int{2, 3, 2}, Before: [3]int{2, 3, 2}, After: [3]int{2, 3, 2}, Groups: 1}},
	{"farDilated", tensor.Shape{1, 1, 44, 30, 4}, 8, [3]int{1, 3, 3}, op.ConvAttr{Stride: ones, Dilation: [3]int{1, 14, 12}, Before: [3]int{0, 14, 12}, After: [3]int{0, 14, 12}, Groups: 1}},
	{"stem", tensor.Shape{1, 2, 13, 18, 3}, 20, [3]int{3, 7, 7}, op.ConvAttr{Stride: [3]int{1, 2, 2}, Dilation: ones, Before: [3]int{1, 3, 3}, After: [3]int{1, 3, 3}, Groups: 1}},
	{"large", tensor.Shape{1, 1, 9, 10, 8}, 12, [3]int{1, 7, 7}, op.ConvAttr{Stride: ones, Dilation: ones, Before: [3]int{0, 3, 3}, After: [3]int{0, 3, 3}, Groups: 1}},
}

// cases are a convolution and its gradient, with small whole numbers: products and sums are exact then.
func (c tensorCase) cases(t testing.TB, fill backendtest.Fill) []backendtest.Case {
	t.Helper()
	w := tensor.Shape{c.out, c.x[4], c.kernel[0], c.kernel[1], c.kernel[2]}
	y, err := op.Conv.Infer(c.attr, []ir.Type{{Shape: c.x}, {Shape: w}})
	if err != nil {
		t.Fatal(err)
	}
	constant := func(shape ...int) backendtest.Input { return backendtest.Input{Shape: shape, Fill: fill, Const: true} }
	build := func(o *ir.Op, attr any) func(b *ir.Builder, in []*ir.Value) *ir.Value {
		return func(b *ir.Builder, in []*ir.Value) *ir.Value { return b.Emit(o, attr, in...) }
	}
	return []backendtest.Case{
		{Name: "Conv/" + c.name, Op: op.Conv, Build: build(op.Conv, c.attr),
			Inputs: []backendtest.Input{{Shape: c.x, Fill: fill}, constant(w...), constant(c.out)}},
		{Name: "ConvBackwardData/" + c.name, Op: op.ConvBackwardData, Build: build(op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: c.attr, In: [3]int(c.x[1:4])}),
			Inputs: []backendtest.Input{{Shape: y[0].Shape, Fill: fill}, constant(w...)}},
	}
}

func smallIntegers(r *rand.Rand, x []float64) {
	for i := range x {
		x[i] = float64(r.IntN(9) - 4)
	}
}

func normals(r *rand.Rand, x []float64) {
	for i := range x {
		x[i] = r.NormFloat64()
	}
}

// checkLarge runs convolutions of several tiles with exact and with rounded products.
func checkLarge(t *testing.T, b *Backend, rounded float64) {
	onlyTensor(t, b, func(*tensorMachine) {})
	for _, c := range tensorCases {
		for _, k := range c.cases(t, smallIntegers) {
			t.Run(k.Name, func(t *testing.T) { checkCase(t, b, k, 1e-7) })
		}
	}
	inexact := tensorCases[1:2]
	if backendtest.Long() {
		inexact = tensorCases[:2]
	}
	for _, c := range inexact {
		for _, k := range c.cases(t, normals) {
			t.Run("rounded/"+k.Name, func(t *testing.T) { checkCase(t, b, k, rounded) })
		}
	}
}

// checkTensor runs small convolutions, too, which have the corners.
func checkTensor(t *testing.T, b *Backend, rounded float64) {
	checkLarge(t, b, rounded)
	for _, k := range backendtest.Cases() { // those have the corners: empty windows, negative padding, strides beyond the window
		if k.Op != op.Conv && k.Op != op.ConvBackwardData {
			continue
		}
		for i := range k.Inputs {
			k.Inputs[i].Fill = smallIntegers
		}
		t.Run("small/"+k.Name, func(t *testing.T) { checkCase(t, b, k, 1e-7) })
	}
}

func TestTensorTF32(t *testing.T) { checkTensor(t, openTensor(t, TF32), 1e-3) }

func TestTensorBFloat16(t *testing.T) { checkTensor(t, openTensor(t, BFloat16), 8e-3) }

// TestTensorAmpere runs the kernels for all chips since Ampere.
func TestTensorAmpere(t *testing.T) {
	b := openTensor(t, TF32)
	b.device.Major, b.device.Minor = 8, 0
	if os.Getenv("VOXCAM_GPU") == "" {
		b.device.SharedPerBlock = 99 << 10 // as the smaller ones have
	}
	checkLarge(t, b, 1e-3)
}

// TestTensorTiles holds every way to cut a lattice into tiles against the others.
func TestTensorTiles(t *testing.T) {
	if os.Getenv("VOXCAM_GPU") == "" {
		simulator.Load(t).SetDevice(9, 0, 3) // few multiprocessors, so that blocks go through several tiles
	}
	for _, swizzled := range []bool{false, true} {
		for i := range 6 {
			t.Run(fmt.Sprintf("swizzled=%v/%d", swizzled, i), func(t *testing.T) {
				b := openTensor(t, TF32)
				onlyTiles(t, b, i, swizzled)
				cases := []tensorCase{tensorCases[3], tensorCases[0]}
				if !backendtest.Long() {
					cases = cases[:1]
				}
				for _, c := range cases {
					for _, k := range c.cases(t, smallIntegers) {
						checkCase(t, b, k, 1e-7)
					}
				}
			})
		}
	}
}

// TestTensorParams holds the size of the parameters against C's.
func TestTensorParams(t *testing.T) {
	if n := unsafe.Sizeof(tensorParams{}); n > 4096 || n%8 != 0 {
		t.Errorf("%d bytes of parameters", n)
	}
}

// TestBoxGroups checks that every tap is in one group, and that boxes stay within their limit.
func TestBoxGroups(t *testing.T) {
	for _, c := range []class{
		{inStep: [3]int{1, 1, 1}, taps: [3]int{3, 3, 3}, tapStart: [3]int{-1, -1, -1}, tapStep: [3]int{1, 1, 1}},
		{inStep: [3]int{2, 2, 2}, taps: [3]int{3, 7, 7}, tapStart: [3]int{-1, -3, -3}, tapStep: [3]int{1, 1, 1}},
		{inStep: [3]int{1, 1, 1}, taps: [3]int{1, 3, 3}, tapStart: [3]int{0, -20, -20}, tapStep: [3]int{1, 20, 20}},
		{inStep: [3]int{1, 1, 1}, taps: [3]int{0, 3, 3}},
	} {
		seen := map[int]bool{}
		for _, g := range boxGroups(&c, false, [2]int{8, 8}, 264) {
			if points := (8 + g.reach[0]) * (8 + g.reach[1]); points > 264 {
				t.Errorf("%+v: a box of %d points", c, points)
			}
			for _, b := range g.taps {
				if seen[b.tap] {
					t.Errorf("%+v: tap %d is there twice", c, b.tap)
				}
				seen[b.tap] = true
				of := [3]int{b.tap / c.taps[2] / c.taps[1], b.tap / c.taps[2] % c.taps[1], b.tap % c.taps[2]}
				at := [3]int{g.first[0], g.first[1] + b.shift[0]*c.inStep[1], g.first[2] + b.shift[1]*c.inStep[2]}
				for i := range 3 {
					if want := c.tapStart[i] + of[i]*c.tapStep[i]; at[i] != want {
						t.Errorf("%+v: tap %d reads %v, at axis %d %d", c, b.tap, at, i, want)
					}
				}
			}
		}
		if len(seen) != c.tapCount() {
			t.Errorf("%+v: %d of %d taps", c, len(seen), c.tapCount())
		}
	}
}

// TestTensorEpilogue runs a convolution that is fused with a sum and an activation.
func TestTensorEpilogue(t *testing.T) {
	b := openTensor(t, TF32)
	add, _ := op.Named("Add")
	for _, name := range []string{"Relu", "Silu"} {
		activation, _ := op.Named(name)
		c := backendtest.Case{Name: name, Op: op.Conv, Inputs: []backendtest.Input{
			{Shape: tensor.Shape{1, 3, 6, 9, 12}, Fill: smallIntegers}, {Shape: tensor.Shape{1, 3, 6, 9, 10}, Fill: smallIntegers},
			{Shape: tensor.Shape{10, 12, 1, 3, 3}, Fill: smallIntegers, Const: true}, {Shape: tensor.Shape{10}, Fill: smallIntegers, Const: true},
		}, Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
			y := b.Emit(op.Conv, op.ConvAttr{Stride: ones, Dilation: ones, Before: [3]int{0, 1, 1}, After: [3]int{0, 1, 1}, Groups: 1}, in[0], in[2], in[3])
			return b.Emit(activation, op.UnaryAttr{}, b.Emit(add, nil, y, in[1]))
		}}
		t.Run(name, func(t *testing.T) { checkCase(t, b, c, 1e-6) })
	}
}
