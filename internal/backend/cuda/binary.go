package cuda

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// binaryBuilders is the part of the table of builders whose functions are in this file.
var binaryBuilders = map[*ir.Op]builder{
	op.PRelu: buildPRelu,
}

// pairFunction is a function of two variables as kernels of binary.cu know it. Add and Mul, which networks use most, have kernels
// of their own; the others have numbers.
type pairFunction struct {
	kernel string
	number int32
}

// pairFunctions has the functions, and each one's counterpart for exchanged operands.
var pairFunctions = map[string][2]pairFunction{
	"Add":            {{"Add", 0}, {"Add", 0}},
	"Mul":            {{"Mul", 0}, {"Mul", 0}},
	"Sub":            {{"Other", 0}, {"Other", 1}},
	"Div":            {{"Other", 2}, {"Other", 3}},
	"Pow":            {{"Other", 4}, {"Other", 5}},
	"Max":            {{"Other", 6}, {"Other", 6}},
	"Min":            {{"Other", 7}, {"Other", 7}},
	"Greater":        {{"Other", 8}, {"Other", 10}},
	"GreaterOrEqual": {{"Other", 9}, {"Other", 11}},
	"Less":           {{"Other", 10}, {"Other", 8}},
	"LessOrEqual":    {{"Other", 11}, {"Other", 9}},
	"Equal":          {{"Other", 12}, {"Other", 12}},
	"PRelu":          {{"Other", 13}}, // its first operand has the shape of the output
}

func buildBinary(row *op.Binary) builder {
	return func(c *compiler, n *ir.Node) (action, error) { return c.pairs(row.Name, n) }
}

func buildPRelu(c *compiler, n *ir.Node) (action, error) { return c.pairs("PRelu", n) }

// pairParams is PairParams of binary.cu, rowPairParams RowPairParams.
type pairParams struct {
	X, Y, Out                  Planes
	N                          int64
	Z0, Function, Aligned, One int32
	Broadcast                  Broadcast
}

type rowPairParams struct {
	X, Y, Out         Planes
	Rows              Rows
	Z0, Function, Map int32
}

// pairs compiles a function of two variables that broadcast.
func (c *compiler) pairs(function string, n *ir.Node) (action, error) {
	x, y, out, order := c.in(0), c.in(1), c.out(), 0
	w := newBroadcast(n.Out().Shape(), n.Inputs[0].Shape(), n.Inputs[1].Shape())
	elements := n.Out().Shape().Elements()
	if n.Inputs[0].Shape().Elements() < elements {
		x, y, order = y, x, 1
		w = newBroadcast(n.Out().Shape(), n.Inputs[1].Shape(), n.Inputs[0].Shape())
	}
	f := pairFunctions[function][order]

	const dense, stretched = -1, 0
	both, second := [2]int{dense, dense}, [2]int{dense, stretched}
	switch {
	case len(w.sizes) == 0, w.like(both), w.like(second):
		return c.alikePairs(f, x, y, out, elements, !w.like(both))
	case w.like(both, second):
		return c.rowPairs(f, x, y, out, [3]int{w.sizes[0], w.sizes[1], 1}, false)
	case w.like([2]int{dense, stretched}, [2]int{dense, 1}):
		return c.rowPairs(f, x, y, out, [3]int{w.sizes[0], w.sizes[1], 1}, true)
	case w.like(both, second, [2]int{dense, w.sizes[0]}) && w.sizes[2] < 1<<16:
		return c.rowPairs(f, x, y, out, [3]int(w.sizes), false)
	}
	k, err := c.kernel("pairs_broadcast_" + f.kernel)
	if err != nil {
		return nil, err
	}
	d, err := w.device()
	if err != nil {
		return nil, err
	}
	return func(q *queue, z0, z1 int) error {
		p := pairParams{X: q.planes(x), Y: q.planes(y), Out: q.planes(out), N: int64(elements), Z0: int32(z0), Function: f.number, Broadcast: d}
		return launch(q, k, elementGrid(elements, z1-z0), elementThreads, 0, &p)
	}, nil
}

// alikePairs compiles the case that y has the shape of x, or is a single number.
func (c *compiler) alikePairs(f pairFunction, x, y, out *operand, elements int, one bool) (action, error) {
	k, err := c.kernel("pairs_" + f.kernel)
	if err != nil {
		return nil, err
	}
	fits := flag(takesPacks(x, out) && (one || takesPacks(y)))
	return func(q *queue, z0, z1 int) error {
		p := pairParams{X: q.planes(x), Y: q.planes(y), Out: q.planes(out), N: int64(elements), Z0: int32(z0),
			Function: f.number, Aligned: fits, One: flag(one)}
		return launch(q, k, elementGrid(elements, z1-z0), elementThreads, 0, &p)
	}, nil
}

// rowPairs compiles the case that x consists of matrices, and y has a number for each of their rows (map), or for each channel of
// each matrix. Sizes are channels, rows and matrices.
func (c *compiler) rowPairs(f pairFunction, x, y, out *operand, sizes [3]int, byRow bool) (action, error) {
	k, err := c.kernel("pairs_rows_" + f.kernel)
	if err != nil {
		return nil, err
	}
	rows := rowsOf(sizes[1], sizes[0], f.kernel != "Other" && takesPacks(x, out) && (byRow || takesPacks(y))) // Other takes no packs
	return func(q *queue, z0, z1 int) error {
		p := rowPairParams{X: q.planes(x), Y: q.planes(y), Out: q.planes(out), Rows: rows, Z0: int32(z0), Function: f.number, Map: flag(byRow)}
		return launch(q, k, [3]uint32{uint32(rows.blocks()), uint32(z1 - z0), uint32(sizes[2])}, elementThreads, 0, &p)
	}, nil
}
