package plan

import (
	"math"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

func node(t *testing.T, o *ir.Op, attr any, in ...tensor.Shape) *ir.Node {
	t.Helper()
	g := &ir.Graph{}
	b := ir.NewBuilder(g)
	var values []*ir.Value
	for _, s := range in {
		values = append(values, g.Input("", ir.Type{Shape: s}))
	}
	y := b.Emit(o, attr, values...)
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	return y.Def
}

// The estimate of a node is its multiplications, what it moves, and a step.
func TestCost(t *testing.T) {
	one := [3]int{1, 1, 1}
	conv := op.ConvAttr{Stride: one, Dilation: one, Groups: 2}
	costs := Costs{FlopsPerSecond: 1, BytesPerSecond: 1e6, StepSeconds: 0.25}
	for name, c := range map[string]struct {
		node         *ir.Node
		flops, bytes float64
	}{
		"relu":             {node(t, op.UnaryOp("Relu"), op.UnaryAttr{}, tensor.Shape{10}), 10, 80},
		"add":              {node(t, op.BinaryOp("Add"), nil, tensor.Shape{2, 10}, tensor.Shape{10}), 20, 200},
		"bits":             {node(t, op.Bits, op.BitsAttr{}, tensor.Shape{64}), 64, 256 + 8},
		"conv":             {node(t, op.Conv, conv, tensor.Shape{1, 3, 3, 3, 4}, tensor.Shape{6, 2, 3, 1, 1}), 2 * 54 * 6, 4 * (108 + 36 + 54)},
		"conv backward":    {node(t, op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: conv, In: [3]int{3, 3, 3}}, tensor.Shape{1, 1, 3, 3, 6}, tensor.Shape{6, 2, 3, 1, 1}), 2 * 54 * 6, 4 * (108 + 36 + 54)},
		"product":          {node(t, op.MatMul, op.MatMulAttr{}, tensor.Shape{5, 7}, tensor.Shape{7, 3}), 2 * 15 * 7, 4 * (35 + 21 + 15)},
		"product of turns": {node(t, op.MatMul, op.MatMulAttr{TransA: true}, tensor.Shape{7, 5}, tensor.Shape{7, 3}), 2 * 15 * 7, 4 * (35 + 21 + 15)},
	} {
		if got, want := cost(c.node, costs), c.flops+c.bytes/1e6+0.25; math.Abs(got-want) > 1e-9 {
			t.Errorf("%s takes %v, want %v", name, got, want)
		}
	}
	if got := cost(node(t, op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{2, 5}}, tensor.Shape{10}), costs); got != 0.25 {
		t.Errorf("a view takes %v, want a step", got)
	}
	if (Costs{}).orDefault().FlopsPerSecond == 0 || costs.orDefault().FlopsPerSecond != 1 {
		t.Error("costs have the wrong default")
	}
}

func TestKinds(t *testing.T) {
	x := tensor.Shape{1, 6, 2, 2, 3}
	for name, c := range map[string]struct {
		node *ir.Node
		want nodeKind
	}{
		"relu":                      {node(t, op.UnaryOp("Relu"), op.UnaryAttr{}, x), slabwise},
		"relu of one plane":         {node(t, op.UnaryOp("Relu"), op.UnaryAttr{}, tensor.Shape{1, 1, 2, 2, 3}), whole},
		"relu of a list":            {node(t, op.UnaryOp("Relu"), op.UnaryAttr{}, tensor.Shape{6}), whole},
		"gate":                      {node(t, op.BinaryOp("Mul"), nil, x, tensor.Shape{1, 1, 1, 1, 3}), slabwise},
		"mean":                      {node(t, op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}}, x), reduction},
		"mean of channels":          {node(t, op.ReduceMean, op.ReduceAttr{Axes: []int{4}}, x), slabwise},
		"softmax of depth":          {node(t, op.Softmax, op.SoftmaxAttr{Axis: 1}, x), whole},
		"norm":                      {node(t, op.GroupNorm, op.GroupNormAttr{Groups: 1}, x), whole},
		"expand to planes":          {node(t, op.Expand, op.ExpandAttr{Shape: x}, tensor.Shape{1, 1, 1, 1, 3}), slabwise},
		"planes of what has none":   {node(t, op.BinaryOp("Add"), nil, tensor.Shape{1, 6, 1, 1, 1}, tensor.Shape{1, 1, 2, 2, 3}), slabwise},
		"planes of a matrix":        {node(t, op.Reshape, op.ReshapeAttr{Shape: x}, tensor.Shape{6, 12}), whole},
		"one input has to be whole": {node(t, op.MatMul, op.MatMulAttr{}, x, tensor.Shape{1, 6, 2, 3, 2}), whole},
	} {
		if got := kindOf(c.node); got != c.want {
			t.Errorf("%s is of kind %d, want %d", name, got, c.want)
		}
	}
	two := node(t, op.UnaryOp("Relu"), op.UnaryAttr{}, x)
	two.Outputs = append(two.Outputs, two.Out())
	if kindOf(two) != whole {
		t.Error("a node with two outputs is not taken whole")
	}
}

