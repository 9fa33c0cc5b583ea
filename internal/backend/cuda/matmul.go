package cuda

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// matmulBuilders is the part of the table of builders whose functions are in this file.
var matmulBuilders = map[*ir.Op]builder{
	op.MatMul: buildMatMul,
}

// matMulParams is MatMulParams of matmul.cu.
type matMulParams struct {
	A, B, Y                        Planes
	Z0, M, N, K                    int32
	StepAM, StepAK, StepBK, StepBN int32
	SizeA, SizeB                   int32
	Batch                          Divide
	Z                              int32
	Broadcast                      Broadcast
}

// fewRows is the number of rows up to which a product is computed as a few sums for each column, not in tiles.
const fewRows = 8

// manyTiles is the number of large tiles from which all of a large GPU has some.
const manyTiles = 132

func buildMatMul(c *compiler, n *ir.Node) (action, error) {
	t, a, b, out := n.Attr.(op.MatMulAttr), n.Inputs[0].Shape(), n.Inputs[1].Shape(), n.Out().Shape()
	rows, cols, depth := out[len(out)-2], out[len(out)-1], a[len(a)-1]
	if t.TransA {
		depth = a[len(a)-2]
	}
	batch := out[:len(out)-2]
	w := newBroadcast(batch, a[:len(a)-2], b[:len(b)-2]) // counts matrices
	all := c.node.Out().Shape().Elements()
	wholeRows := rows
	if b[:len(b)-2].Elements() == 1 && !t.TransA { // all rows are multiplied by the same matrix
		rows, w = out.Elements()/cols, broadcast{}
		wholeRows = all / cols
	}
	count := w.elements()
	p := matMulParams{M: int32(rows), N: int32(cols), K: int32(depth), StepAM: int32(depth), StepAK: 1, StepBK: int32(cols), StepBN: 1,
		SizeA: int32(rows * depth), SizeB: int32(depth * cols), Batch: divideBy(count)}
	if t.TransA {
		p.StepAM, p.StepAK = 1, int32(rows)
	}
	if t.TransB {
		p.StepBK, p.StepBN = 1, int32(depth)
	}
	var err error
	if p.Broadcast, err = w.device(); err != nil {
		return nil, err
	}

	var name string
	var blocks [2]int
	switch precise := all*depth <= c.backend.precise || wholeRows <= fewRows; { // whatever the slab
	case precise && rows < 1<<16 && t.TransB:
		name, blocks = "matmul_dot", [2]int{ceilDiv(cols, 8), rows}
	case precise && rows < 1<<16:
		name, blocks = "matmul_columns", [2]int{ceilDiv(cols, 32), rows}
	default:
		size := 128
		if name = "matmul_tiles_128"; all/(size*size) < manyTiles {
			name, size = "matmul_tiles_64", 64
		}
		name += map[op.MatMulAttr]string{{TransA: true}: "_a", {TransB: true}: "_b", {TransA: true, TransB: true}: "_ab"}[t]
		blocks = [2]int{ceilDiv(rows, size), ceilDiv(cols, size)}
	}
	f, err := c.kernel(name)
	if err != nil {
		return nil, err
	}
	x, y, z := c.in(0), c.in(1), c.out()
	const most = 1<<16 - 1 // of a grid's third axis
	return func(q *queue, z0, z1 int) error {
		p := p
		p.A, p.B, p.Y, p.Z0 = q.planes(x), q.planes(y), q.planes(z), int32(z0)
		for i := 0; i < (z1-z0)*count; i += most {
			p.Z = int32(i)
			if err := launch(q, f, [3]uint32{uint32(blocks[0]), uint32(blocks[1]), uint32(min(most, (z1-z0)*count-i))}, elementThreads, 0, &p); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
