package plan

import (
	"flag"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

var update = flag.Bool("update", false, "write the plans that there are now to testdata/plans.txt")

// skipping is a small network of the kind of a U-net: two scales, a skip connection, a moved and padded branch, and a norm.
func skipping(t *testing.T, gradient bool) *ir.Graph {
	t.Helper()
	g := &ir.Graph{}
	x := g.Input("volume", ir.F32(1, 12, 6, 8, 2))
	b := ir.NewBuilder(g)
	one := [3]int{1, 1, 1}
	conv := func(x *ir.Value, out, kernel int) *ir.Value {
		in := x.Shape()[4]
		w := b.Const(tensor.Shape{out, in, kernel, kernel, 1}, make([]float32, out*in*kernel*kernel))
		pad := [3]int{kernel / 2, kernel / 2, 0}
		return b.Emit(op.Conv, op.ConvAttr{Stride: one, Dilation: one, Before: pad, After: pad, Groups: 1}, x, w)
	}
	unary := func(name string, x *ir.Value) *ir.Value { return b.Emit(op.UnaryOp(name), op.UnaryAttr{}, x) }
	a := unary("Relu", conv(x, 4, 3))
	down := b.Emit(op.MaxPool, op.PoolAttr{Kernel: [3]int{2, 2, 2}, Stride: [3]int{2, 2, 2}, Dilation: one}, a)
	c := unary("Silu", conv(down, 8, 3))
	c = b.Emit(op.BinaryOp("Add"), nil, unary("Tanh", conv(c, 8, 1)), c)
	up := b.Emit(op.Resize, op.ResizeAttr{Out: tensor.Shape{1, 12, 6, 8, 8}, Scale: []float64{1, 2, 2, 2, 1}, Mode: "linear", Coord: "half_pixel"}, c)
	joined := b.Emit(op.Concat, op.ConcatAttr{Axis: 4}, a, up)
	y := unary("Relu", conv(joined, 4, 3))
	if !gradient {
		norm := op.GroupNormAttr{Groups: 2, Eps: 1e-5}
		y = b.Emit(op.GroupNormApply, norm, y, b.Emit(op.GroupMoments, norm, y))
		y = b.Emit(op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{1, 12, 48, 1, 4}}, y)
		y = b.Emit(op.Softmax, op.SoftmaxAttr{Axis: 4}, y)
	}
	y = b.Emit(op.Pad, op.PadAttr{Before: []int{0, 1, 0, 0, 0}, After: []int{0, 1, 0, 0, 0}, Mode: op.PadConstant}, y)
	score := b.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}}, y)
	return finished(t, b, g, x, score, gradient)
}

// Plans are a function of the graph, the budget and the costs of a device alone: those of small networks are written down in
// testdata/plans.txt. Who changes the planner reads in the difference what it does to bytes and seconds, and writes it with -update.
func TestGoldenPlans(t *testing.T) {
	var text strings.Builder
	for _, network := range []struct {
		name string
		make func(*testing.T, bool) *ir.Graph
	}{{"gated", gated}, {"skipping", skipping}} {
		for _, gradient := range []bool{false, true} {
			g := network.make(t, gradient)
			for _, device := range []struct {
				name     string
				costs    Costs
				external bool
			}{
				{"processor", Costs{}, true},
				{"slow", slow, true},
				{"pieces", Costs{FlopsPerSecond: 1e10, BytesPerSecond: 1e9, StepSeconds: 2e-6, SlabBytes: []int{1 << 14, 1 << 12}, Granularity: 1024}, false},
			} {
				var external []*ir.Value
				if device.external {
					external = g.Inputs[:1]
				}
				s, err := NewSearch(t.Context(), g, Options{External: external, Costs: device.costs})
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&text, "%s, gradient %v, %s: %d choices\n", network.name, gradient, device.name, len(s.points))
				for _, p := range s.Curve() {
					fmt.Fprintf(&text, "\tchoice %d B %.2f us %d kept\n", p.Bytes, p.Seconds*1e6, p.Saved)
				}
				least, err := s.Smallest(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				most := Make(g).Peak
				fmt.Fprintf(&text, "\twhole %d B\n", most)
				for i := range 14 {
					budget := int(float64(least.Peak) * math.Pow(1.2*float64(most)/float64(least.Peak), float64(i)/13))
					p, err := s.Plan(t.Context(), budget)
					if err != nil {
						t.Fatal(err)
					}
					checkUnits(t, s.n, p)
					fmt.Fprintf(&text, "\tbudget %d: %s, expected %.2f us\n", budget, describe(p), s.Seconds(budget)*1e6)
				}
				fmt.Fprintf(&text, "\tsmallest: %s\n", describe(least))
			}
		}
	}
	const path = "testdata/plans.txt"
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, lines := strings.Split(text.String(), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(got), len(lines)) {
		if got[i] != lines[i] {
			t.Fatalf("line %d of %s: %s\nwas %s\n(go test ./internal/plan -run GoldenPlans -update writes them, if that is meant)", i+1, path, got[i], lines[i])
		}
	}
	if len(got) != len(lines) {
		t.Errorf("%d lines, not the %d of %s", len(got), len(lines), path)
	}
}

// describe is a plan in a line: its size and time, what is computed when, and where all lies.
func describe(p *Plan) string {
	again, saved, alive, rings := 0, 0, 0, 0
	var units strings.Builder
	for _, u := range p.Units {
		again += len(u.Rematerialised)
		saved += len(u.Saved)
		alive, rings = max(alive, u.AliveBytes), max(rings, u.RingBytes)
		fmt.Fprintf(&units, " %d", u.Steps)
	}
	places, doubled := 0, 0
	for i, b := range p.Buffers {
		places += (i + 1) * (b.Offset + 3*b.Bytes + 7*b.First + 11*b.Last + 13*b.Planes)
		if b.Doubled {
			doubled++
		}
	}
	for i, s := range p.Steps {
		places += (i + 1) * (int(s.Mode) + 3*s.Z0 + 5*s.Z1 + 7*s.Out[0] + 11*s.In[0])
	}
	return fmt.Sprintf("%d B %.2f us, %d again, %d kept, %d B alive, %d B of rings, %d doubled, steps%s, places %d", p.Peak, p.Seconds*1e6, again,
		saved, alive, rings, doubled, &units, places)
}
