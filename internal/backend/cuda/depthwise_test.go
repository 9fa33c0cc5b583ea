package cuda

import (
	"context"
	"fmt"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// convExample is a convolution with sizes at which a kernel could go wrong.
type convExample struct {
	x             tensor.Shape
	out           int // channels
	kernel        [3]int
	stride        [3]int
	dilation      [3]int // none if zero
	before, after [3]int
	groups        int
	bias          bool
	adds          bool   // a tensor, behind the convolution
	activation    string // behind that
}

// cube is the same along all axes.
func cube(n int) [3]int { return [3]int{n, n, n} }

// checkConv runs a convolution and its gradient by every plan.
func checkExample(t *testing.T, b *Backend, e convExample) {
	t.Helper()
	if e.dilation == [3]int{} {
		e.dilation = cube(1)
	}
	a := op.ConvAttr{Stride: e.stride, Dilation: e.dilation, Before: e.before, After: e.after, Groups: e.groups}
	w := backendtest.Input{Shape: tensor.Shape{e.out, e.x[4] / e.groups, e.kernel[0], e.kernel[1], e.kernel[2]}, Const: true}
	y, err := op.Conv.Infer(a, []ir.Type{{Shape: e.x}, {Shape: w.Shape}})
	if err != nil {
		t.Fatal(err)
	}
	run := func(name string, o *ir.Op, attr any, x, y tensor.Shape) {
		t.Run(name, func(t *testing.T) {
			c := backendtest.Case{Name: name, Op: o, Inputs: []backendtest.Input{{Shape: x}, w}}
			if e.bias {
				c.Inputs = append(c.Inputs, backendtest.Input{Shape: tensor.Shape{y[4]}, Const: true})
			}
			c.Inputs = append(c.Inputs, backendtest.Input{Shape: y})
			c.Build = func(b *ir.Builder, in []*ir.Value) *ir.Value {
				v := b.Emit(o, attr, in[:len(in)-1]...)
				if e.adds {
					v = b.Emit(op.BinaryOp("Add"), nil, v, in[len(in)-1])
				}
				if e.activation != "" {
					v = b.Emit(op.UnaryOp(e.activation), op.UnaryAttr{}, v)
				}
				return v
			}
			s, err := c.Sample(3)
			if err != nil {
				t.Fatal(err)
			}
			if err := backendtest.Check(context.Background(), b, s, 3e-6, 1e-30); err != nil {
				t.Fatal(err)
			}
		})
	}
	run("forward", op.Conv, a, e.x, y[0].Shape)
	run("backward", op.ConvBackwardData, op.ConvBackwardDataAttr{Conv: a, In: [3]int(e.x[1:4])}, y[0].Shape, e.x)
}

func TestDepthwise(t *testing.T) {
	b := openFloat32(t)
	windows := []struct {
		kernel, stride, before, after [3]int
	}{
		{cube(3), cube(1), cube(1), cube(1)},
		{cube(3), cube(1), [3]int{0, 2, 1}, [3]int{2, 0, 0}},
		{cube(5), cube(1), cube(2), cube(2)},
		{cube(5), cube(1), [3]int{1, 0, 4}, [3]int{3, 4, 0}},
		{cube(7), cube(1), cube(3), cube(3)},
		{[3]int{1, 3, 3}, cube(1), [3]int{0, 1, 1}, [3]int{0, 1, 1}},
		{[3]int{1, 7, 7}, cube(1), [3]int{0, 3, 3}, [3]int{0, 3, 3}},
		{[3]int{3, 1, 1}, cube(1), [3]int{1, 0, 0}, [3]int{1, 0, 0}},
		{[3]int{5, 1, 1}, cube(1), [3]int{2, 0, 0}, [3]int{2, 0, 0}},
		{cube(3), cube(2), cube(0), cube(1)},
		{cube(3), cube(2), cube(1), cube(1)},
		{cube(3), [3]int{1, 2, 2}, cube(1), cube(1)},
		{cube(3), cube(2), [3]int{-1, 2, -2}, [3]int{2, -1, 1}},
		{cube(5), cube(2), cube(1), cube(2)},
		{cube(5), cube(2), [3]int{2, 3, 1}, [3]int{2, 0, 3}},
		{cube(5), cube(2), [3]int{1, 1, 2}, [3]int{2, 2, 1}},
		{[3]int{3, 2, 4}, [3]int{3, 1, 2}, [3]int{0, 1, 2}, [3]int{1, 0, 1}},
	}
	for i, w := range windows {
		for _, x := range []tensor.Shape{{1, 7, 9, 11, 5}, {1, 8, 6, 10, 48}, {2, 5, 5, 6, 33}} {
			if testing.Short() && x[4] == 48 {
				continue
			}
			t.Run(fmt.Sprintf("%d/%d", i, x[4]), func(t *testing.T) {
				checkExample(t, b, convExample{x: x, out: x[4], kernel: w.kernel, stride: w.stride, before: w.before, after: w.after, groups: x[4],
					bias: x[4] != 33, adds: i%2 == 1, activation: []string{"", "Relu", "Silu"}[i%3]})
			})
		}
	}
}

// TestDepthwiseOffersWork holds that small images with many channels keep a large GPU busy, and that large ones share input planes.
func TestDepthwiseOffersWork(t *testing.T) {
	const multiprocessors = 132
	for _, c := range []struct {
		kernel, stride, size, channels int // size of the output
		least, most                    int // blocks
	}{
		{3, 2, 64, 32, 500, 3000},
		{3, 1, 64, 16, 256, 3000},
		{3, 2, 32, 96, 380, 3000},
		{3, 1, 32, 144, 300, 3000},
		{5, 2, 16, 144, 200, 3000},
		{5, 1, 16, 288, 250, 3000},
		{3, 2, 8, 288, 72, 3000},
		{3, 1, 8, 528, 68, 3000},
		{5, 1, 8, 720, 184, 3000},
		{5, 2, 4, 720, 92, 3000},
		{5, 1, 4, 1248, 150, 3000},
		{3, 1, 4, 2112, 66, 3000},
		{3, 1, 64, 96, 380, 1600},
	} {
		a := op.ConvAttr{Stride: cube(c.stride), Dilation: cube(1), Groups: c.channels}
		k := chooseDepthwise(cube(c.kernel), a, false)
		s := k.shape(c.size, c.size, c.channels)
		chunk := depthwiseChunk(s.groups*s.across*s.down, c.size, k.livePlanes, multiprocessors)
		blocks := s.groups * s.across * s.down * ceilDiv(c.size, chunk)
		t.Logf("k%d s%d %d^3 %d channels: %d groups of %d, %d x %d blocks (columns %d), %d planes at a time: %d blocks", c.kernel, c.stride, c.size, c.channels,
			s.groups, 1<<s.laneShift, s.across, s.down, 1<<s.columnShift, chunk, blocks)
		if blocks < c.least || blocks > c.most {
			t.Errorf("k%d s%d %d^3 with %d channels in %d blocks: %d to %d wanted", c.kernel, c.stride, c.size, c.channels, blocks, c.least, c.most)
		}
	}
}