// A ring of a device with a granularity is of whole pieces where that makes it at most a quarter larger.
func TestRing(t *testing.T) {
	for _, c := range []struct {
		granularity, need, plane, depth int
		places, bytes                   int
		doubled                         bool
	}{
		{0, 3, 100, 10, 3, 320, false},
		{256, 4, 64, 10, 4, 256, true},
		{256, 5, 64, 10, 5, 320, false}, // eight places would be 3 more than a quarter
		{256, 7, 64, 10, 8, 512, true},
		{256, 7, 64, 8, 7, 448, false}, // eight places are all
		{256, 4, 64, 4, 4, 256, false},
		{256, 3, 64, 10, 3, 192, false}, // less than a piece
		{256, 2, 384, 10, 2, 768, true},
		{256, 4, 96, 100, 4, 384, false},
		{256, 8, 96, 100, 8, 768, true},
	} {
		n := planner{costs: Costs{Granularity: c.granularity}}
		places, bytes, doubled := n.ring(c.need, c.plane, c.depth)
		if places != c.places || bytes != c.bytes || doubled != c.doubled {
			t.Errorf("%+v: %d places of %d bytes, doubled %v", c, places, bytes, doubled)
		}
	}
	if gcd(12, 18) != 6 || gcd(7, 3) != 1 || gcd(5, 0) != 5 {
		t.Error("gcd is not that")
	}
	for size, want := range map[int]int{0: 0, 1: 64, 64: 64, 65: 128} {
		if align(size) != want {
			t.Errorf("%d bytes are aligned to %d", size, align(size))
		}
	}
}

// What is known of a block with a gate: who reads what, which planes, and what may be left out.
func TestNetwork(t *testing.T) {
	g := gated(t, false)
	x := g.Inputs[0]
	n := newPlanner(g, []*ir.Value{x}, Costs{})
	// conv, silu, pool, mean, sigmoid, gate, conv, relu, conv, add, mean
	kinds := []nodeKind{slabwise, slabwise, slabwise, reduction, whole, slabwise, slabwise, slabwise, slabwise, slabwise, reduction}
	free := []bool{true, true, true, false, false, true, true, true, true, true, false}
	readers := [][]int{{1}, {2}, {3, 5, 8}, {4}, {5}, {6}, {7}, {9}, {9}, {10}, nil, {0}}
	planes := []int{16, 16, 8, 16, 0, 8, 8, 8, 8, 8, 8} // of node 3: those of what it reduces, see below
	planes[3] = 8
	for i := range n.nodes {
		info := n.nodes[i]
		if info.kind != kinds[i] || n.values[i].streamable != free[i] || info.depth != planes[i] {
			t.Errorf("node %d, %s: kind %d, free %v, %d planes", i, info.node.Op.Name, info.kind, n.values[i].streamable, info.depth)
		}
	}
	for i, v := range n.values {
		if !slices.Equal(v.readers, readers[i]) {
			t.Errorf("value %d is read by %v, want %v", i, v.readers, readers[i])
		}
		if v.external != (v.value == x) || v.output != (v.value == g.Outputs[0]) {
			t.Errorf("value %d: external %v, output %v", i, v.external, v.output)
		}
	}
	// The first convolution: 16 planes of 6x6x8 from 6x6x2, three of which make one.
	conv := n.nodes[0]
	if conv.plane != 6*6*8*4 || !slices.Equal(conv.lo[0][:3], []int32{0, 0, 1}) || !slices.Equal(conv.hi[0][:3], []int32{2, 3, 4}) || conv.inputs[1] != -1 {
		t.Errorf("%+v", conv)
	}
	if v := n.values[0]; v.depth != 16 || v.plane != 1152 || v.bytes != 16*1152 {
		t.Errorf("%+v", v)
	}
	// A step of the pool reads two planes for one.
	if pool := n.nodes[2]; pool.plane != 2*1152 || pool.lo[0][3] != 6 || pool.hi[0][3] != 8 {
		t.Errorf("%+v", pool)
	}
	for _, c := range []struct{ node, slabBytes, want int }{{0, 0, 1}, {0, 1151, 1}, {0, 2304, 2}, {0, 3455, 2}, {0, 1 << 30, 16}, {2, 2304, 1}, {2, 4608, 2}, {3, 1 << 30, 8}} {
		if got := n.slabHeight(c.node, c.slabBytes); got != c.want {
			t.Errorf("steps of node %d in %d bytes take %d planes, want %d", c.node, c.slabBytes, got, c.want)
		}
	}
	if !sameStorage(n.values[0].value, n.values[1].value) || sameStorage(n.values[1].value, n.values[2].value) || sameStorage(x, n.values[0].value) {
		t.Error("which values can share a ring")
	}
	for i, want := range map[int]bool{0: false, 1: true, 5: true, 7: true, 9: true} {
		if n.runsInPlace(i) != want {
			t.Errorf("node %d runs in place: %v", i, !want)
		}
	}
}
