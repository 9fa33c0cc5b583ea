// Package npy reads and writes NumPy's .npy and reads .npz (a zip archive of .npy). Format:
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 to 3.
//
// A .npy file is the magic, a version, a length, a Python dictionary as text and the elements. Pickled objects are refused:
// reading them would run code.
package npy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

const (
	format = "npy"
	magic  = "\x93NUMPY"

	// maxHeader is far above what NumPy itself accepts from an untrusted file (10000).
	maxHeader = 1 << 16
	maxRank   = 32
)

// Match reports whether a file that begins with head is a .npy file.
func Match(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

// Read decodes a .npy file, which must hold nothing behind the array.
func Read(r *io.SectionReader, opt array.Options) (*array.Array, error) {
	h, err := readHeader(r, opt)
	if err != nil {
		return nil, err
	}
	if err := h.checkSize(r.Size()); err != nil {
		return nil, err
	}
	return h.read(r, r.Size())
}

// header is the decoded start of a .npy file.
type header struct {
	element array.Element
	fortran bool
	shape   []int
	count   int   // product of shape
	start   int64 // offset of the first element
}

// checkSize compares the array with a file of size bytes.
func (h *header) checkSize(size int64) error {
	need := h.start + int64(h.count)*int64(h.element.Size)
	switch {
	case size < need:
		return volume.Malformed(format, "shape %s needs %d bytes, the file has %d; it was cut off when it was written or copied",
			array.FormatShape(h.shape), need, size)
	case size > need:
		return volume.Malformed(format, "%d bytes follow the array of shape %s; save each array to a file of its own",
			size-need, array.FormatShape(h.shape))
	}
	return nil
}

// read decodes the elements; r stands behind the header and have is the number of stored bytes.
func (h *header) read(r io.Reader, have int64) (*array.Array, error) {
	data, err := h.element.Read(r, h.count, have)
	if err != nil {
		return nil, volume.Malformed(format, "%w", err)
	}
	a := &array.Array{Shape: h.shape, Strides: array.RowMajor(h.shape), Data: data}
	if h.fortran {
		a.Strides = array.ColumnMajor(h.shape)
	}
	return a, nil
}

// readHeader decodes everything before the elements.
func readHeader(r io.Reader, opt array.Options) (*header, error) {
	var start [12]byte
	if _, err := io.ReadFull(r, start[:10]); err != nil {
		return nil, volume.Malformed(format, "the header is cut off: %w", noEOF(err))
	}
	if !Match(start[:]) {
		return nil, volume.Malformed(format, "it does not begin with the magic of .npy")
	}
	length, offset := int(binary.LittleEndian.Uint16(start[8:])), 10
	switch start[6] {
	case 1:
	case 2, 3:
		if _, err := io.ReadFull(r, start[10:]); err != nil {
			return nil, volume.Malformed(format, "the header is cut off: %w", noEOF(err))
		}
		long := binary.LittleEndian.Uint32(start[8:])
		if long > maxHeader {
			return nil, volume.Malformed(format, "the header claims %d bytes", long)
		}
		length, offset = int(long), 12
	default:
		return nil, volume.Unsupported(format, "version %d.%d; versions 1 to 3 are read", start[6], start[7])
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, volume.Malformed(format, "the header is cut off: %w", noEOF(err))
	}
	h, err := parseHeader(string(text))
	if err != nil {
		return nil, err
	}
	h.start = int64(offset + length)
	if h.count, err = opt.Count(h.shape); err != nil {
		return nil, volume.Unsupported(format, "%w", err)
	}
	return h, nil
}

// noEOF turns a plain end of file, which says nothing to a user, into an unexpected one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// elements maps the type codes of NumPy (without byte order) to elements.
var elements = map[string]array.Element{
	"f2": {Kind: array.Float, Size: 2}, "f4": {Kind: array.Float, Size: 4}, "f8": {Kind: array.Float, Size: 8},
	"i1": {Kind: array.Int, Size: 1}, "i2": {Kind: array.Int, Size: 2}, "i4": {Kind: array.Int, Size: 4}, "i8": {Kind: array.Int, Size: 8},
	"u1": {Kind: array.Uint, Size: 1}, "u2": {Kind: array.Uint, Size: 2}, "u4": {Kind: array.Uint, Size: 4}, "u8": {Kind: array.Uint, Size: 8},
	"b1": {Kind: array.Bool, Size: 1},
}

// parseElement decodes a type description such as "<f4".
func parseElement(descr string) (array.Element, error) {
	order, code := byte('|'), descr
	if descr != "" && strings.IndexByte("<>=|", descr[0]) >= 0 {
		order, code = descr[0], descr[1:]
	}
	e, ok := elements[code]
	if !ok {
		what := "elements of type " + fmt.Sprintf("%q", descr)
		if strings.HasPrefix(code, "O") {
			what = "pickled Python objects, which are never read"
		}
		return e, volume.Unsupported(format, "it holds %s; save the array as float32: np.save(path, a.astype(np.float32))", what)
	}
	e.Big = order == '>'
	return e, nil
}

// parseHeader decodes the dictionary {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}.
func parseHeader(text string) (*header, error) {
	p := parser{rest: text}
	h := &header{}
	var seen [3]bool
	p.expect('{')
	for p.err == nil && !p.accept('}') {
		key := p.str()
		p.expect(':')
		switch key {
		case "descr":
			seen[0] = true
			if p.peek() == '[' {
				return nil, volume.Unsupported(format, "its elements are records; save one plain array")
			}
			descr := p.str()
			if p.err != nil {
				break
			}
			var err error
			if h.element, err = parseElement(descr); err != nil {
				return nil, err
			}
		case "fortran_order":
			seen[1] = true
			h.fortran = p.boolean()
		case "shape":
			seen[2] = true
			h.shape = p.tuple()
		default:
			p.fail("unknown key %q", key)
		}
		if !p.accept(',') {
			p.expect('}')
			break
		}
	}
	if p.err == nil && seen != [3]bool{true, true, true} {
		p.fail("descr, fortran_order or shape is missing")
	}
	if p.err == nil && strings.Trim(p.rest, " \n\x00") != "" {
		p.fail("text behind the dictionary")
	}
	if p.err != nil {
		return nil, volume.Malformed(format, "the header %.80q is not a description of an array: %w", text, p.err)
	}
	return h, nil
}

// parser reads the few Python literals of a header. After the first error it does nothing.
type parser struct {
	rest string
	err  error
}

func (p *parser) fail(reason string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(reason, args...)
	}
}

