package onnx

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voxcam/voxcam/internal/tensor"
)

// decode fills m from the bytes of a file.
func decode(ctx context.Context, m *Model, data span) error {
	d := &decoder{m: m, ctx: ctx}
	if data.length == 0 {
		return d.fail(-1, "", "the file is empty")
	}
	m.Opsets, m.Metadata, m.Functions = map[string]int{}, map[string]string{}, map[FunctionID]*Function{}
	version := ""
	err := d.fields("the model", data, 0, func(f field) (err error) {
		switch f.num {
		case 1:
			m.IRVersion = int64(f.n)
		case 2:
			m.Producer = f.text()
		case 3:
			version = f.text()
		case 7:
			m.Graph, err = d.graph(f)
		case 8:
			err = d.opset(m.Opsets, f)
		case 14:
			err = d.entry(m.Metadata, f)
		case 25:
			var fn *Function
			if fn, err = d.function(f); err == nil {
				m.Functions[fn.ID] = fn
			}
		}
		return err
	})
	m.Producer = strings.TrimSpace(m.Producer + " " + version)
	switch {
	case m.Err() != nil:
		return m.Err()
	case err != nil:
		return notONNX(m, err)
	case m.Graph == nil:
		return d.fail(-1, "", "the file has no graph: it is not an ONNX model, or not a whole one")
	case len(m.Opsets) == 0:
		return d.fail(-1, "", "the file does not say which opset it uses: it is not an ONNX model, or not a whole one")
	}
	return d.loadExternal()
}

// notONNX returns advice about a file of another kind.
func notONNX(m *Model, err error) error {
	if m.Graph != nil || m.IRVersion != 0 {
		return err
	}
	var f *FormatError
	if errors.As(err, &f) {
		f.Err = fmt.Errorf("this is not an ONNX file (%w); a PyTorch model becomes one by torch.onnx.export, a Keras model by "+
			"model.export('model.onnx', format='onnx')", f.Err)
	}
	return err
}

func (d *decoder) opset(into map[string]int, f field) error {
	domain, version := "", 0
	err := d.message("an opset import", f, func(f field) error {
		switch f.num {
		case 1:
			domain = canonicalDomain(f.text())
		case 2:
			version = int(f.n)
		}
		return nil
	})
	into[domain] = version
	return err
}

func canonicalDomain(s string) string {
	if s == "ai.onnx" {
		return ""
	}
	return s
}

func (d *decoder) entry(into map[string]string, f field) error {
	var key, value string
	err := d.message("an entry", f, func(f field) error {
		switch f.num {
		case 1:
			key = f.text()
		case 2:
			value = f.text()
		}
		return nil
	})
	into[key] = value
	return err
}

func (d *decoder) graph(f field) (*Graph, error) {
	g := &Graph{Metadata: map[string]string{}}
	return g, d.message("a graph", f, func(f field) error {
		switch f.num {
		case 1:
			n, err := d.node(f)
			g.Nodes = append(g.Nodes, n)
			return err
		case 2:
			g.Name = f.text()
		case 5:
			t, err := d.tensor(f)
			g.Initializers = append(g.Initializers, t)
			return err
		case 11, 12:
			v, err := d.valueInfo(f)
			if f.num == 11 {
				g.Inputs = append(g.Inputs, v)
			} else {
				g.Outputs = append(g.Outputs, v)
			}
			return err
		case 15:
			return &UnsupportedError{Path: d.m.Path, Reason: "sparse weights are not supported", Advice: "export the model with dense weights"}
		case 16:
			return d.entry(g.Metadata, f)
		}
		return nil
	})
}

// keptMetadata are the notes of nodes that are of use; exporters also write whole stack traces.
var keptMetadata = map[string]bool{"namespace": true, "pkg.torch.onnx.name_scopes": true, "pkg.torch.onnx.class_hierarchy": true}

