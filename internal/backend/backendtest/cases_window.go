package backendtest

import (
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

var (
	one   = [3]int{1, 1, 1}
	two   = [3]int{2, 2, 2}
	three = [3]int{3, 3, 3}
	none  = [3]int{}
)

// convs are convolutions: x [N, D, H, W, Cin] to Cout channels.
var convs = []struct {
	name   string
	x      tensor.Shape
	out    int
	kernel [3]int
	attr   op.ConvAttr
	bias   bool
}{
	{"pointwise", tensor.Shape{1, 3, 4, 5, 7}, 9, one, op.ConvAttr{Stride: one, Dilation: one, Groups: 1}, true},
	{"pointwiseWide", tensor.Shape{1, 2, 5, 7, 33}, 70, one, op.ConvAttr{Stride: one, Dilation: one, Groups: 1}, false},
	{"pointwiseStride", tensor.Shape{1, 3, 5, 6, 4}, 5, one, op.ConvAttr{Stride: two, Dilation: one, Groups: 1}, false},
	{"cube", tensor.Shape{1, 4, 5, 6, 3}, 5, three, op.ConvAttr{Stride: one, Dilation: one, Before: one, After: one, Groups: 1}, true},
	{"cubeWide", tensor.Shape{1, 3, 4, 7, 18}, 35, three, op.ConvAttr{Stride: one, Dilation: one, Before: one, After: one, Groups: 1}, false},
	{"valid", tensor.Shape{2, 4, 5, 6, 2}, 3, three, op.ConvAttr{Stride: one, Dilation: one, Groups: 1}, false},
	{"same", tensor.Shape{1, 5, 6, 8, 3}, 4, three, op.ConvAttr{Stride: two, Dilation: one, Before: [3]int{1, 0, 0}, After: one, Groups: 1}, true},
	{"stem", tensor.Shape{1, 6, 9, 10, 1}, 6, [3]int{3, 7, 7}, op.ConvAttr{Stride: [3]int{1, 2, 2}, Dilation: one, Before: [3]int{1, 3, 3}, After: [3]int{1, 3, 3}, Groups: 1}, false},
	{"dilated", tensor.Shape{1, 6, 7, 8, 2}, 3, three, op.ConvAttr{Stride: one, Dilation: [3]int{2, 3, 1}, Before: two, After: two, Groups: 1}, true},
	{"dilatedStride", tensor.Shape{1, 7, 8, 9, 2}, 3, [3]int{2, 3, 2}, op.ConvAttr{Stride: [3]int{2, 2, 3}, Dilation: two, Before: one, After: one, Groups: 1}, false},
	{"even", tensor.Shape{1, 5, 5, 6, 3}, 4, two, op.ConvAttr{Stride: two, Dilation: one, Groups: 1}, true},
	{"patches", tensor.Shape{1, 4, 6, 6, 2}, 5, [3]int{2, 3, 3}, op.ConvAttr{Stride: [3]int{2, 3, 3}, Dilation: one, Groups: 1}, true},
	{"strideBeyondKernel", tensor.Shape{1, 7, 7, 8, 2}, 3, [3]int{2, 1, 2}, op.ConvAttr{Stride: three, Dilation: one, Groups: 1}, false},
	{"onlyPadding", tensor.Shape{1, 2, 3, 3, 2}, 2, [3]int{1, 2, 3}, op.ConvAttr{Stride: one, Dilation: one, Before: [3]int{2, 3, 4}, After: [3]int{1, 2, 3}, Groups: 1}, true},
	{"negativePadding", tensor.Shape{1, 5, 6, 7, 2}, 3, three, op.ConvAttr{Stride: one, Dilation: one, Before: [3]int{-1, 1, -2}, After: [3]int{1, -1, 0}, Groups: 1}, false},
	{"flat", tensor.Shape{1, 1, 7, 9, 5}, 6, [3]int{1, 3, 3}, op.ConvAttr{Stride: one, Dilation: one, Before: [3]int{0, 1, 1}, After: [3]int{0, 1, 1}, Groups: 1}, true},
	{"temporal", tensor.Shape{1, 6, 3, 4, 5}, 4, [3]int{3, 1, 1}, op.ConvAttr{Stride: one, Dilation: one, Before: [3]int{1, 0, 0}, After: [3]int{1, 0, 0}, Groups: 1}, false},
	{"line", tensor.Shape{1, 1, 1, 11, 3}, 4, [3]int{1, 1, 5}, op.ConvAttr{Stride: [3]int{1, 1, 2}, Dilation: one, Before: [3]int{0, 0, 2}, After: [3]int{0, 0, 2}, Groups: 1}, true},
	{"groups", tensor.Shape{1, 3, 4, 5, 6}, 9, three, op.ConvAttr{Stride: one, Dilation: one, Before: one, After: one, Groups: 3}, true},
	{"groupsStride", tensor.Shape{1, 4, 5, 6, 8}, 4, three, op.ConvAttr{Stride: two, Dilation: one, Before: one, After: one, Groups: 2}, false},
	{"groupsPointwise", tensor.Shape{2, 2, 3, 3, 8}, 12, one, op.ConvAttr{Stride: one, Dilation: one, Groups: 4}, true},
	{"depthwise", tensor.Shape{1, 4, 5, 6, 19}, 19, three, op.ConvAttr{Stride: one, Dilation: one, Before: one, After: one, Groups: 19}, true},
	{"depthwiseSame", tensor.Shape{1, 5, 6, 7, 16}, 16, [3]int{5, 3, 5}, op.ConvAttr{Stride: two, Dilation: one, Before: [3]int{2, 0, 1}, After: [3]int{2, 1, 2}, Groups: 16}, false},
	{"depthwiseDilated", tensor.Shape{2, 5, 6, 7, 5}, 5, three, op.ConvAttr{Stride: one, Dilation: two, Before: two, After: two, Groups: 5}, true},
	{"depthwiseMultiplier", tensor.Shape{1, 3, 4, 5, 6}, 12, three, op.ConvAttr{Stride: one, Dilation: one, Before: one, After: one, Groups: 6}, true},
	{"tallDeep", tensor.Shape{1, 2, 3, 3, 150}, 20, three, op.ConvAttr{Stride: one, Dilation: one, Before: one, After: one, Groups: 1}, true},
	{"depthwiseNegativePadding", tensor.Shape{1, 5, 6, 7, 9}, 9, three, op.ConvAttr{Stride: one, Dilation: one, Before: [3]int{-1, 1, 0}, After: [3]int{1, -1, 2}, Groups: 9}, false},
}

func convCases() (cases []Case) {
	for _, c := range convs {
		w := in(c.out, c.x[4]/c.attr.Groups, c.kernel[0], c.kernel[1], c.kernel[2]).constant()
		inputs := []Input{{Shape: c.x}, w}
		if c.bias {
			inputs = append(inputs, in(c.out).constant())
		}
		cases = append(cases, single(op.Conv, c.name, c.attr, inputs...))

		y, err := op.Conv.Infer(c.attr, []ir.Type{{Shape: c.x}, {Shape: w.Shape}})
		if err != nil {
			panic("backendtest: " + c.name + ": " + err.Error())
		}
		back := op.ConvBackwardDataAttr{Conv: c.attr, In: [3]int(c.x[1:4])}
		inputs = []Input{{Shape: y[0].Shape}, w}
		if c.bias {
			inputs = append(inputs, in(c.x[4]).constant())
		}
		cases = append(cases, single(op.ConvBackwardData, c.name, back, inputs...))
	}
	return cases
}

// pools are windows over x [N, D, H, W, C].
var pools = []struct {
	name string
	x    tensor.Shape
	attr op.PoolAttr
}{
	{"halves", tensor.Shape{1, 4, 6, 6, 5}, op.PoolAttr{Kernel: two, Stride: two, Dilation: one}},
	{"stem", tensor.Shape{1, 5, 7, 8, 19}, op.PoolAttr{Kernel: three, Stride: two, Dilation: one, Before: one, After: one}},
	{"stemCountPad", tensor.Shape{2, 5, 6, 7, 3}, op.PoolAttr{Kernel: three, Stride: two, Dilation: one, Before: one, After: one, CountPad: true}},
	{"overlap", tensor.Shape{1, 4, 5, 6, 3}, op.PoolAttr{Kernel: three, Stride: one, Dilation: one}},
	{"ceil", tensor.Shape{1, 5, 6, 7, 3}, op.PoolAttr{Kernel: two, Stride: two, Dilation: one, Ceil: [3]int{1, 0, 1}}},
	{"ceilPad", tensor.Shape{1, 6, 6, 7, 4}, op.PoolAttr{Kernel: three, Stride: two, Dilation: one, Before: one, After: one, Ceil: [3]int{1, 1, 0}}},
	{"ceilCountPad", tensor.Shape{1, 6, 6, 7, 4}, op.PoolAttr{Kernel: three, Stride: two, Dilation: one, Before: one, After: one, Ceil: [3]int{1, 1, 0}, CountPad: true}},
	{"asymmetric", tensor.Shape{1, 5, 6, 7, 2}, op.PoolAttr{Kernel: three, Stride: [3]int{1, 2, 3}, Dilation: one, Before: [3]int{0, 1, 0}, After: [3]int{1, 0, 1}}},
	{"dilated", tensor.Shape{1, 7, 8, 6, 2}, op.PoolAttr{Kernel: [3]int{3, 2, 3}, Stride: [3]int{2, 1, 1}, Dilation: [3]int{2, 3, 2}, Before: one, After: one}},
	{"gaps", tensor.Shape{1, 7, 7, 8, 3}, op.PoolAttr{Kernel: [3]int{1, 2, 1}, Stride: three, Dilation: one}},
	{"flat", tensor.Shape{1, 1, 7, 9, 4}, op.PoolAttr{Kernel: [3]int{1, 3, 3}, Stride: [3]int{1, 2, 2}, Dilation: one, Before: [3]int{0, 1, 1}, After: [3]int{0, 1, 1}}},
	{"global", tensor.Shape{2, 3, 4, 5, 6}, op.PoolAttr{Kernel: [3]int{3, 4, 5}, Stride: one, Dilation: one}},
	{"wideWindow", tensor.Shape{1, 7, 8, 9, 2}, op.PoolAttr{Kernel: [3]int{7, 7, 7}, Stride: one, Dilation: one}}, // 343 taps: 16-bit index
}

func poolCases() (cases []Case) {
	for _, p := range pools {
		x := Input{Shape: p.x, Fill: distinct}
		y, err := op.MaxPool.Infer(p.attr, []ir.Type{{Shape: p.x}})
		if err != nil {
			panic("backendtest: " + p.name + ": " + err.Error())
		}
		dy := Input{Shape: y[0].Shape}
		back := op.PoolBackwardAttr{Pool: p.attr, In: [3]int(p.x[1:4])}
		cases = append(cases,
			single(op.MaxPool, p.name, p.attr, x), single(op.AvgPool, p.name, p.attr, x), single(op.AvgPoolBackward, p.name, back, dy))
		for _, o := range []*ir.Op{op.MaxPoolIndex, op.MaxPoolBackward} {
			cases = append(cases, Case{Name: o.Name + "/" + p.name, Op: o, Inputs: []Input{dy, x.fixed()},
				Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
					return b.Emit(op.MaxPoolBackward, back, in[0], b.Emit(op.MaxPoolIndex, p.attr, in[1]))
				}})
		}
	}
	// Equal values: the first position wins.
	tied := op.PoolAttr{Kernel: two, Stride: one, Dilation: one, Before: one}
	cases = append(cases, Case{Name: "MaxPoolIndex/ties", Op: op.MaxPoolIndex,
		Inputs: []Input{in(1, 3, 4, 5, 3), in(1, 3, 4, 5, 3).with(boolean).fixed()},
		Build: func(b *ir.Builder, in []*ir.Value) *ir.Value {
			return b.Emit(op.MaxPoolBackward, op.PoolBackwardAttr{Pool: tied, In: [3]int{3, 4, 5}}, in[0], b.Emit(op.MaxPoolIndex, tied, in[1]))
		}})
	return cases
}
