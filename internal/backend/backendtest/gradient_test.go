package backendtest

import (
	"context"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"pgregory.net/rapid"
)

// The random graphs are the same in every run, unless a seed is given.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.seed"); f.Value.String() == "0" {
		if err := flag.Set("rapid.seed", "20"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

func TestEveryOperationHasCases(t *testing.T) {
	has, names := map[*ir.Op]bool{}, map[string]bool{}
	for _, c := range Cases() {
		if names[c.Name] {
			t.Errorf("two cases are called %s", c.Name)
		}
		names[c.Name] = true
		s, err := c.Sample(1)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, n := range s.Graph.Nodes {
			if n.Op == c.Op {
				has[c.Op] = true
			}
		}
	}
	for _, o := range op.All {
		if !has[o] {
			t.Errorf("%s has no case", o.Name)
		}
		if (o.Grad == nil) == (o.NoGrad == "") {
			t.Errorf("%s must have either a gradient rule or a reason for having none", o.Name)
		}
	}
}

// Every gradient rule, on every case of its operation, is the derivative of the reference.
func TestGradientRules(t *testing.T) {
	for _, c := range Cases() {
		s, err := c.Sample(2)
		if err != nil {
			t.Error(err)
			continue
		}
		if c.Op.Grad == nil || len(s.Wrt) == 0 {
			continue
		}
		if err := checkGradient(s, 12); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

func TestGradientsOfNetworks(t *testing.T) {
	networks := Networks()
	rapid.Check(t, func(t *rapid.T) {
		s := networks.Draw(t, "network")
		values, err := reference.Eval(context.Background(), s.Graph, s.Data)
		if err != nil {
			t.Fatal(err)
		}
		if s.Margin(values) < 1e-4 {
			t.Skip("too near to a kink for finite differences")
		}
		if err := checkGradient(s, 4); err != nil {
			t.Fatal(err)
		}
	})
}

// step and accuracy of central differences in float64: the error of the formula is about step^2, rounding about 1e-16/step.
const (
	step     = 1e-5
	accuracy = 3e-7
)

// checkGradient compares the gradient of sum(seed*Out), for a random seed, with finite differences: along one random direction
// through all inputs together, and for some single elements of each.
func checkGradient(s *Sample, elements int) error {
	ctx, r := context.Background(), rand.New(rand.NewPCG(3, 3))
	forward, twin := s.Graph.Clone()
	seed, gradients, err := grad.Build(s.Graph, s.Out, s.Wrt)
	if err != nil {
		return err
	}
	if err := s.Graph.Verify(); err != nil {
		return err
	}
	s.Data[seed] = s.values(seed.Shape(), normal)
	values, err := reference.Eval(ctx, s.Graph, s.Data)
	if err != nil {
		return err
	}
	score := func(shift map[*ir.Value][]float64, h float64) float64 {
		data := map[*ir.Value][]float64{}
		for v, x := range s.Data {
			if v == seed {
				continue
			}
			moved := append([]float64(nil), x...)
			for i, d := range shift[v] {
				moved[i] += h * d
			}
			data[twin[v]] = moved
		}
		out, evalErr := reference.Eval(ctx, forward, data)
		if evalErr != nil {
			err = evalErr
			return 0
		}
		total := 0.0
		for i, y := range out[twin[s.Out]] {
			total += y * s.Data[seed][i]
		}
		return total
	}
	compare := func(what string, shift map[*ir.Value][]float64) error {
		want := (score(shift, step) - score(shift, -step)) / (2 * step)
		if err != nil {
			return err
		}
		got, scale := 0.0, 1e-3
		for i, v := range s.Wrt {
			for k, d := range shift[v] {
				got += d * values[gradients[i]][k]
				scale = max(scale, math.Abs(d*values[gradients[i]][k]))
			}
		}
		if !(math.Abs(got-want) <= accuracy*max(scale, math.Abs(want), math.Abs(score(nil, 0))*1e-2)) {
			return fmt.Errorf("derivative by %s is %.10g, finite differences say %.10g", what, got, want)
		}
		return nil
	}
	direction := map[*ir.Value][]float64{}
	for _, v := range s.Wrt {
		direction[v] = s.values(v.Shape(), normal)
	}
	if err := compare("a direction", direction); err != nil {
		return err
	}
	for i, v := range s.Wrt {
		n := v.Shape().Elements()
		for range min(elements, n) {
			k := r.IntN(n)
			unit := make([]float64, n)
			unit[k] = 1
			if err := compare(fmt.Sprintf("element %d of input %d", k, i), map[*ir.Value][]float64{v: unit}); err != nil {
				return err
			}
		}
	}
	return nil
}

// At a kink the table follows PyTorch, which finite differences cannot tell. Expected values are torch.autograd's.
func TestGradientAtKinks(t *testing.T) {
	unary := func(name string, a op.UnaryAttr) func(b *ir.Builder, in []*ir.Value) *ir.Value {
		return apply(named(name), a)
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
		"maximum":     {apply(named("Max"), nil), [][]float64{{2}, {2}}, [][]float64{{0.5}, {0.5}}},
		"minimum":     {apply(named("Min"), nil), [][]float64{{2}, {2}}, [][]float64{{0.5}, {0.5}}},
		"amax":        {apply(op.ReduceMax, op.ReduceAttr{Axes: []int{0}}), [][]float64{{4, 1, 4}}, [][]float64{{0.5, 0, 0.5}}},
		"max pool": {func(b *ir.Builder, in []*ir.Value) *ir.Value {
			x := b.Emit(op.Reshape, op.ReshapeAttr{Shape: []int{1, 1, 1, 3, 1}}, in[0])
			return b.Emit(op.MaxPool, op.PoolAttr{Kernel: [3]int{1, 1, 3}, Stride: one, Dilation: one}, x)
		}, [][]float64{{4, 1, 4}}, [][]float64{{1, 0, 0}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := Case{Build: tt.build}
			for _, x := range tt.in {
				c.Inputs = append(c.Inputs, in(len(x)))
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