func (d *decoder) node(f field) (*Node, error) {
	if d.nodes++; d.nodes > maxNodes {
		return nil, d.fail(f.at, "", "the model has more than %d nodes", maxNodes)
	}
	n := &Node{Attributes: map[string]*Attribute{}, Metadata: map[string]string{}}
	err := d.message("a node", f, func(f field) (err error) {
		switch f.num {
		case 1:
			n.Inputs, err = d.names(n.Inputs, f)
		case 2:
			n.Outputs, err = d.names(n.Outputs, f)
		case 3:
			n.Name, err = d.name("a node's name", f)
		case 4:
			n.Op, err = d.name("an operation", f)
		case 5:
			a, err := d.attribute(f)
			n.Attributes[a.Name] = a
			return err
		case 7:
			n.Domain = canonicalDomain(f.text())
		case 8:
			n.Overload = f.text()
		case 9:
			return d.entry(n.Metadata, f)
		}
		return err
	})
	for k := range n.Metadata {
		if !keptMetadata[k] {
			delete(n.Metadata, k)
		}
	}
	return n, err
}

func (d *decoder) attribute(f field) (*Attribute, error) {
	a := &Attribute{}
	return a, d.message("an attribute", f, func(f field) (err error) {
		switch f.num {
		case 1:
			a.Name = f.text()
		case 2:
			a.Float = math.Float32frombits(uint32(f.n))
		case 3:
			a.Int = int64(f.n)
		case 4:
			a.String = f.text()
		case 5:
			a.Tensor, err = d.tensor(f)
		case 6:
			a.Graph, err = d.graph(f)
		case 7:
			a.Floats, err = d.float32s(a.Floats, f)
		case 8:
			a.Ints, err = d.int64s(a.Ints, f)
		case 9:
			a.Strings = append(a.Strings, f.text())
		case 21:
			a.Ref = f.text()
		}
		return err
	})
}

func (d *decoder) valueInfo(f field) (ValueInfo, error) {
	var v ValueInfo
	shape := func(f field) error {
		v.Dims = []Dim{}
		return d.message("a shape", f, func(f field) error {
			if f.num != 1 {
				return nil
			}
			var dim Dim
			err := d.message("an axis", f, func(f field) error {
				switch f.num {
				case 1:
					dim.Size = max(int64(f.n), 0)
				case 2:
					dim.Param = f.text()
				}
				return nil
			})
			v.Dims = append(v.Dims, dim)
			return err
		})
	}
	return v, d.message("a value", f, func(f field) error {
		switch f.num {
		case 1:
			v.Name = f.text()
		case 2:
			return d.message("a type", f, func(f field) error {
				if f.num != 1 {
					return nil
				}
				return d.message("a tensor type", f, func(f field) error {
					switch f.num {
					case 1:
						v.Type = int32(f.n)
					case 2:
						return shape(f)
					}
					return nil
				})
			})
		}
		return nil
	})
}

func (d *decoder) function(f field) (*Function, error) {
	fn := &Function{Defaults: map[string]*Attribute{}, Opsets: map[string]int{}}
	return fn, d.message("a function", f, func(f field) (err error) {
		switch f.num {
		case 1:
			fn.ID.Name, err = d.name("a function's name", f)
		case 4:
			fn.Inputs, err = d.names(fn.Inputs, f)
		case 5:
			fn.Outputs, err = d.names(fn.Outputs, f)
		case 7:
			n, err := d.node(f)
			fn.Nodes = append(fn.Nodes, n)
			return err
		case 9:
			return d.opset(fn.Opsets, f)
		case 10:
			fn.ID.Domain = canonicalDomain(f.text())
		case 11:
			a, err := d.attribute(f)
			fn.Defaults[a.Name] = a
			return err
		case 13:
			fn.ID.Overload = f.text()
		}
		return err
	})
}

// DataType numbers of the format.
const (
	typeString   = 8
	typeBool     = 9
	typeFloat    = 1
	typeInt64    = 7
	externalFlag = 1 // DataLocation EXTERNAL
)

// dataTypes maps a DataType number to how its elements are stored.
var dataTypes = map[int32]tensor.Elem{
	1: tensor.F32, 2: tensor.U8, 3: tensor.I8, 4: tensor.U16, 5: tensor.I16, 6: tensor.I32, 7: tensor.I64, 9: tensor.Bool,
	10: tensor.F16, 11: tensor.F64, 12: tensor.U32, 13: tensor.U64, 16: tensor.BF16,
}

var unsupportedTypes = map[int32]string{
	8: "text", 14: "complex64", 15: "complex128", 17: "float8", 18: "float8", 19: "float8", 20: "float8", 21: "uint4", 22: "int4", 23: "float4",
}

