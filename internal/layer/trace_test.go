package layer

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// moved is a value that operations made of a volume by moving voxels, and where each of its elements comes from.
type moved struct {
	v      *ir.Value
	voxels []int
}

// taken is the value of an operation whose element i is element from(index) of m.
func (m moved) taken(v *ir.Value, from func(at []int) []int) moved {
	out := moved{v: v, voxels: make([]int, v.Shape().Elements())}
	strides, at := m.v.Shape().Strides(), make([]int, len(v.Shape()))
	for i := range out.voxels {
		rest := i
		for k, d := range slices.Backward(v.Shape()) {
			at[k], rest = rest%d, rest/d
		}
		j := 0
		for k, x := range from(at) {
			j += x * strides[k]
		}
		out.voxels[i] = m.voxels[j]
	}
	return out
}

func whole5(s tensor.Shape) op.SliceAttr {
	return op.SliceAttr{Start: make([]int, len(s)), Step: slices.Repeat([]int{1}, len(s)), Count: slices.Clone(s)}
}

// step applies a random operation that moves voxels.
func (m moved) step(t *rapid.T, b *ir.Builder) moved {
	s := m.v.Shape()
	axis := rapid.IntRange(0, len(s)-1).Draw(t, "axis")
	switch rapid.SampledFrom([]string{"transpose", "split", "join", "flip", "even", "roll"}).Draw(t, "operation") {
	case "transpose":
		perm := rapid.Permutation(identity(len(s))).Draw(t, "order")
		return m.taken(b.Emit(op.Transpose, op.TransposeAttr{Perm: perm}, m.v), func(at []int) []int {
			from := make([]int, len(at))
			for i, p := range perm {
				from[p] = at[i]
			}
			return from
		})
	case "split":
		outer := rapid.SampledFrom([]int{1, 2, 3}).Draw(t, "outer")
		if s[axis]%outer != 0 || len(s) > 7 {
			return m
		}
		to := slices.Concat(s[:axis], tensor.Shape{outer, s[axis] / outer}, s[axis+1:])
		return moved{b.Emit(op.Reshape, op.ReshapeAttr{Shape: to}, m.v), m.voxels}
	case "join":
		if axis+1 == len(s) || len(s) < 3 {
			return m
		}
		to := slices.Concat(s[:axis], tensor.Shape{s[axis] * s[axis+1]}, s[axis+2:])
		return moved{b.Emit(op.Reshape, op.ReshapeAttr{Shape: to}, m.v), m.voxels}
	case "flip":
		a := whole5(s)
		a.Start[axis], a.Step[axis] = s[axis]-1, -1
		return m.sliced(b, a)
	case "even":
		if s[axis]%2 != 0 {
			return m
		}
		a := whole5(s)
		a.Step[axis], a.Count[axis] = 2, s[axis]/2
		return m.sliced(b, a)
	}
	if s[axis] < 2 {
		return m
	}
	k := rapid.IntRange(1, s[axis]-1).Draw(t, "by")
	first, last := whole5(s), whole5(s)
	first.Count[axis] = k
	last.Start[axis], last.Count[axis] = k, s[axis]-k
	v := b.Emit(op.Concat, op.ConcatAttr{Axis: axis}, b.Emit(op.Slice, last, m.v), b.Emit(op.Slice, first, m.v))
	return m.taken(v, func(at []int) []int {
		from := slices.Clone(at)
		from[axis] = (at[axis] + k) % s[axis]
		return from
	})
}

func (m moved) sliced(b *ir.Builder, a op.SliceAttr) moved {
	return m.taken(b.Emit(op.Slice, a, m.v), func(at []int) []int {
		from := make([]int, len(at))
		for i := range at {
			from[i] = a.Start[i] + at[i]*a.Step[i]
		}
		return from
	})
}

func identity(n int) (p []int) {
	for i := range n {
		p = append(p, i)
	}
	return p
}

// Whatever moves voxels: a value that is placed has each voxel in the cell that the volume has it in.
func TestTraceFollowsVoxels(t *testing.T) {
	placed := 0
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SampledFrom([][3]int{{4, 6, 8}, {6, 6, 6}, {2, 12, 4}, {1, 8, 6}}).Draw(t, "sizes")
		g := &ir.Graph{}
		m := moved{v: g.Input("volume", ir.F32(1, 1, sizes[0], sizes[1], sizes[2]))}
		for i := range sizes[0] * sizes[1] * sizes[2] {
			m.voxels = append(m.voxels, i)
		}
		b := ir.NewBuilder(g)
		for range rapid.IntRange(1, 8).Draw(t, "operations") {
			m = m.step(t, b)
		}
		if err := b.Err(); err != nil {
			t.Fatal(err)
		}
		known := trace(g, "NCDHW")[m.v]
		if !known.shape().Equal(m.v.Shape()) {
			t.Fatalf("the trace has the shape %v, the value %v", known.shape(), m.v.Shape())
		}
		axes, err := known.public()
		if err != nil {
			return
		}
		placed++
		cells := grid(axes)
		for i, voxel := range m.voxels {
			at := [3]int{voxel / sizes[2] / sizes[1], voxel / sizes[2] % sizes[1], voxel % sizes[2]}
			rest := i
			for _, a := range slices.Backward(axes) {
				x := rest % a.Size()
				rest /= a.Size()
				for _, p := range slices.Backward(a.Parts) {
					k, here := strings.IndexByte(space, p.Letter), x%p.Size
					if x /= p.Size; k < 0 {
						continue
					}
					if p.Reversed {
						here = p.Size - 1 - here
					}
					if want := at[k] * cells[k] / sizes[k]; here != want {
						t.Fatalf("axes %v of %v: element %d is voxel %v, in cell %d along %s, not %d", axes, m.v.Shape(), i, at, here, letterNames[k], want)
					}
				}
			}
		}
	})
	if placed == 0 {
		t.Error("no value was placed")
	}
}
