package kernel

import "unsafe"

// Vocabulary of the matrix kernels.
//
//   row      one output voxel (or matrix row); rows of A are found through a table, so the same kernel serves convolution and plain products
//   tap      one position of the convolution window; a plain product has one tap
//   panel    up to 4 vectors of adjacent output columns; weights are packed panel by panel, [K][width] each, zero padded
//   K block  the part of K (taps x channels) that one call covers
//   M block  up to blockRows rows that go through all K blocks and all panels before the next ones are touched

const (
	blockRows = 96  // a multiple of every tile height (6, 8, 12)
	blockK    = 384 // most values of K in one call
	blockCols = 256 // columns packed at a time by the unpacked product
	maxPanel  = 64  // widest panel
)

// gemmParams are the numbers of one call; counts are in elements, not bytes.
type gemmParams struct {
	m       int // rows
	taps    int // entries of K runs
	kc      int // length of each run
	tapStep int // distance in the row table from one tap to the next
	aStride int // floats an entry of the row table counts
	cStride int // floats an entry of the destination table counts
	cols    int // columns to write, at most the panel's width
	acc     int // 1: add to c
}

// A gemmFunc computes, for i < m and j < cols,
//
//	c[crow[i]*cStride + j] (+)= bias[j] + sum over t < taps, k < kc of a[row(t, i)*aStride + k] * b[(t*kc+k)*width + j]
//
// with row(t, i) = rows[t*tapStep + i]; a negative row stands for zeros, read from zero (at least kc floats). rows is readable up to the
// next multiple of the tile height (padding rows: any valid or negative entry). bias has at least cols values.
type gemmFunc func(c, a, b, bias, zero []float32, rows, crow []int32, p gemmParams)

// A tile is one matrix kernel: vectors of columns, rows at a time.
type tile struct {
	width, height int
	run           gemmFunc
}

// panel is one packed group of columns.
type panel struct {
	col, cols int
	tile      *tile
	off       int // start in the packed data
}

// layout splits n columns into panels, widest first, and returns the floats of one row of K.
func (s *Set) layout(n int) (panels []panel, width int) {
	for col := 0; col < n; {
		t := s.tileFor(n - col)
		c := min(t.width, n-col)
		panels = append(panels, panel{col: col, cols: c, tile: t, off: width})
		col += c
		width += t.width
	}
	return panels, width
}

// packed is a matrix [k][n] in panels.
type packed struct {
	k, n   int
	panels []panel
	data   []float32
	floats int // the size of data, which is absent where only sizes were asked for
}

// pack stores at(k, n) for all k and n.
func (s *Set) pack(k, n int, w Weights, at func(k, n int) float32) packed {
	panels, width := s.layout(n)
	p := packed{k: k, n: n, panels: panels, floats: k * width}
	if w.n == 0 {
		p.data = make([]float32, p.floats)
	}
	for i := range p.panels {
		q := &p.panels[i]
		q.off *= k
		if p.data == nil {
			continue
		}
		width := q.tile.width
		for r := range k {
			row := p.data[q.off+r*width:][:width]
			for c := range q.cols {
				row[c] = at(r, q.col+c)
			}
		}
	}
	return p
}

// block returns the weights of rows [k0, ...) of a panel.
func (p *packed) block(q *panel, k0 int) []float32 { return p.data[q.off+k0*q.tile.width:] }

// Matrix is a constant right operand B [K, N] of a product, packed once.
type Matrix struct {
	set *Set
	p   packed
}

// PackMatrix packs B [k, n]; with trans the weights hold B^T, [n, k] row-major, as a linear layer stores them.
func (s *Set) PackMatrix(k, n int, w Weights, trans bool) *Matrix {
	at := func(r, c int) float32 { return w.At(r*n + c) }
	if trans {
		at = func(r, c int) float32 { return w.At(c*k + r) }
	}
	return &Matrix{set: s, p: s.pack(k, n, w, at)}
}

// Size returns the shape [k, n] and the floats that the packed form takes.
func (b *Matrix) Size() (k, n, floats int) { return b.p.k, b.p.n, b.p.floats }

// Mul computes c[i*ldc+j] (+)= bias[j] + sum over k of a[i*lda+k] * B[k, j] for i < m, j < N. bias may be nil. Nothing is allocated.
// Threads split the rows, or for few rows the columns: see MulCols.
func (b *Matrix) Mul(c []float32, ldc int, a []float32, lda, m int, bias []float32, accumulate bool) {
	b.MulCols(c, ldc, a, lda, m, 0, b.p.n, bias, accumulate)
}

// MulCols is Mul for the columns [n0, n1); panels that begin inside the range are computed, so adjoining ranges cover each column once.
func (b *Matrix) MulCols(c []float32, ldc int, a []float32, lda, m, n0, n1 int, bias []float32, accumulate bool) {
	k := b.p.k
	if m <= 0 || b.p.n == 0 {
		return
	}
	checkRows("c", c, m, ldc, b.p.n)
	checkRows("a", a, m, lda, k)
	if bias != nil && len(bias) < b.p.n {
		panic("kernel: bias is shorter than the columns")
	}
	for m0 := 0; m0 < m; m0 += blockRows {
		mn := min(blockRows, m-m0)
		for k0 := 0; k0 == 0 || k0 < k; k0 += blockK {
			kn := min(blockK, k-k0)
			p := gemmParams{m: mn, taps: 1, kc: kn, aStride: lda, cStride: ldc}
			if kn == 0 {
				p.taps = 0
			}
			if accumulate || k0 > 0 {
				p.acc = 1
			}
			for i := range b.p.panels {
				q := &b.p.panels[i]
				if q.col < n0 || q.col >= n1 {
					continue
				}
				bq := b.set.zero
				if k0 == 0 && bias != nil {
					bq = bias[q.col:]
				}
				p.cols = q.cols
				b.set.call(q.tile, c[m0*ldc+q.col:], a[m0*lda+k0:], b.p.block(q, k0), bq, p)
			}
		}
	}
}

// call runs a tile over p.m consecutive rows, in two pieces if they do not fill the last tile.
func (s *Set) call(t *tile, c, a, b, bias []float32, p gemmParams) {
	full := p.m / t.height * t.height
	rest := p.m - full
	if full > 0 {
		p.m = full
		t.run(c, a, b, bias, s.zero, s.ident, s.ident, p)
	}
	if rest > 0 {
		p.m = rest
		t.run(c[full*p.cStride:], a[full*p.aStride:], b, bias, s.zero, s.tails[rest][:], s.ident, p)
	}
}

func checkRows(what string, v []float32, rows, stride, cols int) {
	if stride < cols || (rows > 0 && (rows-1)*stride+cols > len(v)) {
		panic("kernel: " + what + " is shorter than its rows")
	}
}

// ints reinterprets a part of the scratch as a table.
func ints(f []float32) []int32 {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(f))), len(f))
}
