package onnx

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voxcam/voxcam/internal/input"
)

// span is a part of the model's file: in memory, or read when it is used.
type span struct {
	mem    []byte
	file   *input.Hashed // nil: mem
	at     int64         // in the file
	length int
}

// wholeBytes is the most of a message that is read at once. Of a larger one, each field is read when it is used, and weights are not read
// before they are packed.
const wholeBytes = 64 << 10

func memory(b []byte) span { return span{mem: b, length: len(b)} }

// part returns length bytes of the span.
func (s span) part(from, length int) span {
	if s.file == nil {
		return memory(s.mem[from : from+length : from+length])
	}
	return span{file: s.file, at: s.at + int64(from), length: length}
}

// fill reads the span into b, of the same length. Unreadable bytes become zeros, and an error of the file.
func (s span) fill(b []byte) {
	if s.file == nil {
		copy(b, s.mem)
	} else if n, err := s.file.ReadAt(b, s.at); err != nil {
		clear(b[n:])
	}
}

// bytes returns the content, which must not be written to.
func (s span) bytes() []byte {
	if s.file == nil {
		return s.mem
	}
	b := make([]byte, s.length)
	s.fill(b)
	return b
}

// field is one field of a protobuf message.
type field struct {
	num  protowire.Number
	typ  protowire.Type
	n    uint64 // value of a varint or fixed-size field
	data span   // content of a length-delimited field
	at   int64  // the value's position in the file
}

func (f field) text() string { return string(f.data.bytes()) }

// decoder turns bytes into the structures of model.go.
type decoder struct {
	m       *Model
	ctx     context.Context
	depth   int
	parts   int // messages so far
	nodes   int
	pending []externalTensor
}

func (d *decoder) fail(at int64, where, format string, args ...any) error {
	return &FormatError{Path: d.m.Path, Offset: at, Where: where, Err: fmt.Errorf(format, args...)}
}

// fields calls visit for each field of a message.
func (d *decoder) fields(what string, s span, at int64, visit func(f field) error) error {
	if s.length <= wholeBytes {
		s = memory(s.bytes())
	}
	const most = 2 * 10 // bytes of a tag and a length
	for pos := 0; pos < s.length; {
		head := s.part(pos, min(most, s.length-pos)).bytes()
		num, typ, n := protowire.ConsumeTag(head)
		if n < 0 {
			return d.fail(at+int64(pos), "", "%s: %v", what, protowire.ParseError(n))
		}
		head, pos = head[n:], pos+n
		f := field{num: num, typ: typ, at: at + int64(pos)}
		switch typ {
		case protowire.VarintType:
			f.n, n = protowire.ConsumeVarint(head)
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(head)
			f.n = uint64(v)
		case protowire.Fixed64Type:
			f.n, n = protowire.ConsumeFixed64(head)
		case protowire.BytesType:
			var length uint64
			if length, n = protowire.ConsumeVarint(head); n >= 0 {
				if length > uint64(s.length-pos-n) {
					return d.fail(f.at, "", "field %d of %s: %v", num, what, io.ErrUnexpectedEOF)
				}
				f.data = s.part(pos+n, int(length))
				f.at += int64(n)
				n += int(length)
			}
		default:
			n = protowire.ConsumeFieldValue(num, typ, s.part(pos, min(wholeBytes, s.length-pos)).bytes())
		}
		if n < 0 {
			return d.fail(at+int64(pos), "", "field %d of %s: %v", num, what, protowire.ParseError(n))
		}
		if err := visit(f); err != nil {
			return err
		}
		pos += n
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
	if d.parts++; d.parts > maxParts { // an empty message takes two bytes of a file, and hundreds of memory
		return d.fail(f.at, "", "the model has more than %d nodes, attributes, tensors and axes", maxParts)
	}
	d.depth++
	defer func() { d.depth-- }()
	return d.fields(what, f.data, f.at, visit)
}

const (
	maxDepth = 100
	maxParts = 1 << 19
	maxRank  = 64
	// maxName bounds names: those of nodes in functions that call functions become as long as all of them together.
	maxName = 1 << 14
)

// name returns a short text.
func (d *decoder) name(what string, f field) (string, error) {
	if f.data.length > maxName {
		return "", d.fail(f.at, "", "%s has %d letters; %d is the most that is possible", what, f.data.length, maxName)
	}
	return f.text(), nil
}

// names appends a name to those of a node's inputs or outputs.
func (d *decoder) names(list []string, f field) ([]string, error) {
	name, err := d.name("a name", f)
	if len(list) >= maxList {
		return nil, d.fail(f.at, "", "a node has more than %d inputs or outputs", maxList)
	}
	return append(list, name), err
}

// int64s appends a repeated integer field, packed or not.
func (d *decoder) int64s(out []int64, f field) ([]int64, error) {
	if f.typ != protowire.BytesType {
		return append(out, int64(f.n)), nil
	}
	for b := f.data.bytes(); len(b) > 0; {
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
	b := f.data.bytes()
	if len(b)%4 != 0 {
		return nil, d.fail(f.at, "", "a list of floats takes %d bytes", len(b))
	}
	for i := 0; i < len(b); i += 4 {
		out = append(out, math.Float32frombits(binary.LittleEndian.Uint32(b[i:])))
	}
	return out, nil
}
