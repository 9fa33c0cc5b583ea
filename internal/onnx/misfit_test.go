package onnx

import (
	"errors"
	"strings"
	"testing"
)

// TestMisfit demands that an error about the shape names the axis that differs, and advises what can help.
func TestMisfit(t *testing.T) {
	for _, test := range []struct {
		dims  []int64 // 0: open
		shape []int
		want  string
		sizes [4]int
		not   string
	}{
		{[]int64{1, 1, 0, 0, 0}, []int{1, 3, 7, 9, 11}, "channels 3 instead of 1; save the channels that the model takes (1 of 3) in a file of their own", [4]int{1, 0, 0, 0}, "crop"},
		{[]int64{0, 4, 0, 0, 0}, []int{1, 1, 7, 9, 11}, "channels 1 instead of 4; save the 4 channels that the model takes in one file", [4]int{4, 0, 0, 0}, "crop"},
		{[]int64{2, 1, 5, 6, 7}, []int{1, 1, 5, 6, 7}, "it was exported for a batch of 2, a volume comes alone; export it with a batch of 1", [4]int{1, 5, 6, 7}, "crop"},
		{[]int64{1, 1, 16, 9, 0}, []int{1, 1, 20, 9, 8}, "depth 20 instead of 16; crop, pad or resample it, or export the model with dynamic axes", [4]int{1, 16, 9, 0}, "channels 1"},
		{[]int64{1, 1, 16, 9, 8}, []int{1, 2, 20, 8, 8}, "channels 2 instead of 1, depth 20 instead of 16, height 8 instead of 9; crop", [4]int{1, 16, 9, 8}, ""},
		{[]int64{1, 8, 20, 24}, []int{1, 1, 8, 20, 24}, "channels 1 instead of 8, the input has no axis of depth, the volume has 8; explain a volume of one, one after the other", [4]int{8, 1, 20, 24}, "crop"},
		{[]int64{1, 3, 0, 0}, []int{1, 1, 1, 20, 24}, "channels 1 instead of 3; save the 3 channels", [4]int{3, 1, 0, 0}, "crop"},
		{[]int64{1, 1, 20, 32}, []int{1, 1, 1, 20, 24}, "width 24 instead of 32; crop", [4]int{1, 1, 20, 32}, "channels"},
		{[]int64{1, 2, 3}, []int{1, 1, 4, 5, 6}, "the model takes [1,2,3], the volume is [1,1,4,5,6]; a volume is [1,channels,depth,height,width]", [4]int{}, "crop"},
	} {
		m := modelOf(17, test.dims, nil, node("Relu", "x", "y"))
		_, err := Import(reread(t, m), Options{InputShape: test.shape})
		var in *InputError
		if !errors.As(err, &in) || !strings.Contains(err.Error(), test.want) || in.Want != test.sizes || test.not != "" && strings.Contains(in.Reason, test.not) {
			t.Errorf("%v for %v: %+v, want %q and %v", test.shape, test.dims, err, test.want, test.sizes)
		}
	}
	for dims, shape := range map[[5]int64][]int{{1, 1, 5, 6, 7}: {1, 1, 5, 6, 7}, {0, 0, 0, 0, 0}: {1, 3, 5, 6, 7}} {
		m := modelOf(17, dims[:], nil, node("Relu", "x", "y"))
		if _, err := Import(reread(t, m), Options{InputShape: shape}); err != nil {
			t.Errorf("%v for %v: %v", shape, dims, err)
		}
	}
}

// TestImpliedChannels has a model that leaves all sizes open, whose first convolution does not.
func TestImpliedChannels(t *testing.T) {
	m := modelOf(17, []int64{0, 0, 0, 0, 0}, []*Tensor{floats("w", sh{2, 3, 1, 1, 1}, 1, 2, 3, 4, 5, 6)}, node("Conv", "x w", "y"))
	var in *InputError
	if _, err := Import(reread(t, m), Options{InputShape: []int{1, 5, 6, 7, 3}}); !errors.As(err, &in) || in.Want != [4]int{3} ||
		!strings.Contains(err.Error(), "channels 5 instead of 3") {
		t.Errorf("%v", err)
	}
	if _, err := Import(reread(t, m), Options{InputShape: []int{1, 3, 5, 6, 7}}); err != nil {
		t.Error(err)
	}
	m = modelOf(17, []int64{0, 0, 0, 0, 0}, []*Tensor{floats("w", sh{6, 1, 1, 1, 1}, 1, 2, 3, 4, 5, 6)}, node("Conv", "x w", "y", aInt("group", 3)))
	if _, err := Import(reread(t, m), Options{InputShape: []int{1, 3, 5, 6, 7}}); err != nil {
		t.Error(err)
	}
}

// TestInputTypes demands that every type of floating-point numbers is taken, and others are refused with what to do.
func TestInputTypes(t *testing.T) {
	for number, want := range map[int32]string{1: "", 10: "", 11: "", 16: "", 2: "holds uint8, and a gradient needs floating-point numbers: export the model with a float32 input",
		5: "holds int16", 7: "holds int64", 9: "holds bool", 99: "holds element type 99"} {
		m := modelOf(17, []int64{1, 1, 2, 2, 2}, nil, node("Cast", "x", "f", aInt("to", 1)), node("Relu", "f", "y"))
		m.Graph.Inputs[0].Type = number
		_, err := Import(reread(t, m), Options{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("type %d: %v, want %q", number, err, want)
		}
	}
}
