package onnx

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/tensor"
)

// TestDamagedModels changes well-formed models in ways that keep their encoding intact, which random bytes rarely do: other
// numbers, shapes, operations and missing inputs. Each must be imported or refused; VOXCAM_ROUNDS sets how often each is tried.
func TestDamagedModels(t *testing.T) {
	rounds := 20
	if n, err := strconv.Atoi(os.Getenv("VOXCAM_ROUNDS")); err == nil {
		rounds = n
	}
	build := []func() *Model{sampleModel, functionModel, func() *Model { return ifModel(1) }}
	for _, c := range importCases {
		build = append(build, func() *Model { return modelOf(c.opset, c.input, c.constants, c.nodes...) })
	}
	for _, c := range evalCases {
		build = append(build, func() *Model { return modelOf(18, []int64{1, 1}, c.inputs, c.node) })
	}
	for _, c := range recogniseCases {
		build = append(build, func() *Model { return modelOf(17, []int64{1, 4, 2, 3, 2}, c.constants, c.nodes...) })
	}
	ops := slices.Sorted(maps.Keys(rules))
	ops = append(ops, slices.Sorted(maps.Keys(special))...)
	ops = append(ops, slices.Sorted(maps.Keys(evals))...)
	imported := 0
	for k, b := range build {
		for round := range rounds {
			r := rand.New(rand.NewPCG(uint64(k), uint64(round)))
			m := reread(t, b()) // its own copy
			for range 1 + r.IntN(2) {
				damage(r, m, ops)
			}
			start := time.Now()
			im, err := Import(m, Options{MaxFolded: 1 << 12})
			if err == nil {
				imported++
				err = pass.Run(context.Background(), im.Graph, nil, pass.Recognition)
			}
			var f *FormatError
			var u *UnsupportedError
			var in *InputError
			var internal *internalError
			if err != nil && !errors.As(err, &f) && !errors.As(err, &u) && !errors.As(err, &in) || errors.As(err, &internal) {
				t.Errorf("model %d, round %d: %v", k, round, err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("model %d, round %d takes %v", k, round, took)
			}
		}
	}
	if imported == 0 {
		t.Error("nothing survives: the damage is too crude to test the rules")
	}
}

var hostileNumbers = []int64{0, 1, -1, 2, 3, -2, 5, 100, math.MaxInt32, math.MinInt32, 1 << 40, math.MaxInt64, math.MinInt64, math.MinInt64 + 1}

func damage(r *rand.Rand, m *Model, ops []string) {
	number := func() int64 { return hostileNumbers[r.IntN(len(hostileNumbers))] }
	n := m.Graph.Nodes[r.IntN(len(m.Graph.Nodes))]
	switch r.IntN(9) {
	case 0:
		n.Op = ops[r.IntN(len(ops))]
	case 1:
		if len(n.Inputs) > 0 {
			n.Inputs[r.IntN(len(n.Inputs))] = []string{"", "x"}[r.IntN(2)]
		}
	case 2:
		if len(n.Inputs) > 0 {
			n.Inputs = n.Inputs[:r.IntN(len(n.Inputs))]
		}
	case 3:
		names := []string{"axis", "axes", "pads", "strides", "dilations", "group", "kernel_shape", "output_shape", "output_padding", "to", "start",
			"end", "keepdims", "k", "upper", "blocksize", "num_groups", "size", "batch_dims", "num_outputs", "split", "perm", "ceil_mode", "starts", "ends", "p"}
		a := &Attribute{Name: names[r.IntN(len(names))], Int: number()}
		for range r.IntN(7) {
			a.Ints = append(a.Ints, number())
		}
		n.Attributes[a.Name] = a
	case 4:
		for _, name := range slices.Sorted(maps.Keys(n.Attributes)) {
			a := n.Attributes[name]
			a.Int = number()
			if len(a.Ints) > 0 {
				a.Ints[r.IntN(len(a.Ints))] = number()
			}
			a.Float = float32(number())
		}
	case 5, 6:
		if len(m.Graph.Initializers) > 0 {
			c := m.Graph.Initializers[r.IntN(len(m.Graph.Initializers))]
			if c.Elem == tensor.I64 && len(c.Data) > 0 {
				c.Data = slices.Clone(c.Data)
				binary.LittleEndian.PutUint64(c.Data[8*r.IntN(len(c.Data)/8):], uint64(number()))
			} else if len(c.Data) > 0 {
				binary.LittleEndian.PutUint32(c.Data, math.Float32bits(float32(number())))
			}
		}
	case 7:
		if len(m.Graph.Initializers) > 0 {
			c := m.Graph.Initializers[r.IntN(len(m.Graph.Initializers))]
			c.Shape = []tensor.Shape{{c.Shape.Elements()}, append(tensor.Shape{1}, c.Shape...), {}, {0}, {1, 1, 1, 1, 1, 1}}[r.IntN(5)]
			c.Data = slices.Repeat([]byte{0}, c.Shape.Elements()*c.Elem.Bytes())
		}
	case 8:
		shapes := [][]Dim{{}, dims(1), dims(1, 1), dims(1, 2, 3), dims(1, 4, 4, 4), dims(1, 2, 4, 4, 4), dims(2, 2, 2, 2, 2, 2), dims(1, 1, 1<<31, 1<<31)}
		if len(m.Graph.Inputs) > 0 {
			m.Graph.Inputs[0].Dims = shapes[r.IntN(len(shapes))]
		}
	}
}
