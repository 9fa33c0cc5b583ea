package kernel

import (
	"fmt"
	"math"
)

// ConvShape describes a convolution; the axes of each triple are depth, height, width.
// Weights are in ONNX order: [Cout, Cin/Groups, kd, kh, kw].
type ConvShape struct {
	Cin, Cout, Groups        int
	Kernel, Stride, Dilation [3]int
	PadBefore, PadAfter      [3]int // zeros around the input; any size, negative values crop
}

// Out returns the output size of a forward convolution of an input [depth, height, width].
func (s ConvShape) Out(in [3]int) (out [3]int) {
	for i := range out {
		n := in[i] + s.PadBefore[i] + s.PadAfter[i] - s.Dilation[i]*(s.Kernel[i]-1) - 1
		if n >= 0 {
			out[i] = n/s.Stride[i] + 1
		}
	}
	return out
}

// SourcePlanes returns the range of planes, clipped to [0, depth), of a forward convolution's input that its output planes [z0, z1) look at.
func (s ConvShape) SourcePlanes(z0, z1, depth int) (lo, hi int) {
	lo = z0*s.Stride[0] - s.PadBefore[0]
	hi = (z1-1)*s.Stride[0] - s.PadBefore[0] + (s.Kernel[0]-1)*s.Dilation[0] + 1
	return clip(lo, hi, depth)
}

// GradientPlanes returns the range of planes of dy, clipped to [0, depth), that the planes [z0, z1) of dx look at.
func (s ConvShape) GradientPlanes(z0, z1, depth int) (lo, hi int) {
	lo = -floorDiv(-(z0 + s.PadBefore[0] - (s.Kernel[0]-1)*s.Dilation[0]), s.Stride[0])
	hi = floorDiv(z1-1+s.PadBefore[0], s.Stride[0]) + 1
	return clip(lo, hi, depth)
}

func clip(lo, hi, depth int) (int, int) {
	lo, hi = min(max(lo, 0), depth), min(max(hi, 0), depth)
	return lo, max(lo, hi)
}

func floorDiv(a, b int) int { return (a - ((a%b)+b)%b) / b }

func (s ConvShape) taps() int { return s.Kernel[0] * s.Kernel[1] * s.Kernel[2] }

// Check reports the first thing in the shape that makes no sense; w is the number of weights.
func (s ConvShape) Check(w int) error {
	if s.Cin < 1 || s.Cout < 1 || s.Groups < 1 {
		return fmt.Errorf("convolution with %d input and %d output channels in %d groups", s.Cin, s.Cout, s.Groups)
	}
	if s.Cin%s.Groups != 0 || s.Cout%s.Groups != 0 {
		return fmt.Errorf("convolution: %d groups do not divide %d input and %d output channels", s.Groups, s.Cin, s.Cout)
	}
	n := s.Cout * (s.Cin / s.Groups)
	for i, axis := range []string{"depth", "height", "width"} {
		if s.Kernel[i] < 1 || s.Stride[i] < 1 || s.Dilation[i] < 1 {
			return fmt.Errorf("convolution: kernel %d, stride %d, dilation %d along %s; all must be at least 1",
				s.Kernel[i], s.Stride[i], s.Dilation[i], axis)
		}
		if s.Kernel[i] > math.MaxInt32/n {
			return fmt.Errorf("convolution: kernel %v with %d by %d channels is too large", s.Kernel, s.Cout, s.Cin/s.Groups)
		}
		n *= s.Kernel[i]
	}
	if n != w {
		return fmt.Errorf("convolution: %d weights where %d x %d x %v need %d", w, s.Cout, s.Cin/s.Groups, s.Kernel, n)
	}
	return nil
}
