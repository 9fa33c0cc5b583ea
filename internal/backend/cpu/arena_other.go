//go:build !unix

package cpu

import (
	"unsafe"

	"github.com/voxcam/voxcam/internal/plan"
)

// take takes memory, aligned to plan.Align.
func take(bytes int) ([]byte, error) {
	raw := make([]byte, bytes+plan.Align)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(raw)))) & (plan.Align - 1)
	return raw[skip : skip+bytes], nil
}

func giveBack([]byte) error { return nil }
