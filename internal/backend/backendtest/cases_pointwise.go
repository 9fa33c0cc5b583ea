package backendtest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// unaryParams are the parameters that functions are tried with; those that are not listed have none.
var unaryParams = map[string][]op.UnaryAttr{
	"LeakyRelu":       {{Alpha: 0.1}, {Alpha: -0.5}},
	"Clip":            {{Alpha: 0, Beta: 1.5}, {Alpha: math.Inf(-1), Beta: 0.5}},
	"ThresholdedRelu": {{Alpha: 0.7}},
	"HardSigmoid":     {{Alpha: 0.2, Beta: 0.5}, {Alpha: 1. / 6, Beta: 0.5}},
	"Linear":          {{Alpha: -2.5, Beta: 0.75}, {Alpha: 3}},
	"Elu":             {{Alpha: 1}, {Alpha: 0.3}},
	"Celu":            {{Alpha: 0.7}},
	"Selu":            {{Alpha: 1.67326, Beta: 1.0507}},
	"PowConst":        {{Alpha: 2}, {Alpha: 3}, {Alpha: 0.5}, {Alpha: -1.25}, {Alpha: 0}},
}

// unaryFills are the values that functions are tried at, where the default is not in their domain or would hit a kink.
var unaryFills = map[string]Fill{
	"Log": positive, "Sqrt": positive, "Reciprocal": positive, "PowConst": positive,
	"Clip":            away(1, 0, 0.5, 1.5),
	"ThresholdedRelu": away(1, 0.7),
	"HardSigmoid":     away(3, -2.5, 2.5, -3, 3),
	"HardSwish":       away(3, -3, 3),
}

// farOut are the functions that must neither overflow nor lose their limit far from zero.
var farOut = []string{"Sigmoid", "Silu", "HardSwish", "Mish", "Gelu", "GeluTanh", "Softplus", "Softsign", "Tanh", "Erf", "Elu", "Selu", "Celu", "HardSigmoid"}

func farFill(r *rand.Rand, x []float64) {
	for i := range x {
		x[i] = []float64{-200, -95, -40, -17, 17, 40, 95, 200}[i%8] + r.Float64()
	}
}

func unaryCases() (cases []Case) {
	params := func(name string) []op.UnaryAttr {
		if p := unaryParams[name]; p != nil {
			return p
		}
		return []op.UnaryAttr{{}}
	}
	for _, u := range op.Unaries {
		fill := unaryFills[u.Name]
		if fill == nil {
			fill = away(2, 0)
		}
		for i, a := range params(u.Name) {
			o := op.UnaryOp(u.Name)
			cases = append(cases, single(o, fmt.Sprintf("params%d", i), a, in(1, 3, 5, 7, 11).with(fill)))
			if i == 0 {
				cases = append(cases, single(o, "one", a, in().with(fill)), single(o, "many", a, in(2, 7, 13, 19).with(fill)))
			}
			if u.Slope != nil && u.Saves != op.SavesNothing {
				saved := fill
				if u.Saves == op.SavesY { // the slope is a polynomial or 1/y: any value off zero will do
					saved = positive
				}
				cases = append(cases, single(op.UnaryBackward, fmt.Sprintf("%s%d", u.Name, i),
					op.UnaryBackwardAttr{Func: u.Name, Alpha: a.Alpha, Beta: a.Beta}, in(3, 5, 7), in(3, 5, 7).with(saved)))
			}
		}
	}
	for _, name := range farOut {
		a := params(name)[0]
		cases = append(cases, single(op.UnaryOp(name), "far", a, in(4, 8).with(farFill)))
		if u, _ := op.UnaryNamed(name); u.Saves == op.SavesX {
			cases = append(cases, single(op.UnaryBackward, name+"far",
				op.UnaryBackwardAttr{Func: name, Alpha: a.Alpha, Beta: a.Beta}, in(4, 8), in(4, 8).with(farFill)))
		}
	}
	return cases
}

