package cpu

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

func newBackend(t testing.TB, o Options) *Backend {
	t.Helper()
	b, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestConformance(t *testing.T) {
	t.Run("precise", func(t *testing.T) {
		t.Parallel()
		backendtest.Run(t, newBackend(t, Options{Threads: 3}), backendtest.AllNetworks)
	})
	for _, set := range kernel.Sets() {
		t.Run(set.Name(), func(t *testing.T) {
			t.Parallel()
			b := newBackend(t, Options{Threads: 3, Kernels: set.Name()})
			b.precise = 0 // the suite's tensors are so small that the kernels would hardly be used
			backendtest.Run(t, b, backendtest.AllNetworks)
		})
	}
}

// The kernels are those of the options, else those of the environment, else the best; a name that there is not is refused, with the
// variable if it was that.
func TestKernels(t *testing.T) {
	best := kernel.Best().Name()
	for _, c := range []struct{ option, variable, want, refusal string }{
		{"", "", best, ""},
		{"", "go", "go", ""},
		{best, "go", best, ""},
		{"go", "nonsense", "go", ""},
		{"", "nonsense", "", "cpu: VOXCAM_CPU_KERNELS: this processor and build have no kernels \"nonsense\""},
		{"nonsense", "go", "", "cpu: this processor and build have no kernels \"nonsense\""},
	} {
		t.Setenv(Kernels, c.variable)
		b, err := New(Options{Threads: 1, Kernels: c.option})
		if c.refusal != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.refusal) {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if b.Name() != "cpu/"+c.want {
			t.Errorf("%+v: %s", c, b.Name())
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestEveryOperationHasABuilder(t *testing.T) {
	for _, o := range op.All {
		if builders[o] == nil {
			t.Errorf("no builder for %s: write one in a file of internal/backend/cpu and name it in that file's table", o.Name)
		}
	}
	for _, rows := range [][]op.Binary{op.Binaries, op.Compares} {
		for _, r := range rows {
			if k := pairTable[r.Name]; k.both == nil && k.loop == nil {
				t.Errorf("no kernels for %s: add a row to pairTable in internal/backend/cpu/binary.go", r.Name)
			}
		}
	}
	if len(builders) != len(op.All) {
		t.Errorf("%d builders for %d operations", len(builders), len(op.All))
	}
}

// network is a graph with every kind of step that is hot: convolutions, a gate, pooling, norms, a linear layer, and gradients.
func network(t testing.TB, size, channels int) (g *ir.Graph, x *ir.Value) {
	t.Helper()
	g = &ir.Graph{}
	x = g.Input("x", ir.F32(1, size, size+1, size+3, 1))
	b := ir.NewBuilder(g)
	count := 0
	weights := func(shape ...int) *ir.Value {
		s := tensor.Shape(shape)
		w := make([]float32, s.Elements())
		for i := range w {
			count++
			w[i] = float32(math.Sin(float64(count)*1.7)) / float32(math.Sqrt(float64(len(w)/s[0])))
		}
		return b.Const(s, w)
	}
	one, same := [3]int{1, 1, 1}, [3]int{1, 1, 1}
	conv := func(x *ir.Value, out, kernel, stride, groups int) *ir.Value {
		pad := [3]int{kernel / 2, kernel / 2, kernel / 2}
		a := op.ConvAttr{Stride: [3]int{stride, stride, stride}, Dilation: one, Before: pad, After: pad, Groups: groups}
		return b.Emit(op.Conv, a, x, weights(out, x.Shape()[4]/groups, kernel, kernel, kernel), weights(out))
	}
	unary := func(name string, x *ir.Value) *ir.Value { return b.Emit(op.UnaryOp(name), op.UnaryAttr{}, x) }
	mean := func(x *ir.Value) *ir.Value { return b.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}}, x) }

	y := unary("Relu", conv(x, channels, 3, 2, 1))
	y = b.Emit(op.MaxPool, op.PoolAttr{Kernel: [3]int{3, 3, 3}, Stride: same, Dilation: one, Before: one, After: one}, y)
	z := unary("Silu", conv(y, channels, 3, 1, channels))
	z = b.Emit(op.BinaryOp("Mul"), nil, z, unary("Sigmoid", conv(mean(z), channels, 1, 1, 1)))
	y = b.Emit(op.BinaryOp("Add"), nil, conv(z, channels, 1, 1, 1), y)
	y = b.Emit(op.GroupNorm, op.GroupNormAttr{Groups: 2, Eps: 1e-5}, conv(y, channels, 3, 1, 1), weights(channels), weights(channels))
	y = b.Emit(op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{1, channels}}, mean(unary("Gelu", y)))
	y = b.Emit(op.MatMul, op.MatMulAttr{TransB: true}, y, weights(4, channels))
	if b.Err() != nil {
		t.Fatal(b.Err())
	}
	_, gradients, err := grad.Build(g, y, []*ir.Value{x})
	if err != nil {
		t.Fatal(err)
	}
	g.Outputs = append(gradients, y)
	g.Prune()
	if err := pass.Run(context.Background(), g, nil, pass.Gradient); err != nil {
		t.Fatal(err)
	}
	return g, x
}

