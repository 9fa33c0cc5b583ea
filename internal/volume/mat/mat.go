// Package mat reads and writes MATLAB's MAT-files. Format: "MAT-File Format", The MathWorks (levels 4 and 5; v6, v7 and
// v7.2 are level 5, from v7 on with compressed variables). Files of v7.3 are HDF5 and refused.
//
// A level 5 file is a header of 128 bytes and a chain of elements, one a variable. An element is a tag (type, size) and
// its content; the matrix of a variable is itself made of elements: flags, dimensions, name, values. Values are in
// column-major order, and MATLAB may store them in a smaller type than the class of the matrix.
package mat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

const (
	format = "mat"

	// DefaultVariable is read when no variable is named.
	DefaultVariable = "imgMat"

	headerSize = 128
	maxName    = 4096 // MATLAB's own limit is 63
	maxRank    = 32

	maxVariables = 1 << 16
)

// hdf5 opens an HDF5 file; MATLAB puts it behind a block of 512 bytes.
const hdf5 = "\x89HDF\r\n\x1a\n"

// Match reports whether a file that begins with head is a level 5 MAT-file or one of v7.3. Level 4 has no mark.
func Match(head []byte) bool { return bytes.HasPrefix(head, []byte("MATLAB ")) }

// Read decodes the numeric variable opt.Variable (DefaultVariable if empty).
func Read(r *io.SectionReader, opt array.Options) (*array.Array, error) {
	if opt.Variable == "" {
		opt.Variable = DefaultVariable
	}
	head := make([]byte, headerSize)
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	head = head[:n]
	var signature [len(hdf5)]byte
	if n == headerSize {
		r.ReadAt(signature[:], 512) //nolint:errcheck // a file too short for it has no signature there
	}
	if bytes.HasPrefix(head, []byte(hdf5)) || bytes.HasPrefix(head, []byte("MATLAB 7.3")) || string(signature[:]) == hdf5 {
		return nil, volume.Unsupported(format, "it is a v7.3 file (HDF5); save it again with save(file, '%s', '-v7') in MATLAB, "+
			"or convert it with numpy.save('volume.npy', h5py.File('volume.mat')['%s'][()].T) in Python: "+
			"h5py shows the axes of MATLAB in reverse, and .T turns them back", opt.Variable, opt.Variable)
	}
	var f file
	switch {
	case n < 4:
		return nil, volume.Malformed(format, "it has %d bytes", n)
	case bytes.IndexByte(head[:4], 0) >= 0: // the text that opens a level 5 file has no zeros there
		f, err = scan4(r)
	default:
		f, err = scan5(r, head, opt.Variable)
	}
	if err != nil {
		return nil, err
	}
	named := slices.DeleteFunc(slices.Clone(f), func(v variable) bool { return v.name != opt.Variable })
	switch len(named) {
	case 0:
		return nil, volume.Unsupported(format, "it holds no variable %q, only %s; name one of them as the variable", opt.Variable, f)
	case 1:
		return named[0].read(opt)
	}
	return nil, volume.Malformed(format, "it holds the variable %q %d times; save it once", opt.Variable, len(named))
}

// file is the list of variables.
type file []variable

// variable is one entry; its values are decoded by read.
type variable struct {
	name  string
	class string
	shape []int
	read  func(array.Options) (*array.Array, error)
}

func (f file) String() string {
	if len(f) == 0 {
		return "nothing"
	}
	const most = 20
	var s []string
	for i, v := range f {
		if i == most {
			s = append(s, fmt.Sprintf("and %d more", len(f)-most))
			break
		}
		text := fmt.Sprintf("%.64s (%s", v.name, v.class)
		if len(v.shape) > 0 {
			text += " " + array.FormatShape(v.shape)
		}
		s = append(s, text+")")
	}
	return strings.Join(s, ", ")
}

// notNumeric is the read of variables that hold no numbers.
func notNumeric(name, class string) func(array.Options) (*array.Array, error) {
	return func(array.Options) (*array.Array, error) {
		return nil, volume.Unsupported(format, "variable %s is a %s, not a full real numeric array", name, class)
	}
}

