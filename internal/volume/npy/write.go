package npy

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/voxcam/voxcam/internal/volume/array"
)

// Write writes data, row-major of the given shape, as little-endian float32 (.npy version 1).
func Write(w io.Writer, shape []int, data []float32) error {
	n := 1
	for _, size := range shape {
		n *= size
	}
	if n != len(data) {
		return fmt.Errorf("npy: %d values do not have shape %s", len(data), array.FormatShape(shape))
	}
	var sizes strings.Builder
	for _, size := range shape {
		fmt.Fprintf(&sizes, "%d, ", size)
	}
	tuple := sizes.String()
	if len(shape) > 1 {
		tuple = strings.TrimSuffix(tuple, ", ")
	}
	text := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", strings.TrimSuffix(tuple, " "))
	// The elements begin at a multiple of 64 bytes, so that the file can be memory-mapped.
	const align = 64
	length := (len(magic)+4+len(text)+1+align-1)/align*align - len(magic) - 4
	head := append([]byte(magic), 1, 0)
	head = binary.LittleEndian.AppendUint16(head, uint16(length))
	head = append(head, text...)
	head = append(head, strings.Repeat(" ", length-len(text)-1)...)
	head = append(head, '\n')
	if _, err := w.Write(head); err != nil {
		return err
	}
	const chunk = 1 << 14
	buf := make([]byte, 0, 4*chunk)
	for len(data) > 0 {
		k := min(len(data), chunk)
		if _, err := w.Write(array.AppendFloat32(buf, data[:k])); err != nil {
			return err
		}
		data = data[k:]
	}
	return nil
}
