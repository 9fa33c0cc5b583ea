package op_test

import (
	"context"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Every gradient rule, on every case of its operation, is the derivative of the reference.
func TestGradientRules(t *testing.T) {
	for _, c := range backendtest.Cases() {
		s, err := c.Sample(2)
		if err != nil {
			t.Error(err)
			continue
		}
		if c.Op.Grad == nil || len(s.Wrt) == 0 {
			continue
		}
		if err := backendtest.CheckGradient(s, 12); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

// At a kink the table follows PyTorch, which finite differences cannot tell. Expected values are torch.autograd's.
func TestGradientAtKinks(t *testing.T) {
	one := [3]int{1, 1, 1}
	apply := func(o *ir.Op, attr any) func(*ir.Builder, []*ir.Value) *ir.Value {
		return func(b *ir.Builder, in []*ir.Value) *ir.Value { return b.Emit(o, attr, in...) }
	}
	unary := func(name string, a op.UnaryAttr) func(b *ir.Builder, in []*ir.Value) *ir.Value {
		return apply(op.UnaryOp(name), a)
	}
	tests := map[string]struct {
		build func(b *ir.Builder, in []*ir.Value) *ir.Value
		in    [][]float64
		want  [][]float64
	}{
		"relu":        {unary("Relu", op.UnaryAttr{}), [][]float64{{0}}, [][]float64{{0}}},
		"leaky relu":  {unary("LeakyRelu", op.UnaryAttr{Alpha: 0.1}), [][]float64{{0}}, [][]float64{{0.1}}},
		"relu6":       {unary("Clip", op.UnaryAttr{Alpha: 0, Beta: 6}), [][]float64{{0, 6}}, [][]float64{{0, 0}}},
		"hardsigmoid": {unary("HardSigmoid", op.UnaryAttr{Alpha: 0.25, Beta: 0.5}), [][]float64{{-2, 2}}, [][]float64{{0, 0}}},
		"abs":         {unary("Abs", op.UnaryAttr{}), [][]float64{{0}}, [][]float64{{0}}},
		"elu":         {unary("Elu", op.UnaryAttr{Alpha: 0.5}), [][]float64{{0}}, [][]float64{{0.5}}},
		"threshold":   {unary("ThresholdedRelu", op.UnaryAttr{Alpha: 1}), [][]float64{{1}}, [][]float64{{0}}},
		"maximum":     {apply(op.BinaryOp("Max"), nil), [][]float64{{2}, {2}}, [][]float64{{0.5}, {0.5}}},
		"minimum":     {apply(op.BinaryOp("Min"), nil), [][]float64{{2}, {2}}, [][]float64{{0.5}, {0.5}}},
		"amax":        {apply(op.ReduceMax, op.ReduceAttr{Axes: []int{0}}), [][]float64{{4, 1, 4}}, [][]float64{{0.5, 0, 0.5}}},
		"max pool": {func(b *ir.Builder, in []*ir.Value) *ir.Value {
			x := b.Emit(op.Reshape, op.ReshapeAttr{Shape: []int{1, 1, 1, 3, 1}}, in[0])
			return b.Emit(op.MaxPool, op.PoolAttr{Kernel: [3]int{1, 1, 3}, Stride: one, Dilation: one}, x)
		}, [][]float64{{4, 1, 4}}, [][]float64{{1, 0, 0}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := backendtest.Case{Build: tt.build}
			for _, x := range tt.in {
				c.Inputs = append(c.Inputs, backendtest.Input{Shape: tensor.Shape{len(x)}})
			}
			s, err := c.Sample(1)
			if err != nil {
				t.Fatal(err)
			}
			for i, v := range s.Wrt {
				s.Data[v] = tt.in[i]
			}
			seed, gradients, err := grad.Build(s.Graph, s.Out, s.Wrt)
			if err != nil {
				t.Fatal(err)
			}
			s.Data[seed] = make([]float64, seed.Shape().Elements())
			for i := range s.Data[seed] {
				s.Data[seed][i] = 1
			}
			values, err := reference.Eval(context.Background(), s.Graph, s.Data)
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range tt.want {
				for k, w := range want {
					if got := values[gradients[i]][k]; got != w {
						t.Errorf("gradient %d of input %d at %v is %v, want %v", k, i, tt.in, got, w)
					}
				}
			}
		})
	}
}
