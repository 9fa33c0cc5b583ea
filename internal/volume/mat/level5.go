package mat

import (
	"bufio"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

// Types of elements.
const (
	miInt8       = 1
	miUint8      = 2
	miInt16      = 3
	miUint16     = 4
	miInt32      = 5
	miUint32     = 6
	miSingle     = 7
	miDouble     = 9
	miInt64      = 12
	miUint64     = 13
	miMatrix     = 14
	miCompressed = 15
	miUTF8       = 16
	miUTF16      = 17
)

// elements5 are the types of elements that hold numbers.
var elements5 = map[uint32]array.Element{
	miInt8: {Kind: array.Int, Size: 1}, miUint8: {Kind: array.Uint, Size: 1},
	miInt16: {Kind: array.Int, Size: 2}, miUint16: {Kind: array.Uint, Size: 2},
	miInt32: {Kind: array.Int, Size: 4}, miUint32: {Kind: array.Uint, Size: 4},
	miInt64: {Kind: array.Int, Size: 8}, miUint64: {Kind: array.Uint, Size: 8},
	miSingle: {Kind: array.Float, Size: 4}, miDouble: {Kind: array.Float, Size: 8},
}

// Classes of matrices, by number.
const (
	mxChar        = 4
	mxDouble      = 6
	mxSingle      = 7
	mxInt32       = 12
	mxInt64       = 14
	mxFirstNumber = mxDouble
	mxLastNumber  = 15
	mxOpaque      = 17
)

var classes = [...]string{
	1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16",
	11: "uint16", 12: "int32", 13: "uint32", 14: "int64", 15: "uint64", 16: "function", 17: "opaque object",
}

// elementPadding is the most that writers put behind a compressed matrix.
const elementPadding = 8

// Flags in the first word of a matrix, above the class.
const (
	flagLogical = 0x0200
	flagComplex = 0x0800
)

// scan5 lists the variables of a level 5 file: it visits the tag of every element and decodes the description of each matrix. A file
// that is cut off is found out even if the variable that will be read is whole; and so is damage in the compressed data of
// another one, by its checksum.
func scan5(r *io.SectionReader, head []byte, wanted string) (file, error) {
	if len(head) < headerSize {
		return nil, volume.Malformed(format, "it has %d bytes, fewer than its header", len(head))
	}
	var order binary.ByteOrder
	switch string(head[126:128]) {
	case "IM":
		order = binary.LittleEndian
	case "MI":
		order = binary.BigEndian
	default:
		return nil, volume.Malformed(format, "the header has no mark of byte order; this is not a MAT-file")
	}
	if version := order.Uint16(head[124:]); version != 0x0100 {
		return nil, volume.Unsupported(format, "version %#04x of the format; save it again with '-v7'", version)
	}
	var f file
	for at := int64(headerSize); at < r.Size(); {
		var tag [8]byte
		if _, err := r.ReadAt(tag[:], at); err != nil {
			return nil, volume.Malformed(format, "the element at offset %d is cut off", at)
		}
		kind, size := order.Uint32(tag[:]), int64(order.Uint32(tag[4:]))
		if kind != miMatrix && kind != miCompressed {
			return nil, volume.Malformed(format, "the element at offset %d is of type %d, neither a matrix nor compressed", at, kind)
		}
		if left := r.Size() - at - 8; size > left {
			return nil, volume.Malformed(format, "the element at offset %d has %d bytes, the file only %d more; it was cut off", at, size, left)
		}
		e := element{r: io.NewSectionReader(r, at+8, size), at: at, compressed: kind == miCompressed, order: order}
		m, err := e.open()
		if err != nil {
			return nil, err
		}
		if m.name != wanted {
			err = m.check()
		}
		m.close()
		if err != nil {
			return nil, volume.Malformed(format, "the element at offset %d (variable %q): %w", at, m.name, err)
		}
		if m.name != "" { // MATLAB keeps data of its own in a matrix without a name
			f = append(f, variable{name: m.name, class: m.describe(), shape: m.shape, read: e.read})
		}
		if len(f) > maxVariables {
			return nil, volume.Unsupported(format, "it holds more than %d variables", maxVariables)
		}
		at += 8 + size
	}
	return f, nil
}

// matrix is a decoded description of a variable; its reader stands before the values.
type matrix struct {
	name  string
	class uint32
	flags uint32
	shape []int

	r      io.Reader
	left   int64 // bytes of the matrix that have not been read
	order  binary.ByteOrder
	closer io.Closer // nil if not compressed
}

func (m *matrix) close() {
	if m.closer != nil {
		m.closer.Close()
	}
}

// check decodes the rest of a compressed matrix whose values are not needed.
func (m *matrix) check() error {
	if m.closer == nil {
		return nil
	}
	if n, err := io.CopyN(io.Discard, m.r, m.left); err != nil {
		return fmt.Errorf("compressed data: %d of the last %d bytes: %w", n, m.left, noEOF(err))
	}
	return array.Drain(m.r, elementPadding)
}

func (m *matrix) describe() string {
	name := fmt.Sprintf("class %d", m.class)
	if int(m.class) < len(classes) && classes[m.class] != "" {
		name = classes[m.class]
	}
	switch {
	case m.flags&flagLogical != 0:
		return "logical"
	case m.flags&flagComplex != 0:
		return "complex " + name
	}
	return name
}

// element is the place of a variable in a file.
type element struct {
	r          *io.SectionReader // its content
	at         int64             // offset of its tag
	compressed bool
	order      binary.ByteOrder
}

// open decodes the description of the matrix.
func (e element) open() (*matrix, error) {
	m, err := e.describe()
	if err != nil {
		return nil, volume.Malformed(format, "the element at offset %d: %w", e.at, err)
	}
	return m, nil
}

func (e element) describe() (*matrix, error) {
	order := e.order
	content := io.NewSectionReader(e.r, 0, e.r.Size())
	m := &matrix{r: bufio.NewReader(content), left: e.r.Size(), order: order}
	if e.compressed {
		z, err := zlib.NewReader(m.r)
		if err != nil {
			return nil, fmt.Errorf("compressed data: %w", noEOF(err))
		}
		m.r, m.closer = z, z
		var tag [8]byte
		if _, err := io.ReadFull(z, tag[:]); err != nil {
			return nil, fmt.Errorf("compressed data: %w", noEOF(err))
		}
		if kind := order.Uint32(tag[:]); kind != miMatrix {
			return nil, fmt.Errorf("the compressed element is of type %d, not a matrix", kind)
		}
		m.left = int64(order.Uint32(tag[4:]))
	}
	if m.left == 0 { // an empty matrix without a name
		return m, nil
	}
	flags, err := m.part(miUint32, miUint32, 8, 8)
	if err != nil {
		return nil, fmt.Errorf("flags of the matrix: %w", err)
	}
	m.flags = order.Uint32(flags)
	m.class = m.flags & 0xff
	if m.class != mxOpaque { // these have no dimensions
		dims, err := m.part(miInt32, miUint32, 8, 4*maxRank)
		if err != nil {
			return nil, fmt.Errorf("dimensions of the matrix: %w", err)
		}
		for i := 0; i+4 <= len(dims); i += 4 {
			n := int32(order.Uint32(dims[i:]))
			if n < 0 {
				return nil, fmt.Errorf("dimension %d of the matrix is %d", i/4, n)
			}
			m.shape = append(m.shape, int(n))
		}
	}
	name, err := m.part(miInt8, miUTF8, 0, maxName)
	if err != nil {
		return nil, fmt.Errorf("name of the matrix: %w", err)
	}
	m.name = string(name)
	return m, nil
}

// tag reads the tag of the next element inside the matrix. Elements of up to four bytes may lie in the tag itself: then
// small holds them.
func (m *matrix) tag() (kind uint32, size int64, small []byte, err error) {
	var tag [8]byte
	if m.left < 8 {
		return 0, 0, nil, io.ErrUnexpectedEOF
	}
	if _, err := io.ReadFull(m.r, tag[:]); err != nil {
		return 0, 0, nil, noEOF(err)
	}
	m.left -= 8
	word := m.order.Uint32(tag[:])
	if packed := word >> 16; packed != 0 {
		if packed > 4 {
			return 0, 0, nil, fmt.Errorf("a small element claims %d bytes", packed)
		}
		return word & 0xffff, int64(packed), tag[4 : 4+packed], nil
	}
	size = int64(m.order.Uint32(tag[4:]))
	if size > m.left {
		return 0, 0, nil, fmt.Errorf("a part claims %d bytes, its matrix has %d more", size, m.left)
	}
	return word, size, nil, nil
}

// part reads an element of at least least and at most most bytes, and the padding behind it.
// Some writers use the type also instead of want.
func (m *matrix) part(want, also uint32, least, most int64) ([]byte, error) {
	kind, size, small, err := m.tag()
	switch {
	case err != nil:
		return nil, err
	case kind != want && kind != also:
		return nil, fmt.Errorf("type %d instead of %d", kind, want)
	case size < least || size > most:
		return nil, fmt.Errorf("%d bytes", size)
	case small != nil:
		return small, nil
	}
	padded := min((size+7)/8*8, m.left)
	data := make([]byte, padded)
	if _, err := io.ReadFull(m.r, data); err != nil {
		return nil, noEOF(err)
	}
	m.left -= padded
	return data[:size], nil
}

// read decodes the values of a numeric matrix.
func (e element) read(opt array.Options) (*array.Array, error) {
	m, err := e.open()
	if err != nil {
		return nil, err
	}
	defer m.close()
	if m.class < mxFirstNumber || m.class > mxLastNumber || m.flags&flagComplex != 0 {
		return notNumeric(m.name, m.describe())(opt)
	}
	n, err := opt.Count(m.shape)
	if err != nil {
		return nil, volume.Unsupported(format, "variable %s: %w", m.name, err)
	}
	damaged := func(err error) error { return volume.Malformed(format, "variable %s: %w", m.name, err) }
	stored, bytes, small, err := m.tag()
	if err != nil {
		return nil, damaged(err)
	}
	number, ok := elements5[stored]
	if !ok {
		return nil, damaged(fmt.Errorf("its values are of type %d", stored))
	}
	if bytes != int64(n)*int64(number.Size) {
		return nil, damaged(fmt.Errorf("shape %s needs %d bytes of its type, it has %d",
			array.FormatShape(m.shape), int64(n)*int64(number.Size), bytes))
	}
	number.Big = e.order == binary.ByteOrder(binary.BigEndian)
	if m.flags&flagLogical != 0 && number.Size == 1 {
		number.Kind = array.Bool
	}
	var data []float32
	if small != nil {
		data = make([]float32, n)
		number.Decode(data, small)
	} else if data, err = number.Read(m.r, n, e.r.Size()); err != nil {
		return nil, damaged(err)
	}
	if m.closer != nil {
		if err := array.Drain(m.r, elementPadding); err != nil {
			return nil, damaged(err)
		}
	}
	return column(m.shape, data), nil
}

// noEOF turns a plain end of file, which says nothing to a user, into an unexpected one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
