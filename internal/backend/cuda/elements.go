package cuda

import (
	"fmt"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/tensor"
)

// elementThreads is the size of blocks of elementwise kernels, elementBlock the elements that each makes.
const (
	elementThreads = 256
	elementBlock   = 2048
)

// elementGrid returns the grid of an elementwise kernel over planes of n elements.
func elementGrid(n, planes int) [3]uint32 {
	return [3]uint32{uint32(ceilDiv(n, elementBlock)), uint32(planes), 1}
}

// takesPacks reports whether all planes of operands begin at multiples of 16 bytes, as buffers do.
func takesPacks(operands ...*operand) bool {
	for _, at := range operands {
		if at.depth && at.stride%16 != 0 {
			return false
		}
	}
	return true
}

// flag returns a condition as kernels take it.
func flag(condition bool) int32 {
	if condition {
		return 1
	}
	return 0
}

// Rows is the way of blocks through a matrix (elements.cuh).
type Rows struct {
	Rows, Packs    int32
	Tiles, Tile    Divide
	Lanes, Aligned int32
}

// rowsAtOnce is the number of rows that each lane of a block makes.
const rowsAtOnce = 4

// rowsOf covers a matrix. A block takes a tile of the channels that leaves few of its threads idle.
func rowsOf(rows, channels int, aligned bool) Rows {
	aligned = aligned && channels%4 == 0
	packs := channels
	if aligned {
		packs /= 4
	}
	tiles := ceilDiv(packs, elementThreads/4)
	if packs <= elementThreads && elementThreads/packs*packs >= elementThreads*7/8 {
		tiles = 1
	}
	tile := ceilDiv(packs, tiles)
	return Rows{Rows: int32(rows), Packs: int32(packs), Tiles: divideBy(tiles), Tile: divideBy(tile),
		Lanes: int32(elementThreads / tile), Aligned: flag(aligned)}
}

// blocks returns the number of blocks for a matrix.
func (r Rows) blocks() int {
	return int(r.Tiles.Divisor) * ceilDiv(int(r.Rows), int(r.Lanes)*rowsAtOnce)
}

// broadcast finds the elements of up to three tensors that broadcast to one shape: axes from the innermost on, strides in elements, 0
// where a tensor stretches. Axes that lie behind each other in all of them are joined.
type broadcast struct {
	sizes   []int
	strides [][3]int
}

func newBroadcast(out tensor.Shape, operands ...tensor.Shape) broadcast {
	var w broadcast
	var place [3]int // elements of the axes so far
	for i := range operands {
		place[i] = 1
	}
	for k := 1; k <= len(out); k++ {
		var strides [3]int
		for i, s := range operands {
			if k <= len(s) && s[len(s)-k] != 1 {
				strides[i] = place[i]
				place[i] *= s[len(s)-k]
			}
		}
		w.add(out[len(out)-k], strides)
	}
	return w
}

// add appends an axis further out.
func (w *broadcast) add(size int, strides [3]int) {
	if size == 1 {
		return
	}
	if last := len(w.sizes) - 1; last >= 0 {
		joins := true
		for i := range strides {
			joins = joins && strides[i] == w.strides[last][i]*w.sizes[last]
		}
		if joins {
			w.sizes[last] *= size
			return
		}
	}
	w.sizes = append(w.sizes, size)
	w.strides = append(w.strides, strides)
}

// like reports whether the broadcast has these strides of the first two tensors, from the innermost axis on. A stride of -1 stands for
// that of a tensor that does not stretch.
func (w broadcast) like(strides ...[2]int) bool {
	if len(w.sizes) != len(strides) {
		return false
	}
	dense := 1
	for k, want := range strides {
		for i, s := range want {
			if s < 0 {
				s = dense
			}
			if w.strides[k][i] != s {
				return false
			}
		}
		dense *= w.sizes[k]
	}
	return true
}

// elements returns the number of positions.
func (w broadcast) elements() int { return tensor.Shape(w.sizes).Elements() }

// Broadcast is a broadcast as kernels see it (elements.cuh).
type Broadcast struct {
	Axes   int32
	Size   [8]Divide
	Stride [3][8]int32
}

// device returns the broadcast as kernels see it. They count positions with 31 bits.
func (w broadcast) device() (Broadcast, error) {
	d := Broadcast{Axes: int32(len(w.sizes))}
	if len(w.sizes) > len(d.Size) {
		return d, fmt.Errorf("tensors that broadcast along %d stretches of axes, more than %d: %w", len(w.sizes), len(d.Size), backend.ErrUnsupported)
	}
	if n := w.elements(); n > 1<<31-1 {
		return d, fmt.Errorf("%d elements that broadcast in an unusual way, more than 2^31: %w", n, backend.ErrUnsupported)
	}
	for k, size := range w.sizes {
		d.Size[k] = divideBy(size)
		for i := range w.strides[k] {
			d.Stride[i][k] = int32(w.strides[k][i])
		}
	}
	return d, nil
}
