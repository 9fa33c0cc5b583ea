package onnx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/tensor"
)

// bombs are models of a few hundred bytes that state sizes which nobody has the memory for. x is [1,1,4,4,4]; big is the constant, if there
// is one, and y what becomes of it.
func bombs() map[string]*Model {
	const n, large = 1 << 26, 1 << 40
	one := floats("one", sh{1}, 1)
	input := []int64{1, 1, 4, 4, 4}
	constant := func(constants []*Tensor, nodes ...*Node) *Model {
		nodes = append(nodes, node("ReduceMean", "big", "m", aInt("keepdims", 0)), node("Add", "x m", "y"))
		return modelOf(17, input, constants, nodes...)
	}
	numbers := func(limit int64) []*Tensor {
		return []*Tensor{int64s("a", sh{}, 0), int64s("b", sh{}, limit), int64s("c", sh{}, 1)}
	}
	volume := func(constants []*Tensor, n *Node) *Model { return modelOf(17, input, constants, n) }
	return map[string]*Model{
		"constant of shape": constant([]*Tensor{list("n", large)}, node("ConstantOfShape", "n", "big")),
		"expand":            constant([]*Tensor{one, list("n", large)}, node("Expand", "one n", "big")),
		"tile":              constant([]*Tensor{one, list("n", large)}, node("Tile", "one n", "big")),
		"range":             constant(numbers(large), node("Range", "a b c", "big")),
		"small range":       constant(numbers(n), node("Range", "a b c", "big")),
		"expanded range":    constant(append(numbers(1<<13), list("n", 1<<13, 1)), node("Range", "a b c", "r"), node("Expand", "r n", "big")),
		"gather":            constant(append(numbers(4), list("n", n)), node("Range", "a b c", "r"), node("ConstantOfShape", "n", "i", aTensor("value", list("", 0))), node("Gather", "r i", "big")),
		"concat": constant(numbers(1<<20), node("Range", "a b c", "r"),
			node("Concat", "r r r r r r r r", "s", aInt("axis", 0)), node("Concat", "s s", "big", aInt("axis", 0))),
		"pad":          constant(append(numbers(4), list("p", n, 0)), node("Range", "a b c", "r"), node("Pad", "r p", "big")),
		"one-hot":      constant([]*Tensor{list("i", 0, 1), int64s("d", sh{}, n), floats("v", sh{2}, 0, 1)}, node("OneHot", "i d v", "big")),
		"product":      constant(append(numbers(1<<13), list("p", -1, 1), list("q", 1, -1)), node("Range", "a b c", "r"), node("Reshape", "r p", "s"), node("Reshape", "r q", "t"), node("Mul", "s t", "big")),
		"many at once": constant(numbers(1<<21), chain(40)...),
		"volume tiled": volume([]*Tensor{list("n", 1, 1, large, 1, 1)}, node("Tile", "x n", "y")),
		"volume padded": volume([]*Tensor{list("p", 0, 0, 1<<30, 0, 0, 0, 0, 0, 0, 0)},
			node("Pad", "x p", "y")),
		"volume resized":  volume([]*Tensor{floats("s", sh{5}, 1, 1, 1<<30, 1, 1)}, node("Resize", "x _ s", "y")),
		"volume expanded": volume([]*Tensor{list("n", 1, 1<<40, 4, 4, 4)}, node("Expand", "x n", "y")),
		"window in padding": modelOf(17, input, []*Tensor{floats("w", sh{1, 1, 3, 3, 3}, 1)},
			node("Conv", "x w", "y", aInts("pads", 1, 1<<24, 1, 1, 1<<24, 1))),
		"strides":     modelOf(17, input, []*Tensor{floats("w", sh{1, 1, 1, 1, 1}, 1)}, node("Conv", "x w", "y", aInts("strides", 1<<20, 1<<20, 1))),
		"running sum": modelOf(17, []int64{1, 1, 1 << 13, 1, 1}, []*Tensor{int64s("axis", sh{}, 2)}, node("CumSum", "x axis", "y")),
	}
}

// chain is many constants that are all read by the last node.
func chain(n int) []*Node {
	nodes := []*Node{node("Range", "a b c", "r0")}
	names := []string{"r0"}
	for i := 1; i < n; i++ {
		name := fmt.Sprint("r", i)
		nodes = append(nodes, node("Add", names[i-1]+" c", name))
		names = append(names, name)
	}
	return append(nodes, node("Concat", strings.Join(names, " "), "big", aInt("axis", 0)))
}

// A model whose constants, or whose operations on the volume, take more memory than there may be is refused by the node that asks for it,
// before the memory is taken.
func TestMemoryIsBounded(t *testing.T) {
	const budget = 32 << 20
	for name, m := range bombs() {
		t.Run(name, func(t *testing.T) {
			m := reread(t, m)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Import(m, Options{Memory: budget})
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("it is imported")
			}
			if !strings.Contains(err.Error(), "n_") {
				t.Errorf("no node is named: %v", err)
			}
			var internal *internalError
			if errors.As(err, &internal) {
				t.Error(err)
			}
			// Which counts what was given back meanwhile, too.
			if taken := after.TotalAlloc - before.TotalAlloc; taken > 2*budget {
				t.Errorf("%d MiB were taken: %v", taken>>20, err)
			}
		})
	}
}

