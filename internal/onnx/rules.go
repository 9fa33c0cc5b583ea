package onnx

import (
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// rule translates one ONNX operation into operations of the graph.
type rule struct {
	run   func(c *call) []*ir.Value
	since int  // the first opset whose form of the operation is understood
	truth bool // the result is 0s and 1s
}

// rules is the table of operations that may depend on the volume's values.
var rules map[string]rule

func init() {
	rules = map[string]rule{
		"Conv": {run: importConv}, "ConvTranspose": {run: importConvTranspose},
		"MaxPool": {run: importMaxPool}, "AveragePool": {run: importAveragePool}, "LpPool": {run: importLpPool},
		"GlobalAveragePool": {run: globalPool(op.ReduceMean)}, "GlobalMaxPool": {run: globalPool(op.ReduceMax)},
		"BatchNormalization": {run: importBatchNorm}, "InstanceNormalization": {run: importInstanceNorm},
		"GroupNormalization": {run: importGroupNorm, since: 18}, "LayerNormalization": {run: importLayerNorm},
		"RMSNormalization": {run: importRMSNorm}, "SimplifiedLayerNormalization": {run: importRMSNorm},
		"LRN": {run: importLRN}, "LpNormalization": {run: importLpNorm}, "MeanVarianceNormalization": {run: importMVN},
		"Gemm": {run: importGemm, since: 7}, "MatMul": {run: importMatMul}, "Einsum": {run: importEinsum},
		"Pad": {run: importPad}, "Resize": {run: importResize, since: 10}, "Upsample": {run: importResize, since: 7},
		"DepthToSpace": {run: importDepthToSpace}, "SpaceToDepth": {run: importSpaceToDepth},

		"LeakyRelu": {run: unaryRule("LeakyRelu", "alpha", 0.01, "", 0)}, "PRelu": {run: importPRelu},
		"Elu": {run: unaryRule("Elu", "alpha", 1, "", 0)}, "Celu": {run: unaryRule("Celu", "alpha", 1, "", 0)},
		"Selu":            {run: unaryRule("Selu", "alpha", 1.67326319217681884765625, "gamma", 1.05070102214813232421875)},
		"HardSigmoid":     {run: unaryRule("HardSigmoid", "alpha", 0.2, "beta", 0.5)},
		"ThresholdedRelu": {run: unaryRule("ThresholdedRelu", "alpha", 1, "", 0)},
		"Gelu":            {run: importGelu}, "Swish": {run: importSwish}, "Clip": {run: importClip},
		"Neg": {run: importNeg}, "Not": {run: importNot, truth: true}, "Pow": {run: importPow},
		"IsNaN": {run: importIsNaN, truth: true},

		"Add": {run: importArithmetic}, "Sub": {run: importArithmetic}, "Mul": {run: importArithmetic}, "Div": {run: importDiv},
		"Max": {run: importVariadic("Max")}, "Min": {run: importVariadic("Min")}, "Sum": {run: importVariadic("Add")}, "Mean": {run: importMean},
		"Mod": {run: importMod}, "Where": {run: importWhere},
		"And": {run: importLogic, truth: true}, "Or": {run: importLogic, truth: true}, "Xor": {run: importLogic, truth: true},

		"Softmax": {run: importSoftmax(op.Softmax)}, "LogSoftmax": {run: importSoftmax(op.LogSoftmax)},
		"Concat": {run: importConcat}, "Split": {run: importSplit}, "Slice": {run: importSlice},
		"Gather": {run: importGather}, "GatherElements": {run: importGatherElements}, "GatherND": {run: importGatherND},
		"ScatterND": {run: importScatterND}, "ScatterElements": {run: importScatterElements},
		"ArgMax": {run: importArg(true)}, "ArgMin": {run: importArg(false)},
		"Reshape": {run: importReshape}, "Flatten": {run: importFlatten}, "Squeeze": {run: importSqueeze}, "Unsqueeze": {run: importUnsqueeze},
		"Transpose": {run: importTranspose}, "Expand": {run: importExpand}, "Tile": {run: importTile, since: 6},
		"CumSum": {run: importCumSum}, "Trilu": {run: importTrilu}, "TopK": {run: importTopK},

		"ReduceSum": {run: importReduce}, "ReduceMean": {run: importReduce}, "ReduceMax": {run: importReduce}, "ReduceMin": {run: importReduce},
		"ReduceL1": {run: importReduce}, "ReduceL2": {run: importReduce}, "ReduceSumSquare": {run: importReduce},
		"ReduceLogSum": {run: importReduce}, "ReduceLogSumExp": {run: importReduce}, "ReduceProd": {run: importReduceProd},
	}
	for _, name := range []string{"Relu", "Sigmoid", "HardSwish", "Mish", "Softplus", "Softsign", "Tanh", "Erf", "Exp", "Log", "Sqrt",
		"Reciprocal", "Abs", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign"} {
		rules[name] = rule{run: unaryRule(name, "", 0, "", 0)}
	}
	for _, name := range []string{"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"} {
		rules[name] = rule{run: importCompare, truth: true}
	}
}

// advice returns the way to run a model that has an operation.
var advice = map[string]string{
	"Loop": "export a model without loops over data, for example with torch.onnx.export(..., dynamo=True)",
	"Scan": "export a model without loops over data",
	"LSTM": "recurrent layers are outside of what this program explains",
	"GRU":  "recurrent layers are outside of what this program explains",
	"RNN":  "recurrent layers are outside of what this program explains",

	"RandomNormal": "call model.eval() before exporting", "RandomNormalLike": "call model.eval() before exporting",
	"RandomUniform": "call model.eval() before exporting", "RandomUniformLike": "call model.eval() before exporting",
	"Bernoulli": "call model.eval() before exporting", "Multinomial": "call model.eval() before exporting",
	"QuantizeLinear": "export the float32 model, before it is quantised", "DequantizeLinear": "export the float32 model, before it is quantised",
	"QLinearConv": "export the float32 model, before it is quantised", "ConvInteger": "export the float32 model, before it is quantised",
	"NonZero": "its result depends on the values of the volume, so no shape is known before it runs",

	"Attention":       "export with opset_version=20 or earlier, which writes attention in simple operations",
	"RotaryEmbedding": "export with opset_version=20 or earlier, which writes it in simple operations",
	"ATen":            "export again without operator_export_type=ONNX_ATEN_FALLBACK",
}

func adviceFor(n *Node) string {
	switch n.Domain {
	case "com.microsoft":
		return "this file was optimised for ONNX Runtime; use the one that PyTorch exported"
	case "org.pytorch.aten":
		return advice["ATen"]
	}
	if s := advice[n.Op]; s != "" {
		return s
	}
	return "replace it in the model by supported operations and export again"
}

// Short forms for emitting.

func (c *call) unary(name string, x *ir.Value) *ir.Value {
	return c.emit(op.UnaryOp(name), op.UnaryAttr{}, x)
}

func (c *call) unaryAttr(name string, alpha, beta float64, x *ir.Value) *ir.Value {
	return c.emit(op.UnaryOp(name), op.UnaryAttr{Alpha: alpha, Beta: beta}, x)
}

func (c *call) binary(name string, x, y *ir.Value) *ir.Value {
	return c.emit(op.BinaryOp(name), nil, x, y)
}

// linear emits a*x + b.
func (c *call) linear(x *ir.Value, a, b float64) *ir.Value {
	if a == 1 && b == 0 {
		return x
	}
	return c.unaryAttr("Linear", a, b, x)
}

func (c *call) not(x *ir.Value) *ir.Value { return c.linear(x, -1, 1) }

func (c *call) reshape(x *ir.Value, s tensor.Shape) *ir.Value {
	if x.Shape().Equal(s) {
		return x
	}
	return c.emit(op.Reshape, op.ReshapeAttr{Shape: s.Clone()}, x)
}

func (c *call) transpose(x *ir.Value, perm []int) *ir.Value {
	if slices.IsSorted(perm) {
		return x
	}
	return c.emit(op.Transpose, op.TransposeAttr{Perm: perm}, x)
}

func (c *call) expand(x *ir.Value, s tensor.Shape) *ir.Value {
	if x.Shape().Equal(s) {
		return x
	}
	return c.emit(op.Expand, op.ExpandAttr{Shape: s.Clone()}, x)
}

func (c *call) slice(x *ir.Value, ranges []sliceRange) *ir.Value {
	var a op.SliceAttr
	whole := true
	for i, r := range ranges {
		if r.count == 0 {
			c.refuse("", "it takes nothing of axis %d of %v", i, x.Shape())
		}
		whole = whole && r == sliceRange{0, 1, x.Shape()[i]}
		a.Start, a.Step, a.Count = append(a.Start, r.start), append(a.Step, r.step), append(a.Count, r.count)
	}
	if whole {
		return x
	}
	return c.emit(op.Slice, a, x)
}

func wholeRanges(s tensor.Shape) []sliceRange {
	out := make([]sliceRange, len(s))
	for i, d := range s {
		out[i] = sliceRange{0, 1, d}
	}
	return out
}

func (c *call) reduce(o *ir.Op, x *ir.Value, axes []int) *ir.Value {
	if len(axes) == 0 {
		return x
	}
	return c.emit(o, op.ReduceAttr{Axes: axes}, x)
}

func (c *call) channelsLast(x *ir.Value) *ir.Value {
	return c.transpose(x, op.ChannelsLast(len(x.Shape())))
}

func (c *call) channelsFirst(x *ir.Value) *ir.Value {
	return c.transpose(x, op.Inverse(op.ChannelsLast(len(x.Shape()))))
}

// volume makes x, [N, C, ...] with one to three axes of space, [N, D, H, W, C]; flat undoes it for a result.
func (c *call) volume(x *ir.Value) *ir.Value {
	s := x.Shape()
	if len(s) < 3 || len(s) > 5 {
		c.refuse("", "it works on a tensor of shape %v, where an image of 1 to 3 dimensions is expected", s)
	}
	return c.channelsLast(c.reshape(x, op.Widened(s, 2)))
}

func (c *call) flat(y *ir.Value, spatial int) *ir.Value {
	y = c.channelsFirst(y)
	s := y.Shape()
	return c.reshape(y, append(s[:2:2], s[5-spatial:]...))
}
