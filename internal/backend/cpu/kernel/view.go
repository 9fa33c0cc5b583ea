package kernel

import (
	"encoding/binary"
	"math"
)

// A View is an activation tensor, channels last, as planes along depth: plane z holds [H, W, C] float32 values and lies in slot z % Planes
// of Data. A whole tensor has Planes == Depth; a slab of a streamed tensor is a ring with fewer slots.
type View struct {
	Data    []float32
	H, W, C int
	Depth   int // logical planes of the tensor; planes outside [0, Depth) are padding
	Planes  int // slots of the ring
}

// Whole describes data as a tensor [depth, h, w, c] that is entirely present.
func Whole(data []float32, depth, h, w, c int) View {
	return View{Data: data, H: h, W: w, C: c, Depth: depth, Planes: depth}
}

// Plane returns the values [H, W, C] of logical plane z.
func (v View) Plane(z int) []float32 {
	n := v.H * v.W * v.C
	o := z % v.Planes * n
	return v.Data[o : o+n : o+n]
}

// check panics if the data cannot hold the ring: a mistake of the caller's, found before it becomes a wild write.
func (v View) check(what string) {
	if v.H < 0 || v.W < 0 || v.C < 0 || v.Planes < 0 || (v.Planes == 0 && v.Depth > 0) || v.Planes*v.H*v.W*v.C > len(v.Data) {
		panic("kernel: " + what + " view is larger than its data")
	}
	if v.Planes*v.H*v.W > math.MaxInt32 {
		panic("kernel: " + what + " view has more than 2^31 voxels")
	}
}

// Weights gives read access to constant float32 values, in memory or in the little-endian bytes of a mapped file.
type Weights struct {
	f []float32
	b []byte
	n int // without values
}

// Floats wraps a slice; it is read during packing only.
func Floats(f []float32) Weights { return Weights{f: f} }

// Bytes wraps little-endian float32 values; alignment does not matter, and the bytes are read during packing only.
func Bytes(b []byte) Weights { return Weights{b: b} }

// Sized stands for n values that are not there: weights that are packed from it have sizes and cannot run.
func Sized(n int) Weights { return Weights{n: n} }

// Len returns the number of values.
func (w Weights) Len() int { return len(w.f) + len(w.b)/4 + w.n }

// At returns value i.
func (w Weights) At(i int) float32 {
	if w.f != nil {
		return w.f[i]
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(w.b[4*i:]))
}