// column builds the array of column-major values.
func column(shape []int, data []float32) *array.Array {
	return &array.Array{Shape: shape, Strides: array.ColumnMajor(shape), Data: data}
}

// level 4: a matrix is a header of five int32 (type, rows, columns, imaginary, length of name), the name and the values.
const header4 = 20

// elements4 are the types of values of level 4 by their digit P.
var elements4 = [...]struct {
	class   string
	element array.Element
}{
	{"double", array.Element{Kind: array.Float, Size: 8}}, {"single", array.Element{Kind: array.Float, Size: 4}},
	{"int32", array.Element{Kind: array.Int, Size: 4}}, {"int16", array.Element{Kind: array.Int, Size: 2}},
	{"uint16", array.Element{Kind: array.Uint, Size: 2}}, {"uint8", array.Element{Kind: array.Uint, Size: 1}},
}

// scan4 lists the variables of a level 4 file.
func scan4(r *io.SectionReader) (file, error) {
	var f file
	for at := int64(0); at < r.Size(); {
		var head [header4]byte
		if _, err := r.ReadAt(head[:], at); err != nil {
			return nil, volume.Malformed(format, "the matrix at offset %d is cut off", at)
		}
		// The first number is decimal MOPT: machine, 0, type, kind of matrix. Machine 0 is little-endian, 1 big-endian.
		order, big := binary.ByteOrder(binary.LittleEndian), false
		mopt := order.Uint32(head[:])
		if mopt > 9999 {
			order, big = binary.BigEndian, true
			mopt = order.Uint32(head[:])
		}
		machine, zero, precision, kind := mopt/1000, mopt/100%10, mopt/10%10, mopt%10
		if machine > 4 || zero != 0 || int(precision) >= len(elements4) || kind > 2 {
			return nil, volume.Malformed(format, "offset %d holds no matrix; this is not a MAT-file", at)
		}
		if machine > 1 || machine == 1 != big {
			return nil, volume.Unsupported(format, "its numbers are in a format of machine type %d, which is not IEEE", machine)
		}
		rows, cols := int64(order.Uint32(head[4:])), int64(order.Uint32(head[8:]))
		complex, length := order.Uint32(head[12:]), int64(order.Uint32(head[16:]))
		e := elements4[precision]
		const most = 1 << 31 // keeps the product below in range
		if rows >= most || cols >= most || length < 1 || length > maxName || complex > 1 {
			return nil, volume.Malformed(format, "the matrix at offset %d is %dx%d with a name of %d bytes", at, rows, cols, length)
		}
		start := at + header4 + length
		left := r.Size() - start
		each := int64(e.element.Size) * int64(1+complex)
		if left < 0 || cols > 0 && rows > left/each/cols {
			return nil, volume.Malformed(format, "the %dx%d matrix at offset %d goes beyond the end of the file", rows, cols, at)
		}
		name := make([]byte, length)
		if _, err := r.ReadAt(name, at+header4); err != nil {
			return nil, volume.Malformed(format, "the matrix at offset %d is cut off", at)
		}
		v := variable{name: string(bytes.TrimRight(name, "\x00")), class: e.class, shape: []int{int(rows), int(cols)}}
		switch {
		case kind == 1:
			v.class = "char"
		case kind == 2:
			v.class = "sparse"
		case complex == 1:
			v.class = "complex " + e.class
		}
		v.read = notNumeric(v.name, v.class)
		if v.class == e.class {
			e.element.Big = big
			v.read = func(opt array.Options) (*array.Array, error) {
				n, err := opt.Count(v.shape)
				if err != nil {
					return nil, volume.Unsupported(format, "variable %s: %w", v.name, err)
				}
				bytes := rows * cols * each
				data, err := e.element.Read(io.NewSectionReader(r, start, bytes), n, bytes)
				if err != nil {
					return nil, volume.Malformed(format, "variable %s: %w", v.name, err)
				}
				return column(v.shape, data), nil
			}
		}
		if f = append(f, v); len(f) > maxVariables {
			return nil, volume.Unsupported(format, "it holds more than %d variables", maxVariables)
		}
		at = start + rows*cols*each
	}
	return f, nil
}
