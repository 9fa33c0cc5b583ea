package plan_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// randomGraph draws a graph of images with joins, views, pooling and activations that ends in a vector of scores.
func randomGraph(t *rapid.T) (*ir.Graph, *ir.Value, *ir.Value) {
	g := &ir.Graph{}
	x := g.Input("volume", ir.F32(1, 4, 5, 6, 2))
	b := ir.NewBuilder(g)
	values := []*ir.Value{x}
	for range rapid.IntRange(1, 12).Draw(t, "nodes") {
		v := rapid.SampledFrom(values).Draw(t, "source")
		other := rapid.SampledFrom(values).Draw(t, "other")
		if !other.Shape().Equal(v.Shape()) {
			other = v
		}
		switch rapid.IntRange(0, 5).Draw(t, "op") {
		case 0:
			v = b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, v)
		case 1:
			v = b.Emit(op.UnaryOp("Silu"), op.UnaryAttr{}, v)
		case 2:
			v = b.Emit(op.BinaryOp("Add"), nil, v, other)
		case 3:
			v = b.Emit(op.BinaryOp("Mul"), nil, v, other)
		case 4:
			v = b.Emit(op.Reshape, op.ReshapeAttr{Shape: append(tensor.Shape{1}, v.Shape()...)}, v)
		case 5:
			if s := v.Shape(); len(s) == 5 && s[1] > 1 {
				pool := op.PoolAttr{Kernel: [3]int{2, 1, 2}, Stride: [3]int{2, 1, 1}, Dilation: [3]int{1, 1, 1}, After: [3]int{1, 0, 1}}
				v = b.Emit(op.MaxPool, pool, v)
			}
		}
		values = append(values, v)
	}
	last := values[len(values)-1]
	axes := make([]int, len(last.Shape()))
	for i := range axes {
		axes[i] = i
	}
	score := b.Emit(op.ReduceSum, op.ReduceAttr{Axes: axes}, last)
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	g.Outputs = []*ir.Value{score}
	return g, x, score
}

// Every byte that a step reads holds the value that it means, when the steps run in order on one arena: invariants P1 to P3.
func TestPlansNeverReadOverwrittenMemory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g, x, score := randomGraph(t)
		if rapid.Bool().Draw(t, "gradient") {
			_, gradients, err := grad.Build(g, score, []*ir.Value{x})
			if err != nil {
				t.Skip(err) // the score does not depend on the input
			}
			g.Outputs = append(g.Outputs, gradients...)
			g.Prune()
		}
		if err := g.Verify(); err != nil {
			t.Fatal(err)
		}
		checkPlan(t, plan.Make(g))
		full, err := plan.Stream(g, plan.Options{Budget: 1 << 40})
		if err != nil {
			t.Fatal(err)
		}
		checkPlan(t, full)
		external := []*ir.Value{nil, x}[rapid.IntRange(0, 1).Draw(t, "external"):][:1]
		if external[0] == nil {
			external = nil
		}
		smallest, err := plan.Stream(g, plan.Options{External: external})
		if err != nil {
			t.Fatal(err)
		}
		checkPlan(t, smallest)
		checkSeedComesLast(t, smallest, score)
		for _, budget := range []int{smallest.Peak, max(smallest.Peak, (smallest.Peak+full.Peak)/2)} {
			p, err := plan.Stream(g, plan.Options{Budget: budget, External: external})
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, p)
			if p.Peak > budget {
				t.Fatalf("a budget of %d bytes gave a plan of %d", budget, p.Peak)
			}
		}
	})
}

