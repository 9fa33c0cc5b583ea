package executor_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// heavyModel is an ONNX file of a convolution of one channel to two and a product with a matrix of 640 KiB, whose bytes come last.
func heavyModel() []byte {
	text := func(b []byte, num protowire.Number, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
	}
	number := func(b []byte, num protowire.Number, n int) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(n))
	}
	node := func(op, out string, in ...string) (b []byte) {
		for _, name := range in {
			b = text(b, 1, name)
		}
		return text(text(b, 2, out), 4, op)
	}
	value := func(name string, sizes ...int) []byte {
		var shape []byte
		for _, n := range sizes {
			shape = text(shape, 1, string(number(nil, 1, n)))
		}
		of := text(number(nil, 1, 1), 2, string(shape))
		return text(text(nil, 1, name), 2, string(text(nil, 1, string(of))))
	}
	weights := func(name string, sizes ...int) (b []byte) {
		n := 1
		for _, size := range sizes {
			b, n = number(b, 1, size), n*size
		}
		var raw []byte
		for i := range n {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(i*i%11)-4))
		}
		return text(text(number(b, 2, 1), 8, name), 9, string(raw))
	}
	const cells = 8 * 8 * 8
	var g []byte
	for _, n := range [][]byte{node("Conv", "c", "x", "k"), node("Relu", "r", "c"), node("Flatten", "f", "r"), node("MatMul", "y", "f", "w")} {
		g = text(g, 1, string(n))
	}
	g = text(text(g, 11, string(value("x", 1, 1, 8, 8, 8))), 12, string(value("y", 1, 160)))
	g = text(text(g, 5, string(weights("k", 2, 1, 1, 1, 1))), 5, string(weights("w", 2*cells, 160)))
	return text(text(number(nil, 1, 8), 8, string(number(nil, 2, 17))), 7, string(g))
}

// A model whose weights are written over or cut off while it is open gives the results of the bytes that were hashed, or none.
func TestChangedModel(t *testing.T) {
	data := heavyModel()
	for how, change := range map[string]func(path string) error{
		"written over": func(path string) error {
			return os.WriteFile(path, append(data[:len(data)/2:len(data)/2], make([]byte, len(data)/2)...), 0)
		},
		"cut off": func(path string) error { return os.Truncate(path, int64(len(data)/2)) },
	} {
		t.Run(how, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "m.onnx")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := cpu.New(cpu.Options{Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			m, err := executor.Open(context.Background(), path, b, executor.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			shape := m.Info().InputShape
			v := volume.New(shape[0], shape[1], shape[2], shape[3])
			for i := range v.Data {
				v.Data[i] = float32(i%7) - 3
			}
			req := cam.Request{Methods: []string{"gradcam"}}
			before, err := m.Explain(t.Context(), v, req)
			if err != nil {
				t.Fatal(err)
			}
			digest := m.Info().SHA256
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			var changed *input.ChangedError
			after, err := m.Explain(t.Context(), v, req)
			if err == nil { // with the weights that were packed before
				err = same(after, before)
			}
			if err != nil {
				t.Error(err)
			}
			if err := m.Release(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if _, err := m.Explain(t.Context(), v, req); !errors.As(err, &changed) {
					t.Errorf("with weights that are read again: %v", err)
				}
			}
			if m.Info().SHA256 != digest {
				t.Error("the digest is another one")
			}
			if _, err := executor.Open(context.Background(), path, b, executor.Options{ModelOptions: network.ModelOptions{SHA256: digest}}); err == nil ||
				how == "written over" && !errors.As(err, &changed) {
				t.Errorf("opened again: %v", err)
			}
		})
	}
}