// What constants on the way took is there again for the next ones.
func TestMemoryIsGivenBack(t *testing.T) {
	nodes := []*Node{node("Range", "a b c", "r0")}
	const n = 20
	for i := range n {
		nodes = append(nodes, node("Add", fmt.Sprintf("r%d c", i), fmt.Sprint("r", i+1)))
	}
	nodes = append(nodes, node("ReduceMax", fmt.Sprint("r", n), "m", aInt("keepdims", 0)), node("Cast", "m", "f", aInt("to", 1)), node("Add", "x f", "y"))
	m := reread(t, modelOf(17, []int64{1, 1, 4, 4, 4}, []*Tensor{int64s("a", sh{}, 0), int64s("b", sh{}, 1<<18), int64s("c", sh{}, 1)}, nodes...))
	im, err := Import(m, Options{Memory: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if im.Held < 2*8<<18 || im.Held > 8<<20 {
		t.Errorf("%d bytes were held at most; two lists of %d numbers are", im.Held, 1<<18)
	}
}

// Lists of a file that take much more memory than bytes are bounded when it is decoded.
func TestListsAreBounded(t *testing.T) {
	long := strings.Repeat("n", maxName+1)
	many := strings.Repeat("x ", maxList+1)
	cases := map[string]*Model{
		"name":   modelOf(17, nil, nil, &Node{Op: "Relu", Name: long, Inputs: []string{"x"}, Outputs: []string{"y"}}),
		"inputs": modelOf(17, nil, nil, node("Sum", many, "y")),
		"axes":   modelOf(17, nil, []*Tensor{floats("w", make(sh, maxRank+1))}, node("Relu", "x", "y")),
	}
	for name, m := range cases {
		if _, err := Decode("test.onnx", encodeModel(m)); err == nil {
			t.Errorf("%s: it is decoded", name)
		}
	}
	for what, field := range map[string]byte{"nodes": 1, "values": 11} {
		var graph, e encoder
		for range maxParts {
			graph = append(graph, field<<3|2, 0) // a message without anything
		}
		e.bytes(7, graph)
		if _, err := Decode("test.onnx", e); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%d %s: %v", maxParts, what, err)
		}
	}
}

// Tensors that all name the same bytes of a file beside the model take no more than a few times those.
func TestExternalDataAreNotMultiplied(t *testing.T) {
	dir := t.TempDir()
	const n = 1 << 12
	if err := os.WriteFile(filepath.Join(dir, "w"), make([]byte, 4*n), 0o600); err != nil {
		t.Fatal(err)
	}
	decode := func(times int) error {
		m := modelOf(17, []int64{1, n}, nil, node("Relu", "x", "y"))
		var e encoder
		e.message(7, func(e *encoder) {
			encodeGraph(e, m.Graph)
			for i := range times {
				e.message(5, func(e *encoder) {
					e.number(1, n)
					e.number(2, codeOf(tensor.F32))
					e.text(8, fmt.Sprint("w", i))
					e.message(13, func(e *encoder) { e.text(1, "location"); e.text(2, "w") })
					e.number(14, externalFlag)
				})
			}
		})
		encodeOpsets(&e, 8, m.Opsets)
		decoded, err := Decode(filepath.Join(dir, "m.onnx"), e)
		if err == nil {
			err = decoded.Close()
		}
		return err
	}
	if err := decode(maxShared); err != nil {
		t.Error(err)
	}
	if err := decode(2*maxShared + 1); err == nil {
		t.Error("it is decoded")
	}
}

// few is a context that ends after it was asked a few times.
type few struct {
	context.Context
	left int
}

func (f *few) Err() error {
	if f.left--; f.left < 0 {
		return context.Canceled
	}
	return nil
}

// An import ends between nodes, and within one that computes much.
func TestImportEndsWithTheContext(t *testing.T) {
	m := reread(t, modelOf(17, []int64{1, 1, 4, 4, 4}, []*Tensor{int64s("a", sh{}, 0), int64s("b", sh{}, 1<<20), int64s("c", sh{}, 1)},
		node("Range", "a b c", "r"), node("Add", "r c", "s"), node("ReduceMax", "s", "m", aInt("keepdims", 0)), node("Cast", "m", "f", aInt("to", 1)), node("Add", "x f", "y")))
	whole := &few{context.Background(), 1 << 20}
	if _, err := ImportContext(whole, m, Options{}); err != nil {
		t.Fatal(err)
	}
	asked := 1<<20 - whole.left
	if asked < 30 { // 2 x 2^20 elements
		t.Errorf("the context is asked %d times", asked)
	}
	for _, left := range []int{0, 1, asked / 2, asked - 1} {
		if _, err := ImportContext(&few{context.Background(), left}, m, Options{}); !errors.Is(err, context.Canceled) {
			t.Errorf("ended after %d of %d looks: %v", left, asked, err)
		}
	}
}
