// Package eigen finds the largest eigenvalue and its vector of symmetric matrices that are only known by their products with vectors.
package eigen

import (
	"errors"
	"math"
)

// Pair is the largest eigenvalue of a matrix, its vector of length 1, and the second largest eigenvalue.
type Pair struct {
	Value, Second float64
	Vector        []float64
}

// ErrNotFound is returned where the steps did not suffice.
var ErrNotFound = errors.New("the first eigenvector could not be told from others")

const (
	mostSteps = 1000
	// accuracy of the vector: its residual relative to the distance between the first two eigenvalues.
	accuracy = 1e-8
	// secondAccuracy is that of the second eigenvalue, relative to the first.
	secondAccuracy = 1e-4
)

// Largest returns the largest eigenvalue of a symmetric positive semidefinite n x n matrix, by Lanczos' method (1950) with complete
// reorthogonalisation: apply writes the product of the matrix with v to dst. The start is always the same, so that the result only depends on
// apply. An error is one of apply, or ErrNotFound.
func Largest(n int, apply func(dst, v []float64) error) (Pair, error) {
	first, vector, err := lanczos(n, start(n, 1), apply, func(value, second, residual float64) bool { return residual <= accuracy*(value-second) })
	if err != nil || n == 1 || first == 0 {
		return Pair{Value: first, Vector: vector}, err
	}
	// Of eigenvalues that are equal a start shows one only. Without the first vector the largest one that another start shows is the second.
	beginning := start(n, 2)
	addScaled(beginning, -dot(vector, beginning), vector)
	if length := math.Sqrt(dot(beginning, beginning)); length > accuracy {
		scale(beginning, 1/length)
	} else { // the start was the first vector: any other will do
		beginning = unit(n, vector)
	}
	second, _, err := lanczos(n, beginning, func(dst, v []float64) error {
		if err := apply(dst, v); err != nil {
			return err
		}
		addScaled(dst, -dot(vector, dst), vector)
		return nil
	}, func(_, _, residual float64) bool { return residual <= secondAccuracy*first })
	return Pair{Value: first, Second: second, Vector: vector}, err
}

// unit returns a vector of length 1 at right angles to v: that of the axis along which v is shortest, without its part along v.
func unit(n int, v []float64) []float64 {
	least := 0
	for i := range v {
		if math.Abs(v[i]) < math.Abs(v[least]) {
			least = i
		}
	}
	u := make([]float64, n)
	u[least] = 1
	addScaled(u, -v[least], v)
	scale(u, 1/math.Sqrt(dot(u, u)))
	return u
}

// lanczos returns the largest eigenvalue that can be found from a start of length 1, and its vector, once done accepts the two largest values so
// far and the residual of the first.
func lanczos(n int, q []float64, apply func(dst, v []float64) error, done func(value, second, residual float64) bool) (float64, []float64, error) {
	var basis [][]float64
	var diagonal, beside []float64 // of the tridiagonal matrix that the basis makes of the matrix
	for len(basis) < min(n, mostSteps) {
		next := make([]float64, n)
		if err := apply(next, q); err != nil {
			return 0, nil, err
		}
		basis = append(basis, q)
		diagonal = append(diagonal, dot(q, next))
		for range 2 { // once leaves rounding that the next steps would blow up
			for _, b := range basis {
				addScaled(next, -dot(b, next), b)
			}
		}
		rest := math.Sqrt(dot(next, next))
		value, second := eigenvalue(diagonal, beside, 1), 0.0
		if len(basis) > 1 {
			second = eigenvalue(diagonal, beside, 2)
		}
		s := vectorOf(diagonal, beside, value)
		if done(value, second, rest*math.Abs(s[len(s)-1])) || rest <= accuracy*accuracy*value || len(basis) == n {
			return value, combine(basis, s), nil
		}
		beside = append(beside, rest)
		q = next
		scale(q, 1/rest)
	}
	return 0, nil, ErrNotFound
}

