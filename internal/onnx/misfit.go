package onnx

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/tensor"
)

// axisNames are the axes of a volume in words, by their letters.
var axisNames = map[byte]string{'N': "batch", 'C': "channels", 'D': "depth", 'H': "height", 'W': "width"}

// misfit returns an error about the differences of a volume of shape [1, C, D, H, W] from the sizes of the model's input, with remedies; nil
// if there are none. letters are the axes of the input, "" for those of its rank.
func misfit(path string, dims []Dim, letters string, shape tensor.Shape) error {
	same := func(d Dim, n int) bool { return d.Size == 0 || int(d.Size) == n }
	if dims == nil || letters == "" && slices.EqualFunc(dims, shape, same) || checkLetters(letters) != nil {
		return nil
	}
	takes := "the model takes " + describeDims(dims)
	switch {
	case letters == "" && len(dims) == len("NCHW"):
		letters = "NCHW"
	case letters == "" && len(dims) == len(volumeAxes):
		letters = volumeAxes
	case letters != "" && letters != volumeAxes:
		takes += " (" + letters + ")"
	}
	takes += fmt.Sprintf(", the volume is %v", shape)
	if len(shape) != len(volumeAxes) || len(dims) != len(letters) {
		return &InputError{Path: path, Reason: takes + "; a volume is [1,channels,depth,height,width]"}
	}
	e := &InputError{Path: path}
	var differ []string
	var batch, channels, space, missing bool
	for k, l := range []byte(volumeAxes) {
		i, n := strings.IndexByte(letters, l), shape[k]
		size := 1 // of an axis that the input does not have
		if i >= 0 {
			size = int(dims[i].Size)
		}
		if k > 0 {
			e.Want[k-1] = size
		}
		switch {
		case size == 0 || size == n:
		case i < 0:
			missing = true
			differ = append(differ, fmt.Sprintf("the input has no axis of %s, the volume has %d", axisNames[l], n))
		case l == 'N':
			batch = true
			differ = append(differ, fmt.Sprintf("it was exported for a batch of %d, a volume comes alone", size))
		default:
			channels, space = channels || l == 'C', space || l != 'C'
			differ = append(differ, fmt.Sprintf("%s %d instead of %d", axisNames[l], n, size))
		}
	}
	if differ == nil {
		return nil
	}
	if missing {
		e.Advice = append(e.Advice, "explain a volume of one, one after the other")
	}
	if batch {
		e.Advice = append(e.Advice, "export it with a batch of 1, or a dynamic one")
	}
	if space && !missing {
		e.Advice = append(e.Advice, "crop, pad or resample it, or export the model with dynamic axes")
	}
	switch n := e.Want[0]; {
	case !channels || missing:
	case n < shape[1]:
		e.Advice = append(e.Advice, fmt.Sprintf("save the channels that the model takes (%d of %d) in a file of their own", n, shape[1]))
	default:
		e.Advice = append(e.Advice, fmt.Sprintf("save the %d channels that the model takes in one file", n))
	}
	e.Reason = takes + ": " + strings.Join(differ, ", ")
	return e
}

// impliedDims returns the sizes of the input, with an open number of channels replaced by that of the convolution that reads the input, if
// one does. letters are the axes of the input, "" for those that its rank says.
func impliedDims(g *Graph, in ValueInfo, letters string) []Dim {
	if len(in.Dims) < 2 || in.Dims[1].Size != 0 || letters != "" && !strings.HasPrefix(letters, "NC") {
		return in.Dims
	}
	for _, n := range g.Nodes {
		if n.Op != "Conv" || n.Domain != "" || len(n.Inputs) < 2 || n.Inputs[0] != in.Name {
			continue
		}
		group := int64(1)
		if a := n.Attributes["group"]; a != nil {
			group = a.Int
		}
		for _, t := range g.Initializers {
			if t.Name == n.Inputs[1] && len(t.Shape) == len(in.Dims) && group > 0 && group <= 1<<20 {
				dims := slices.Clone(in.Dims)
				dims[1].Size = int64(t.Shape[1]) * group
				return dims
			}
		}
	}
	return in.Dims
}

// elementTypes are the names of the element types of inputs and outputs that hold no floating-point numbers, by DataType of the format.
var elementTypes = map[int32]string{2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
	12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128"}

// notFloat refuses an input without floating-point numbers: nothing has a gradient with respect to it.
func notFloat(path string, in ValueInfo) error {
	name := elementTypes[in.Type]
	if name == "" {
		name = fmt.Sprintf("element type %d", in.Type)
	}
	return &InputError{Path: path, Reason: fmt.Sprintf("the input %q holds %s, and a gradient needs floating-point numbers: export the model with a "+
		"float32 input; if what reads it is a Cast to float32, change its type in Python: m = onnx.load('model.onnx'); "+
		"m.graph.input[0].type.tensor_type.elem_type = 1; onnx.save(m, 'float.onnx')", in.Name, name)}
}