// checkPlan runs a plan on paper: it keeps a note of which plane of which value every place of every buffer holds.
func checkPlan(t fatal, p *plan.Plan) {
	for i, a := range p.Buffers {
		if a.External {
			continue
		}
		if a.Offset%plan.Align != 0 || a.Offset < 0 || a.Offset+a.Bytes > p.Peak {
			t.Fatalf("buffer %d %+v does not lie in an arena of %d bytes", i, a, p.Peak)
		}
		for j, b := range p.Buffers[:i] {
			if !b.External && a.First <= b.Last && b.First <= a.Last && a.Offset < b.Offset+b.Bytes && b.Offset < a.Offset+a.Bytes {
				t.Fatalf("P1: buffers %d %+v and %d %+v overlap", j, b, i, a)
			}
		}
	}
	type content struct {
		value *ir.Value
		plane int
	}
	source := map[*ir.Value]*ir.Value{} // a view holds what its source holds
	root := func(v *ir.Value) *ir.Value {
		for source[v] != nil {
			v = source[v]
		}
		return v
	}
	holds := make([]map[int]content, len(p.Buffers))
	for i := range holds {
		holds[i] = map[int]content{}
	}
	fill := func(b int, v *ir.Value, z0, z1 int) {
		buf := p.Buffers[b]
		if !slices.Contains(buf.Values, v) {
			t.Fatalf("buffer %d does not expect %v", b, v)
		}
		places := 1
		if buf.Planes > 0 {
			places = buf.Planes
			if !buf.External && buf.Bytes < places*plan.PlaneBytes(v) {
				t.Fatalf("%v does not fit buffer %d %+v", v, b, buf)
			}
		}
		for z := z0; z < z1; z++ {
			holds[b][z%places] = content{root(v), z}
		}
	}
	expect := func(at, b int, v *ir.Value, z0, z1 int) {
		buf := p.Buffers[b]
		if at < buf.First || at > buf.Last {
			t.Fatalf("P2: step %d touches buffer %d, which lives from %d to %d", at, b, buf.First, buf.Last)
		}
		for z := z0; z < z1; z++ {
			if got := holds[b][z%max(1, buf.Planes)]; got != (content{root(v), z}) {
				t.Fatalf("P4: step %d (%s) wants plane %d of %v in buffer %d, which holds plane %d of %v\n%v", at, p.Steps[at].Node.Op.Name, z, v, b, got.plane, got.value, p.Graph)
			}
		}
	}
	planes := func(b int, v *ir.Value) int {
		if p.Buffers[b].Planes > 0 {
			return v.Shape()[1]
		}
		return 1
	}
	of := p.BufferOf()
	for _, v := range p.Graph.Inputs {
		fill(of[v], v, 0, planes(of[v], v))
	}
	done := map[*ir.Node]int{}
	for at, s := range p.Steps {
		y := s.Node.Out()
		for i, v := range s.Node.Inputs {
			if v == nil || v.Const != nil {
				if s.In[i] != -1 {
					t.Fatalf("step %d (%s): input %d needs no buffer and has %d", at, s.Node.Op.Name, i, s.In[i])
				}
				continue
			}
			lo, hi := 0, planes(s.In[i], v)
			if s.Mode != plan.Whole && v.HasDepth() {
				lo, hi = s.Z0, s.Z1
				if s.Mode == plan.Slab {
					lo, hi, _ = s.Node.Op.Slab(s.Node, i, s.Z0, s.Z1)
				}
			}
			expect(at, s.In[i], v, lo, hi)
		}
		if s.InPlace() && !s.Node.Op.View {
			first := s.Node.Inputs[0]
			if !s.Node.Op.InPlace || !first.Shape().Equal(y.Shape()) || first.Type.Elem != y.Type.Elem {
				t.Fatalf("P3: step %d (%s) runs in place on %v", at, s.Node.Op.Name, first.Type)
			}
			for i, v := range s.Node.Inputs {
				if v != first && s.In[i] == s.Out[0] {
					t.Fatalf("P3: step %d (%s) writes over its input %d", at, s.Node.Op.Name, i)
				}
			}
		}
		if b := p.Buffers[s.Out[0]]; at < b.First || at > b.Last {
			t.Fatalf("P2: step %d writes buffer %d, which lives from %d to %d", at, s.Out[0], b.First, b.Last)
		}
		if s.Node.Op.View && s.InPlace() {
			source[y] = s.Node.Inputs[0]
			continue
		}
		switch s.Mode {
		case plan.Whole:
			fill(s.Out[0], y, 0, planes(s.Out[0], y))
		case plan.Slab:
			fill(s.Out[0], y, s.Z0, s.Z1)
		case plan.Accumulate:
			if s.Z0 != done[s.Node] {
				t.Fatalf("step %d takes planes from %d on, after %d", at, s.Z0, done[s.Node])
			}
			done[s.Node] = s.Z1
			fill(s.Out[0], y, 0, 1)
		}
	}
	for _, v := range p.Graph.Outputs {
		if v.Const == nil {
			expect(len(p.Steps)-1, of[v], v, 0, planes(of[v], v))
			if b := p.Buffers[of[v]]; b.Last != len(p.Steps) {
				t.Fatalf("P2: the output %v lives only to step %d of %d", v, b.Last, len(p.Steps))
			}
		}
	}
}

