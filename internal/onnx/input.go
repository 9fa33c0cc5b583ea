package onnx

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/tensor"
)

// volumeAxes are the axes of a volume, and of the graph's input.
const volumeAxes = "NCDHW"

// CheckInputAxes returns an error if text does not name the axes of an input; "" is fine.
func CheckInputAxes(text string) error {
	for i, l := range []byte(text) {
		if strings.IndexByte(volumeAxes, l) < 0 || strings.IndexByte(text, l) != i {
			return fmt.Errorf("input axes %q: each of N (batch), C (channels), D, H and W (depth, height, width) may be there once, and nothing else", text)
		}
	}
	if text != "" && !(strings.Contains(text, "H") && strings.Contains(text, "W")) {
		return fmt.Errorf("input axes %q: H and W (height, width) are missing", text)
	}
	return nil
}

// inOrder returns the shape of a volume, [N, C, D, H, W], with the axes that the letters name, in their order, and the transposition
// that brings it there, before axes of one position are left out; nil if nothing moves.
func inOrder(shape tensor.Shape, letters string) (inner tensor.Shape, perm []int, err error) {
	if letters == "" || len(shape) != len(volumeAxes) {
		return shape, nil, nil
	}
	if err := CheckInputAxes(letters); err != nil {
		return nil, nil, err
	}
	for _, l := range []byte(letters) {
		k := strings.IndexByte(volumeAxes, l)
		inner, perm = append(inner, shape[k]), append(perm, k)
	}
	for k, l := range []byte(volumeAxes) {
		if strings.IndexByte(letters, l) >= 0 {
			continue
		}
		if shape[k] != 1 {
			return nil, nil, fmt.Errorf("the model's input is taken to be %s, without %c, of which the volume %v has %d", letters, l, shape, shape[k])
		}
		perm = append(perm, k)
	}
	var long []int // axes that hold more than one position, in their new order
	for _, k := range perm {
		if shape[k] != 1 {
			long = append(long, k)
		}
	}
	if slices.IsSorted(long) {
		perm = nil
	}
	return inner, perm, nil
}

// InputAxes are the letters of the axes of the file's input; "" where they do not follow from its rank.
func (m *Model) defaultInputAxes() string {
	if inputs := m.Inputs(); len(inputs) == 1 {
		return map[int]string{5: volumeAxes, 4: "NCHW"}[len(inputs[0].Dims)]
	}
	return ""
}

// VolumeShape returns [C, D, H, W] of the volumes that the file takes, for an input with axes of the given letters ("": those of its rank);
// -1 where the file leaves a size open.
func (m *Model) VolumeShape(letters string) [4]int {
	shape := [4]int{-1, -1, -1, -1}
	if letters == "" {
		letters = m.defaultInputAxes()
	}
	inputs := m.Inputs()
	if len(inputs) != 1 || len(inputs[0].Dims) != len(letters) {
		return shape
	}
	for k, l := range []byte(volumeAxes[1:]) {
		i := strings.IndexByte(letters, l)
		switch {
		case i < 0:
			shape[k] = 1
		case inputs[0].Dims[i].Size > 0:
			shape[k] = int(inputs[0].Dims[i].Size)
		}
	}
	return shape
}
