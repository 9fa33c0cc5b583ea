package network

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// findHead chooses the output that is explained, by name if the options have one, and returns the raw values in front of the activation at its
// end. The volume is depth, height, width.
func (f *ModelFile) findHead(m *onnx.Imported, volume [3]int) (raw *ir.Value, head cam.Head, err error) {
	axes, o := outputAxes{f.inputAxes(), volume}, f.options
	name, out, err := axes.find(m, o.Output)
	if err != nil {
		return nil, head, err
	}
	size, space := out.Shape().Elements(), [3]int{}
	channels := -1 // axis over which an activation may go; any for a vector
	if !isVector(out) {
		channels, space = strings.IndexByte(axes.input, 'C'), volume
		size = out.Shape()[channels]
	}
	raw, activation := cut(out, channels)
	if size == 1 && (activation == cam.Softmax || activation == cam.LogSoftmax) {
		return nil, head, fmt.Errorf("the output %q is a softmax of one value, which is the same for every volume", name)
	}
	head, err = cam.NewHead(name, size, space, activation, cam.Task(o.Task))
	if err != nil {
		return nil, head, cam.NewOptionError("task", err)
	}
	if activation == cam.NoActivation {
		head.Squashed = squashed(out, map[*ir.Value]string{})
	}
	if head.Squashed != "" && size == 1 && o.Task == "" {
		advice := ""
		if space == [3]int{} {
			advice = "choose regression to explain the value as it is, or "
		}
		return nil, head, cam.NewOptionError("task", fmt.Errorf("must be given: one value of the output %q is computed from a %s, and is no logit; %sexport the "+
			"model up to what is in front of the %[2]s", name, head.Squashed, advice))
	}
	for _, other := range m.OutputNames {
		if other != name {
			head.Others = append(head.Others, other)
		}
	}
	return raw, head, nil
}

// outputAxes tells outputs apart by their shapes. An output with space has the axes of the input, and its grid.
type outputAxes struct {
	input  string // axes of the model's input in the file's order
	volume [3]int
}

// find returns the output with a name; for "", the first that is a vector, or else the first with space. Whole numbers, such as the number of the
// largest value, are no output to explain.
func (a outputAxes) find(m *onnx.Imported, name string) (string, *ir.Value, error) {
	names, values := m.OutputNames, m.Graph.Outputs // an output may be the same value as another one, and its value have another name
	var outputs []string
	for i, v := range values {
		outputs = append(outputs, strings.TrimSuffix(fmt.Sprintf("%q %v %s", names[i], v.Shape(), m.Model.OutputType(names[i])), " "))
	}
	list := strings.Join(outputs, ", ")
	if name == "" {
		for _, fits := range []func(*ir.Value) bool{isVector, a.isSpatial} {
			for i, v := range values {
				if fits(v) && m.Model.OutputType(names[i]) == "" {
					return names[i], v, nil
				}
			}
		}
		return "", nil, fmt.Errorf("no output is a vector [1, classes] or has classes on the grid %v of the volume: the outputs are %s", a.volume, list)
	}
	i := slices.Index(names, name)
	if i < 0 {
		return "", nil, cam.NewOptionError("output", fmt.Errorf("is %q; the outputs of the model are %s", name, list))
	}
	if whole := m.Model.OutputType(name); whole != "" {
		return "", nil, cam.NewOptionError("output", fmt.Errorf("is %q, which holds %s: whole numbers have no gradient; the outputs of the model are %s", name, whole, list))
	}
	if v := values[i]; !isVector(v) && !a.isSpatial(v) {
		return "", nil, cam.NewOptionError("output", fmt.Errorf("is %q, which is %v: vectors [1, n] can be explained, and outputs on the grid %v of the volume",
			name, v.Shape(), a.volume))
	}
	return name, values[i], nil
}

// isVector reports whether a value is computed, and at most one of its sizes is larger than 1.
func isVector(v *ir.Value) bool {
	long := 0
	for _, d := range v.Shape() {
		if d > 1 {
			long++
		}
	}
	return long <= 1 && v.Const == nil
}

// isSpatial reports whether a value is computed, and has the axes of the input and the grid of the volume.
func (a outputAxes) isSpatial(v *ir.Value) bool {
	s := v.Shape()
	if v.Const != nil || len(s) != len(a.input) || strings.IndexByte(a.input, 'C') < 0 {
		return false
	}
	for i, letter := range a.input {
		if at := strings.IndexRune("DHW", letter); at >= 0 && s[i] != a.volume[at] || letter == 'N' && s[i] != 1 {
			return false
		}
	}
	return true
}

