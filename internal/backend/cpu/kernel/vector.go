package kernel

// Elementwise and per-channel arithmetic. dst may be one of the operands; all slices have at least len(x) values unless said otherwise.

// Affine computes dst = a*x + b.
func (s *Set) Affine(dst, x []float32, a, b float32) { s.unary[opAffine](dst[:len(x)], x, a, b) }

// Exp computes dst = exp(a*x + b).
func (s *Set) Exp(dst, x []float32, a, b float32) { s.unary[opExp](dst[:len(x)], x, a, b) }

// Add computes dst = x + y.
func (s *Set) Add(dst, x, y []float32) { s.binary[opAdd](dst[:len(x)], x, y[:len(x)], 0, 0) }

// Sub computes dst = x - y.
func (s *Set) Sub(dst, x, y []float32) { s.binary[opSub](dst[:len(x)], x, y[:len(x)], 0, 0) }

// Mul computes dst = x * y.
func (s *Set) Mul(dst, x, y []float32) { s.binary[opMul](dst[:len(x)], x, y[:len(x)], 0, 0) }

// Div computes dst = x / y.
func (s *Set) Div(dst, x, y []float32) { s.binary[opDiv](dst[:len(x)], x, y[:len(x)], 0, 0) }

// Axpby computes dst = a*x + b*y.
func (s *Set) Axpby(dst []float32, a float32, x []float32, b float32, y []float32) {
	s.binary[opAxpy](dst[:len(x)], x, y[:len(x)], a, b)
}

// MulAdd computes dst += x * y.
func (s *Set) MulAdd(dst, x, y []float32) { s.binary[opFMA](dst[:len(x)], x, y[:len(x)], 0, 0) }

type (
	// channelFunc works on n rows of c channels: dst = f(x, p[channel], q[channel]).
	channelFunc func(dst, x, p, q []float32, n, c int)
	// reduceFunc adds to sum[channel] over n rows of c channels, in float64.
	reduceFunc func(sum []float64, x, y []float32, n, c int)
)

const (
	chScaleShift = iota // x p + q
	chScale             // x p
	chShift             // x + p
	chPrelu             // x < 0: p x
	chPreluGrad         // dst *= x < 0: p
	numChannel
)

const (
	redSum = iota // x
	redDot        // x y
	redVar        // (x - y[channel])^2
	numReduce
)

// ScaleShift computes dst[v, c] = x[v, c]*scale[c] + shift[c] over rows of len(scale) channels; shift may be nil.
func (s *Set) ScaleShift(dst, x, scale, shift []float32) {
	op, c := chScaleShift, len(scale)
	if shift == nil {
		op = chScale
	}
	s.rows(op, dst, x, scale, shift, c)
}

// AddRow computes dst[v, c] = x[v, c] + shift[c] over rows of len(shift) channels.
func (s *Set) AddRow(dst, x, shift []float32) { s.rows(chShift, dst, x, shift, nil, len(shift)) }

// PRelu computes dst[v, c] = x[v, c], times slope[c] where negative.
func (s *Set) PRelu(dst, x, slope []float32) { s.rows(chPrelu, dst, x, slope, nil, len(slope)) }

// PReluGrad multiplies dx[v, c], which holds dy, by slope[c] where x[v, c] is negative.
func (s *Set) PReluGrad(dx, x, slope []float32) { s.rows(chPreluGrad, dx, x, slope, nil, len(slope)) }

func (s *Set) rows(op int, dst, x, p, q []float32, c int) {
	if c == 0 || len(x) == 0 {
		return
	}
	if len(x)%c != 0 || (q != nil && len(q) < c) {
		panic("kernel: values do not divide into rows of channels")
	}
	s.channel[op](dst[:len(x)], x, p, q, len(x)/c, c)
}

// SumRows adds to sum[c] the values x[v, c] of all rows of len(sum) channels. Accumulated in float64: the error is that of one rounding
// of the final value to float32 for any sensible number of voxels.
func (s *Set) SumRows(sum []float64, x []float32) { s.reduceRows(redSum, sum, x, nil) }

// DotRows adds to sum[c] the products x[v, c]*y[v, c], multiplied and accumulated in float64.
func (s *Set) DotRows(sum []float64, x, y []float32) { s.reduceRows(redDot, sum, x, y[:len(x)]) }

// VarRows adds to sum[c] the squares (x[v, c]-mean[c])^2; the difference is taken in float64.
func (s *Set) VarRows(sum []float64, x, mean []float32) {
	s.reduceRows(redVar, sum, x, mean[:len(sum)])
}

func (s *Set) reduceRows(op int, sum []float64, x, y []float32) {
	c := len(sum)
	if c == 0 || len(x) == 0 {
		return
	}
	if len(x)%c != 0 {
		panic("kernel: values do not divide into rows of channels")
	}
	s.reduce[op](sum, x, y, len(x)/c, c)
}

var channelGo = [numChannel]channelFunc{
	chScaleShift: func(dst, x, p, q []float32, n, c int) {
		for i := 0; i < n*c; i += c {
			for j, v := range x[i : i+c] {
				dst[i+j] = v*p[j] + q[j]
			}
		}
	},
	chScale: func(dst, x, p, _ []float32, n, c int) {
		for i := 0; i < n*c; i += c {
			for j, v := range x[i : i+c] {
				dst[i+j] = v * p[j]
			}
		}
	},
	chShift: func(dst, x, p, _ []float32, n, c int) {
		for i := 0; i < n*c; i += c {
			for j, v := range x[i : i+c] {
				dst[i+j] = v + p[j]
			}
		}
	},
	chPrelu: func(dst, x, p, _ []float32, n, c int) {
		for i := 0; i < n*c; i += c {
			for j, v := range x[i : i+c] {
				if v < 0 {
					v *= p[j]
				}
				dst[i+j] = v
			}
		}
	},
	chPreluGrad: func(dst, x, p, _ []float32, n, c int) {
		for i := 0; i < n*c; i += c {
			for j, v := range x[i : i+c] {
				if v < 0 {
					dst[i+j] *= p[j]
				}
			}
		}
	},
}

var reduceGo = [numReduce]reduceFunc{
	redSum: func(sum []float64, x, _ []float32, n, c int) {
		for i := 0; i < n*c; i += c {
			for j, v := range x[i : i+c] {
				sum[j] += float64(v)
			}
		}
	},
	redDot: func(sum []float64, x, y []float32, n, c int) {
		for i := 0; i < n*c; i += c {
			for j, v := range x[i : i+c] {
				sum[j] += float64(v) * float64(y[i+j])
			}
		}
	},
	redVar: func(sum []float64, x, y []float32, n, c int) {
		for i := 0; i < n*c; i += c {
			for j, v := range x[i : i+c] {
				d := float64(v) - float64(y[j])
				sum[j] += d * d
			}
		}
	},
}