// execute runs the network by a plan and returns its outputs, one after the other.
func execute(t testing.TB, b *Backend, p *plan.Plan) (out []float32) {
	t.Helper()
	prog, err := b.Load(context.Background(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	fill(t, prog, p)
	if err := prog.Run(context.Background(), 0, len(p.Steps)); err != nil {
		t.Fatal(err)
	}
	for _, v := range p.Graph.Outputs {
		y := make([]float32, v.Shape().Elements())
		if err := prog.Read(v, y); err != nil {
			t.Fatal(err)
		}
		out = append(out, y...)
	}
	return out
}

// fill gives a program's inputs values, and its outputs storage where that is external.
func fill(t testing.TB, prog backend.Program, p *plan.Plan) {
	t.Helper()
	of := p.BufferOf()
	for _, v := range backendtest.External(p.Graph) {
		if p.Buffers[of[v]].External {
			f, err := hostmem.NewField(v.Shape().Elements())
			if err != nil {
				t.Fatal(err)
			}
			if err := prog.Bind(v, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	for k, v := range p.Graph.Inputs {
		x := make([]float32, v.Shape().Elements())
		for i := range x {
			x[i] = float32(math.Sin(float64(i*(k+2)) * 0.37))
		}
		if err := prog.Write(v, x); err != nil {
			t.Fatal(err)
		}
	}
}

// plans are ways to run the same graph.
func plans(t testing.TB, g *ir.Graph) map[string]*plan.Plan {
	t.Helper()
	all, err := backendtest.Plans(g)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestResultsDoNotDependOnThreads(t *testing.T) {
	g, _ := network(t, 24, 24)
	for name, p := range plans(t, g) {
		want := execute(t, newBackend(t, Options{Threads: 1}), p)
		for _, threads := range []int{2, 3, 7} {
			got := execute(t, newBackend(t, Options{Threads: threads}), p)
			for i := range want {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
					t.Fatalf("%s: output %d is %v with %d threads, %v with one", name, i, got[i], threads, want[i])
				}
			}
		}
		if want[0] == 0 && want[len(want)/2] == 0 {
			t.Fatal("nothing was computed")
		}
	}
}

func TestRunAllocatesNothing(t *testing.T) {
	b, ctx := newBackend(t, Options{Threads: 2}), context.Background()
	g, _ := network(t, 10, 8)
	for name, p := range plans(t, g) {
		prog, err := b.Load(ctx, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		fill(t, prog, p)
		run := func() {
			if err := prog.Run(ctx, 0, len(p.Steps)); err != nil {
				t.Fatal(err)
			}
		}
		if n := testing.AllocsPerRun(20, run); n > 0 {
			t.Errorf("%s: a run allocates %v times", name, n)
		}
		prog.Close()
	}
}

// Every case of the suite runs without allocating, too: a step that does is found by its name.
func TestNoStepAllocates(t *testing.T) {
	b, ctx := newBackend(t, Options{Threads: 1}), context.Background()
	seen := map[*ir.Op]int{}
	for _, c := range backendtest.Cases() {
		if seen[c.Op]++; seen[c.Op] > 3 {
			continue
		}
		s, err := c.Sample(1)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*plan.Plan{plan.Make(s.Graph), backendtest.Slabs(s.Graph, 2)} {
			prog, err := b.Load(ctx, p, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n := testing.AllocsPerRun(2, func() { _ = prog.Run(ctx, 0, len(p.Steps)) }); n > 0 {
				t.Errorf("%s allocates %v times", c.Name, n)
			}
			prog.Close()
		}
	}
}

// Sums over depth are the same bits whatever the height of the slabs.
func TestSumsDoNotDependOnSlabs(t *testing.T) {
	b := newBackend(t, Options{Threads: 3})
	for _, axes := range [][]int{{1, 2, 3}, {1}, {1, 2, 3, 4}, {1, 3}, {1, 2, 4}} {
		g := &ir.Graph{}
		x := g.Input("x", ir.F32(1, 50, 31, 8, 5))
		builder := ir.NewBuilder(g)
		g.Outputs = []*ir.Value{builder.Emit(op.ReduceMean, op.ReduceAttr{Axes: axes}, x)}
		if builder.Err() != nil {
			t.Fatal(builder.Err())
		}
		want := execute(t, b, backendtest.Slabs(g, 50))
		for _, h := range []int{1, 7, 32, 33, 49} {
			if got := execute(t, b, backendtest.Slabs(g, h)); !slices.Equal(got, want) {
				t.Errorf("means over axes %v in slabs of %d planes differ from those in one", axes, h)
			}
		}
	}
}

// Programs that run one after the other share an arena, which knows how much of it was used.
func TestArenaIsShared(t *testing.T) {
	b := newBackend(t, Options{Threads: 1})
	g, _ := network(t, 12, 8)
	p, ctx := plan.Make(g), context.Background()
	want := execute(t, b, p)
	a, err := b.NewArena(p.Peak)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		prog, err := b.Load(ctx, p, a)
		if err != nil {
			t.Fatal(err)
		}
		defer prog.Close()
		fill(t, prog, p)
		if err := prog.Run(ctx, 0, len(p.Steps)); err != nil {
			t.Fatal(err)
		}
		var got []float32
		for _, v := range g.Outputs {
			y := make([]float32, v.Shape().Elements())
			if err := prog.Read(v, y); err != nil {
				t.Fatal(err)
			}
			got = append(got, y...)
		}
		if !slices.Equal(got, want) {
			t.Error("a program in a shared arena gave something else")
		}
	}
	if a.HighWater() != p.Peak {
		t.Errorf("%d bytes of the arena were used; the plan says %d", a.HighWater(), p.Peak)
	}
	last, err := b.Load(ctx, p, a)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if last.Run(ctx, 0, 1) == nil || last.Write(g.Inputs[0], make([]float32, g.Inputs[0].Shape().Elements())) == nil {
		t.Error("a program works in an arena that is closed")
	}
	small, err := b.NewArena(p.Peak - 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Load(ctx, p, small); err == nil {
		t.Error("a plan was loaded into an arena that is too small")
	}
	if err := small.Close(); err != nil {
		t.Error(err)
	}
}

// A program takes the memory that the backend says beforehand.
func TestSizesAreKnownBeforehand(t *testing.T) {
	b, ctx := newBackend(t, Options{Threads: 2}), context.Background()
	b.precise = 0
	g, _ := network(t, 12, 8)
	say, err := b.WeightBytes(g)
	if err != nil {
		t.Fatal(err)
	}
	for name, p := range plans(t, g) {
		scratch, err := b.ScratchBytes(p)
		if err != nil {
			t.Fatal(err)
		}
		prog, err := b.Load(ctx, p, nil)
		if err != nil {
			t.Fatal(err)
		}
		if took := prog.(*Program).Scratch(); took != scratch || took == 0 {
			t.Errorf("%s: %d bytes of scratch were announced, %d taken", name, scratch, took)
		}
		took := 0
		for _, w := range b.weights {
			switch v := w.value.(type) {
			case []float32:
				took += 4 * len(v)
			case *kernel.Conv:
				took += 4 * v.Floats()
			case *kernel.Matrix:
				_, _, floats := v.Size()
				took += 4 * floats
			default:
				t.Fatalf("a weight is %T", v)
			}
		}
		if took != say || took == 0 {
			t.Errorf("%s: %d bytes of weights were announced, %d taken", name, say, took)
		}
		prog.Close()
	}
}

func TestWeightsAreSharedAndGivenBack(t *testing.T) {
	b, ctx := newBackend(t, Options{Threads: 1}), context.Background()
	g, _ := network(t, 6, 4)
	first, err := b.Load(ctx, plan.Make(g), nil)
	if err != nil {
		t.Fatal(err)
	}
	held := len(b.weights)
	second, err := b.Load(ctx, plan.Make(g), nil)
	if err != nil {
		t.Fatal(err)
	}
	if held == 0 || len(b.weights) != held {
		t.Errorf("%d weights for one program, %d for two", held, len(b.weights))
	}
	first.Close()
	if len(b.weights) != held {
		t.Errorf("%d weights left of %d while a program uses them", len(b.weights), held)
	}
	second.Close()
	if len(b.weights) != 0 {
		t.Errorf("%d weights left after all programs are closed", len(b.weights))
	}
}

// A step that panics is an error of the run, and the threads live on.
func TestPanicIsAnError(t *testing.T) {
	p := newPool(3)
	defer p.close()
	s := make([]scratch, 3)
	err := p.run(context.Background(), 0, 10, func(i int, _ *scratch) {
		if i == 7 {
			panic("broken kernel")
		}
	}, nil, s)
	if err == nil {
		t.Fatal("a panic in a part was lost")
	}
	if err := p.run(context.Background(), 0, 10, func(int, *scratch) {}, nil, s); err != nil {
		t.Fatalf("after a panic: %v", err)
	}
}

// Cancelling takes effect between the parts of one step.
func TestCancelInsideAStep(t *testing.T) {
	p := newPool(1)
	defer p.close()
	ctx, cancel := context.WithCancel(context.Background())
	done := 0
	err := p.run(ctx, 0, 1000, func(i int, _ *scratch) {
		if done++; i == 3 {
			cancel()
		}
	}, nil, make([]scratch, 1))
	if err != context.Canceled || done != 4 {
		t.Errorf("%d parts ran, error %v", done, err)
	}
}

func TestLoadRefusesABrokenPlan(t *testing.T) {
	b := newBackend(t, Options{Threads: 1})
	for what, harm := range map[string]func(p *plan.Plan){
		"a small arena":      func(p *plan.Plan) { p.Peak = 64 },
		"a missing buffer":   func(p *plan.Plan) { p.Buffers = p.Buffers[:1] },
		"a small buffer":     func(p *plan.Plan) { p.Buffers[0].Bytes = 1 },
		"a misplaced buffer": func(p *plan.Plan) { p.Buffers[0].Offset = 4 },
	} {
		g, _ := network(t, 6, 4)
		p := plan.Make(g)
		harm(p)
		if _, err := b.Load(context.Background(), p, nil); err == nil {
			t.Errorf("a plan with %s was loaded", what)
		}
	}
}

// Regions cover every output voxel and channel once.
func TestConvRegionsCoverTheOutput(t *testing.T) {
	for _, y := range []tensor.Shape{{1, 1, 1, 1, 3}, {1, 3, 5, 7, 200}, {1, 16, 56, 56, 64}, {1, 9, 33, 17, 5}, {1, 1, 300, 300, 64}, {1, 8, 14, 14, 256}, {1, 64, 9, 2, 1}} {
		for _, macs := range []int{1, 27, 1728, 1 << 20} {
			for _, depthwise := range []bool{false, true} {
				hits := make([]int, y.Elements())
				for _, r := range convRegions(y, macs, 48, minSlabGrain, depthwise) {
					y1, c1 := r.Y1, r.C1
					if y1 == 0 {
						y1 = y[2]
					}
					if c1 == 0 {
						c1 = y[4]
					}
					for z := r.Z0; z < r.Z1; z++ {
						for v := r.Y0 * y[3]; v < y1*y[3]; v++ {
							for c := r.C0; c < c1; c++ {
								hits[(z*y[2]*y[3]+v)*y[4]+c]++
							}
						}
					}
				}
				for i, n := range hits {
					if n != 1 {
						t.Fatalf("output %v, %d multiplications, depthwise %v: element %d is computed %d times", y, macs, depthwise, i, n)
					}
				}
			}
		}
	}
}

// Programs of one backend may run at the same time, and do not disturb each other.
func TestProgramsRunTogether(t *testing.T) {
	b := newBackend(t, Options{Threads: 2})
	g, _ := network(t, 12, 8)
	want := execute(t, b, plan.Make(g))
	results := make([][]float32, 4)
	var done sync.WaitGroup
	for i := range results {
		done.Go(func() { results[i] = execute(t, b, plan.Make(g)) })
	}
	done.Wait()
	for _, got := range results {
		if !slices.Equal(got, want) {
			t.Fatal("a program that ran beside others gave something else")
		}
	}
}

func TestBitsOfRectifiers(t *testing.T) {
	x := make([]float32, 64)
	for i := range x {
		x[i] = []float32{1, 0, -1, float32(math.Copysign(0, -1)), math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32, math.MaxFloat32}[i*i%7]
	}
	word := signBits(pairsOf(x))
	y := make([]float32, 64)
	keep(pairsOf(y), pairsOf(x), word)
	for i, v := range x {
		if got := word>>i&1 == 1; got != (v > 0) {
			t.Errorf("bit %d of %v is %v", i, v, got)
		}
		if y[i] != max(v, 0) {
			t.Errorf("element %d, %v, was kept as %v", i, v, y[i])
		}
	}
}
