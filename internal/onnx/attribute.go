package onnx

import "slices"

func (n *Node) has(name string) bool { return n.Attributes[name] != nil }

func (n *Node) int(name string, missing int) int {
	if a := n.Attributes[name]; a != nil {
		return int(a.Int)
	}
	return missing
}

func (n *Node) float(name string, missing float64) float64 {
	if a := n.Attributes[name]; a != nil {
		return float64(a.Float)
	}
	return missing
}

func (n *Node) text(name, missing string) string {
	if a := n.Attributes[name]; a != nil {
		return a.String
	}
	return missing
}

// ints returns a list attribute, nil if it is absent.
func (n *Node) ints(name string) []int {
	a := n.Attributes[name]
	if a == nil {
		return nil
	}
	out := make([]int, len(a.Ints))
	for i, v := range a.Ints {
		out[i] = int(v)
	}
	return out
}

// withAttributes returns the node with the references to attributes of the enclosing function resolved.
func (n *Node) withAttributes(given map[string]*Attribute) *Node {
	var c *Node
	for name, a := range n.Attributes {
		if a.Ref == "" {
			continue
		}
		if c == nil {
			twin := *n
			twin.Attributes = make(map[string]*Attribute, len(n.Attributes))
			for k, v := range n.Attributes {
				twin.Attributes[k] = v
			}
			c = &twin
		}
		if v := given[a.Ref]; v != nil {
			c.Attributes[name] = v
		} else {
			delete(c.Attributes, name)
		}
	}
	if c == nil {
		return n
	}
	return c
}

// axisOf makes a negative axis count from the end. ok is false when there is no such axis.
func axisOf(axis, rank int) (int, bool) {
	if axis < 0 {
		axis += rank
	}
	return axis, axis >= 0 && axis < rank
}

// axesOf does so for a list, sorts it and refuses repetitions.
func axesOf(axes []int, rank int) ([]int, bool) {
	out := make([]int, len(axes))
	for i, a := range axes {
		var ok bool
		if out[i], ok = axisOf(a, rank); !ok {
			return nil, false
		}
	}
	slices.Sort(out)
	return out, len(slices.Compact(slices.Clone(out))) == len(out)
}
