package onnx

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// literal is a tensor that is known at import: whole numbers and truth values exactly, other numbers as their type rounds
// them. It refers to the file, or holds computed elements, of which there is only one when all are equal.
type literal struct {
	elem   tensor.Elem
	shape  tensor.Shape // an axis may be 0
	stored *tensor.Const
	ints   []int64   // elements of an integer or bool type
	floats []float64 // elements of another type

	name   string    // of the initializer that it is, "" if it was computed
	block  *block    // the memory of computed elements; nil for elements that lie in the file or are few
	params []string  // names of the parameters that went into it
	value  *ir.Value // its twin in the graph, once something needed one
	same   *literal  // set where this is another name of that one
}

func (l *literal) len() int { return l.shape.Elements() }

// isInt reports whether elements are whole numbers or truth values.
func (l *literal) isInt() bool { return l.elem.Integer() }

// held returns the number of elements that are there: all, or one for all.
func (l *literal) held() int {
	if l.stored != nil {
		return l.stored.Len()
	}
	return len(l.ints) + len(l.floats)
}

// splat reports whether one element stands for all.
func (l *literal) splat() bool { return l.held() == 1 }

// place returns the position of element i among the held ones.
func (l *literal) place(i int) int {
	if l.splat() {
		return 0
	}
	return i
}

// int returns element i, cut off if it is not whole.
func (l *literal) int(i int) int64 {
	switch i = l.place(i); {
	case !l.isInt():
		return truncate(l.float(i))
	case l.stored != nil:
		return l.stored.Int(i)
	}
	return l.ints[i]
}

// float returns element i.
func (l *literal) float(i int) float64 {
	switch i = l.place(i); {
	case l.stored != nil:
		return l.stored.At(i)
	case l.isInt():
		return float64(l.ints[i])
	}
	return l.floats[i]
}

// compact stores elements in their own type, if that takes less.
func (l *literal) compact() {
	switch {
	case l.stored != nil:
	case l.elem == tensor.Bool:
		b := make([]byte, len(l.ints))
		for i, v := range l.ints {
			b[i] = byte(v)
		}
		if c, err := tensor.Raw(tensor.Bool, b, len(b)); err == nil {
			l.stored, l.ints = c, nil
		}
	case l.floats != nil && l.elem != tensor.F64:
		f := make([]float32, len(l.floats))
		for i, v := range l.floats {
			f[i] = float32(v)
		}
		l.stored, l.floats = tensor.Floats(f), nil
	}
}

// truncate converts as a cast does; a number that does not fit becomes the smallest one.
func truncate(v float64) int64 {
	if !(math.Abs(v) < 1<<63) {
		return math.MinInt64
	}
	return int64(v)
}

// withShape returns the same elements in another shape of as many.
func (l *literal) withShape(s tensor.Shape) *literal {
	return &literal{elem: l.elem, shape: s, stored: l.stored, ints: l.ints, floats: l.floats, block: l.block, params: l.params}
}

func intLiteral(shape tensor.Shape, values ...int64) *literal {
	return &literal{elem: tensor.I64, shape: shape, ints: values}
}

func floatLiteral(elem tensor.Elem, shape tensor.Shape, values []float64) *literal {
	for i, v := range values {
		values[i] = roundTo(elem, v)
	}
	return &literal{elem: elem, shape: shape, floats: values}
}

// roundTo rounds a result to its type. Half precision is computed in single, as this program does everywhere.
func roundTo(elem tensor.Elem, v float64) float64 {
	if elem == tensor.F64 {
		return v
	}
	return float64(float32(v))
}

// wrapTo reduces a whole number to the range of its type.
func wrapTo(elem tensor.Elem, v int64) int64 {
	switch elem {
	case tensor.I32:
		return int64(int32(v))
	case tensor.I16:
		return int64(int16(v))
	case tensor.I8:
		return int64(int8(v))
	case tensor.U32:
		return int64(uint32(v))
	case tensor.U16:
		return int64(uint16(v))
	case tensor.U8:
		return int64(uint8(v))
	case tensor.Bool:
		if v != 0 {
			return 1
		}
	}
	return v
}

// alias returns the literal under another name; a parameter that modules share is listed under the name of each.
func (l *literal) alias(name string) *literal {
	twin := *l
	twin.same, twin.name = l, name
	if l.name != "" {
		twin.params = []string{name}
	}
	return &twin
}

// newLiteral makes a literal of zeros.
func newLiteral(elem tensor.Elem, shape tensor.Shape) *literal {
	l := &literal{elem: elem, shape: shape}
	if elem.Integer() {
		l.ints = make([]int64, shape.Elements())
	} else {
		l.floats = make([]float64, shape.Elements())
	}
	return l
}

// take sets element i of l to element j of m, which has the same type.
func (l *literal) take(i int, m *literal, j int) {
	if l.isInt() {
		l.ints[i] = m.int(j)
	} else {
		l.floats[i] = m.float(j)
	}
}

func (t *Tensor) literal() (*literal, error) {
	var c *tensor.Const
	if t.far.file != nil {
		c = tensor.Far(t.Elem, t.Shape.Elements(), t.far.fill)
	} else {
		var err error
		if c, err = tensor.Raw(t.Elem, t.Data, t.Shape.Elements()); err != nil {
			return nil, err
		}
	}
	l := &literal{elem: t.Elem, shape: t.Shape, stored: c, name: t.Name}
	if t.Name != "" {
		l.params = []string{t.Name}
	}
	return l, nil
}

// lazyElements is the size from which a constant of equal elements is kept as one and an Expand.
const lazyElements = 4096

// emit makes the literal a value of the graph. It must not be empty.
func (l *literal) emit(g *ir.Graph, b *ir.Builder) *ir.Value {
	if l.value != nil {
		return l.value
	}
	n := l.len()
	switch {
	case l.same != nil:
		l.value = l.same.emit(g, b)
		return l.value
	case l.stored != nil && l.stored.Len() == n:
		l.value = g.Constant(l.name, l.shape, l.stored)
	case n >= lazyElements && l.splat():
		ones := make(tensor.Shape, len(l.shape))
		for i := range ones {
			ones[i] = 1
		}
		one := g.Constant(l.name, ones, tensor.Floats([]float32{float32(l.float(0))}))
		return b.Emit(op.Expand, op.ExpandAttr{Shape: l.shape.Clone()}, one) // not remembered: it belongs to the node that reads it
	default:
		values := make([]float32, n)
		for i := range values {
			values[i] = float32(l.float(i))
		}
		l.value = g.Constant(l.name, l.shape, tensor.Floats(values))
	}
	return l.value
}

// walk calls visit for each element of an array of the given shape, in row-major order, with its position in tensors of
// the given strides (0 along axes that are broadcast).
func walk(shape tensor.Shape, strides [][]int, visit func(i int, at []int)) {
	n := shape.Elements()
	index, at := make([]int, len(shape)), make([]int, len(strides))
	for i := range n {
		visit(i, at)
		for a := len(shape) - 1; a >= 0; a-- {
			index[a]++
			for k := range strides {
				at[k] += strides[k][a]
			}
			if index[a] < shape[a] {
				break
			}
			for k := range strides {
				at[k] -= index[a] * strides[k][a]
			}
			index[a] = 0
		}
	}
}

// broadcastStrides returns the strides of a tensor of shape s read as one of shape to.
func broadcastStrides(s, to tensor.Shape) []int {
	out, own := make([]int, len(to)), s.Strides()
	lead := len(to) - len(s)
	for i := range s {
		if s[i] != 1 {
			out[lead+i] = own[i]
		}
	}
	return out
}
