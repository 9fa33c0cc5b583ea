// Package onnx reads models that PyTorch's exporters wrote and turns them into graphs of package ir.
//
// Open hashes a file and decodes its structure; weights stay in the file until they are used, and are compared with the hashed bytes.
// Import binds the input to a shape, computes everything that depends only on shapes and constants, and translates the rest by a table of
// operations. Every ONNX value keeps its meaning, its logical shape and its name, so that any of them can become a target. Passes (package
// pass) then replace groups of nodes that exporters write for one operation (x*sigmoid(x), a GroupNorm made of reshapes) by it, around the
// targets.
//
// The format: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto and docs/Operators.md there.
package onnx

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"

	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Model is a decoded file. Its constants, also those of graphs imported from it, are read from the file when they are used: see Err.
type Model struct {
	Path      string
	IRVersion int64
	Producer  string         // "pytorch 2.11.0"
	Opsets    map[string]int // version by domain; ONNX's own is ""
	Metadata  map[string]string
	Graph     *Graph
	Functions map[FunctionID]*Function
	files     []*input.Hashed // of the model and of its external data
	digest    hash.Hash       // of all of them
	input     string          // name of the input that is explained; "" where there is one
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
	Data  []byte // little endian; nil if they stay in the file
	far   span   // the part of the file, if they do
	// Unsupported is the reason why the data cannot be used; "" if they can.
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

// OutputType returns the element type of an output that holds no floating-point numbers; "" for others.
func (m *Model) OutputType(name string) string {
	for _, v := range m.Graph.Outputs {
		if v.Name == name {
			return elementTypes[v.Type]
		}
	}
	return ""
}

// SHA256 returns the hash, in hexadecimal, of the file and of the external data files that it uses, in the order of their names.
func (m *Model) SHA256() string { return hex.EncodeToString(m.digest.Sum(nil)) }

// Err returns an error if the file, or a file of its weights, was changed since it was opened, or could not be read, so that constants may be
// wrong. It must be called after constants were used, before their results are. It wraps an *input.ChangedError in the first case.
func (m *Model) Err() error {
	for _, f := range m.files {
		if err := f.Err(); err != nil {
			return fmt.Errorf("the model: %w", err)
		}
	}
	return nil
}

// Close closes the files.
func (m *Model) Close() error {
	var errs []error
	for _, f := range m.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// Open hashes and decodes a model file. ctx stops it.
func Open(ctx context.Context, path string) (*Model, error) {
	m := &Model{Path: path, digest: sha256.New()}
	f, _, err := input.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the model: %w", err)
	}
	file, err := m.hash(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("opening the model %s: %w", path, err)
	}
	if err := decode(ctx, m, file); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// Decode decodes a model that is in memory already. path is used in errors; external data are looked for beside it.
func Decode(path string, data []byte) (*Model, error) {
	m := &Model{Path: path, digest: sha256.New()}
	m.digest.Write(data)
	if err := decode(context.Background(), m, memory(data)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// hash makes a regular file one of the model's, which closes it.
func (m *Model) hash(ctx context.Context, f *os.File) (span, error) {
	info, err := f.Stat()
	if err == nil {
		err = input.Regular(f.Name(), info) // it may have been replaced
	}
	var h *input.Hashed
	if err == nil {
		h, err = input.Hash(ctx, f, m.digest)
	}
	if err != nil {
		return span{}, errors.Join(err, f.Close())
	}
	m.files = append(m.files, h)
	return span{file: h, length: int(h.Size())}, nil
}

// set makes a part of the file the tensor's data.
func (t *Tensor) set(data span) {
	if data.file == nil {
		t.Data = data.mem
	} else {
		t.far = data
	}
}
