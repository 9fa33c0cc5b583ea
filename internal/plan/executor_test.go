package plan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/tensor"
)

// The depth of an image is the fourth axis from the innermost, if it has so many planes and one image.
func TestDepthAxis(t *testing.T) {
	for _, c := range []struct {
		shape tensor.Shape
		want  int
	}{
		{tensor.Shape{1, 6, 2, 3, 4}, 1}, {tensor.Shape{6, 2, 3, 4}, 0}, {tensor.Shape{1, 5, 2, 3, 4}, -1}, {tensor.Shape{5, 2, 3, 4}, -1},
		{tensor.Shape{2, 6, 2, 3, 4}, -1}, {tensor.Shape{6, 6, 2, 3, 4}, -1}, {tensor.Shape{1, 1, 6, 2, 3, 4}, -1}, {tensor.Shape{6, 3, 4}, -1}, {tensor.Shape{}, -1},
	} {
		if got := plan.DepthAxis(&ir.Value{Type: ir.Type{Shape: c.shape}}, 6); got != c.want {
			t.Errorf("%v: axis %d, want %d", c.shape, got, c.want)
		}
	}
	if plan.DepthAxis(nil, 6) != -1 {
		t.Error("an absent value has a depth")
	}
}

func TestOnePlane(t *testing.T) {
	g := &ir.Graph{}
	b := ir.NewBuilder(g)
	x, mask := g.Input("x", ir.F32(1, 6, 2, 3, 4)), g.Input("mask", ir.F32(6, 2, 3, 1))
	y := b.Emit(op.BinaryOp("Mul"), nil, x, mask)
	z := b.Emit(op.GroupNorm, op.GroupNormAttr{Groups: 2}, y, nil, b.Const(tensor.Shape{4}, make([]float32, 4)))
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	shapes := func(values []*ir.Value) (text []string) {
		for _, v := range values {
			if v == nil {
				text = append(text, "none")
			} else {
				text = append(text, v.Shape().String())
			}
		}
		return text
	}
	for _, c := range []struct {
		node    *ir.Node
		in, out []string
	}{
		{y.Def, []string{"[1,1,2,3,4]", "[1,2,3,1]"}, []string{"[1,1,2,3,4]"}},
		{z.Def, []string{"[1,1,2,3,4]", "none", "[4]"}, []string{"[1,1,2,3,4]"}},
	} {
		one := plan.OnePlane(c.node, 6)
		if in, out := shapes(one.Inputs), shapes(one.Outputs); !slices.Equal(in, c.in) || !slices.Equal(out, c.out) || one.Op != c.node.Op {
			t.Errorf("%s of %v gives %v", c.node.Op.Name, in, out)
		}
	}
	if got := shapes([]*ir.Value{x, mask, y, z}); !slices.Equal(got, []string{"[1,6,2,3,4]", "[6,2,3,1]", "[1,6,2,3,4]", "[1,6,2,3,4]"}) {
		t.Errorf("the graph has become %v", got)
	}
}

// Check accepts plans, and refuses each kind of buffer that an executor would read or write beyond its end.
func TestCheck(t *testing.T) {
	volume := func(planes int) *ir.Value { return &ir.Value{Type: ir.F32(1, planes, 2, 2, 16)} } // of 256 bytes a plane
	flat := &ir.Value{Type: ir.F32(64)}
	for name, c := range map[string]struct {
		peak int
		b    plan.Buffer
		want string
	}{
		"whole":                      {256, plan.Buffer{Values: []*ir.Value{flat}, Bytes: 256}, ""},
		"behind another":             {1024, plan.Buffer{Values: []*ir.Value{flat}, Offset: 768, Bytes: 256}, ""},
		"a ring":                     {512, plan.Buffer{Values: []*ir.Value{volume(6)}, Planes: 2, Bytes: 512}, ""},
		"nothing":                    {0, plan.Buffer{}, ""},
		"the caller's":               {0, plan.Buffer{Values: []*ir.Value{volume(6)}, Planes: 6, External: true, Offset: -3}, ""},
		"beyond the arena":           {1023, plan.Buffer{Values: []*ir.Value{flat}, Offset: 768, Bytes: 256}, "does not lie in an arena of 1023 bytes"},
		"in front of the arena":      {1024, plan.Buffer{Values: []*ir.Value{flat}, Offset: -64, Bytes: 256}, "does not lie"},
		"not aligned":                {1024, plan.Buffer{Values: []*ir.Value{flat}, Offset: 32, Bytes: 256}, "does not lie"},
		"less than nothing":          {1024, plan.Buffer{Offset: 64, Bytes: -64}, "does not lie"},
		"too small":                  {256, plan.Buffer{Values: []*ir.Value{flat}, Bytes: 255}, "255 bytes"},
		"the second is too large":    {256, plan.Buffer{Values: []*ir.Value{{Type: ir.F32(3)}, flat}, Bytes: 192}, "needs 256"},
		"a ring that is too small":   {512, plan.Buffer{Values: []*ir.Value{volume(6)}, Planes: 3, Bytes: 512}, "needs 768"},
		"planes of what has none":    {512, plan.Buffer{Values: []*ir.Value{flat}, Planes: 1, Bytes: 512}, "has planes"},
		"planes of the caller's own": {0, plan.Buffer{Values: []*ir.Value{flat}, Planes: 1, External: true}, "has planes"},
	} {
		err := (&plan.Plan{Peak: c.peak, Buffers: []plan.Buffer{{}, c.b}}).Check()
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "buffer 1 ")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A value in several buffers lies where the caller finds it: an input where it was put, an output where it stays.
func TestBufferOf(t *testing.T) {
	x, y, z := &ir.Value{}, &ir.Value{}, &ir.Value{}
	p := plan.Plan{Steps: make([]plan.Step, 4), Buffers: []plan.Buffer{
		{Values: []*ir.Value{x}, First: -1, Last: 2}, {Values: []*ir.Value{y, x}, First: 0, Last: 1}, {Values: []*ir.Value{y}, First: 2, Last: 4},
		{Values: []*ir.Value{z}, First: 3, Last: 3}, {Values: []*ir.Value{z}, First: 3, Last: 3},
	}}
	if m := p.BufferOf(); m[x] != 0 || m[y] != 2 || m[z] != 3 {
		t.Errorf("%v", m)
	}
}
