package mat

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode"

	"github.com/voxcam/voxcam/internal/volume/array"
)

// Variable is a named array to write.
type Variable struct {
	Name  string
	Shape []int // of Data; nil for a scalar or a string. A vector of n becomes a row, 1 x n.

	// Data is a string, an int or float64 (scalars), or a slice of float32, float64, int32 or int64 in row-major order.
	Data any
}

// validName matches the names that MATLAB accepts.
var validName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,62}$`)

// maxBytes is the largest matrix that MATLAB reads from a level 5 file.
const maxBytes = 1<<31 - 1

// Write writes a level 5 file with compressed variables, as MATLAB's -v7. The bytes depend on the variables only. The
// format puts the compressed size in front, so the compressed form of one variable at a time is held in memory.
func Write(w io.Writer, variables []Variable) error {
	head := append([]byte("MATLAB 5.0 MAT-file, written by voxcam"), strings.Repeat(" ", headerSize)...)[:headerSize]
	clear(head[116:124]) // no subsystem data
	copy(head[124:], "\x00\x01IM")
	if _, err := w.Write(head); err != nil {
		return err
	}
	var body bytes.Buffer
	z, err := zlib.NewWriterLevel(&body, zlib.BestSpeed)
	if err != nil {
		return err
	}
	for _, v := range variables {
		body.Reset()
		body.Write(make([]byte, 8)) // the tag
		z.Reset(&body)
		if err := v.write(z); err != nil {
			return fmt.Errorf("mat: variable %s: %w", v.Name, err)
		}
		if err := z.Close(); err != nil {
			return err
		}
		le := binary.LittleEndian
		le.PutUint32(body.Bytes(), miCompressed)
		le.PutUint32(body.Bytes()[4:], uint32(body.Len()-8))
		if _, err := w.Write(body.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// write writes the matrix element, uncompressed.
func (v Variable) write(w io.Writer) error {
	if !validName.MatchString(v.Name) {
		return fmt.Errorf("%q is not a name for MATLAB: a letter, then letters, digits or _, at most 63", v.Name)
	}
	switch data := v.Data.(type) {
	case string:
		units := basicPlane(data)
		return writeMatrix(w, v.Name, mxChar, miUTF16, 2, []int{1, len(units)}, units)
	case int:
		return writeMatrix(w, v.Name, mxInt64, miInt64, 8, v.Shape, []int64{int64(data)})
	case float64:
		return writeMatrix(w, v.Name, mxDouble, miDouble, 8, v.Shape, []float64{data})
	case []float32:
		return writeMatrix(w, v.Name, mxSingle, miSingle, 4, v.Shape, data)
	case []float64:
		return writeMatrix(w, v.Name, mxDouble, miDouble, 8, v.Shape, data)
	case []int32:
		return writeMatrix(w, v.Name, mxInt32, miInt32, 4, v.Shape, data)
	case []int64:
		return writeMatrix(w, v.Name, mxInt64, miInt64, 8, v.Shape, data)
	}
	return fmt.Errorf("values of type %T cannot be written", v.Data)
}

// basicPlane encodes a string in UTF-16 with a replacement character for characters that need two units (emoji, rare scripts):
// MATLAB counts units and SciPy characters, and SciPy reads nothing of a file in which the numbers differ.
func basicPlane(s string) []uint16 {
	var units []uint16
	for _, r := range s {
		if r > 0xffff {
			r = unicode.ReplacementChar
		}
		units = append(units, uint16(r))
	}
	return units
}

// writeMatrix writes a matrix of class with values of the given element type and size in bytes.
func writeMatrix[T any](w io.Writer, name string, class, kind uint32, size int, shape []int, data []T) error {
	n := 1
	for _, s := range shape {
		n *= s
	}
	if n != len(data) {
		return fmt.Errorf("%d values do not have shape %s", len(data), array.FormatShape(shape))
	}
	for len(shape) < 2 { // MATLAB knows no fewer axes
		shape = append([]int{1}, shape...)
	}
	var head bytes.Buffer
	le := binary.LittleEndian
	part := func(kind uint32, content []byte) {
		head.Write(le.AppendUint32(le.AppendUint32(nil, kind), uint32(len(content))))
		head.Write(content)
		head.Write(make([]byte, -len(content)&7))
	}
	part(miUint32, le.AppendUint32(le.AppendUint32(nil, class), 0))
	var dims []byte
	for _, s := range shape {
		dims = le.AppendUint32(dims, uint32(s))
	}
	part(miInt32, dims)
	part(miInt8, []byte(name))
	padding := -n * size & 7
	total := int64(head.Len()) + 8 + int64(n)*int64(size) + int64(padding)
	if total > maxBytes {
		return fmt.Errorf("shape %s needs %d bytes, MATLAB reads at most %d from this format; write .npy or .nii.gz instead",
			array.FormatShape(shape), total, maxBytes)
	}
	tag := le.AppendUint32(le.AppendUint32(nil, miMatrix), uint32(total))
	if _, err := w.Write(append(tag, head.Bytes()...)); err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(w, 1<<16)
	buffered.Write(le.AppendUint32(le.AppendUint32(nil, kind), uint32(n*size))) //nolint:errcheck // kept until Flush
	err := array.ColumnMajorBlocks(data, shape, func(block []T) error { return binary.Write(buffered, le, block) })
	if err != nil {
		return err
	}
	buffered.Write(make([]byte, padding)) //nolint:errcheck // kept until Flush
	return buffered.Flush()
}
