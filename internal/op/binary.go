package op

import (
	"math"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Binary is an elementwise function of two variables; shapes broadcast by NumPy's rules.
type Binary struct {
	Name  string
	Apply func(x, y float64) float64
	grad  func(b *ir.Builder, n *ir.Node, dy *ir.Value, want []bool) (dx, dz *ir.Value)
}

// Binaries is the table of elementwise functions of two variables that have gradients.
var Binaries = []Binary{
	{"Add", func(x, y float64) float64 { return x + y },
		func(_ *ir.Builder, _ *ir.Node, dy *ir.Value, _ []bool) (*ir.Value, *ir.Value) { return dy, dy }},
	{"Sub", func(x, y float64) float64 { return x - y },
		func(b *ir.Builder, n *ir.Node, dy *ir.Value, want []bool) (*ir.Value, *ir.Value) {
			if !want[1] {
				return dy, nil
			}
			return dy, Scale(b, SumTo(b, dy, n.Inputs[1].Shape()), -1)
		}},
	{"Mul", func(x, y float64) float64 { return x * y },
		func(b *ir.Builder, n *ir.Node, dy *ir.Value, want []bool) (dx, dz *ir.Value) {
			if want[0] {
				dx = b.Emit(BinaryOp("Mul"), nil, dy, n.Inputs[1])
			}
			if want[1] {
				dz = b.Emit(BinaryOp("Mul"), nil, dy, n.Inputs[0])
			}
			return dx, dz
		}},
	{"Div", func(x, y float64) float64 { return x / y },
		func(b *ir.Builder, n *ir.Node, dy *ir.Value, want []bool) (dx, dz *ir.Value) {
			if want[0] {
				dx = b.Emit(BinaryOp("Div"), nil, dy, n.Inputs[1])
			}
			if want[1] {
				t := b.Emit(BinaryOp("Div"), nil, b.Emit(BinaryOp("Mul"), nil, dy, n.Out()), n.Inputs[1])
				dz = Scale(b, t, -1)
			}
			return dx, dz
		}},
	{"Pow", math.Pow,
		func(b *ir.Builder, n *ir.Node, dy *ir.Value, want []bool) (dx, dz *ir.Value) {
			x, y := n.Inputs[0], n.Inputs[1]
			mul := BinaryOp("Mul")
			if want[0] {
				less := b.Emit(UnaryOp("Linear"), UnaryAttr{Alpha: 1, Beta: -1}, y)
				dx = b.Emit(mul, nil, b.Emit(mul, nil, dy, y), b.Emit(BinaryOp("Pow"), nil, x, less))
			}
			if want[1] {
				dz = b.Emit(mul, nil, b.Emit(mul, nil, dy, n.Out()), b.Emit(UnaryOp("Log"), UnaryAttr{}, x))
			}
			return dx, dz
		}},
	{"Max", func(x, y float64) float64 { return max(x, y) }, selectGrad("GreaterOrEqual")},
	{"Min", func(x, y float64) float64 { return min(x, y) }, selectGrad("LessOrEqual")},
}

// selectGrad routes the gradient to the operand that the comparison chooses; at a tie both get half, as PyTorch does.
func selectGrad(compare string) func(*ir.Builder, *ir.Node, *ir.Value, []bool) (*ir.Value, *ir.Value) {
	return func(b *ir.Builder, n *ir.Node, dy *ir.Value, want []bool) (dx, dz *ir.Value) {
		half := func(p, q *ir.Value) *ir.Value {
			wins := b.Emit(BinaryOp(compare), nil, p, q)
			tie := b.Emit(BinaryOp("Equal"), nil, p, q)
			share := b.Emit(BinaryOp("Sub"), nil, wins, Scale(b, tie, 0.5))
			return b.Emit(BinaryOp("Mul"), nil, dy, share)
		}
		if want[0] {
			dx = half(n.Inputs[0], n.Inputs[1])
		}
		if want[1] {
			dz = half(n.Inputs[1], n.Inputs[0])
		}
		return dx, dz
	}
}

// Compares is the table of comparisons: 1 where they hold, else 0; no gradient.
var Compares = []Binary{
	{Name: "Greater", Apply: func(x, y float64) float64 { return truth(x > y) }},
	{Name: "GreaterOrEqual", Apply: func(x, y float64) float64 { return truth(x >= y) }},
	{Name: "Less", Apply: func(x, y float64) float64 { return truth(x < y) }},
	{Name: "LessOrEqual", Apply: func(x, y float64) float64 { return truth(x <= y) }},
	{Name: "Equal", Apply: func(x, y float64) float64 { return truth(x == y) }},
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

var (
	binaryOps  = binaryTable(Binaries)
	compareOps = binaryTable(Compares)
)

func binaryTable(rows []Binary) (ops []*ir.Op) {
	for _, r := range rows {
		o := &ir.Op{Name: r.Name, MinIn: 2, MaxIn: 2, Inputs: []string{"x", "y"}, Infer: one(broadcast), Permute: samePermute,
			InPlace: true, Slab: samePlanes}
		if r.grad == nil {
			o.NoGrad = "piecewise constant"
		} else {
			o.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
				dx, dz := r.grad(b, n, dy[0], want)
				out := []*ir.Value{dx, dz}
				for i := range out {
					if want[i] {
						out[i] = SumTo(b, out[i], n.Inputs[i].Shape())
					}
				}
				return out
			}
		}
		ops = append(ops, o)
	}
	return ops
}

func broadcast(_ any, in []ir.Type) (tensor.Shape, error) {
	return tensor.Broadcast(in[0].Shape, in[1].Shape)
}

// BinaryOp returns the elementwise operation or comparison of that name, which must be in the tables.
func BinaryOp(name string) *ir.Op { return byName[name] }

// BinaryNamed returns the row of an elementwise function or comparison.
func BinaryNamed(name string) (*Binary, bool) {
	for _, rows := range [][]Binary{Binaries, Compares} {
		for i := range rows {
			if rows[i].Name == name {
				return &rows[i], true
			}
		}
	}
	return nil, false
}

// Where is x where the condition is not zero, else y; all three broadcast.
var Where = &ir.Op{Name: "Where", MinIn: 3, MaxIn: 3, Inputs: []string{"condition", "x", "y"}, Permute: samePermute, Slab: samePlanes,
	Infer: one(func(_ any, in []ir.Type) (tensor.Shape, error) {
		s, err := tensor.Broadcast(in[1].Shape, in[2].Shape)
		if err != nil {
			return nil, err
		}
		return tensor.Broadcast(in[0].Shape, s)
	})}

var selectOps = []*ir.Op{Where}

func init() {
	Where.Grad = func(b *ir.Builder, n *ir.Node, dy []*ir.Value, want []bool) []*ir.Value {
		out, zero := make([]*ir.Value, 3), b.Scalar(0)
		if want[1] {
			out[1] = SumTo(b, b.Emit(Where, nil, n.Inputs[0], dy[0], zero), n.Inputs[1].Shape())
		}
		if want[2] {
			out[2] = SumTo(b, b.Emit(Where, nil, n.Inputs[0], zero, dy[0]), n.Inputs[2].Shape())
		}
		return out
	}
}
