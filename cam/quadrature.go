package cam

import (
	"fmt"
	"math"
	"strings"
)

// node is a point of a quadrature over [0, 1] with its weight.
type node struct {
	at, weight float64
	share      float64 // of the weight in that of all nodes up to this one
}

// quadrature is a way to approximate an integral over [0, 1]. Weights sum to 1.
type quadrature struct {
	name  string
	nodes func(n int) []node
}

// quadratures holds every quadrature; the first is the default.
var quadratures = []quadrature{
	{"gauss-legendre", gaussLegendre},
	{"midpoint", evenly(-0.5)},
	{"right", evenly(0)}, // that of Sundararajan et al.
}

// Quadratures returns the names that Request.Quadrature may have.
func Quadratures() (names []string) {
	for _, q := range quadratures {
		names = append(names, q.name)
	}
	return names
}

func quadratureOf(name string) (quadrature, error) {
	for _, q := range quadratures {
		if q.name == name {
			return q, nil
		}
	}
	return quadrature{}, fmt.Errorf("is %q; it must be one of %s", name, strings.Join(Quadratures(), ", "))
}

// evenly returns n nodes of equal weights at (k + shift)/n, k from 1 to n.
func evenly(shift float64) func(n int) []node {
	return func(n int) []node {
		nodes := make([]node, n)
		for k := range nodes {
			nodes[k] = node{at: (float64(k+1) + shift) / float64(n), weight: 1 / float64(n)}
		}
		return nodes
	}
}

// gaussLegendre returns the zeros of the Legendre polynomial of degree n, by Newton's method, and their weights 2 / ((1-x^2) P'(x)^2), moved
// from [-1, 1] to [0, 1].
func gaussLegendre(n int) []node {
	nodes := make([]node, n)
	for k := range (n + 1) / 2 {
		x := math.Cos(math.Pi * (float64(k) + 0.75) / (float64(n) + 0.5)) // Tricomi's first guess
		var slope float64
		for range 20 {
			var value float64
			value, slope = legendre(n, x)
			step := value / slope
			x -= step
			if math.Abs(step) < 1e-15 {
				break
			}
		}
		_, slope = legendre(n, x)
		weight := 1 / ((1 - x*x) * slope * slope)
		nodes[k] = node{at: (1 - x) / 2, weight: weight}
		nodes[n-1-k] = node{at: (1 + x) / 2, weight: weight}
	}
	return nodes
}

// legendre returns the Legendre polynomial of degree n at x and its derivative, by Bonnet's recursion.
func legendre(n int, x float64) (value, slope float64) {
	before, value := 0.0, 1.0
	for k := 1; k <= n; k++ {
		before, value = value, (float64(2*k-1)*x*value-float64(k-1)*before)/float64(k)
	}
	return value, float64(n) * (before - x*value) / (1 - x*x)
}
