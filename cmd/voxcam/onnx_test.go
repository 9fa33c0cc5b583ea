package main

import (
	"encoding/binary"
	"io"
	"math"
	"os"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/protobuf/encoding/protowire"
)

// Small models, written field by field as onnx.proto numbers them.

type message []byte

func (m *message) number(field protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, field, protowire.VarintType), v)
}

func (m *message) bytes(field protowire.Number, b []byte) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, field, protowire.BytesType), b)
}

func (m *message) texts(field protowire.Number, list ...string) {
	for _, s := range list {
		m.bytes(field, []byte(s))
	}
}

// value is a ValueInfoProto of float32; a size of 0 is left open.
func value(name string, dims ...uint64) (m message) {
	var shape, tensor, kind message
	for _, d := range dims {
		var dim message
		if d > 0 {
			dim.number(1, d)
		} else {
			dim.texts(2, "size")
		}
		shape.bytes(1, dim)
	}
	tensor.number(1, 1)
	tensor.bytes(2, shape)
	kind.bytes(1, tensor)
	m.texts(1, name)
	m.bytes(2, kind)
	return m
}

// weight is a TensorProto whose values all are x.
func weight(name string, x float32, dims ...uint64) (m message) {
	n := uint64(1)
	for _, d := range dims {
		m.number(1, d)
		n *= d
	}
	m.number(2, 1)
	m.texts(8, name)
	var raw []byte
	for i := range n {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x*float32(1+i%5)))
	}
	m.bytes(9, raw)
	return m
}

// node is a NodeProto without attributes.
func node(name, op, inputs, outputs string) (m message) {
	m.texts(1, strings.Fields(inputs)...)
	m.texts(2, strings.Fields(outputs)...)
	m.texts(3, name)
	m.texts(4, op)
	return m
}

type network struct {
	input, output  message
	nodes, weights []message
}

func (n network) encode() []byte {
	var graph, opset, model message
	for _, node := range n.nodes {
		graph.bytes(1, node)
	}
	graph.texts(2, "main")
	for _, w := range n.weights {
		graph.bytes(5, w)
	}
	graph.bytes(11, n.input)
	graph.bytes(12, n.output)
	opset.number(2, 17)
	model.number(1, 8)
	model.bytes(7, graph)
	model.bytes(8, opset)
	return model
}

// onnxKinds are models that something is special about.
var onnxKinds = map[string]network{
	// No layer has spatial extent: the volume is flattened first.
	"flat": {
		input: value("volume", 1, 1, 4, 4, 4), output: value("scores", 1, 3),
		nodes:   []message{node("/flatten/Flatten", "Flatten", "volume", "flat"), node("/fc/MatMul", "MatMul", "flat w", "scores")},
		weights: []message{weight("w", 0.1, 64, 3)},
	},
	// An operation that nobody would want in a classifier of volumes.
	"unsupported": {
		input: value("volume", 1, 1, 4, 4, 4), output: value("scores", 1, 3),
		nodes: []message{node("/body/act/Relu", "Relu", "volume", "a"), node("/body/tail/Unique", "Unique", "a", "b"),
			node("/flatten/Flatten", "Flatten", "b", "flat"), node("/fc/MatMul", "MatMul", "flat w", "scores")},
		weights: []message{weight("w", 0.1, 64, 3)},
	},
	// A model of pictures.
	"picture": {
		input: value("picture", 1, 1, 4, 4), output: value("scores", 1, 3),
		nodes:   []message{node("/flatten/Flatten", "Flatten", "picture", "flat"), node("/fc/MatMul", "MatMul", "flat w", "scores")},
		weights: []message{weight("w", 0.1, 16, 3)},
	},
	// A class for each voxel, as segmentation has.
	"segmentation": {
		input: value("volume", 1, 1, 4, 4, 4), output: value("classes", 1, 2, 4, 4, 4),
		nodes:   []message{node("/head/Conv", "Conv", "volume w", "classes")},
		weights: []message{weight("w", 0.1, 2, 1, 1, 1, 1)},
	},
	// Weights that a diverged training left.
	"diverged": {
		input: value("volume", 1, 1, 4, 4, 4), output: value("scores", 1, 3),
		nodes: []message{node("/conv/Conv", "Conv", "volume v", "a"), node("/flatten/Flatten", "Flatten", "a", "flat"),
			node("/fc/MatMul", "MatMul", "flat w", "scores")},
		weights: []message{weight("v", 1, 1, 1, 1, 1, 1), weight("w", float32(math.NaN()), 64, 3)},
	},
}

func writeONNX(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || onnxKinds[args[1]].nodes == nil {
		ts.Fatalf("usage: onnx FILE KIND")
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), onnxKinds[args[1]].encode(), 0o666))
}

func section(text string) *io.SectionReader {
	return io.NewSectionReader(strings.NewReader(text), 0, int64(len(text)))
}
