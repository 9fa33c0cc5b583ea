package network

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/tensor"
)

// other is an input of the model besides the one that is explained.
type other struct {
	name  string
	shape tensor.Shape // in the file's order
}

// Arrange returns the data of the inputs besides the one that is explained, in the order in which programs take them. Data that is missing, has
// another size, or belongs to no input is an error.
func (n *Network) Arrange(inputs map[string]cam.Array) (arranged [][]float32, err error) {
	var names []string
	for _, o := range n.others {
		names = append(names, o.name)
		a, given := inputs[o.name]
		if a.Volume {
			a = inFileOrder(a, n.axesOf(o))
		}
		switch {
		case !given:
			return nil, fmt.Errorf("the input %q %v of the model has no data", o.name, o.shape)
		case !sameSizes(a.Shape, o.shape):
			return nil, fmt.Errorf("the input %q of the model is %v, and its data %v", o.name, o.shape, a.Shape)
		case len(a.Data) != o.shape.Elements():
			return nil, fmt.Errorf("the data of the input %q has %d values, not those of %v", o.name, len(a.Data), o.shape)
		}
		for i, x := range a.Data {
			if x-x != 0 {
				return nil, fmt.Errorf("value %d of the input %q is %v", i, o.name, x)
			}
		}
		arranged = append(arranged, channelsLast(a.Data, o.shape))
	}
	for name := range inputs {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("the model has no input %q beside the one that is explained; there are %q", name, names)
		}
	}
	return arranged, nil
}

// axesOf returns the axes of an input of images in the file's order; "" for another one.
func (n *Network) axesOf(o other) string {
	if len(o.shape) == len(n.axes) {
		return n.axes
	}
	return map[int]string{5: "NCDHW", 4: "NCHW"}[len(o.shape)]
}

// inFileOrder returns a volume [C, D, H, W] with its axes in the order of letters. One that has an axis without a letter, or that is no volume,
// stays as it is.
func inFileOrder(a cam.Array, letters string) cam.Array {
	const order = "CDHW"
	if len(a.Shape) != len(order) || len(a.Data) != tensor.Shape(a.Shape).Elements() {
		return a
	}
	to := cam.Array{Data: make([]float32, 0, len(a.Data))}
	var stride [len(order)]int
	step := 1
	for k := len(order) - 1; k >= 0; k-- {
		stride[k], step = step, step*a.Shape[k]
		if a.Shape[k] != 1 && strings.IndexByte(letters, order[k]) < 0 {
			return a
		}
	}
	from := []int{0} // places of the values, axis by axis
	for _, letter := range letters {
		k := strings.IndexRune(order, letter)
		if k < 0 {
			continue
		}
		to.Shape = append(to.Shape, a.Shape[k])
		next := make([]int, 0, len(from)*a.Shape[k])
		for _, base := range from {
			for i := range a.Shape[k] {
				next = append(next, base+i*stride[k])
			}
		}
		from = next
	}
	for _, i := range from {
		to.Data = append(to.Data, a.Data[i])
	}
	return to
}

// sameSizes reports whether shapes are the same but for axes of one position in front.
func sameSizes(a []int, b tensor.Shape) bool {
	for len(a) > 0 && a[0] == 1 {
		a = a[1:]
	}
	c := []int(b)
	for len(c) > 0 && c[0] == 1 {
		c = c[1:]
	}
	return slices.Equal(a, c)
}

// channelsLast returns values of five axes, N C D H W, in the order N D H W C of the graph's inputs; others as they are.
func channelsLast(x []float32, s tensor.Shape) []float32 {
	if len(s) != 5 || s[1] == 1 {
		return x
	}
	channels, voxels := s[1], s[2]*s[3]*s[4]
	y := make([]float32, len(x))
	for n := range s[0] {
		for c := range channels {
			for v := range voxels {
				y[(n*voxels+v)*channels+c] = x[(n*channels+c)*voxels+v]
			}
		}
	}
	return y
}

// Give sets the data of the inputs besides the one that is explained, as Arrange returns it, for the passes to come.
func (p *Gradient) Give(arranged [][]float32) { p.given = arranged }