// typedData collects the typed fields of a tensor.
type typedData struct {
	floats  []span // chunks of 4-byte floats
	doubles []span
	ints    []int64 // int32_data, int64_data and uint64_data
}

func (d *decoder) tensor(f field) (*Tensor, error) {
	t := &Tensor{}
	var (
		dims     []int64
		code     int32
		data     span
		hasRaw   bool
		typed    typedData
		location int64
		external = map[string]string{}
		dataAt   = f.at
	)
	err := d.message("a tensor", f, func(f field) (err error) {
		switch f.num {
		case 1:
			dims, err = d.int64s(dims, f)
		case 2:
			code = int32(f.n)
		case 4:
			dataAt = f.at
			typed.floats, err = d.fixed(typed.floats, f, 4)
		case 5, 7, 11:
			dataAt = f.at
			typed.ints, err = d.int64s(typed.ints, f)
		case 8:
			t.Name, err = d.name("a tensor's name", f)
		case 9:
			data, hasRaw, dataAt = f.data, true, f.at
		case 10:
			dataAt = f.at
			typed.doubles, err = d.fixed(typed.doubles, f, 8)
		case 13:
			err = d.entry(external, f)
		case 14:
			location = int64(f.n)
		}
		return err
	})
	if err != nil {
		return t, err
	}
	where := "tensor " + quoted(t.Name)
	if len(dims) > maxRank {
		return t, d.fail(f.at, where, "a tensor of %d axes is not possible", len(dims))
	}
	elements := 1
	for _, n := range dims {
		if n < 0 || n > 0 && elements > tensor.MaxElements/max(int(n), 1) {
			return t, d.fail(f.at, where, "shape %v is not possible", dims)
		}
		elements *= int(n)
		t.Shape = append(t.Shape, int(n))
	}
	elem, ok := dataTypes[code]
	if !ok {
		name, known := unsupportedTypes[code]
		if !known {
			return t, d.fail(f.at, where, "element type %d is not one of ONNX", code)
		}
		t.Unsupported = "constant " + quoted(t.Name) + " holds " + name
		return t, nil
	}
	t.Elem = elem
	if location == externalFlag {
		d.pending = append(d.pending, externalTensor{t, elements, external, f.at})
		return t, nil
	}
	if !hasRaw {
		if data, err = typed.bytes(elem); err != nil {
			return t, d.fail(dataAt, where, "%v", err)
		}
	}
	if data.length/elem.Bytes() != elements || data.length%elem.Bytes() != 0 {
		return t, d.fail(dataAt, where, "%d elements of %v take %d bytes, but there are %d", elements, elem, elements*elem.Bytes(), data.length)
	}
	t.set(data)
	return t, nil
}

func quoted(s string) string { return "\"" + s + "\"" }

// fixed appends a repeated field of 4 or 8 byte numbers, packed or not, as chunks of bytes.
func (d *decoder) fixed(chunks []span, f field, size int) ([]span, error) {
	if f.typ == protowire.BytesType {
		if f.data.length%size != 0 {
			return nil, d.fail(f.at, "", "a list of %d-byte numbers takes %d bytes", size, f.data.length)
		}
		return append(chunks, f.data), nil
	}
	b := binary.LittleEndian.AppendUint64(nil, f.n)
	return append(chunks, memory(b[:size])), nil
}

// bytes returns the data little endian, without copying where the file has them so.
func (t typedData) bytes(elem tensor.Elem) (span, error) {
	chunks := t.floats
	switch elem {
	case tensor.F32:
	case tensor.F64:
		chunks = t.doubles
	default:
		if t.floats != nil || t.doubles != nil {
			return span{}, errors.New("the data are in a field of another type")
		}
		size := elem.Bytes()
		out := make([]byte, 0, len(t.ints)*size)
		for _, v := range t.ints {
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], uint64(v))
			out = append(out, b[:size]...)
		}
		return memory(out), nil
	}
	if t.ints != nil {
		return span{}, errors.New("the data are in a field of another type")
	}
	if len(chunks) == 1 {
		return chunks[0], nil
	}
	var out []byte
	for _, c := range chunks {
		out = append(out, c.bytes()...)
	}
	return memory(out), nil
}
