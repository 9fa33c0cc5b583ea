package onnx

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voxcam/voxcam/internal/tensor"
)

// A small encoder, the inverse of the decoder, to make models for tests.

type encoder []byte

func (e *encoder) number(num protowire.Number, v int64) {
	*e = protowire.AppendVarint(protowire.AppendTag(*e, num, protowire.VarintType), uint64(v))
}

func (e *encoder) bytes(num protowire.Number, b []byte) {
	*e = protowire.AppendBytes(protowire.AppendTag(*e, num, protowire.BytesType), b)
}

func (e *encoder) text(num protowire.Number, s string) { e.bytes(num, []byte(s)) }

func (e *encoder) message(num protowire.Number, fill func(e *encoder)) {
	var inner encoder
	fill(&inner)
	e.bytes(num, inner)
}

func encodeModel(m *Model) []byte {
	var e encoder
	e.number(1, 8)
	e.text(2, m.Producer)
	e.message(7, func(e *encoder) { encodeGraph(e, m.Graph) })
	for _, fn := range m.Functions {
		e.message(25, func(e *encoder) {
			e.text(1, fn.ID.Name)
			e.text(10, fn.ID.Domain)
			for _, s := range fn.Inputs {
				e.text(4, s)
			}
			for _, s := range fn.Outputs {
				e.text(5, s)
			}
			for _, n := range fn.Nodes {
				e.message(7, func(e *encoder) { encodeNode(e, n) })
			}
			for _, a := range fn.Defaults {
				e.message(11, func(e *encoder) { encodeAttribute(e, a) })
			}
			encodeOpsets(e, 9, fn.Opsets)
		})
	}
	encodeOpsets(&e, 8, m.Opsets)
	return e
}

func encodeOpsets(e *encoder, num protowire.Number, opsets map[string]int) {
	for _, domain := range slices.Sorted(maps.Keys(opsets)) {
		e.message(num, func(e *encoder) {
			e.text(1, domain)
			e.number(2, int64(opsets[domain]))
		})
	}
}

func encodeGraph(e *encoder, g *Graph) {
	for _, n := range g.Nodes {
		e.message(1, func(e *encoder) { encodeNode(e, n) })
	}
	for _, t := range g.Initializers {
		e.message(5, func(e *encoder) { encodeTensor(e, t) })
	}
	for i, list := range [][]ValueInfo{g.Inputs, g.Outputs} {
		for _, v := range list {
			e.message(protowire.Number(11+i), func(e *encoder) {
				e.text(1, v.Name)
				e.message(2, func(e *encoder) {
					e.message(1, func(e *encoder) {
						e.number(1, int64(v.Type))
						if v.Dims != nil {
							e.message(2, func(e *encoder) {
								for _, d := range v.Dims {
									e.message(1, func(e *encoder) {
										if d.Size != 0 {
											e.number(1, d.Size)
										} else {
											e.text(2, d.Param)
										}
									})
								}
							})
						}
					})
				})
			})
		}
	}
}

func encodeNode(e *encoder, n *Node) {
	for _, s := range n.Inputs {
		e.text(1, s)
	}
	for _, s := range n.Outputs {
		e.text(2, s)
	}
	e.text(3, n.Name)
	e.text(4, n.Op)
	e.text(7, n.Domain)
	for _, name := range slices.Sorted(maps.Keys(n.Attributes)) {
		e.message(5, func(e *encoder) { encodeAttribute(e, n.Attributes[name]) })
	}
	for _, k := range slices.Sorted(maps.Keys(n.Metadata)) {
		e.message(9, func(e *encoder) {
			e.text(1, k)
			e.text(2, n.Metadata[k])
		})
	}
}

func encodeAttribute(e *encoder, a *Attribute) {
	e.text(1, a.Name)
	if a.Ref != "" {
		e.text(21, a.Ref)
	}
	*e = protowire.AppendFixed32(protowire.AppendTag(*e, 2, protowire.Fixed32Type), math.Float32bits(a.Float))
	e.number(3, a.Int)
	e.text(4, a.String)
	if a.Tensor != nil {
		e.message(5, func(e *encoder) { encodeTensor(e, a.Tensor) })
	}
	if a.Graph != nil {
		e.message(6, func(e *encoder) { encodeGraph(e, a.Graph) })
	}
	for _, v := range a.Floats {
		*e = protowire.AppendFixed32(protowire.AppendTag(*e, 7, protowire.Fixed32Type), math.Float32bits(v))
	}
	for _, v := range a.Ints {
		e.number(8, v)
	}
}

func codeOf(elem tensor.Elem) int64 {
	for code, e := range dataTypes {
		if e == elem {
			return int64(code)
		}
	}
	return 0
}

func encodeTensor(e *encoder, t *Tensor) {
	for _, d := range t.Shape {
		e.number(1, int64(d))
	}
	e.number(2, codeOf(t.Elem))
	e.text(8, t.Name)
	e.bytes(9, t.Data)
}

// Short forms for models in tests.

func node(op, inputs, outputs string, attrs ...*Attribute) *Node {
	n := &Node{Op: op, Name: "n_" + outputs, Attributes: map[string]*Attribute{}, Metadata: map[string]string{}}
	for _, s := range strings.Fields(inputs) {
		n.Inputs = append(n.Inputs, strings.Trim(s, "_"))
	}
	n.Outputs = strings.Fields(outputs)
	for _, a := range attrs {
		n.Attributes[a.Name] = a
	}
	return n
}

func aInt(name string, v int64) *Attribute     { return &Attribute{Name: name, Int: v} }
func aInts(name string, v ...int64) *Attribute { return &Attribute{Name: name, Ints: v} }
func aFloat(name string, v float32) *Attribute { return &Attribute{Name: name, Float: v} }
func aText(name, v string) *Attribute          { return &Attribute{Name: name, String: v} }
func aTensor(name string, t *Tensor) *Attribute {
	return &Attribute{Name: name, Tensor: t}
}
func aGraph(name string, g *Graph) *Attribute { return &Attribute{Name: name, Graph: g} }

func floats(name string, shape tensor.Shape, values ...float32) *Tensor {
	t := &Tensor{Name: name, Shape: shape, Elem: tensor.F32}
	for i := range shape.Elements() {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(values[i%len(values)]))
	}
	return t
}

func int64s(name string, shape tensor.Shape, values ...int64) *Tensor {
	t := &Tensor{Name: name, Shape: shape, Elem: tensor.I64}
	for _, v := range values {
		t.Data = binary.LittleEndian.AppendUint64(t.Data, uint64(v))
	}
	return t
}

// list is a constant vector of whole numbers.
func list(name string, values ...int64) *Tensor {
	return int64s(name, tensor.Shape{len(values)}, values...)
}

func dims(shape ...int64) []Dim {
	out := make([]Dim, len(shape))
	for i, d := range shape {
		out[i].Size = d
	}
	return out
}

// modelOf makes a model with input x and output y.
func modelOf(opset int, input []int64, constants []*Tensor, nodes ...*Node) *Model {
	return &Model{Opsets: map[string]int{"": opset}, Producer: "test", Graph: &Graph{
		Nodes: nodes, Initializers: constants,
		Inputs:  []ValueInfo{{Name: "x", Type: typeFloat, Dims: dims(input...)}},
		Outputs: []ValueInfo{{Name: "y", Type: typeFloat}},
	}}
}

// reread encodes and decodes a model.
func reread(t testing.TB, m *Model) *Model {
	t.Helper()
	out, err := Decode("test.onnx", encodeModel(m))
	if err != nil {
		t.Fatal(err)
	}
	return out
}
