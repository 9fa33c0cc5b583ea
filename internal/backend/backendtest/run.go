package backendtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Tolerances are relative to the largest absolute value of the reference, for float32 backends: a few units in the last place
// (6e-8) for what rounds once or twice, more where sums or cancelling are involved.
var tolerances = map[*ir.Op]float64{
	op.Conv: 3e-6, op.ConvBackwardData: 3e-6, op.MatMul: 3e-6,
	op.ReduceSum: 2e-6, op.ReduceMean: 2e-6,
	op.GroupNorm: 2e-6, op.LayerNorm: 2e-6, op.GroupNormBackward: 2e-6, op.LayerNormBackward: 2e-6,
	op.GroupMoments: 2e-6, op.GroupNormApply: 2e-6, op.GroupGradMoments: 2e-6, op.GroupGradApply: 2e-6,
	op.LogSoftmax: 1e-6, op.Softmax: 5e-6, op.SoftmaxBackward: 2e-6, op.LogSoftmaxBackward: 2e-6,
	op.Resize: 1e-6, op.ResizeBackward: 2e-6, op.UnaryBackward: 1e-6,
	op.BinaryOp("Pow"): 2e-6, op.UnaryOp("PowConst"): 2e-6, op.UnaryOp("Mish"): 1e-6,
}

const (
	tolerance        = 5e-7 // of operations that are not listed
	gradTolerance    = 2e-6 // of gradients, at least
	networkTolerance = 2e-5 // of values and gradients of random networks
)

// The largest value counts as at least this. The saved value of a saturated function is rounded (1 - y is lost where y is nearly 1), so
// gradients, whose seeds are about 1, have an absolute error; other values only underflow.
const (
	valueFloor    = 1e-30
	gradientFloor = 0.1
)

// Long reports whether tests run all that they can, which takes minutes on a simulated GPU: VOXCAM_LONG=1, or VOXCAM_GPU=1, with a fast
// GPU. Otherwise every operation still runs in every mode.
func Long() bool { return os.Getenv("VOXCAM_LONG") != "" || os.Getenv("VOXCAM_GPU") != "" }

// AllNetworks is the number of random networks that Run has.
const AllNetworks = 60

