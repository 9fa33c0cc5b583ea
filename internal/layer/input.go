package layer

import (
	"context"
	"fmt"
	"slices"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/op"
)

// openSize stands for a size that the file leaves open, while the order of the input's axes is looked for.
const openSize = 64

// InputOrder is the order of the axes of a model's input.
type InputOrder struct {
	Axes string // letters, as onnx.Options.InputAxes; "" where the rank of the input says it
	// Assumed states the assumption and its reason; "" where the order follows from the file.
	Assumed string
	// Open says that the file does not show the order before its open sizes are known: Confirm finds it then.
	Open bool
}

// InputAxes finds the order of the axes of a file's input from the first operation that treats channels and space differently: the
// channels of a convolution, or the axis that a matrix product sums over while it keeps the other axes as places. An error asks for the order.
// memory bounds the bytes of the search, as onnx.Options.Memory.
func InputAxes(ctx context.Context, file *onnx.Model, memory int) (InputOrder, error) {
	in, known := file.Input()
	if !known || len(in.Dims) != 4 && len(in.Dims) != 5 {
		return InputOrder{}, nil
	}
	dims := in.Dims
	rank := len(dims)
	shape := []int{1}
	for _, d := range dims[1:] {
		size := int(d.Size)
		if size == 0 {
			size = openSize
		}
		shape = append(shape, size)
	}
	usual := "NCDHW"[:2] + "DHW"[5-rank:]
	assumed := func(why string) (InputOrder, error) {
		last := shape[rank-1]
		if dims[rank-1].Size > 0 && last <= 4 && int(dims[1].Size) > last {
			return InputOrder{}, fmt.Errorf("the input %q %v may be %s, or %s (%s): say which by the option input_axes", in.Name, shape, usual, "N"+usual[2:]+"C", why)
		}
		if rank == 4 {
			return InputOrder{}, nil
		}
		return InputOrder{Assumed: fmt.Sprintf("the axes of the input %v are taken to be %s, since %s; name them by the option input_axes if they are others", shape, usual, why)}, nil
	}
	if dims[0].Size > 1 {
		return InputOrder{}, nil // no batch of one volume: said when a volume is bound
	}
	m, err := onnx.ImportContext(ctx, file, onnx.Options{InputShape: shape, Memory: memory})
	if err != nil {
		return InputOrder{Open: rank == 5}, nil
	}
	at := channelAxis(m.Graph, shape)
	switch {
	case at == 0:
		return assumed("no operation tells channels from places")
	case at == 1:
		return InputOrder{}, nil
	}
	rest := usual[2:]
	return InputOrder{Axes: "N" + rest[:at-1] + "C" + rest[at-1:]}, nil
}

// Confirm returns the assumption about the input of a model that was imported with its axes as N, C, D, H, W, and returns an error if an
// operation shows another order.
func Confirm(m *onnx.Imported) (assumed string, err error) {
	shape := m.Input.Shape()
	switch at := channelAxis(m.Graph, shape); at {
	case 1:
		return "", nil
	case 0:
		return fmt.Sprintf("the axes of the input %v are taken to be NCDHW, since no operation tells channels from places; name them by the option input_axes if they are others", shape), nil
	default:
		return "", fmt.Errorf("the model takes its channels from axis %d of the input %v, not from axis 1: name the axes by the option input_axes", at, shape)
	}
}

// channelAxis returns the axis of the input that holds channels, 0 where no operation shows it.
func channelAxis(g *ir.Graph, shape []int) int {
	const letters = "Nabcd" // every axis as a place
	known := trace(g, letters[:len(shape)])
	for _, n := range g.Nodes {
		t := known[n.Inputs[0]]
		if t == nil || len(t.axes) < 2 {
			continue
		}
		var features axis
		var kept []axis
		switch n.Op {
		case op.Conv:
			features, kept = t.axes[4], t.axes[:4]
		case op.MatMul:
			if n.Inputs[1].Const == nil || n.Attr.(op.MatMulAttr).TransA {
				continue
			}
			k := len(t.axes) - 1
			if features, kept = t.axes[k], t.axes[:k]; !slices.ContainsFunc(features.pieces, func(p piece) bool { return !p.place() }) {
				continue // no patches: any axis may be the last one
			}
		default:
			continue
		}
		if at := channelOf(t, features, kept, letters, shape); at != 0 {
			return at
		}
	}
	return 0
}

// channelOf returns the axis of the input that an operation sums over, if it keeps the other axes as places.
func channelOf(t *traced, features axis, kept []axis, letters string, shape []int) int {
	has := func(a axis, l byte) bool {
		return slices.ContainsFunc(a.pieces, func(p piece) bool { return p.letter == l && p.place() })
	}
	var summed []int // and those of one position
	first := len(shape) > 1 && has(features, letters[1])
	for i := 1; i < len(shape); i++ {
		_, picked := t.narrow[letters[i]] // slices one by one
		switch l := letters[i]; {
		case picked:
		case slices.ContainsFunc(kept, func(a axis) bool { return has(a, l) }):
		case shape[i] == 1 || has(features, l):
			summed = append(summed, i)
		default:
			return 0
		}
	}
	switch {
	case len(summed) == 1:
		return summed[0]
	case len(summed) > 1 && len(summed) < len(shape)-2 && summed[0] == 1 && (shape[1] == 1 || first && len(features.pieces) == 1):
		return 1 // slices as channels of an image, or images of one slice
	}
	return 0
}