// appendRegion appends to a graph the score of each voxel, the sum over channels of an output's raw values with weights, a new input, and the
// class of each voxel. Both are [1, 1, D, H, W], and become the graph's outputs.
func appendRegion(g *ir.Graph, raw *ir.Value, h cam.Head, axes string) error {
	b := ir.NewBuilder(g)
	b.Name = "score"
	channels := strings.IndexByte(axes, 'C')
	each := make(tensor.Shape, len(axes))
	for i := range each {
		each[i] = 1
	}
	each[channels] = h.Size
	t := raw.Type
	t.Shape = each
	weights := g.Input(weightsName, t)
	over := op.ReduceAttr{Axes: []int{channels}}
	score := b.Emit(op.ReduceSum, over, b.Emit(op.BinaryOp("Mul"), nil, raw, weights))
	var label *ir.Value
	if h.Size == 1 {
		label = b.Emit(op.BinaryOp("Greater"), nil, raw, b.Scalar(0))
	} else {
		// The first class of the largest value: minus its number is the largest of minus the numbers where that is reached.
		number, none := make([]float32, h.Size), make([]float32, h.Size)
		for i := range number {
			number[i], none[i] = -float32(i), -float32(h.Size)
		}
		largest := b.Emit(op.BinaryOp("Equal"), nil, raw, b.Emit(op.ReduceMax, over, raw))
		label = op.Scale(b, b.Emit(op.ReduceMax, over, b.Emit(op.Where, nil, largest, b.Const(each, number), b.Const(each, none))), -1)
	}
	g.Outputs = nil
	for _, v := range []*ir.Value{score, label} {
		perm := make([]int, 0, len(axes))
		for _, letter := range "NCDHW" {
			if at := strings.IndexRune(axes, letter); at >= 0 {
				perm = append(perm, at)
			}
		}
		v = b.Emit(op.Transpose, op.TransposeAttr{Perm: perm}, v)
		if len(axes) < len("NCDHW") { // images without depth
			v = b.Emit(op.Reshape, op.ReshapeAttr{Shape: tensor.Shape{1, 1, h.Space[0], h.Space[1], h.Space[2]}}, v)
		}
		g.Outputs = append(g.Outputs, v)
	}
	return b.Err()
}

// weightsName is the name of the input with the weights of classes in the score of a voxel.
const weightsName = "class weights of voxcam"

// cut returns the values in front of the activation that an output ends in, behind which only its shape changes, and which goes over the
// channels; the output itself where there is none. Of a vector, whose channels are -1, that is any axis.
func cut(out *ir.Value, channels int) (*ir.Value, cam.Activation) {
	for v := out; v.Def != nil; v = v.Def.Inputs[0] {
		switch n := v.Def; {
		case channels < 0 && isVector(v) && (n.Op == op.Reshape || n.Op == op.Transpose):
			continue
		case n.Op.Name == "Log" && n.Inputs[0].Def != nil && n.Inputs[0].Def.Op == op.Softmax:
			if x, activation := cut(n.Inputs[0], channels); activation == cam.Softmax {
				return x, cam.LogSoftmax
			}
			return out, cam.NoActivation
		case n.Op == op.Softmax || n.Op == op.LogSoftmax:
			x, axis := n.Inputs[0], n.Attr.(op.SoftmaxAttr).Axis
			if channels >= 0 && axis != channels || channels < 0 && x.Shape()[axis] != x.Shape().Elements() {
				return out, cam.NoActivation
			}
			if n.Op == op.Softmax {
				return x, cam.Softmax
			}
			return x, cam.LogSoftmax
		case n.Op.Name == "Sigmoid":
			return n.Inputs[0], cam.Sigmoid
		default:
			return out, cam.NoActivation
		}
	}
	return out, cam.NoActivation
}

// squashed returns the name of the softmax, sigmoid or clip to 0..1 that all of a value is computed from, without layers in between; "" where there
// is none.
func squashed(v *ir.Value, known map[*ir.Value]string) (name string) {
	name, seen := known[v]
	if seen || v.Def == nil {
		return name
	}
	defer func() { known[v] = name }()
	n := v.Def
	if n.Op == op.Softmax || n.Op == op.LogSoftmax || n.Op.Name == "Sigmoid" || n.Op.Name == "HardSigmoid" {
		return n.Op.Name
	}
	_, unary := op.UnaryNamed(n.Op.Name)
	_, binary := op.BinaryNamed(n.Op.Name)
	if !unary && !binary && !slices.Contains(keepsProbabilities, n.Op) {
		return ""
	}
	for _, x := range n.Inputs {
		if x == nil || x.Const != nil {
			continue
		}
		if name = squashed(x, known); name == "" {
			break
		}
	}
	if a, clip := n.Attr.(op.UnaryAttr); name == "" && clip && n.Op.Name == "Clip" && a.Alpha >= 0 && a.Beta <= 1 {
		return n.Op.Name
	}
	return name
}

// keepsProbabilities are operations besides elementwise ones behind which values are still made of probabilities.
var keepsProbabilities = []*ir.Op{op.Reshape, op.Transpose, op.Expand, op.Slice, op.Concat, op.Pad, op.Gather, op.Where, op.Affine, op.ReduceSum,
	op.ReduceMean, op.ReduceMax, op.AvgPool, op.MaxPool, op.Resize}

// findLayer finds the target layer. The default one of a segmentation is the last of those with the fewest places, the bottleneck, since the last
// layer of all has a voxel's own scores in it. The raw values themselves are none.
func findLayer(m *onnx.Imported, h cam.Head, raw *ir.Value, r layer.Request) (layer.Match, error) {
	if r.Name != "" || h.Task != cam.TaskSegmentation {
		return layer.Find(m, r)
	}
	var scores []string // names of the raw values, also in another order
	for v := raw; v != nil; v = v.Def.Inputs[0] {
		scores = append(scores, v.Name)
		if v.Def == nil || v.Def.Op != op.Transpose && v.Def.Op != op.Reshape {
			break
		}
	}
	fewest, name := 0, ""
	for _, row := range layer.Table(m, r.Volume) {
		if n := row.Cells[0] * row.Cells[1] * row.Cells[2]; row.Candidate && !slices.Contains(scores, row.Value) && (fewest == 0 || n <= fewest) {
			fewest, r.Name, name = n, row.Value, row.Name
		}
	}
	found, err := layer.Find(m, r)
	if name != "" {
		found.Label = name
	}
	return found, err
}
