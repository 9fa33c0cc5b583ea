package onnx

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// heavy writes a model whose weights stay in its file, and returns its path and the weights.
func heavy(t *testing.T) (path string, weights []float32) {
	t.Helper()
	const rows, cols = 1600, 256
	w := floats("w", tensor.Shape{rows, cols}, 1, -2, 3, 0.5, 7)
	for i := range rows * cols {
		weights = append(weights, []float32{1, -2, 3, 0.5, 7}[i%5])
	}
	data := encodeModel(modelOf(17, []int64{1, rows}, []*Tensor{w}, node("MatMul", "x w", "y")))
	if len(data) < wholeBytes {
		t.Fatalf("a model of %d bytes is read at once", len(data))
	}
	path = filepath.Join(t.TempDir(), "m.onnx")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, weights
}

// weightsOf imports the model of heavy and reads its weights.
func weightsOf(t *testing.T, m *Model) []float32 {
	t.Helper()
	im, err := Import(m, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var w *ir.Value
	for _, n := range im.Graph.Nodes {
		for _, v := range n.Inputs {
			if v.Const != nil {
				w = v
			}
		}
	}
	return w.Const.Float32s()
}

// TestChangedFile demands that weights are those of the digest, or that the model says that they are not: whatever happens to the file
// after it was opened.
func TestChangedFile(t *testing.T) {
	over := func(path string, at int64) error {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err == nil {
			_, err = f.WriteAt(make([]byte, 4), at)
			err = errors.Join(err, f.Close())
		}
		return err
	}
	for name, c := range map[string]struct {
		change  func(path string) error
		noticed bool
	}{
		"untouched": {func(string) error { return nil }, false},
		"replaced": {func(path string) error {
			return errors.Join(os.WriteFile(path+".new", []byte("x"), 0o600), os.Rename(path+".new", path))
		}, false},
		"removed":      {os.Remove, false},
		"written over": {func(path string) error { return over(path, 1500000) }, true},
		"cut off":      {func(path string) error { return os.Truncate(path, 1500000) }, true},
		"emptied":      {func(path string) error { return os.Truncate(path, 0) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			path, want := heavy(t)
			m, err := Open(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			digest := m.SHA256()
			if err := c.change(path); err != nil {
				t.Fatal(err)
			}
			got := weightsOf(t, m)
			var changed *input.ChangedError
			switch err := m.Err(); {
			case c.noticed && !errors.As(err, &changed):
				t.Errorf("the change is not noticed: %v", err)
			case !c.noticed && err != nil:
				t.Error(err)
			case !c.noticed:
				for i := range want {
					if got[i] != want[i] {
						t.Fatalf("weight %d is %v, want %v", i, got[i], want[i])
					}
				}
			}
			if m.SHA256() != digest {
				t.Error("the digest is another one")
			}
		})
	}
}

func TestOpenStops(t *testing.T) {
	path, _ := heavy(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestClosedModel demands that weights of a closed model are an error, no crash.
func TestClosedModel(t *testing.T) {
	path, _ := heavy(t)
	m, err := Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	weightsOf(t, m)
	if err := m.Err(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("error %v", err)
	}
}
