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
	if err := checkLetters(text); err != nil {
		return err
	}
	if text != "" && !(strings.Contains(text, "H") && strings.Contains(text, "W")) {
		return fmt.Errorf("input axes %q: H and W (height, width) are missing", text)
	}
	return nil
}

func checkLetters(text string) error {
	for i, l := range []byte(text) {
		if strings.IndexByte(volumeAxes, l) < 0 || strings.IndexByte(text, l) != i {
			return fmt.Errorf("input axes %q: each of N (batch), C (channels), D, H and W (depth, height, width) may be there once, and nothing else", text)
		}
	}
	return nil
}

// inOrder returns the shape of a volume, [N, C, D, H, W], with the axes that the letters name, in their order, and the transposition
// that brings it there, before axes of one position are left out; nil if nothing moves.
func inOrder(shape tensor.Shape, letters string) (inner tensor.Shape, perm []int, err error) {
	if letters == "" || len(shape) != len(volumeAxes) {
		return shape, nil, nil
	}
	if err := checkLetters(letters); err != nil {
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

// ChooseInput makes the input of a name the one that is explained, as a volume: by default a model has one input. An error lists the inputs.
func (m *Model) ChooseInput(name string) error {
	if i := slices.IndexFunc(m.Inputs(), func(v ValueInfo) bool { return v.Name == name }); name != "" && i < 0 {
		return fmt.Errorf("is %q; the inputs of the model are %s", name, m.listInputs())
	}
	m.input = name
	return nil
}

func (m *Model) listInputs() string {
	var names []string
	for _, v := range m.Inputs() {
		names = append(names, fmt.Sprintf("%q %s", v.Name, describeDims(v.Dims)))
	}
	return strings.Join(names, ", ")
}

// Input returns the input that is explained; false where the model has several, and none was chosen.
func (m *Model) Input() (ValueInfo, bool) {
	inputs := m.Inputs()
	if m.input == "" && len(inputs) == 1 {
		return inputs[0], true
	}
	if i := slices.IndexFunc(inputs, func(v ValueInfo) bool { return v.Name == m.input }); i >= 0 {
		return inputs[i], true
	}
	return ValueInfo{}, false
}

// DefaultInputAxes returns the letters of the axes of the input that is explained; "" where they do not follow from its rank. A vector is a volume
// with one row.
func (m *Model) DefaultInputAxes() string {
	in, _ := m.Input()
	return map[int]string{5: volumeAxes, 4: "NCHW", 2: "NW", 1: "W"}[len(in.Dims)]
}

// VolumeShape returns [C, D, H, W] of the volumes that the file takes, for an input with axes of the given letters ("": those of its rank);
// -1 where the file leaves a size open.
func (m *Model) VolumeShape(letters string) [4]int {
	shape := [4]int{-1, -1, -1, -1}
	if letters == "" {
		letters = m.DefaultInputAxes()
	}
	in, _ := m.Input()
	if len(in.Dims) != len(letters) {
		return shape
	}
	for k, l := range []byte(volumeAxes[1:]) {
		i := strings.IndexByte(letters, l)
		switch {
		case i < 0:
			shape[k] = 1
		case in.Dims[i].Size > 0:
			shape[k] = int(in.Dims[i].Size)
		}
	}
	return shape
}
