package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// part is a message of an ONNX file as a tree, so that it can be damaged and still be read.
type part struct {
	kind   string // a key of messages
	fields []*entry
}

// entry is a field of a message.
type entry struct {
	num  protowire.Number
	typ  protowire.Type
	n    uint64
	b    []byte
	part *part // in place of b
}

// messages are the fields of each message that are messages themselves, as onnx.proto numbers them.
var messages = map[string]map[protowire.Number]string{
	"model": {7: "graph", 8: "opset", 14: "pair", 25: "function"},
	"graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value"},
	"node":  {5: "attribute"}, "attribute": {5: "tensor", 6: "graph"}, "tensor": {13: "pair"},
	"value": {2: "type"}, "type": {1: "tensor type"}, "tensor type": {2: "shape"}, "shape": {1: "axis"},
	"function": {7: "node", 9: "opset", 11: "attribute"}, "opset": {}, "pair": {}, "axis": {},
}

func parsePart(kind string, b []byte) (*part, error) {
	p := &part{kind: kind}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		f := &entry{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			f.n, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			f.n = uint64(v)
		case protowire.Fixed64Type:
			f.n, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			f.b, n = protowire.ConsumeBytes(b)
		default:
			return nil, fmt.Errorf("a field of type %d", typ)
		}
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		b = b[n:]
		if inner, ok := messages[kind][num]; ok {
			var err error
			if f.part, err = parsePart(inner, f.b); err != nil {
				return nil, err
			}
		}
		p.fields = append(p.fields, f)
	}
	return p, nil
}

func (p *part) encode() (b []byte) {
	for _, f := range p.fields {
		b = protowire.AppendTag(b, f.num, f.typ)
		switch {
		case f.part != nil:
			b = protowire.AppendBytes(b, f.part.encode())
		case f.typ == protowire.VarintType:
			b = protowire.AppendVarint(b, f.n)
		case f.typ == protowire.Fixed32Type:
			b = protowire.AppendFixed32(b, uint32(f.n))
		case f.typ == protowire.Fixed64Type:
			b = protowire.AppendFixed64(b, f.n)
		default:
			b = protowire.AppendBytes(b, f.b)
		}
	}
	return b
}

// all are the messages of a kind below a message.
func (p *part) all(kind string) (list []*part) {
	if p.kind == kind {
		list = append(list, p)
	}
	for _, f := range p.fields {
		if f.part != nil {
			list = append(list, f.part.all(kind)...)
		}
	}
	return list
}

// of are the fields of a number.
func (p *part) of(num protowire.Number) (list []*entry) {
	for _, f := range p.fields {
		if f.num == num {
			list = append(list, f)
		}
	}
	return list
}

func (p *part) text(num protowire.Number) string {
	for _, f := range p.of(num) {
		return string(f.b)
	}
	return ""
}

func (p *part) number(num protowire.Number) uint64 {
	for _, f := range p.of(num) {
		return f.n
	}
	return 0
}

// numbers are sizes that nobody has room for, and those round which programs go wrong.
var numbers = []int64{0, -1, 1, 2, 3, -2, 5, 7, 16, 64, 255, 1000, 1 << 16, 1 << 20, 1 << 26, 1<<31 - 1, 1 << 31, 1 << 40, 1 << 62, math.MinInt64, math.MaxInt64}

