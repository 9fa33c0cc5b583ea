package cuda

import (
	"math/bits"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// queue is a program's stream and memory, for the actions that enqueue work.
type queue struct {
	stream  *driver.Stream
	program *Program
	inst    *instance
	scratch driver.Ptr // as large as any step of the program asked for
}

// Planes is a value with depth, or a whole tensor as a single plane, as kernels see it (device.cuh).
type Planes struct {
	Data   driver.Ptr
	Stride int64 // bytes
	Places int32
	_      int32
}

// planes returns an operand as kernels see it.
func (q *queue) planes(at *operand) Planes {
	if at.constant != nil {
		return Planes{Data: at.constant.At(), Stride: int64(at.stride), Places: int32(at.places)}
	}
	if at.buffer < 0 {
		return Planes{Places: 1}
	}
	p := Planes{Data: q.program.address[at.buffer], Stride: int64(at.stride), Places: int32(at.places)}
	if e := q.program.external[at.buffer]; e != nil && at.depth {
		p.Places = int32(e.places)
	}
	return p
}

// image returns sample i of an operand that is seen across planes.
func (q *queue) image(at *operand, i int) Planes {
	p := q.planes(at)
	p.Data += driver.Ptr(i * at.places * at.stride)
	return p
}

// state returns the address of the values that the instance keeps between steps.
func (q *queue) state() driver.Ptr { return q.inst.stateAt }

// launch enqueues a kernel. Params is the kernel's parameter struct, laid out as in C.
func launch[P any](q *queue, f *driver.Function, grid [3]uint32, threads, shared int, params *P) error {
	return q.stream.Launch(f, grid, [3]uint32{uint32(threads), 1, 1}, shared, unsafe.Pointer(params), int(unsafe.Sizeof(*params)))
}

// Divide divides numbers below 2^31 by a fixed one, as in device.cuh.
type Divide struct{ Divisor, Mul, Shift uint32 }

// divideBy prepares division by d, which is at least 1.
func divideBy(d int) Divide {
	shift := bits.Len32(uint32(d - 1))
	mul := (uint64(1)<<shift-uint64(d))<<32/uint64(d) + 1
	return Divide{uint32(d), uint32(mul), uint32(shift)}
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// as returns b as elements of a type.
func as[T any](b []byte) []T {
	if len(b) == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(T))))
}

// stretch returns the address of planes [z0, z1) of an operand, if they are in one piece; wraps says that they are not.
func (q *queue) stretch(at *operand, z0, z1 int) (begin driver.Ptr, wraps bool) {
	p := q.planes(at)
	first := z0 % int(p.Places)
	return p.Data + driver.Ptr(first*at.stride), first+z1-z0 > int(p.Places) && !q.program.doubled(at.buffer)
}

// together returns an address at which planes [z0, z1) of an operand with depth planes are in one piece: their own, or that of a copy in
// scratch. Planes outside of the operand are zero.
func (q *queue) together(at *operand, z0, z1, depth int, scratch driver.Ptr) (driver.Ptr, error) {
	first, last := max(z0, 0), min(z1, depth)
	if first == z0 && last == z1 {
		if begin, wraps := q.stretch(at, z0, z1); !wraps {
			return begin, nil
		}
	}
	for _, none := range [2][2]int{{z0, first}, {last, z1}} {
		if none[0] < none[1] {
			if err := q.stream.Fill8(scratch+driver.Ptr((none[0]-z0)*at.stride), 0, (none[1]-none[0])*at.stride); err != nil {
				return 0, err
			}
		}
	}
	return scratch, q.pieces(at, first, last, func(ring driver.Ptr, offset, bytes int) error {
		return q.stream.Copy(scratch+driver.Ptr((first-z0)*at.stride+offset), ring, bytes)
	})
}

// apart copies planes [z0, z1), which are in one piece at from, to their places.
func (q *queue) apart(at *operand, z0, z1 int, from driver.Ptr) error {
	return q.pieces(at, z0, z1, func(ring driver.Ptr, offset, bytes int) error {
		return q.stream.Copy(ring, from+driver.Ptr(offset), bytes)
	})
}

// pieces calls f for stretches of planes that are in one piece in the ring: the address there, and the offset from plane z0.
func (q *queue) pieces(at *operand, z0, z1 int, f func(ring driver.Ptr, offset, bytes int) error) error {
	p := q.planes(at)
	places := int(p.Places)
	for z := z0; z < z1; {
		n := min(z1-z, places-z%places)
		if err := f(p.Data+driver.Ptr(z%places*at.stride), (z-z0)*at.stride, n*at.stride); err != nil {
			return err
		}
		z += n
	}
	return nil
}
