package cuda

import (
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/plan"
)

// matrices are the operands of sums over rows: outer matrices [size, channels] in each plane.
type matrices struct{ outer, size, channels int }

const (
	chunkElements = 1 << 14 // elements that a block sums, about
	planeChunks   = 64      // most parts that the rows of a matrix are cut into, with many planes
	wholeChunks   = 1024    // the same with one plane
	partialLimit  = 3 << 16 // float64 values that are found before they are joined
)

// columnParams is ColumnParams of sums.cuh, joinParams JoinParams.
type columnParams struct {
	X, Y, Out       Planes
	Partial         driver.Ptr
	Factor          float64
	Rows            Rows
	Z0, Size, Chunk int32
	Chunks          Divide
}

type joinParams struct {
	Partial, State              driver.Ptr
	Y                           Planes
	Factor                      float64
	Z0, Planes, Chunks, Outputs int32
	Width                       Divide
	First, Last                 int32
}

// columns is a sum over the rows of matrices: a kernel that sums chunks of rows, and one that joins these. How they are cut depends
// on the shape of a plane alone.
type columns struct {
	matrices
	joins     string   // the way in which sums are joined: Sum or Max
	x, y, out *operand // y is nil for a sum of one input; out is nil where the state, or partial, is all that is wanted
	values    int      // sums of each column
	factor    float64
	rows      Rows
	chunk     int
	chunks    int
	find      *driver.Function
	join      *driver.Function
}

// columns compiles the sums of matrices with an accumulator of sums.cuh.
func (c *compiler) columns(accumulator string, m matrices, values int, x, y, out *operand, factor float64) (*columns, error) {
	joins := "Sum"
	if accumulator == "Max" {
		joins = accumulator
	}
	s := &columns{matrices: m, joins: joins, x: x, y: y, out: out, values: values, factor: factor}
	s.rows = rowsOf(m.size, m.channels, takesPacks(x) && (y == nil || takesPacks(y)))
	limit := planeChunks
	if c.mode == plan.Whole {
		limit = wholeChunks
	}
	limit = min(limit, m.size, max(1, partialLimit/(m.outer*m.channels*values)))
	tile := ceilDiv(m.channels, int(s.rows.Tiles.Divisor))
	s.chunk = ceilDiv(m.size, min(limit, max(1, m.size*tile/chunkElements)))
	s.chunks = ceilDiv(m.size, s.chunk)
	s.rows.Rows = int32(s.chunk)
	var err error
	s.find, err = c.kernel("columns_" + accumulator)
	return s, err
}

// width returns the number of partial values of a matrix and chunk, planeValues that of a plane.
func (s *columns) width() int       { return s.values * s.channels }
func (s *columns) planeValues() int { return s.outer * s.chunks * s.width() }

// group returns the number of planes, of depth, that are worked on at the same time.
func (s *columns) group(depth int) int { return min(max(1, partialLimit/s.planeValues()), depth) }

// sum enqueues the sums of chunks of planes [z0, z1), to partial unless it is 0.
func (s *columns) sum(q *queue, z0, z1 int, partial driver.Ptr) error {
	p := columnParams{X: q.planes(s.x), Partial: partial, Factor: s.factor, Rows: s.rows, Z0: int32(z0), Size: int32(s.size),
		Chunk: int32(s.chunk), Chunks: divideBy(s.chunks)}
	if s.y != nil {
		p.Y = q.planes(s.y)
	}
	if s.out != nil {
		p.Out = q.planes(s.out)
	}
	grid := [3]uint32{uint32(s.outer*s.chunks) * s.rows.Tiles.Divisor, uint32(z1 - z0), 1}
	return launch(q, s.find, grid, elementThreads, 0, &p)
}

// accumulated compiles sums that are accumulated over planes in the state of the instance, and made the output (if there is one) with the
// last of them.
func (s *columns) accumulated(c *compiler) (action, error) {
	var err error
	if s.join, err = c.kernel("join_" + s.joins); err != nil {
		return nil, err
	}
	const joinColumns, joinThreads = 8, 512 // of sums.cuh
	outputs, depth, group := s.outer*s.width(), c.depth, s.group(c.depth)
	c.needState(8 * outputs)
	c.needScratch(8 * group * s.planeValues())
	return func(q *queue, z0, z1 int) error {
		for ; z0 < z1; z0 += group {
			end := min(z1, z0+group)
			if err := s.sum(q, z0, end, q.scratch); err != nil {
				return err
			}
			p := joinParams{Partial: q.scratch, State: q.state(), Factor: s.factor, Z0: int32(z0), Planes: int32(end - z0), Chunks: int32(s.chunks),
				Outputs: int32(outputs), Width: divideBy(s.width()), First: flag(z0 == 0), Last: flag(end == depth)}
			if s.out != nil {
				p.Y = q.planes(s.out)
			}
			if err := launch(q, s.join, [3]uint32{uint32(ceilDiv(outputs, joinColumns)), 1, 1}, joinThreads, 0, &p); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// ofEachPlane compiles sums of each plane.
func (s *columns) ofEachPlane(c *compiler) (action, error) {
	if s.chunks == 1 {
		return func(q *queue, z0, z1 int) error { return s.sum(q, z0, z1, 0) }, nil
	}
	var err error
	if s.join, err = c.kernel("join_each_" + s.joins); err != nil {
		return nil, err
	}
	outputs, group := s.outer*s.width(), s.group(c.depth)
	c.needScratch(8 * group * s.planeValues())
	return func(q *queue, z0, z1 int) error {
		for ; z0 < z1; z0 += group {
			end := min(z1, z0+group)
			if err := s.sum(q, z0, end, q.scratch); err != nil {
				return err
			}
			p := joinParams{Partial: q.scratch, Y: q.planes(s.out), Factor: s.factor, Z0: int32(z0), Chunks: int32(s.chunks),
				Outputs: int32(outputs), Width: divideBy(s.width())}
			grid := [3]uint32{uint32(ceilDiv(outputs, elementThreads)), uint32(end - z0), 1}
			if err := launch(q, s.join, grid, elementThreads, 0, &p); err != nil {
				return err
			}
		}
		return nil
	}, nil
}