// Run executes every case and that many random networks on a backend and compares with the reference: results, gradients, in place
// and with everything kept, and again with other data.
func Run(t *testing.T, b backend.Backend, networks int) {
	t.Helper()
	ctx := context.Background()
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			limit := tolerances[c.Op]
			if limit == 0 {
				limit = tolerance
			}
			for _, keep := range []bool{false, true} {
				s, err := c.Sample(4)
				if err != nil {
					t.Fatal(err)
				}
				if keep {
					if !Long() && !inPlace(s.Graph) {
						continue // all that is kept besides are inputs, as in other cases
					}
					s.keep()
				}
				if err := Check(ctx, b, s, limit, valueFloor); err != nil {
					t.Fatalf("keeping everything %v: %v", keep, err)
				}
			}
			s, err := c.Sample(5)
			if err != nil {
				t.Fatal(err)
			}
			if c.Op.Grad == nil || len(s.Wrt) == 0 {
				return
			}
			if err := s.differentiate(); err != nil {
				t.Fatal(err)
			}
			if err := Check(ctx, b, s, max(limit, gradTolerance), gradientFloor); err != nil {
				t.Fatalf("with gradients: %v", err)
			}
		})
	}
	examples := Networks()
	for seed := range networks {
		t.Run(fmt.Sprintf("network/%d", seed), func(t *testing.T) {
			s := examples.Example(seed)
			if seed%3 == 0 {
				s.keep()
			}
			if err := s.differentiate(); err != nil {
				t.Fatal(err)
			}
			if err := Check(ctx, b, s, networkTolerance, gradientFloor); err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("cancel", func(t *testing.T) { checkCancel(t, b) })
	t.Run("misuse", func(t *testing.T) { checkMisuse(t, b) })
}

// inPlace reports whether one of several nodes, or a node that can overwrite or is a view of its input, may be without a value of its own.
func inPlace(g *ir.Graph) bool {
	return len(g.Nodes) > 1 || slices.ContainsFunc(g.Nodes, func(n *ir.Node) bool { return n.Op.InPlace || n.Op.View })
}

// keep makes every value an output, so that nothing is computed in place.
func (s *Example) keep() {
	s.Graph.Outputs = append([]*ir.Value(nil), s.Graph.Inputs...)
	for _, n := range s.Graph.Nodes {
		s.Graph.Outputs = append(s.Graph.Outputs, n.Out())
	}
}

// differentiate adds the gradients by all inputs to the outputs.
func (s *Example) differentiate() error {
	seed, gradients, err := grad.Build(s.Graph, s.Out, s.Wrt)
	if err != nil {
		return err
	}
	s.Data[seed] = s.values(seed.Shape(), normal)
	s.Graph.Outputs = append(s.Graph.Outputs, gradients...)
	s.Graph.Prune()
	return nil
}

// alike is the largest difference, relative to the largest value, between results of the same plan with whole tensors and with slabs: they
// differ in the order of sums.
const alike = 1e-5

// Check runs a sample on a backend, by every plan and twice with different data, and compares all float32 outputs with the
// reference: they may be off by limit times the largest absolute value, which counts as at least floor. Names choose among the plans;
// without any, all are run.
func Check(ctx context.Context, b backend.Backend, s *Example, limit, floor float64, chosen ...string) error {
	plans, err := Plans(s.Graph)
	if err != nil {
		return err
	}
	if len(chosen) > 0 {
		maps.DeleteFunc(plans, func(name string, _ *plan.Plan) bool { return !slices.Contains(chosen, name) })
	}
	var rounds []round
	for i := range 2 {
		if i > 0 {
			s.Refill()
		}
		want, err := reference.Eval(ctx, s.Graph, s.Data)
		if err != nil {
			return err
		}
		if s.Margin(want) >= 1e-4 { // else rounding may fall on the other side of a kink
			rounds = append(rounds, round{maps.Clone(s.Data), want, map[*ir.Value][]float64{}})
		}
	}
	names := slices.SortedFunc(maps.Keys(plans), func(a, b string) int {
		return cmp.Or(-cmp.Compare(bit(a == whole), bit(b == whole)), cmp.Compare(a, b)) // first whole, then by name
	})
	for _, name := range names {
		if err := execute(ctx, b, plans[name], name == whole, rounds, limit, floor); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

const whole = "whole" // name of the plan with whole tensors

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// round is one set of data, the reference's results for it, and the backend's with whole tensors.
type round struct {
	data, want, whole map[*ir.Value][]float64
}

// execute loads a plan and runs it for each round.
func execute(ctx context.Context, b backend.Backend, p *plan.Plan, first bool, rounds []round, limit, floor float64) (err error) {
	a, err := b.NewArena(p.Peak)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	program, err := b.Load(ctx, p, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	out := map[*ir.Value][]float32{}
	for _, v := range p.Graph.Outputs {
		if v.Type.Elem == tensor.Float32 && v.Const == nil {
			out[v] = make([]float32, v.Shape().Elements())
		}
	}
	var fields []backend.Field
	defer func() {
		for _, f := range fields {
			err = errors.Join(err, f.Close())
		}
	}()
	for i, r := range rounds {
		// External values lie now on the device, now on the host.
		made, err := bindFields(b, program, p, []backend.Place{backend.OnDevice, backend.OnHost}[i%2])
		if fields = append(fields, made...); err != nil {
			return err
		}
		for _, v := range p.Graph.Inputs {
			if err := program.Write(v, floats(r.data[v])); err != nil {
				return err
			}
		}
		if err := program.Run(ctx, 0, len(p.Steps)); err != nil {
			return err
		}
		for v, got := range out {
			if err := program.Read(v, got); err != nil {
				return err
			}
			if err := compare(got, r.want[v], limit, floor); err != nil {
				return fmt.Errorf("round %d, %s: %w", i, origin(v), err)
			}
			if first {
				r.whole[v] = doubles(got)
			} else if err := compare(got, r.whole[v], alike, floor); err != nil {
				return fmt.Errorf("round %d, %s, against whole tensors: %w", i, origin(v), err)
			}
		}
		if high := a.HighWater(); high != p.Peak {
			return fmt.Errorf("the arena was used up to %d bytes, and the plan says %d", high, p.Peak)
		}
	}
	return nil
}

// bindFields gives the external values of a plan storage in one place.
func bindFields(b backend.Backend, program backend.Program, p *plan.Plan, where backend.Place) (fields []backend.Field, err error) {
	of := p.BufferOf()
	for _, v := range External(p.Graph) {
		if !p.Buffers[of[v]].External {
			continue
		}
		f, err := b.NewField(v.Shape().Elements(), where)
		if err != nil {
			return fields, err
		}
		fields = append(fields, f)
		if err := program.Bind(v, f); err != nil {
			return fields, err
		}
	}
	return fields, nil
}

func doubles(x []float32) []float64 {
	out := make([]float64, len(x))
	for i := range x {
		out[i] = float64(x[i])
	}
	return out
}

func origin(v *ir.Value) string {
	if v.Def == nil {
		return fmt.Sprintf("input %v", v)
	}
	return fmt.Sprintf("%v = %s %+v", v, v.Def.Op.Name, v.Def.Attr)
}

func floats(x []float64) []float32 {
	out := make([]float32, len(x))
	for i := range x {
		out[i] = float32(x[i])
	}
	return out
}

func compare(got []float32, want []float64, limit, scale float64) error {
	for _, w := range want {
		if !math.IsInf(w, 0) {
			scale = max(scale, math.Abs(w))
		}
	}
	for i, w := range want {
		g := float64(got[i])
		if g == w || math.Abs(g-w) <= limit*scale {
			continue
		}
		return fmt.Errorf("element %d of %d is %.9g, want %.9g: off by %.2g of the maximum %.3g, more than %.2g",
			i, len(want), g, w, math.Abs(g-w)/scale, scale, limit)
	}
	return nil
}

// chain is a graph of some elementwise steps.
func chain(t *testing.T, steps int) *Example {
	t.Helper()
	c := Case{Inputs: []Input{in(1, 4, 5, 6, 7)}, Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
		x := in[0]
		for range steps {
			x = b.Emit(named("Sin"), op.UnaryAttr{}, x)
		}
		return x
	}}
	s, err := c.Sample(1)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func checkCancel(t *testing.T, b backend.Backend) {
	s := chain(t, 3)
	p := plan.Make(s.Graph)
	program, err := b.Load(context.Background(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := program.Run(ctx, 0, len(p.Steps)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run returned %v", err)
	}
	if err := program.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// checkMisuse makes the mistakes that a caller can make; each is an error, none a panic.
func checkMisuse(t *testing.T, b backend.Backend) {
	ctx, s := context.Background(), chain(t, 2)
	x := s.Graph.Inputs[0]
	p := plan.Make(s.Graph)
	program, err := b.Load(ctx, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	stranger := (&ir.Graph{}).NewValue("stranger", ir.F32(2))
	n := x.Shape().Elements()
	for what, err := range map[string]error{
		"writing too little":       program.Write(x, make([]float32, n-1)),
		"writing a foreign value":  program.Write(stranger, make([]float32, 2)),
		"reading into too much":    program.Read(x, make([]float32, n+1)),
		"reading a foreign value":  program.Read(stranger, make([]float32, 2)),
		"running beyond the end":   program.Run(ctx, 0, len(p.Steps)+1),
		"running from before":      program.Run(ctx, -1, 1),
		"running from end to head": program.Run(ctx, 1, 0),
	} {
		if err == nil {
			t.Errorf("%s is not an error", what)
		}
	}
	if err := program.Close(); err != nil {
		t.Fatal(err)
	}
	if err := program.Run(ctx, 0, 1); err == nil {
		t.Error("running a closed program is not an error")
	}

	// A runtime weight is either supported or refused by name.
	c := Case{Inputs: []Input{in(1, 2, 2, 2, 3), in(4, 3, 1, 1, 1)}, Build: apply(op.Conv, op.ConvAttr{Stride: one, Dilation: one, Groups: 1})}
	s, err = c.Sample(1)
	if err != nil {
		t.Fatal(err)
	}
	if program, err = b.Load(ctx, plan.Make(s.Graph), nil); err == nil {
		err = program.Close()
	} else if errors.Is(err, backend.ErrUnsupported) {
		err = nil
	}
	if err != nil {
		t.Errorf("a convolution with computed weights: %v", err)
	}
}