// checkSeedComesLast demands that the score is complete before any step reads the seed: the caller chooses the class in between.
func checkSeedComesLast(t fatal, p *plan.Plan, score *ir.Value) {
	seeded := false
	for at, s := range p.Steps {
		seeded = seeded || slices.ContainsFunc(s.Node.Inputs, func(v *ir.Value) bool { return v != nil && v.Name == "seed" })
		if seeded && s.Node.Out() == score {
			t.Fatalf("step %d goes on with the score after the seed was read\n%v", at, p.Graph)
		}
	}
}

// fatal is what *testing.T and *rapid.T have in common.
type fatal interface{ Fatalf(string, ...any) }

// A chain of elementwise steps runs in one buffer, and the gradient of relu keeps one bit a value.
func TestPeakOfKnownGraphs(t *testing.T) {
	g := &ir.Graph{}
	x := g.Input("x", ir.F32(1024))
	b := ir.NewBuilder(g)
	y := x
	for range 5 {
		y = b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, y)
	}
	g.Outputs = []*ir.Value{y}
	if p := plan.Make(g); p.Peak != 4096 {
		t.Errorf("a chain of five relus takes %d bytes, not one buffer of 4096", p.Peak)
	}
	score := b.Emit(op.ReduceSum, op.ReduceAttr{Axes: []int{0}}, y)
	_, gradients, err := grad.Build(g, score, []*ir.Value{x})
	if err != nil {
		t.Fatal(err)
	}
	g.Outputs = gradients
	// the values, five bit masks of 128 bytes, and a buffer each for the score and its seed
	if p := plan.Make(g); p.Peak != 4096+5*128+2*64 {
		t.Errorf("the gradient of five relus takes %d bytes, not %d", p.Peak, 4096+5*128+2*64)
	}
}

// What runs in place, and what may not: P3.
func TestInPlace(t *testing.T) {
	g := &ir.Graph{}
	b := ir.NewBuilder(g)
	x := g.Input("x", ir.F32(4, 4))
	relu := func(v *ir.Value) *ir.Value { return b.Emit(op.UnaryOp("Relu"), op.UnaryAttr{}, v) }
	add := func(v, w *ir.Value) *ir.Value { return b.Emit(op.BinaryOp("Add"), nil, v, w) }
	reshape := func(v *ir.Value, s ...int) *ir.Value { return b.Emit(op.Reshape, op.ReshapeAttr{Shape: s}, v) }
	constant := b.Const(tensor.Shape{4, 4}, make([]float32, 16))
	last := relu(x)                                                                 // x is not read again
	twice := add(last, last)                                                        // an operand that is both
	saved := relu(twice)                                                            // twice is read again
	other := add(saved, twice)                                                      // the second operand has a buffer of its own
	view := reshape(other, 16)                                                      // a view
	aliased := add(other, reshape(view, 4, 4))                                      // the second operand is a view of the first
	withConst := add(aliased, constant)                                             // a constant has no buffer
	first := add(constant, withConst)                                               // nothing to write over
	wider := add(b.Emit(op.ReduceSum, op.ReduceAttr{Axes: []int{0}}, first), first) // the output is larger
	product := b.Emit(op.MatMul, op.MatMulAttr{}, wider, constant)                  // not this operation
	bits := b.Emit(op.Bits, op.BitsAttr{}, product)                                 // another type
	masked := b.Emit(op.MaskBackward, op.MaskAttr{In: 1}, product, bits)
	g.Outputs = []*ir.Value{masked}
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	want := map[*ir.Value]bool{last: true, twice: true, saved: false, other: true, view: true, aliased: false, withConst: true, first: false, wider: false,
		product: false, bits: false, masked: true}
	for name, p := range map[string]*plan.Plan{"whole": plan.Make(g)} {
		checkPlan(t, p)
		for _, s := range p.Steps {
			if in, ok := want[s.Node.Out()]; ok && s.InPlace() != in {
				t.Errorf("%s: %s of %v runs in place: %v", name, s.Node.Op.Name, s.Node.Inputs[0].Type, s.InPlace())
			}
		}
	}
	smallest, err := plan.Stream(g, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, smallest)
}
