package kernel

// Operand is a row-major matrix in memory; Trans says that it holds the transpose of the product's operand.
type Operand struct {
	Data   []float32
	Stride int // floats from one stored row to the next
	Trans  bool
}

// MatMulScratch returns the scratch, in float32 values, of MatMul for any size.
func (s *Set) MatMulScratch() int { return blockK*(blockCols+maxPanel) + blockK*blockRows }

// MatMul computes c[i*ldc+j] (+)= sum over k of A[i, k]*B[k, j] for i < m, j < n with both operands packed on the fly: for products whose
// right side is no constant, such as attention. Nothing is allocated. Threads split the rows (A from a later row on) or the batch.
func (s *Set) MatMul(m, n, k int, c []float32, ldc int, a, b Operand, accumulate bool, scratch []float32) {
	if m <= 0 || n <= 0 {
		return
	}
	if len(scratch) < s.MatMulScratch() {
		panic("kernel: scratch is too small")
	}
	checkRows("c", c, m, ldc, n)
	checkOperand("a", a, m, k)
	checkOperand("b", b, k, n)
	packB, packA := scratch[:blockK*(blockCols+maxPanel)], scratch[blockK*(blockCols+maxPanel):]
	for n0 := 0; n0 < n; n0 += blockCols {
		nn := min(blockCols, n-n0)
		for k0 := 0; k0 == 0 || k0 < k; k0 += blockK {
			kn := min(blockK, k-k0)
			for m0 := 0; m0 < m; m0 += blockRows {
				mn := min(blockRows, m-m0)
				p := gemmParams{m: mn, taps: 1, kc: kn, aStride: a.Stride, cStride: ldc}
				if kn == 0 {
					p.taps = 0
				}
				if accumulate || k0 > 0 {
					p.acc = 1
				}
				left := a.Data
				if a.Trans {
					transpose(packA, a.Data[k0*a.Stride+m0:], kn, mn, a.Stride)
					left, p.aStride = packA, kn
				} else if kn > 0 {
					left = a.Data[m0*a.Stride+k0:]
				}
				off := 0
				for col := 0; col < nn; {
					t := s.tileFor(nn - col)
					p.cols = min(t.width, nn-col)
					bp := packB[off:][:kn*t.width]
					if m0 == 0 {
						packPanel(bp, b, k0, n0+col, kn, p.cols, t.width, s)
					}
					s.call(t, c[m0*ldc+n0+col:], left, bp, s.zero, p)
					off += kn * t.width
					col += p.cols
				}
			}
		}
	}
}

// tileFor returns the tile for the next panel when n columns are left.
func (s *Set) tileFor(n int) *tile {
	return &s.tiles[s.split[min((n+s.lanes-1)/s.lanes, len(s.split)-1)]]
}

func checkOperand(what string, o Operand, rows, cols int) {
	if o.Trans {
		rows, cols = cols, rows
	}
	checkRows(what, o.Data, rows, o.Stride, cols)
}

// packPanel packs B[k0:k0+kn, col:col+cols] into rows of width values.
func packPanel(dst []float32, b Operand, k0, col, kn, cols, width int, s *Set) {
	if kn == 0 {
		return
	}
	if !b.Trans {
		if cols < width {
			clear(dst)
		}
		s.copyRows(dst, b.Data[k0*b.Stride+col:], kn, cols, width, b.Stride)
		return
	}
	if cols < width {
		clear(dst)
	}
	// dst[k][j] = B^T[col+j][k0+k], in blocks of 8 rows so that both sides stay in the cache.
	for k := 0; k < kn; k += 8 {
		n := min(8, kn-k)
		for j := range cols {
			src := b.Data[(col+j)*b.Stride+k0+k:][:n]
			d := dst[k*width+j:]
			for i, v := range src {
				d[i*width] = v
			}
		}
	}
}

// transpose writes the kn x mn block src as mn rows of kn values.
func transpose(dst, src []float32, kn, mn, stride int) {
	for k := 0; k < kn; k += 8 {
		n := min(8, kn-k)
		for i := range mn {
			d := dst[i*kn+k:][:n]
			for j := range d {
				d[j] = src[(k+j)*stride+i]
			}
		}
	}
}