// start returns a vector of length 1 that looks like noise: one with a pattern could be at right angles to the one that is sought.
func start(n int, state uint64) []float64 {
	v := make([]float64, n)
	for i := range v {
		state = state*6364136223846793005 + 1442695040888963407
		v[i] = float64(state>>11)/(1<<53) + 0.5
	}
	scale(v, 1/math.Sqrt(dot(v, v)))
	return v
}

// eigenvalue returns the k-th largest eigenvalue of a symmetric tridiagonal matrix, by bisection.
func eigenvalue(diagonal, beside []float64, k int) float64 {
	low, high := math.Inf(1), math.Inf(-1) // by Gershgorin's circles
	for i, d := range diagonal {
		radius := 0.0
		if i > 0 {
			radius += math.Abs(beside[i-1])
		}
		if i < len(beside) {
			radius += math.Abs(beside[i])
		}
		low, high = min(low, d-radius), max(high, d+radius)
	}
	for {
		middle := low + (high-low)/2
		if middle <= low || middle >= high {
			return high
		}
		if atLeast(diagonal, beside, middle) >= k {
			low = middle
		} else {
			high = middle
		}
	}
}

// atLeast counts the eigenvalues of a symmetric tridiagonal matrix that are not below x: the pivots of matrix - x that are not negative.
func atLeast(diagonal, beside []float64, x float64) (count int) {
	pivot := 1.0
	for i, d := range diagonal {
		e := 0.0
		if i > 0 {
			e = beside[i-1]
		}
		if pivot = d - x - e*e/pivot; pivot >= 0 {
			count++
		}
		pivot = notZero(pivot)
	}
	return count
}

// vectorOf returns the eigenvector, of length 1, of a symmetric tridiagonal matrix for an eigenvalue. Pivots are taken from both ends, and meet
// where they leave the smallest residual.
func vectorOf(diagonal, beside []float64, value float64) []float64 {
	n := len(diagonal)
	down, up := make([]float64, n), make([]float64, n)
	for i := range n {
		down[i] = diagonal[i] - value
		if i > 0 {
			down[i] -= beside[i-1] * beside[i-1] / down[i-1]
		}
		down[i] = notZero(down[i])
	}
	for i := n - 1; i >= 0; i-- {
		up[i] = diagonal[i] - value
		if i < n-1 {
			up[i] -= beside[i] * beside[i] / up[i+1]
		}
		up[i] = notZero(up[i])
	}
	at, least := 0, math.Inf(1)
	for i := range n {
		if r := math.Abs(down[i] + up[i] - (diagonal[i] - value)); r < least {
			at, least = i, r
		}
	}
	v := make([]float64, n)
	v[at] = 1
	for i := at - 1; i >= 0; i-- {
		v[i] = -beside[i] * v[i+1] / down[i]
	}
	for i := at + 1; i < n; i++ {
		v[i] = -beside[i-1] * v[i-1] / up[i]
	}
	scale(v, 1/math.Sqrt(dot(v, v)))
	return v
}

func notZero(x float64) float64 {
	if math.Abs(x) < 1e-290 {
		return 1e-290
	}
	return x
}

// combine returns the sum of the vectors of a basis, each times its weight, with length 1.
func combine(basis [][]float64, weights []float64) []float64 {
	v := make([]float64, len(basis[0]))
	for i, b := range basis {
		addScaled(v, weights[i], b)
	}
	scale(v, 1/math.Sqrt(dot(v, v)))
	return v
}

func dot(a, b []float64) (s float64) {
	for i, x := range a {
		s += x * b[i]
	}
	return s
}

func scale(v []float64, by float64) {
	for i := range v {
		v[i] *= by
	}
}

// addScaled adds by*b to v.
func addScaled(v []float64, by float64, b []float64) {
	for i, x := range b {
		v[i] += by * x
	}
}
