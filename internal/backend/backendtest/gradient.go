package backendtest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/voxcam/voxcam/internal/backend/reference"
	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
)

// step and accuracy of central differences in float64: the error of the formula is about step^2, rounding about 1e-16/step.
const (
	step     = 1e-5
	accuracy = 3e-7
)

// CheckGradient compares the gradient of sum(seed*Out), for a random seed, with finite differences: along one random direction
// through all inputs together, and for some single elements of each. It appends the gradient to the sample's graph.
func CheckGradient(s *Example, elements int) error {
	ctx, r := context.Background(), rand.New(rand.NewPCG(3, 3))
	forward, twin := s.Graph.Clone()
	seed, gradients, err := grad.Build(s.Graph, s.Out, s.Wrt)
	if err != nil {
		return err
	}
	if err := s.Graph.Verify(); err != nil {
		return err
	}
	s.Data[seed] = s.values(seed.Shape(), normal)
	values, err := reference.Eval(ctx, s.Graph, s.Data)
	if err != nil {
		return err
	}
	score := func(shift map[*ir.Value][]float64, h float64) float64 {
		data := map[*ir.Value][]float64{}
		for v, x := range s.Data {
			if v == seed {
				continue
			}
			moved := append([]float64(nil), x...)
			for i, d := range shift[v] {
				moved[i] += h * d
			}
			data[twin[v]] = moved
		}
		out, evalErr := reference.Eval(ctx, forward, data)
		if evalErr != nil {
			err = evalErr
			return 0
		}
		total := 0.0
		for i, y := range out[twin[s.Out]] {
			total += y * s.Data[seed][i]
		}
		return total
	}
	compare := func(what string, shift map[*ir.Value][]float64) error {
		want := (score(shift, step) - score(shift, -step)) / (2 * step)
		if err != nil {
			return err
		}
		got, scale := 0.0, 1e-3
		for i, v := range s.Wrt {
			for k, d := range shift[v] {
				got += d * values[gradients[i]][k]
				scale = max(scale, math.Abs(d*values[gradients[i]][k]))
			}
		}
		if !(math.Abs(got-want) <= accuracy*max(scale, math.Abs(want), math.Abs(score(nil, 0))*1e-2)) {
			return fmt.Errorf("derivative by %s is %.10g, finite differences say %.10g", what, got, want)
		}
		return nil
	}
	direction := map[*ir.Value][]float64{}
	for _, v := range s.Wrt {
		direction[v] = s.values(v.Shape(), normal)
	}
	if err := compare("a direction", direction); err != nil {
		return err
	}
	for i, v := range s.Wrt {
		n := v.Shape().Elements()
		for range min(elements, n) {
			k := r.IntN(n)
			unit := make([]float64, n)
			unit[k] = 1
			if err := compare(fmt.Sprintf("element %d of input %d", k, i), map[*ir.Value][]float64{v: unit}); err != nil {
				return err
			}
		}
	}
	return nil
}
