// Package backendtest is the suite that every backend must pass, and the list of cases that it is made of: small graphs for
// each operation of the table, with the sizes that kernels get wrong (odd, empty windows, broadcasting both ways, groups), and
// random graphs with joins. A backend's own test is
//
//	func TestConformance(t *testing.T) { backendtest.Run(t, cpu.New(...), AllNetworks) }
//
// The tests of op hold the gradient rules against finite differences on the same cases, those of grad on the random graphs.
package backendtest

import (
	"fmt"
	"math/rand/v2"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// A Fill gives values to a tensor. They are rounded to float32, so that every backend sees the same numbers.
type Fill func(r *rand.Rand, x []float64)

// Input is a tensor that a case reads.
type Input struct {
	Shape tensor.Shape
	Fill  Fill // normal if nil
	Const bool // a constant of the graph, not an input
	Fixed bool // not differentiated
}

// Case is a small graph around one operation.
type Case struct {
	Name   string
	Op     *ir.Op
	Inputs []Input
	Build  func(b *ir.Builder, in []*ir.Value) *ir.Value
}

// Cases lists the cases of all operations.
func Cases() []Case {
	var all []Case
	for _, list := range [][]Case{
		unaryCases(), maskCases(), binaryCases(), convCases(), poolCases(), normCases(), matMulCases(), reduceCases(), shapeCases(), resizeCases(),
	} {
		all = append(all, list...)
	}
	return all
}

// Example is a graph with data for its inputs.
type Example struct {
	Graph *ir.Graph
	Data  map[*ir.Value][]float64
	Out   *ir.Value   // the value to look at
	Wrt   []*ir.Value // the inputs that it can be differentiated by
	r     *rand.Rand
	fills map[*ir.Value]Fill
}

// Sample builds the case's graph. Equal seeds give equal data; the graph's constants come from the seed, too.
func (c Case) Sample(seed uint64) (*Example, error) {
	s := newSample(seed)
	var in []*ir.Value
	for _, i := range c.Inputs {
		in = append(in, s.add(i))
	}
	b := ir.NewBuilder(s.Graph)
	s.Out = c.Build(b, in)
	s.Graph.Outputs = []*ir.Value{s.Out}
	if err := b.Err(); err != nil {
		return nil, fmt.Errorf("case %s: %w", c.Name, err)
	}
	return s, s.Graph.Verify()
}

func newSample(seed uint64) *Example {
	return &Example{Graph: &ir.Graph{}, Data: map[*ir.Value][]float64{}, r: rand.New(rand.NewPCG(seed, 1)), fills: map[*ir.Value]Fill{}}
}

// add makes the value of an input.
func (s *Example) add(i Input) *ir.Value {
	if i.Fill == nil {
		i.Fill = normal
	}
	if i.Const {
		values := s.values(i.Shape, i.Fill)
		floats := make([]float32, len(values))
		for k, x := range values {
			floats[k] = float32(x)
		}
		return s.Graph.Constant("", i.Shape, tensor.Floats(floats))
	}
	v := s.Graph.Input(fmt.Sprintf("input%d", len(s.Graph.Inputs)), ir.Type{Shape: i.Shape})
	s.fills[v] = i.Fill
	s.Data[v] = s.values(i.Shape, i.Fill)
	if !i.Fixed {
		s.Wrt = append(s.Wrt, v)
	}
	return v
}

func (s *Example) values(shape tensor.Shape, fill Fill) []float64 {
	x := make([]float64, shape.Elements())
	fill(s.r, x)
	for i := range x {
		x[i] = float64(float32(x[i]))
	}
	return x
}

// Refill draws new data for every input, those that were added to the graph later included.
func (s *Example) Refill() {
	for _, v := range s.Graph.Inputs {
		fill := s.fills[v]
		if fill == nil {
			fill = normal
		}
		s.Data[v] = s.values(v.Shape(), fill)
	}
}

// each makes a Fill of a function that gives one value.
func each(f func(r *rand.Rand) float64) Fill {
	return func(r *rand.Rand, x []float64) {
		for i := range x {
			x[i] = f(r)
		}
	}
}

var (
	normal   = each(func(r *rand.Rand) float64 { return r.NormFloat64() })
	positive = each(func(r *rand.Rand) float64 { return 0.5 + 2*r.Float64() })
	integers = each(func(r *rand.Rand) float64 { return float64(r.IntN(5) - 2) })
	boolean  = each(func(r *rand.Rand) float64 { return float64(r.IntN(2)) })
)

// distinct values, so that no maximum is nearly a tie.
func distinct(r *rand.Rand, x []float64) {
	for i, p := range r.Perm(len(x)) {
		x[i] = 3 * (float64(p)/float64(len(x)) - 0.4)
	}
}

// away gives normal values of that deviation, none within 0.02 of a kink.
func away(deviation float64, kinks ...float64) Fill {
	return each(func(r *rand.Rand) float64 {
		for {
			x, near := deviation*r.NormFloat64(), false
			for _, k := range kinks {
				near = near || x > k-0.02 && x < k+0.02
			}
			if !near {
				return x
			}
		}
	})
}

// apply is the Build of a graph that is one node.
func apply(o *ir.Op, attr any) func(*ir.Builder, []*ir.Value) *ir.Value {
	return func(b *ir.Builder, in []*ir.Value) *ir.Value { return b.Emit(o, attr, in...) }
}

// single is a case of one node.
func single(o *ir.Op, name string, attr any, inputs ...Input) Case {
	return Case{Name: o.Name + "/" + name, Op: o, Inputs: inputs, Build: apply(o, attr)}
}

func in(shape ...int) Input { return Input{Shape: shape} }

func (i Input) with(f Fill) Input { i.Fill = f; return i }
func (i Input) constant() Input   { i.Const = true; return i }
func (i Input) fixed() Input      { i.Fixed = true; return i }

func named(name string) *ir.Op {
	o, ok := op.Named(name)
	if !ok {
		panic("backendtest: no operation " + name)
	}
	return o
}
