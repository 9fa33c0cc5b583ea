package eigen

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// orthogonal returns n random vectors of length 1 at right angles.
func orthogonal(rng *rand.Rand, n int) [][]float64 {
	var basis [][]float64
	for len(basis) < n {
		v := make([]float64, n)
		for i := range v {
			v[i] = rng.NormFloat64()
		}
		for range 2 {
			for _, b := range basis {
				addScaled(v, -dot(b, v), b)
			}
		}
		scale(v, 1/math.Sqrt(dot(v, v)))
		basis = append(basis, v)
	}
	return basis
}

// product returns the function that multiplies with the matrix of these eigenvalues.
func product(vectors [][]float64, values []float64) func(dst, v []float64) error {
	return func(dst, v []float64) error {
		clear(dst)
		for k, b := range vectors {
			addScaled(dst, values[k]*dot(b, v), b)
		}
		return nil
	}
}

// Matrices with known eigenvalues: the vector is right to the accuracy that the distance of the first two allows.
func TestLargest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, values := range map[string][]float64{
		"one":            {3},
		"two":            {3, 1},
		"clear":          {10, 3, 2, 1, 0.5, 0, 0, 0},
		"close":          {1, 0.999, 0.5, 0.4, 0.3, 0.2, 0.1, 0.01, 0.001, 0},
		"tiny":           {1e-30, 1e-31, 1e-32, 0},
		"huge":           {1e30, 1e29, 1},
		"rank of one":    {5, 0, 0, 0, 0},
		"long tail":      tail(300),
		"many the same":  append([]float64{2}, make([]float64, 60)...),
		"a second twice": {4, 3, 3, 3, 1},
	} {
		vectors := orthogonal(rng, len(values))
		got, err := Largest(len(values), product(vectors, values))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if off := math.Abs(got.Value/values[0] - 1); off > 1e-12 {
			t.Errorf("%s: value %g, want %g", name, got.Value, values[0])
		}
		if len(values) > 1 && math.Abs(got.Second-values[1]) > 1e-3*values[0] {
			t.Errorf("%s: second value %g, want %g", name, got.Second, values[1])
		}
		if off := 1 - math.Abs(dot(got.Vector, vectors[0])); off > 1e-12 {
			t.Errorf("%s: the vector is off by %g", name, off)
		}
	}
}

func tail(n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = 1 / float64(i+1)
	}
	return values
}

// Eigenvalues that are equal are seen to be, although one space shows one of them only.
func TestLargestOfTwins(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for name, values := range map[string][]float64{"identity": {1, 1, 1}, "two": {2, 2}, "twins": {5, 5, 1, 0.5, 0.2}, "near": {5, 5 - 1e-9, 1, 0.5, 0.2}} {
		got, err := Largest(len(values), product(orthogonal(rng, len(values)), values))
		if err != nil || math.Abs(got.Value-values[0]) > 1e-9 || math.Abs(got.Second-values[1]) > 1e-3*values[0] {
			t.Errorf("%s: %g and %g, %v", name, got.Value, got.Second, err)
		}
	}
	got, err := Largest(3, func(dst, v []float64) error { copy(dst, v); return nil })
	if err != nil || math.Abs(got.Value-1) > 1e-12 || math.Abs(got.Second-1) > 1e-9 {
		t.Errorf("exact identity: %v, %v", got, err)
	}
}

func TestLargestOfNothing(t *testing.T) {
	got, err := Largest(4, func(dst, _ []float64) error { clear(dst); return nil })
	if err != nil || got.Value != 0 || got.Second != 0 {
		t.Errorf("of zeros: %v, %v", got, err)
	}
	broken := errors.New("broken")
	if _, err := Largest(4, func(_, _ []float64) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
