package onnx

import (
	"fmt"
	"strings"
)

// FormatError says that a file is not a well-formed ONNX model.
type FormatError struct {
	Path   string
	Offset int64  // byte position in the file, -1 where it is not known
	Where  string // the node or tensor, "" where it is not known
	Err    error
}

func (e *FormatError) Error() string {
	var s strings.Builder
	s.WriteString(e.Path)
	if e.Offset >= 0 {
		fmt.Fprintf(&s, ": byte %d", e.Offset)
	}
	if e.Where != "" {
		fmt.Fprintf(&s, ": %s", e.Where)
	}
	fmt.Fprintf(&s, ": %v", e.Err)
	return s.String()
}

func (e *FormatError) Unwrap() error { return e.Err }

// UnsupportedError says that a model is well-formed, but needs something that this program does not have.
type UnsupportedError struct {
	Path   string
	Node   string // name of the node
	Op     string // ONNX operation
	Domain string // "" is ONNX's own
	Opset  int
	Scope  string // path of the PyTorch module that the node belongs to, "" if unknown
	Index  int    // the node is number Index+1 of Count
	Count  int
	Reason string // the part of it that is not supported
	Advice string // a way to export a supported model; "" if none is known
	cause  error
}

func (e *UnsupportedError) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s: ", e.Path)
	if e.Op != "" {
		op := e.Op
		if e.Domain != "" {
			op = e.Domain + "." + op
		}
		fmt.Fprintf(&s, "node %q (%s, opset %d", e.Node, op, e.Opset)
		if e.Scope != "" {
			fmt.Fprintf(&s, ", in module %s", e.Scope)
		}
		fmt.Fprintf(&s, ", node %d of %d): ", e.Index+1, e.Count)
	}
	s.WriteString(e.Reason)
	if e.Advice != "" {
		s.WriteString("; " + e.Advice)
	}
	return s.String()
}

func (e *UnsupportedError) Unwrap() error { return e.cause }

// InputError says that the volume's shape does not fit the model's input.
type InputError struct {
	Path   string
	Reason string
	Advice []string // remedies, the likeliest first; may be empty
	Want   [4]int   // sizes [C, D, H, W] that the model takes, 0 for any; all 0 if sizes are not the fault
}

func (e *InputError) Error() string {
	return e.Path + ": " + strings.Join(append([]string{e.Reason}, e.Advice...), "; ")
}