// peek returns the next character that is not a space, 0 at the end.
func (p *parser) peek() byte {
	p.rest = strings.TrimLeft(p.rest, " \t\n")
	if p.err != nil || p.rest == "" {
		return 0
	}
	return p.rest[0]
}

func (p *parser) accept(c byte) bool {
	if p.peek() != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

func (p *parser) expect(c byte) {
	if !p.accept(c) {
		p.fail("%q expected", c)
	}
}

func (p *parser) str() string {
	quote := p.peek()
	if quote != '\'' && quote != '"' {
		p.fail("string expected")
		return ""
	}
	s, rest, ok := strings.Cut(p.rest[1:], string(quote))
	if !ok {
		p.fail("string without end")
		return ""
	}
	p.rest = rest
	return s
}

func (p *parser) boolean() bool {
	p.peek()
	for word, value := range map[string]bool{"True": true, "False": false} {
		if rest, ok := strings.CutPrefix(p.rest, word); ok {
			p.rest = rest
			return value
		}
	}
	p.fail("True or False expected")
	return false
}

func (p *parser) tuple() []int {
	shape := []int{}
	p.expect('(')
	for p.err == nil && !p.accept(')') {
		shape = append(shape, p.integer())
		if len(shape) > maxRank {
			p.fail("more than %d axes", maxRank)
		}
		if !p.accept(',') {
			p.expect(')')
			break
		}
	}
	return shape
}

// integer reads digits, and the L that Python 2 wrote behind them.
func (p *parser) integer() int {
	n, digits := 0, 0
	for c := p.peek(); c >= '0' && c <= '9'; digits++ {
		if n > (1<<62)/10 {
			p.fail("size too large")
			return 0
		}
		n = 10*n + int(c-'0')
		if p.rest = p.rest[1:]; p.rest == "" {
			break
		}
		c = p.rest[0]
	}
	if digits == 0 {
		p.fail("size expected")
	}
	p.rest = strings.TrimPrefix(p.rest, "L")
	return n
}