var operations = []string{"Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "ConstantOfShape", "Conv", "ConvTranspose", "CumSum",
	"DepthToSpace", "Div", "Einsum", "Expand", "EyeLike", "Flatten", "Foo", "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool",
	"GroupNormalization", "Identity", "If", "InstanceNormalization", "LayerNormalization", "Loop", "LpPool", "LRN", "MatMul", "Max", "MaxPool", "Mod", "NonZero", "OneHot", "Pad",
	"Pow", "PRelu", "Range", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "ScatterElements", "ScatterND", "SequenceAt", "SequenceConstruct", "Shape", "Sigmoid",
	"Slice", "Softmax", "SpaceToDepth", "Split", "SplitToSequence", "Squeeze", "Sub", "Sum", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where"}

// damagedModel damages a model, and has it explained, planned, inspected or checked.
func damagedModel(t *trial) {
	c := pick(t.Rand, t.samples.models)
	data := c.model
	if t.IntN(4) == 0 {
		data = flipped(t.Rand, data)
		t.told("bytes of %s", c.name)
	} else {
		p, err := parsePart("model", data)
		if err != nil {
			t.err = err
			return
		}
		for range pick(t.Rand, []int{1, 1, 1, 2, 4}) {
			t.told("%s of %s", damagePart(t.Rand, p), c.name)
		}
		data = p.encode()
	}
	t.write("home/model.onnx", data)
	for name, text := range c.files {
		t.write("home/"+name, text)
	}
	switch t.IntN(10) {
	case 0, 1:
		t.args = []string{"inspect", "model.onnx", "--json"}
		t.budget = 0
	case 2:
		t.args = []string{"plan", "model.onnx", "--method", "gradcam,saliency", "--json"}
		t.withBudget()
	case 3:
		t.args = []string{"check", "--model", "model.onnx", "--device", "cpu", "--method", "all"}
		t.withBudget()
	default:
		methods := pick(t.Rand, []string{"gradcam", "saliency", "all", "gradcam++", "layercam", "smoothgrad,gradcam"})
		t.args = []string{"explain", "volume.npy", "--model", "model.onnx", "--method", methods, "--n-samples", "2", "--device", "cpu",
			"--threads", "1", "--save", "npy", "--out", "../out"}
		t.withBudget()
	}
}

// damagePart changes one thing of a model, and says what.
func damagePart(r *rand.Rand, p *part) string {
	graph, nodes, tensors := p.all("graph"), p.all("node"), p.all("tensor")
	if len(graph) == 0 || len(nodes) == 0 {
		return "nothing"
	}
	g, n := graph[0], pick(r, nodes)
	name := n.text(4) + " " + n.text(3)
	switch r.IntN(14) {
	case 0: // a number of an attribute
		if list := slices.DeleteFunc(n.all("attribute"), func(a *part) bool { return len(a.of(8))+len(a.of(3))+len(a.of(2)) == 0 }); len(list) > 0 {
			a := pick(r, list)
			f := pick(r, slices.Concat(a.of(8), a.of(3), a.of(2)))
			f.n = uint64(pick(r, numbers))
			if f.num == 2 {
				f.n = uint64(math.Float32bits(float32(pick(r, oddFloats))))
			}
			return fmt.Sprintf("attribute %s of %s", a.text(1), name)
		}
	case 1: // its length
		if list := n.all("attribute"); len(list) > 0 {
			a := pick(r, list)
			a.fields = slices.DeleteFunc(a.fields, func(f *entry) bool { return f.num == 8 })
			for range pick(r, []int{0, 1, 2, 3, 5, 6, 10, 50, 100000}) {
				a.fields = append(a.fields, &entry{num: 8, typ: protowire.VarintType, n: uint64(pick(r, numbers))})
			}
			return fmt.Sprintf("length of attribute %s of %s", a.text(1), name)
		}
	case 2: // an attribute, or another field
		if len(n.fields) > 0 {
			i := r.IntN(len(n.fields))
			num := n.fields[i].num
			n.fields = slices.Delete(n.fields, i, i+1)
			return fmt.Sprintf("no field %d in %s", num, name)
		}
	case 3: // where an input comes from
		if in := n.of(1); len(in) > 0 {
			pick(r, in).b = []byte(pick(r, namesOf(g)))
			return "an input of " + name
		}
	case 4: // a size of a weight
		if len(tensors) > 0 {
			t := pick(r, tensors)
			if d := t.of(1); len(d) > 0 {
				pick(r, d).n = uint64(pick(r, numbers))
				return "a size of the weight " + t.text(8)
			}
		}
	case 5: // its type
		if len(tensors) > 0 {
			t := pick(r, tensors)
			for _, f := range t.of(2) {
				f.n = uint64(r.IntN(26))
			}
			return "the type of the weight " + t.text(8)
		}
	case 6: // its values
		if len(tensors) > 0 {
			return damageValues(r, pick(r, tensors))
		}
	case 7:
		op := pick(r, operations)
		for _, f := range n.of(4) {
			f.b = []byte(op)
		}
		return fmt.Sprintf("%s is a %s", name, op)
	case 8: // something is missing or doubled
		i := r.IntN(len(g.fields))
		f := g.fields[i]
		if r.IntN(2) == 0 {
			g.fields = slices.Delete(g.fields, i, i+1)
			return fmt.Sprintf("a missing field %d", f.num)
		}
		g.fields = slices.Insert(g.fields, r.IntN(len(g.fields)+1), f)
		return fmt.Sprintf("a doubled field %d", f.num)
	case 9: // the shape of the input
		if axes := p.all("axis"); len(axes) > 0 {
			a := pick(r, axes)
			if a.fields = nil; r.IntN(2) == 0 {
				a.fields = []*entry{{num: 1, typ: protowire.VarintType, n: uint64(pick(r, numbers))}}
			}
			return "an axis of an input"
		}
	case 10:
		for _, f := range pick(r, p.all("opset")).of(2) {
			f.n = uint64(pick(r, append([]int64{6, 9, 11, 13, 18, 21, 24}, numbers...)))
		}
		return "an opset"
	case 11: // who writes a value
		if out := n.of(2); len(out) > 0 {
			pick(r, out).b = []byte(pick(r, namesOf(g)))
			return "an output of " + name
		}
	case 12:
		return amplify(r, p, g)
	case 13: // order
		i, j := r.IntN(len(g.fields)), r.IntN(len(g.fields))
		g.fields[i], g.fields[j] = g.fields[j], g.fields[i]
		return "the order of fields"
	}
	return "nothing"
}

var oddFloats = []float64{0, -1, 1, 0.5, 1e-45, 3e38, -3e38, math.NaN(), math.Inf(1), math.Inf(-1)}

// namesOf are names of values of a graph, and some that nothing has.
func namesOf(g *part) []string {
	list := []string{"", "nowhere"}
	for _, f := range g.fields {
		if f.part == nil {
			continue
		}
		switch f.part.kind {
		case "node":
			for _, out := range f.part.of(2) {
				list = append(list, string(out.b))
			}
		case "tensor":
			list = append(list, f.part.text(8))
		case "value":
			list = append(list, f.part.text(1))
		}
	}
	return list
}

// damageValues changes values of a tensor.
func damageValues(r *rand.Rand, t *part) string {
	const float, whole = 1, 7
	for _, f := range t.of(9) {
		b := slices.Clone(f.b)
		f.b = b
		switch t.number(2) {
		case float:
			if n := len(b) / 4; n > 0 {
				v := math.Float32bits(float32(pick(r, oddFloats)))
				for range pick(r, []int{1, 1, n}) {
					binary.LittleEndian.PutUint32(b[4*r.IntN(n):], v)
				}
			}
		case whole:
			if n := len(b) / 8; n > 0 {
				binary.LittleEndian.PutUint64(b[8*r.IntN(n):], uint64(pick(r, numbers)))
			}
		default:
			f.b = flipped(r, b)
		}
	}
	return "values of " + t.text(8)
}

// amplify puts a few nodes in front that make much of little.
func amplify(r *rand.Rand, p, g *part) string {
	x := ""
	for _, v := range g.all("value") {
		if x = v.text(1); x != "" {
			break
		}
	}
	much := pick(r, []int64{2, 16, 1 << 10, 1 << 13, 1 << 16, 1 << 20, 1 << 24, 1 << 26, 1 << 31, 1 << 40, 1 << 62})
	axis := r.IntN(5)
	each := func(n int64) (list []int64) {
		list = []int64{1, 1, 1, 1, 1}
		list[axis] = n
		return list
	}
	var front []message
	constant := func(name string, values ...int64) {
		g.fields = append(g.fields, &entry{num: 5, typ: protowire.BytesType, b: wholeNumbers(name, values...)})
	}
	scalar := func(name string, v int64) {
		m := wholeNumbers(name, v)
		g.fields = append(g.fields, &entry{num: 5, typ: protowire.BytesType, b: m[2:]}) // without its axis
	}
	// sum adds what a constant comes to to the volume.
	sum := func() {
		mean, cast := operation("ReduceMax", "fz_m", "fz_big"), operation("Cast", "fz_f", "fz_m")
		mean.bytes(5, whole("keepdims", 0))
		cast.bytes(5, whole("to", 1))
		front = append(front, mean, cast, operation("Add", "fz_x", x, "fz_f"))
	}
	kind := pick(r, []string{"ConstantOfShape", "Expand", "Range", "Tile", "Pad", "Resize", "volume Expand", "OneHot", "Gather", "many nodes", "functions", "CumSum", "branches"})
	switch kind {
	case "ConstantOfShape":
		constant("fz_n", pick(r, [][]int64{{much}, {much, much}, each(much)})...)
		front = append(front, operation(kind, "fz_big", "fz_n"))
		sum()
	case "Expand":
		constant("fz_n", pick(r, [][]int64{{much}, {much, 2}})...)
		constant("fz_1", 3)
		front = append(front, operation(kind, "fz_big", "fz_1", "fz_n"))
		sum()
	case "Range":
		scalar("fz_a", 0)
		scalar("fz_b", much)
		scalar("fz_c", 1)
		front = append(front, operation(kind, "fz_big", "fz_a", "fz_b", "fz_c"))
		sum()
	case "OneHot":
		constant("fz_i", 0, 1, 2)
		scalar("fz_d", much)
		constant("fz_v", 0, 1)
		front = append(front, operation(kind, "fz_big", "fz_i", "fz_d", "fz_v"))
		sum()
	case "Gather":
		constant("fz_n", much)
		constant("fz_v", 1, 2, 3)
		front = append(front, operation("ConstantOfShape", "fz_f0", "fz_n"), operation("Cast", "fz_i", "fz_f0"), operation(kind, "fz_big", "fz_v", "fz_i"))
		front[1].bytes(5, whole("to", 7))
		sum()
	case "Tile", "volume Expand":
		constant("fz_n", each(much)...)
		front = append(front, operation(kind[max(0, len(kind)-6):], "fz_x", x, "fz_n"))
	case "Pad":
		constant("fz_n", append(each(much-1), each(much-1)...)...)
		front = append(front, operation(kind, "fz_x", x, "fz_n"))
	case "Resize":
		constant("fz_n", each(much)...)
		front = append(front, operation("Cast", "fz_s", "fz_n"), operation(kind, "fz_x", x, "", "fz_s"))
		front[0].bytes(5, whole("to", 1))
	case "CumSum":
		scalar("fz_n", int64(axis))
		front = append(front, operation(kind, "fz_x", x, "fz_n"))
	case "many nodes":
		much = min(much, 1000)
		from := x
		for i := range much {
			to := fmt.Sprint("fz_", i)
			if i == much-1 {
				to = "fz_x"
			}
			front = append(front, operation("Relu", to, from))
			from = to
		}
	case "functions": // each of which calls the one before twice
		for i := range min(much, 40) {
			inner, domain := fmt.Sprint("fz_", i-1), "fz"
			if i == 0 {
				inner, domain = "Relu", ""
			}
			p.fields = append(p.fields, &entry{num: 25, typ: protowire.BytesType, b: doubling(fmt.Sprint("fz_", i), inner, domain)})
		}
		n := operation(fmt.Sprint("fz_", min(much, 40)-1), "fz_x", x)
		n.texts(7, "fz")
		front = append(front, n)
	case "branches":
		scalar("fz_n", 1)
		var inner message
		inner.bytes(1, operation("Relu", "fz_0", x))
		inner.bytes(12, value("fz_0"))
		least := inner
		for range min(much, 150) {
			var outer message
			outer.bytes(1, branch("fz_0", inner, least))
			outer.bytes(12, value("fz_0"))
			inner = outer
		}
		front = append(front, branch("fz_x", inner, least))
	}
	for _, n := range g.all("node") { // read the new value
		for _, in := range n.of(1) {
			if string(in.b) == x {
				in.b = []byte("fz_x")
			}
		}
	}
	var fields []*entry
	for _, m := range front {
		fields = append(fields, &entry{num: 1, typ: protowire.BytesType, b: m})
	}
	g.fields = append(fields, g.fields...)
	return fmt.Sprintf("%s of %d along %d", kind, much, axis)
}

// wholeNumbers is a TensorProto of a list of int64.
func wholeNumbers(name string, values ...int64) (m message) {
	m.number(1, uint64(len(values)))
	m.number(2, 7)
	m.texts(8, name)
	var raw []byte
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(v))
	}
	m.bytes(9, raw)
	return m
}

