package network

import (
	"context"
	"runtime/debug"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// leastOpening is the number of bytes that opening a model may take of the host's memory, however small the budget.
const leastOpening = 128 << 20

// unknownOpening is that number where the free memory is not known.
const unknownOpening = 4 << 30

// OpeningBytes returns the bytes that opening a model may take of the host's memory, before there is a plan: the budget, where that is a size
// and bounds the host's memory, else the budget auto's share of the free memory.
func OpeningBytes(budget cam.Budget, b backend.Backend) int {
	if _, resident := b.(backend.Resident); !resident && budget.Bytes > 0 {
		return max(budget.Bytes, leastOpening)
	}
	free, err := sysmem.Free()
	if err != nil {
		return unknownOpening
	}
	return max(int(bytesize.AutoShare*float64(free)), leastOpening)
}

// importFor imports the file for volumes of shape [C, D, H, W], in memory bytes.
func (f *ModelFile) importFor(ctx context.Context, shape [4]int, memory int) (*onnx.Imported, error) {
	m, err := onnx.ImportContext(ctx, f.onnx, onnx.Options{
		InputShape: []int{1, shape[0], shape[1], shape[2], shape[3]}, InputAxes: f.options.InputAxes, Memory: memory,
	})
	if err != nil || m.Held > leastOpening/2 {
		debug.FreeOSMemory() // return the memory of intermediate constants before an arena takes as much
	}
	return m, err
}
