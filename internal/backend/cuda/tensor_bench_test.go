package cuda

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// benchConv is a convolution of the size that networks for volumes of 256 cubed have.
type benchConv struct {
	name        string
	depth, size int // of the input; height and width are alike
	in, out     int
	kernel      [3]int
	stride      [3]int
	backward    bool
}

var benchConvs = []benchConv{
	{name: "64to64", depth: 64, size: 128, in: 64, out: 64, kernel: cubes, stride: ones},
	{name: "64to64back", depth: 64, size: 128, in: 64, out: 64, kernel: cubes, stride: ones, backward: true},
	{name: "128to128", depth: 32, size: 64, in: 128, out: 128, kernel: cubes, stride: ones},
	{name: "256to256", depth: 16, size: 32, in: 256, out: 256, kernel: cubes, stride: ones},
	{name: "512to512", depth: 16, size: 16, in: 512, out: 512, kernel: cubes, stride: ones},
	{name: "64to128stride2", depth: 64, size: 128, in: 64, out: 128, kernel: cubes, stride: twos},
	{name: "64to128stride2back", depth: 64, size: 128, in: 64, out: 128, kernel: cubes, stride: twos, backward: true},
	{name: "stem3to64", depth: 64, size: 256, in: 3, out: 64, kernel: [3]int{3, 7, 7}, stride: [3]int{1, 2, 2}},
	{name: "stem3to64back", depth: 64, size: 256, in: 3, out: 64, kernel: [3]int{3, 7, 7}, stride: [3]int{1, 2, 2}, backward: true},
	{name: "24to144pointwise", depth: 64, size: 64, in: 24, out: 144, kernel: ones, stride: ones},
	{name: "208to1248pointwise", depth: 16, size: 16, in: 208, out: 1248, kernel: ones, stride: ones},
}

