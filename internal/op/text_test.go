package op_test

import (
	"math"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// A graph with nested, infinite, string and missing attributes survives writing and parsing.
func TestTextFormIsLossless(t *testing.T) {
	g := &ir.Graph{}
	x := g.Input("volume \"1\"", ir.F32(1, 4, 5, 6, 2))
	b := ir.NewBuilder(g)
	b.Name, b.Scope = "conv", "features.0"
	w := b.Const(tensor.Shape{3, 2, 1, 1, 1}, []float32{1, -2.5, 1e-7, 4, float32(math.Inf(1)), 6})
	conv := op.ConvAttr{Stride: [3]int{1, 2, 1}, Dilation: [3]int{1, 1, 1}, Groups: 1, Before: [3]int{0, -1, 0}}
	y := b.Emit(op.Conv, conv, x, w)
	bits := b.Emit(op.Bits, op.BitsAttr{Lo: 0, Hi: math.Inf(1)}, y)
	y = b.Emit(op.MaskBackward, op.MaskAttr{In: 1, Out: 0.01}, y, bits)
	y = b.Emit(op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: conv, In: [3]int{4, 5, 6}}, y, w)
	y = b.Emit(op.Pad, op.PadAttr{Before: []int{0, 1, 0, 0, 0}, After: []int{0, 0, 1, 0, 0}, Mode: op.PadReflect}, y)
	y = b.Emit(op.LayerNorm, op.LayerNormAttr{Axes: 1, Eps: 1e-5}, y, nil, b.Const(tensor.Shape{2}, []float32{1, 2}))
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	g.Outputs = append(g.Outputs, y)
	for _, text := range []string{"NDHWC", "N(-D5)(X2*H3)(2+W2+2)(1+C1)"} {
		axes, err := ir.ParseAxes(text, y.Shape())
		if err != nil {
			t.Fatal(err)
		}
		g.Targets = append(g.Targets, ir.Target{Value: y, Axes: axes, Label: "layer"})
	}

	var first, second strings.Builder
	if err := g.Write(&first, false); err != nil {
		t.Fatal(err)
	}
	h, err := ir.Parse(strings.NewReader(first.String()), op.Named)
	if err != nil {
		t.Fatalf("%v\n%s", err, first.String())
	}
	if err := h.Write(&second, false); err != nil {
		t.Fatal(err)
	}
	if first.String() != second.String() {
		t.Errorf("written:\n%s\nwritten again after parsing:\n%s", first.String(), second.String())
	}
}

func TestParseErrorsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"input %0 \"x\" f32[1]\nnode %1 \"\" = Nope(%0) {} \"\" \"\"": "line 2",
		"output %3":             "not defined",
		"input %0 \"x\" f99[1]": "f99",
		"input %0 \"x\" f32[1]\nnode %1 \"\" = Relu(%0) {Alpha=1 Beta} \"\" \"\"": "line 2",
	} {
		if _, err := ir.Parse(strings.NewReader(text), op.Named); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q in it", text, err, want)
		}
	}
}