// operation is a NodeProto.
func operation(op, output string, inputs ...string) (m message) {
	m.texts(1, inputs...)
	m.texts(2, output)
	m.texts(3, "fz/"+output)
	m.texts(4, op)
	return m
}

// whole is an AttributeProto of a whole number.
func whole(name string, v uint64) (m message) {
	m.texts(1, name)
	m.number(3, v)
	m.number(20, 2)
	return m
}

// branch is an If of two graphs.
func branch(output string, then, otherwise message) message {
	n := operation("If", output, "fz_n")
	for name, body := range map[string]message{"then_branch": then, "else_branch": otherwise} {
		var a message
		a.texts(1, name)
		a.bytes(6, body)
		n.bytes(5, a)
	}
	return n
}

// doubling is a FunctionProto that calls another function twice.
func doubling(name, inner, domain string) (m message) {
	m.texts(1, name)
	m.texts(4, "a")
	m.texts(5, "c")
	for _, at := range []string{"ab", "bc"} {
		n := operation(inner, at[1:], at[:1])
		n.texts(7, domain)
		m.bytes(7, n)
	}
	for _, d := range []string{"", "fz"} {
		var set message
		set.texts(1, d)
		set.number(2, 17)
		m.bytes(9, set)
	}
	m.texts(10, "fz")
	return m
}