// sample makes the graph and its input.
func (c benchConv) sample(t testing.TB) *backendtest.Example {
	t.Helper()
	a := op.ConvAttr{Stride: c.stride, Dilation: ones, Groups: 1}
	for i, k := range c.kernel {
		a.Before[i], a.After[i] = k/2, k/2
	}
	k := tensorCase{c.name, tensor.Shape{1, c.depth, c.size, c.size, c.in}, c.out, c.kernel, a}
	s, err := k.cases(t, func(r *rand.Rand, x []float64) {
		for i := range x {
			x[i] = r.Float64() - 0.5
		}
	})[bit(c.backward)].Sample(3)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// flops are those that the convolution needs, without what kernels do for padding.
func (c benchConv) flops(s *backendtest.Example) float64 {
	y := s.Out
	if c.backward {
		y = s.Graph.Inputs[0]
	}
	return 2 * float64(y.Shape().Elements()) * float64(c.in*c.kernel[0]*c.kernel[1]*c.kernel[2])
}

// loadBench loads a plan and writes its input.
func loadBench(t testing.TB, b *Backend, p *plan.Plan, s *backendtest.Example) *Program {
	t.Helper()
	loaded, err := b.Load(context.Background(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	program := loaded.(*Program)
	for v, x := range s.Data {
		if err := program.Write(v, floats32(x)); err != nil {
			t.Fatal(err)
		}
	}
	if err := program.Run(context.Background(), 0, len(p.Steps)); err != nil {
		t.Fatal(err)
	}
	return program
}

func floats32(x []float64) []float32 {
	y := make([]float32, len(x))
	for i := range x {
		y[i] = float32(x[i])
	}
	return y
}

// seconds is the time of one run of all steps, from events around many.
func seconds(t testing.TB, program *Program, runs int) float64 {
	t.Helper()
	b := program.backend
	var took float64
	err := b.context.Do(func() error {
		begin, err := b.context.NewEvent(true)
		if err != nil {
			return err
		}
		end, err := b.context.NewEvent(true)
		if err != nil {
			return err
		}
		for i := range runs + 2 {
			if i == 2 { // warm, and recorded as a graph
				if err := begin.Record(b.stream); err != nil {
					return err
				}
			}
			if err := program.enqueue(context.Background(), 0, len(program.steps)); err != nil {
				return err
			}
		}
		if err := end.Record(b.stream); err != nil {
			return err
		}
		if err := b.stream.Synchronize(); err != nil {
			return err
		}
		if took, err = end.Elapsed(begin); err != nil {
			return err
		}
		if err := begin.Close(); err != nil {
			return err
		}
		return end.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return took / float64(runs)
}

// BenchmarkTensor times single convolutions, whole and in slabs of 8 planes: VOXCAM_GPU=1 and -test.bench Tensor -test.benchtime 1x.
func BenchmarkTensor(b *testing.B) {
	if os.Getenv("VOXCAM_GPU") == "" {
		b.Skip("only a GPU tells times")
	}
	for _, p := range []struct {
		name      string
		precision Precision
	}{{"tf32", TF32}, {"bf16", BFloat16}} {
		for _, c := range benchConvs {
			s := c.sample(b)
			for _, planes := range []int{0, 8} {
				b.Run(fmt.Sprintf("%s/%s/planes=%d", p.name, c.name, planes), func(b *testing.B) {
					benchTensor(b, openTensor(b, p.precision), c, s, planes)
				})
			}
		}
	}
}

func benchTensor(b *testing.B, dev *Backend, c benchConv, s *backendtest.Example, planes int) {
	p := plan.Make(s.Graph)
	if planes > 0 {
		p = backendtest.Slabs(s.Graph, planes)
	}
	program := loadBench(b, dev, p, s)
	took := seconds(b, program, 20)
	b.ReportMetric(took*1e3, "ms")
	b.ReportMetric(c.flops(s)/took/1e12, "TFLOP/s")
	if err := program.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkTensorTiles times every way to cut a lattice into tiles, with both arrangements of boxes.
func BenchmarkTensorTiles(b *testing.B) {
	if os.Getenv("VOXCAM_GPU") == "" {
		b.Skip("only a GPU tells times")
	}
	for _, c := range benchConvs {
		s := c.sample(b)
		for _, swizzled := range []bool{false, true} {
			for i := range 6 {
				b.Run(fmt.Sprintf("%s/swizzled=%v/%d", c.name, swizzled, i), func(b *testing.B) {
					dev := openTensor(b, TF32)
					onlyTiles(b, dev, i, swizzled)
					benchTensor(b, dev, c, s, 0)
				})
			}
		}
	}
}

// TestTensorLarge holds large convolutions on tensor cores against float32, and slabs against the whole. It needs a GPU.
func TestTensorLarge(t *testing.T) {
	if os.Getenv("VOXCAM_GPU") == "" {
		t.Skip("too slow for the simulator")
	}
	for _, c := range benchConvs {
		t.Run(c.name, func(t *testing.T) {
			s := c.sample(t)
			result := func(precision Precision, p *plan.Plan) []float32 {
				program := loadBench(t, openTensor(t, precision), p, s)
				y := make([]float32, s.Out.Shape().Elements())
				if err := program.Read(s.Out, y); err != nil {
					t.Fatal(err)
				}
				if err := program.Close(); err != nil {
					t.Fatal(err)
				}
				return y
			}
			want := result(Float32, plan.Make(s.Graph))
			for precision, limit := range map[Precision]float64{TF32: 1e-3, BFloat16: 8e-3} {
				got := result(precision, plan.Make(s.Graph))
				off, largest := 0.0, 0.0
				for i := range want {
					off = max(off, math.Abs(float64(got[i]-want[i])))
					largest = max(largest, math.Abs(float64(want[i])))
				}
				t.Logf("precision %d is off by %.2g of the maximum", precision, off/largest)
				if !(off <= limit*largest) {
					t.Errorf("precision %d is off by %.3g of the maximum %.3g", precision, off/largest, largest)
				}
				for i, v := range result(precision, backendtest.Slabs(s.Graph, 8)) {
					if v != got[i] {
						t.Errorf("precision %d: element %d is %g in slabs and %g whole", precision, i, v, got[i])
						break
					}
				}
			}
		})
	}
}

// onlyTiles lets convolutions use one kernel of six, with boxes arranged in one way.
func onlyTiles(t testing.TB, b *Backend, number int, swizzled bool) {
	t.Helper()
	onlyTensor(t, b, func(m *tensorMachine) {
		if !m.hopper {
			t.Skip("this GPU has no wgmma")
		}
		m.kernels, m.swizzled = m.kernels[number:number+1], swizzled
	})
}

// onlyTensor sends convolutions to tensor cores before any other kernel is asked. Those that do not fit go the usual way.
func onlyTensor(t testing.TB, b *Backend, change func(m *tensorMachine)) {
	t.Helper()
	with := func(c *compiler, n *ir.Node, a op.ConvAttr, backward bool) (action, error) {
		m, err := c.tensorMachine()
		if err != nil {
			return nil, err
		}
		if m == nil {
			t.Skip("this GPU has no tensor cores for TF32")
		}
		change(m)
		run, ok, err := m.build(c, n, a, backward)
		if !ok && err == nil {
			return c.conv(n, a, backward)
		}
		return run, err
	}
	b.builders[op.Conv] = func(c *compiler, n *ir.Node) (action, error) { return with(c, n, n.Attr.(op.ConvAttr), false) }
	b.builders[op.ConvBackwardData] = func(c *compiler, n *ir.Node) (action, error) {
		return with(c, n, n.Attr.(op.ConvBackwardDataAttr).Conv, true)
	}
}
