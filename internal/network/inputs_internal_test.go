package network

import (
	"slices"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/tensor"
)

// The data of another input comes in the order of axes of the file, also where all axes have the same size, and without the depth of images.
func TestArrangedVolumes(t *testing.T) {
	count := func(n int) (x []float32) {
		for i := range n {
			x = append(x, float32(i))
		}
		return x
	}
	for _, c := range []struct {
		axes  string
		shape tensor.Shape
		given []int
		want  []float32 // nil: refused
	}{
		{"NCDHW", tensor.Shape{1, 1, 2, 1, 3}, []int{1, 2, 1, 3}, []float32{0, 1, 2, 3, 4, 5}},
		{"NCWHD", tensor.Shape{1, 1, 2, 1, 2}, []int{1, 2, 1, 2}, []float32{0, 2, 1, 3}},
		{"NW", tensor.Shape{1, 1, 2, 1, 2}, []int{1, 2, 1, 2}, []float32{0, 1, 2, 3}},
		{"NHWC", tensor.Shape{1, 1, 2, 3}, []int{3, 1, 1, 2}, []float32{0, 2, 4, 1, 3, 5}},
		{"NCHW", tensor.Shape{1, 3, 1, 2}, []int{3, 1, 1, 2}, []float32{0, 1, 2, 3, 4, 5}},
		{"NCHW", tensor.Shape{1, 3, 1, 2}, []int{3, 2, 1, 1}, nil},
		{"NCDHW", tensor.Shape{1, 1, 2, 1, 3}, []int{1, 3, 1, 2}, nil},
	} {
		n := &Network{axes: c.axes, others: []other{{"mr", c.shape}}}
		got, err := n.Arrange(map[string]cam.Array{"mr": {Shape: c.given, Data: count(tensor.Shape(c.given).Elements()), Volume: true}})
		if c.want == nil && err == nil || c.want != nil && (err != nil || !slices.Equal(got[0], c.want)) {
			t.Errorf("%s %v of %v: %v, %v", c.axes, c.shape, c.given, got, err)
		}
	}
}
