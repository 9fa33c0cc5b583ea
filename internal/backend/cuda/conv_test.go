package cuda

import (
	"context"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// openFloat32 opens a backend that takes no sum in float64: tensors of tests are so small that other kernels would hardly be used.
func openFloat32(t testing.TB) *Backend {
	t.Helper()
	b := open(t, Options{})
	b.precise = 0
	return b
}

// checkCase runs a case by all plans, or unless tests may be long by one in each mode.
func checkCase(t *testing.T, b *Backend, c backendtest.Case, limit float64) {
	t.Helper()
	var plans []string
	if !backendtest.Long() {
		plans = []string{"whole", "slabs of 1"}
	}
	s, err := c.Sample(7)
	if err != nil {
		t.Fatal(err)
	}
	if err := backendtest.Check(context.Background(), b, s, limit, 1e-30, plans...); err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
}

func TestConvFloat32(t *testing.T) {
	b := openFloat32(t)
	for _, c := range backendtest.Cases() {
		if strings.HasPrefix(c.Name, op.Conv.Name) {
			t.Run(c.Name, func(t *testing.T) { checkCase(t, b, c, 3e-6) })
		}
	}
}

// convCase is a convolution of x, with a bias, and behind it an epilogue: the addition of a tensor ("+") and an activation.
func convCase(name string, x tensor.Shape, cout int, kernel [3]int, a op.ConvAttr, epilogue string) backendtest.Case {
	w := tensor.Shape{cout, x[4] / a.Groups, kernel[0], kernel[1], kernel[2]}
	y, err := op.Conv.Infer(a, []ir.Type{ir.F32(x...), ir.F32(w...)})
	if err != nil {
		panic(err)
	}
	return backendtest.Case{Name: name, Op: op.Conv, Inputs: []backendtest.Input{
		{Shape: x}, {Shape: w, Const: true}, {Shape: tensor.Shape{cout}, Const: true}, {Shape: y[0].Shape},
	}, Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
		v := b.Emit(op.Conv, a, in[0], in[1], in[2])
		activation, adds := strings.CutPrefix(epilogue, "+")
		if adds {
			v = b.Emit(op.BinaryOp("Add"), nil, v, in[3])
		}
		if activation != "" {
			v = b.Emit(op.UnaryOp(activation), op.UnaryAttr{}, v)
		}
		return v
	}}
}

// gradientCase is the gradient of a convolution to x.
func gradientCase(name string, x tensor.Shape, cout int, kernel [3]int, a op.ConvAttr) backendtest.Case {
	w := tensor.Shape{cout, x[4] / a.Groups, kernel[0], kernel[1], kernel[2]}
	y, err := op.Conv.Infer(a, []ir.Type{ir.F32(x...), ir.F32(w...)})
	if err != nil {
		panic(err)
	}
	return backendtest.Case{Name: name, Op: op.ConvBackwardData, Inputs: []backendtest.Input{{Shape: y[0].Shape}, {Shape: w, Const: true}},
		Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
			return b.Emit(op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: a, In: [3]int(x[1:4])}, in[0], in[1])
		}}
}

// TestConvSizes goes through all tiles, with ends that do not fill them.
func TestConvSizes(t *testing.T) {
	one, two, three := [3]int{1, 1, 1}, [3]int{2, 2, 2}, [3]int{3, 3, 3}
	same := op.ConvAttr{Stride: one, Dilation: one, Before: one, After: one, Groups: 1}
	point := op.ConvAttr{Stride: one, Dilation: one, Groups: 1}
	stride := op.ConvAttr{Stride: two, Dilation: one, Before: one, After: [3]int{0, 1, 1}, Groups: 1}
	groups := op.ConvAttr{Stride: one, Dilation: one, Before: one, After: one, Groups: 3}
	b := openFloat32(t)
	for _, c := range []backendtest.Case{
		convCase("narrow", tensor.Shape{1, 4, 9, 11, 12}, 20, three, same, ""),
		convCase("odd", tensor.Shape{1, 3, 7, 9, 13}, 67, three, same, ""),
		convCase("wide", tensor.Shape{1, 3, 6, 11, 24}, 132, three, same, ""),
		convCase("point", tensor.Shape{1, 3, 11, 13, 24}, 144, one, point, ""),
		convCase("strided", tensor.Shape{1, 5, 11, 9, 16}, 36, three, stride, ""),
		convCase("groups", tensor.Shape{1, 3, 6, 7, 36}, 60, three, groups, ""),
		convCase("batch", tensor.Shape{3, 2, 5, 7, 12}, 40, three, same, ""),
		convCase("deep", tensor.Shape{1, 2, 4, 4, 256}, 64, three, same, ""),
		convCase("relu", tensor.Shape{1, 3, 5, 7, 16}, 24, three, same, "Relu"),
		convCase("residual", tensor.Shape{1, 3, 5, 7, 16}, 24, three, same, "+"),
		convCase("residual silu", tensor.Shape{1, 3, 5, 7, 16}, 23, three, same, "+Silu"),
		convCase("deep residual relu", tensor.Shape{1, 2, 3, 4, 256}, 64, three, same, "+Relu"),
		gradientCase("gradient", tensor.Shape{1, 4, 9, 11, 24}, 20, three, same),
		gradientCase("gradient strided", tensor.Shape{1, 5, 11, 10, 20}, 36, three, stride),
		gradientCase("gradient groups", tensor.Shape{1, 3, 6, 7, 36}, 60, three, groups),
		gradientCase("gradient deep", tensor.Shape{1, 2, 4, 4, 64}, 256, three, same),
	} {
		t.Run(c.Name, func(t *testing.T) { checkCase(t, b, c, 3e-6) })
	}
}
