package cuda

import (
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/ir"
)

const resizeThreads = 256

// terms is Terms of resize.cu.
type terms struct{ First, At, Weight driver.Ptr }

// resizeParams is ResizeParams of resize.cu.
type resizeParams struct {
	X, Y                     Planes
	Planes, High, Wide, Deep terms
	Inner, DimDeep, DimWide  Divide
	N, Z0                    int32
	_                        int32
}

// termsOf returns the tables of an axis. The addresses of constants are known when the program runs.
func (c *compiler) termsOf(t ir.Taps, step int) func() terms {
	first, at, weight := []int32{0}, []int32{}, []float32{}
	for _, list := range t {
		for _, tap := range list {
			at, weight = append(at, int32(tap.Index*step)), append(weight, float32(tap.Weight))
		}
		first = append(first, int32(len(at)))
	}
	a, b, w := table(c, first), table(c, at), table(c, weight)
	return func() terms { return terms{a.At(), b.At(), w.At()} }
}

// maxShortSum is the number of values that are added up in float32; more are added in float64.
const maxShortSum = 64

// sum compiles a separable operation that adds up all combinations of the axes' terms.
func (c *compiler) sum(m *separable) (action, error) {
	x, y := c.in(0), c.out()
	name := "resize"
	if m.terms() > maxShortSum {
		name = "resize_precise"
	}
	f, width, err := c.movers(name, m.vectors(x, y))
	if err != nil {
		return nil, err
	}
	elements := m.elements() / width
	if err := checkPlane(elements); err != nil {
		return nil, err
	}
	if err := checkPlane(m.stride(0)); err != nil {
		return nil, err
	}
	planes, high, wide, deep := c.termsOf(m.taps[0], 1), c.termsOf(m.taps[1], m.stride(1)), c.termsOf(m.taps[2], m.stride(2)), c.termsOf(m.taps[3], m.stride(3))
	p := resizeParams{Inner: divideBy(m.inner / width), DimDeep: divideBy(m.to[3]), DimWide: divideBy(m.to[2]), N: int32(elements)}
	return func(q *queue, z0, z1 int) error {
		p := p
		p.X, p.Y = m.planes(q, x, y)
		p.Planes, p.High, p.Wide, p.Deep = planes(), high(), wide(), deep()
		z0, z1 = m.span(z0, z1)
		return inLaunches(z0, z1, maxPlanes, func(z, n int) error {
			p.Z0 = int32(z)
			return launch(q, f, [3]uint32{uint32(ceilDiv(elements, resizeThreads)), uint32(n), 1}, resizeThreads, 0, &p)
		})
	}, nil
}