// maskCases read bits through the operations that use them, since bits cannot leave a device.
func maskCases() (cases []Case) {
	masked := func(o *ir.Op, name string, bits op.BitsAttr, mask op.MaskAttr, shape ...int) {
		cases = append(cases, Case{Name: o.Name + "/" + name, Op: o, Inputs: []Input{in(shape...), in(shape...).with(away(1, 0, 0.5))},
			Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
				return b.Emit(op.MaskBackward, mask, in[0], b.Emit(op.Bits, bits, in[1]))
			}})
	}
	above := op.BitsAttr{Lo: 0, Hi: math.Inf(1)}
	for _, o := range []*ir.Op{op.Bits, op.MaskBackward} {
		masked(o, "above", above, op.MaskAttr{In: 1}, 3, 5, 7)
		masked(o, "between", op.BitsAttr{Lo: 0, Hi: 0.5}, op.MaskAttr{In: 0.25, Out: -3}, 67)
		masked(o, "words", above, op.MaskAttr{In: 1, Out: 0.1}, 2, 7, 64)
		masked(o, "many", above, op.MaskAttr{In: 1}, 5, 17, 129)
	}
	for _, s := range []struct {
		name  string
		slope tensor.Shape
	}{{"channel", tensor.Shape{5}}, {"one", tensor.Shape{1}}, {"map", tensor.Shape{4, 3, 1}}} {
		x, slope := in(2, 4, 3, 5).with(away(1, 0)), Input{Shape: s.slope, Const: true}
		cases = append(cases,
			single(op.PRelu, s.name, nil, x, slope),
			Case{Name: "PReluBackward/" + s.name, Op: op.PReluBackward, Inputs: []Input{in(2, 4, 3, 5), x, slope},
				Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
					return b.Emit(op.PReluBackward, nil, in[0], b.Emit(op.Bits, above, in[1]), in[2])
				}})
	}
	return cases
}

// pairs are shapes that broadcast, in the ways that networks use and some that they do not.
var pairs = []struct {
	name string
	x, y tensor.Shape
}{
	{"same", tensor.Shape{2, 3, 5}, tensor.Shape{2, 3, 5}},
	{"large", tensor.Shape{1, 5, 9, 11, 17}, tensor.Shape{1, 5, 9, 11, 17}},
	{"channel", tensor.Shape{1, 2, 3, 4, 19}, tensor.Shape{19}},
	{"channelFirst", tensor.Shape{19}, tensor.Shape{1, 2, 3, 4, 19}},
	{"gate", tensor.Shape{2, 3, 4, 5, 7}, tensor.Shape{2, 1, 1, 1, 7}},
	{"map", tensor.Shape{1, 3, 4, 5, 7}, tensor.Shape{1, 3, 4, 5, 1}},
	{"outer", tensor.Shape{2, 1, 5}, tensor.Shape{1, 3, 1}},
	{"scalar", tensor.Shape{3, 5}, tensor.Shape{}},
	{"scalarFirst", tensor.Shape{}, tensor.Shape{3, 5}},
	{"scalars", tensor.Shape{}, tensor.Shape{}},
}

func binaryCases() (cases []Case) {
	fills := map[string][2]Fill{"Div": {normal, positive}, "Pow": {positive, normal}}
	for _, c := range op.Compares {
		fills[c.Name] = [2]Fill{integers, integers}
	}
	for _, rows := range [][]op.Binary{op.Binaries, op.Compares} {
		for _, row := range rows {
			o, fill := op.BinaryOp(row.Name), fills[row.Name]
			for _, p := range pairs {
				x, y := Input{Shape: p.x, Fill: fill[0]}, Input{Shape: p.y, Fill: fill[1]}
				cases = append(cases, single(o, p.name, nil, x, y))
				if p.name == "same" || p.name == "channel" || p.name == "scalar" {
					cases = append(cases, single(o, p.name+"Const", nil, x, y.constant()), single(o, p.name+"ConstFirst", nil, x.constant(), y))
				}
			}
			if row.Name != "Pow" && row.Name != "Max" && row.Name != "Min" {
				cases = append(cases, Case{Name: row.Name + "/itself", Op: o, Inputs: []Input{in(3, 5).with(positive)},
					Build: func(b *ir.Builder, in []*ir.Value) *ir.Value { return b.Emit(o, nil, in[0], in[0]) }})
			}
		}
	}
	for _, s := range []struct {
		name    string
		c, x, y tensor.Shape
	}{
		{"same", tensor.Shape{3, 5}, tensor.Shape{3, 5}, tensor.Shape{3, 5}},
		{"condition", tensor.Shape{5}, tensor.Shape{2, 3, 5}, tensor.Shape{3, 1}},
		{"scalars", tensor.Shape{2, 3, 5}, tensor.Shape{}, tensor.Shape{1}},
		{"wide", tensor.Shape{}, tensor.Shape{2, 1, 5}, tensor.Shape{3, 1}},
	} {
		cases = append(cases, single(op.Where, s.name, nil, Input{Shape: s.c, Fill: boolean, Fixed: true}, Input{Shape: s.x}, Input{Shape: s.y}))
	}
	return cases
}
