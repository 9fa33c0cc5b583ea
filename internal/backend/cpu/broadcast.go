package cpu

import "github.com/voxcam/voxcam/internal/tensor"

// walk visits the elements of several row-major tensors that broadcast to one shape. Axes that lie behind each other in all of
// them are merged, so that the innermost one is as long as possible. Strides are in elements, 0 where a tensor stretches.
type walk struct {
	dims    []int
	strides [][]int // of each tensor
}

// newWalk makes the walk over shape out. A walk has at least one axis.
func newWalk(out tensor.Shape, operands ...tensor.Shape) walk {
	strides := make([][]int, len(operands))
	for i, s := range operands {
		strides[i] = make([]int, len(out))
		n := 1
		for k := len(s) - 1; k >= 0; k-- {
			if s[k] != 1 {
				strides[i][len(out)-len(s)+k] = n
			}
			n *= s[k]
		}
	}
	return merge(out, strides)
}

// merge drops axes of size 1 and joins those that can be walked as one.
func merge(dims []int, strides [][]int) walk {
	w := walk{strides: make([][]int, len(strides))}
	for k, d := range dims {
		if d == 1 {
			continue
		}
		last := len(w.dims) - 1
		joins := last >= 0
		for i := range strides {
			joins = joins && w.strides[i][last] == strides[i][k]*d
		}
		if joins {
			w.dims[last] *= d
		} else {
			w.dims = append(w.dims, d)
		}
		for i := range strides {
			if joins {
				w.strides[i][last] = strides[i][k]
			} else {
				w.strides[i] = append(w.strides[i], strides[i][k])
			}
		}
	}
	if len(w.dims) == 0 {
		w.dims = []int{1}
		for i := range w.strides {
			w.strides[i] = []int{0}
		}
	}
	return w
}

// inner returns the innermost axis and the operands' strides along it.
func (w walk) inner() (n int, strides []int) {
	last := len(w.dims) - 1
	for _, s := range w.strides {
		strides = append(strides, s[last])
	}
	return w.dims[last], strides
}

// outer returns the number of rows: positions of all axes but the innermost.
func (w walk) outer() int { return tensor.Shape(w.dims[:len(w.dims)-1]).Elements() }

// offset returns the offset of row i of an operand.
func (w walk) offset(operand, row int) int { return w.place(operand, row, len(w.dims)-1) }

// position returns the offset of element i of an operand, i counting all axes.
func (w walk) position(operand, i int) int { return w.place(operand, i, len(w.dims)) }

func (w walk) place(operand, i, axes int) int {
	at, strides := 0, w.strides[operand]
	for k := axes - 1; k >= 0; k-- {
		at += i % w.dims[k] * strides[k]
		i /= w.dims[k]
	}
	return at
}
