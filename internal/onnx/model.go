// Package onnx reads models that PyTorch's exporters wrote and turns them into graphs of package ir.
//
// Open maps a file into memory and decodes its structure; weights stay in the mapping. Import binds the input to a shape,
// computes everything that depends only on shapes and constants, and translates the rest by a table of operations. Every ONNX
// value keeps its meaning, its logical shape and its name, so that any of them can become a target. Recognise then gives
// what exporters spell out (x*sigmoid(x), a GroupNorm made of reshapes) an operation of its own, around the targets.
//
// The format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and docs/Operators.md there.
package onnx

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/edsrzf/mmap-go"

	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Model is a decoded file. Constants refer to its mapping: use nothing of it, or imported from it, after Close.
type Model struct {
	Path      string
	IRVersion int64
	Producer  string         // "pytorch 2.11.0"
	Opsets    map[string]int // version by domain; ONNX's own is ""
	Metadata  map[string]string
	Graph     *Graph
	Functions map[FunctionID]*Function
	data      []byte
	external  map[string][]byte // by location, as the file names it
	maps      []mmap.MMap
	mapped    bool // data is a mapping, not the caller's memory
}

// Graph is the body of a model, or of a branch of If.
type Graph struct {
	Name         string
	Nodes        []*Node
	Inputs       []ValueInfo
	Outputs      []ValueInfo
	Initializers []*Tensor
	Metadata     map[string]string
}

// Node is one operation as the file states it.
type Node struct {
	Name, Op, Domain, Overload string
	Inputs, Outputs            []string // "" for an optional one that is absent
	Attributes                 map[string]*Attribute
	Metadata                   map[string]string
}

// Attribute is a named parameter of a node; which field holds it depends on the operation.
type Attribute struct {
	Name, Ref string // Ref names the attribute of the enclosing function that this one takes its value from
	Float     float32
	Int       int64
	String    string
	Tensor    *Tensor
	Graph     *Graph
	Floats    []float32
	Ints      []int64
	Strings   []string
}

// Tensor is constant data.
type Tensor struct {
	Name  string
	Shape tensor.Shape // an axis may be 0
	Elem  tensor.Elem
	Data  []byte // little endian
	// Mapped says that Data is a part of a mapped file.
	Mapped bool
	// Unsupported says why the data cannot be used, "" if they can.
	Unsupported string
}

// ValueInfo describes an input or an output.
type ValueInfo struct {
	Name string
	Type int32 // element type, a DataType number of the format; 0 where it is not a tensor
	Dims []Dim // nil where the rank is unknown
}

// Dim is the size of an axis, or 0 and perhaps a name where it is left open.
type Dim struct {
	Size  int64
	Param string
}

// FunctionID names a function that the model brings along.
type FunctionID struct{ Domain, Name, Overload string }

// Function is a node type defined by the model itself.
type Function struct {
	ID              FunctionID
	Inputs, Outputs []string
	Defaults        map[string]*Attribute
	Nodes           []*Node
	Opsets          map[string]int
}

// Inputs lists the inputs that the caller must provide: files of old versions list the weights among them.
func (m *Model) Inputs() []ValueInfo {
	given := map[string]bool{}
	for _, t := range m.Graph.Initializers {
		given[t.Name] = true
	}
	var free []ValueInfo
	for _, v := range m.Graph.Inputs {
		if !given[v.Name] {
			free = append(free, v)
		}
	}
	return free
}

// SHA256 is the hash, in hexadecimal, of the file and of the external data files that it uses, in the order of their names.
func (m *Model) SHA256() string {
	h := sha256.New()
	hash := func(b []byte, mapped bool) {
		const step = 1 << 22 // no more of the mapping than this need be in memory
		for len(b) > 0 {
			n := min(step, len(b))
			h.Write(b[:n])
			if c, err := tensor.Raw(tensor.U8, b[:n], n); err == nil && mapped {
				c.Mapped().Forget()
			}
			b = b[n:]
		}
	}
	hash(m.data, m.mapped)
	for _, location := range slices.Sorted(maps.Keys(m.external)) {
		hash(m.external[location], true)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Close unmaps the file. Constants that came from it become invalid.
func (m *Model) Close() error {
	var first error
	for i := range m.maps {
		if err := m.maps[i].Unmap(); err != nil && first == nil {
			first = fmt.Errorf("unmapping %s: %w", m.Path, err)
		}
	}
	m.maps, m.data, m.external = nil, nil, nil
	return first
}

// Open maps and decodes a model file.
func Open(path string) (*Model, error) {
	f, _, err := input.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the model: %w", err)
	}
	defer f.Close()
	mapping, err := mapFile(f)
	if err != nil {
		return nil, fmt.Errorf("opening the model %s: %w", path, err)
	}
	m := &Model{Path: path, mapped: mapping != nil}
	if mapping != nil {
		m.maps = append(m.maps, mapping)
	}
	if err := decode(m, mapping); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Decode decodes a model that is in memory already. path is used in errors; external data are looked for beside it.
func Decode(path string, data []byte) (*Model, error) {
	m := &Model{Path: path}
	if err := decode(m, data); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// mapFile maps a regular file for reading; an empty one gives nil.
func mapFile(f *os.File) (mmap.MMap, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is not a regular file")
	}
	if info.Size() == 0 {
		return nil, nil
	}
	return mmap.Map(f, mmap.RDONLY, 0)
}
