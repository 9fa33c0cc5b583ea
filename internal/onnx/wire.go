package onnx

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one field of a protobuf message.
type field struct {
	num protowire.Number
	typ protowire.Type
	n   uint64 // value of a varint or fixed-size field
	b   []byte // content of a length-delimited field, part of the file
	at  int64  // where the value is in the file
}

// decoder turns bytes into the structures of model.go.
type decoder struct {
	m       *Model
	depth   int
	pending []externalTensor
}

func (d *decoder) fail(at int64, where, format string, args ...any) error {
	return &FormatError{Path: d.m.Path, Offset: at, Where: where, Err: fmt.Errorf(format, args...)}
}

// fields calls visit for each field of a message.
func (d *decoder) fields(what string, b []byte, at int64, visit func(f field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return d.fail(at, "", "%s: %v", what, protowire.ParseError(n))
		}
		b, at = b[n:], at+int64(n)
		f := field{num: num, typ: typ, at: at}
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
			f.at += int64(n - len(f.b))
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return d.fail(at, "", "field %d of %s: %v", num, what, protowire.ParseError(n))
		}
		if err := visit(f); err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// message checks that a field is a message before it is read as one, and bounds how deeply they nest.
func (d *decoder) message(what string, f field, visit func(f field) error) error {
	if f.typ != protowire.BytesType {
		return d.fail(f.at, "", "%s is not a message", what)
	}
	if d.depth >= maxDepth {
		return d.fail(f.at, "", "%s: graphs nest more than %d messages deep", what, maxDepth)
	}
	d.depth++
	defer func() { d.depth-- }()
	return d.fields(what, f.b, f.at, visit)
}

const maxDepth = 100

// int64s appends a repeated integer field, packed or not.
func (d *decoder) int64s(out []int64, f field) ([]int64, error) {
	if f.typ != protowire.BytesType {
		return append(out, int64(f.n)), nil
	}
	for b := f.b; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return nil, d.fail(f.at, "", "a list of integers: %v", protowire.ParseError(n))
		}
		out, b = append(out, int64(v)), b[n:]
	}
	return out, nil
}

// float32s appends a repeated float field, packed or not.
func (d *decoder) float32s(out []float32, f field) ([]float32, error) {
	if f.typ != protowire.BytesType {
		return append(out, math.Float32frombits(uint32(f.n))), nil
	}
	if len(f.b)%4 != 0 {
		return nil, d.fail(f.at, "", "a list of floats takes %d bytes", len(f.b))
	}
	for i := 0; i < len(f.b); i += 4 {
		out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(f.b[i:])))
	}
	return out, nil
}
