package onnx

import (
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// labelled is an operand of an Einsum: one label for each axis.
type labelled struct {
	v      *ir.Value
	labels []rune
}

// importEinsum contracts the operands from left to right, each time by one matrix product.
func importEinsum(c *call) []*ir.Value {
	terms, result := c.equation()
	if len(terms) != len(c.in) {
		c.badf("the equation has %d terms for %d inputs", len(terms), len(c.in))
	}
	var acc labelled
	for i, labels := range terms {
		x := c.diagonal(labelled{c.x(i), labels})
		rest := slices.Concat(append(slices.Clone(terms[i+1:]), result)...)
		if i == 0 {
			acc = c.sumOut(x, append(slices.Concat(terms[1:]...), result...))
			continue
		}
		acc = c.contract(acc, x, rest)
	}
	acc = c.sumOut(acc, result)
	perm := make([]int, len(result))
	for i, l := range result {
		if perm[i] = slices.Index(acc.labels, l); perm[i] < 0 {
			c.badf("the result %q has a label that no term has", string(result))
		}
	}
	if len(perm) != len(acc.labels) {
		c.badf("the result %q repeats a label", string(result))
	}
	return []*ir.Value{c.transpose(acc.v, perm)}
}

// equation parses the terms. An ellipsis becomes labels of its own, digits counted from the last axis.
func (c *call) equation() (terms [][]rune, result []rune) {
	text := strings.ReplaceAll(c.n.text("equation", ""), " ", "")
	left, right, explicit := strings.Cut(text, "->")
	widest := 0
	parse := func(s string, rank int) []rune {
		before, after, dots := strings.Cut(s, "...")
		out := []rune(before)
		if dots {
			count := rank - len(before) - len(after)
			if rank < 0 {
				count = widest
			}
			if count < 0 || count > 10 {
				c.badf("the term %q does not fit rank %d", s, rank)
			}
			widest = max(widest, count)
			for i := count - 1; i >= 0; i-- {
				out = append(out, rune('0'+i))
			}
		}
		out = append(out, []rune(after)...)
		for i, l := range out {
			if !(l >= 'a' && l <= 'z' || l >= 'A' && l <= 'Z' || dots && i >= len(before) && l >= '0' && l <= '9') {
				c.badf("the equation %q is not understood", text)
			}
		}
		if rank >= 0 && len(out) != rank {
			c.badf("the term %q does not fit rank %d", s, rank)
		}
		return out
	}
	for i, s := range strings.Split(left, ",") {
		terms = append(terms, parse(s, len(c.shape(i))))
	}
	if explicit {
		return terms, parse(right, -1)
	}
	// Without a result: the ellipsis, then the labels that stand once, in the order of the alphabet.
	all := slices.Sorted(slices.Values(slices.Concat(terms...)))
	for i := widest - 1; i >= 0; i-- {
		result = append(result, rune('0'+i))
	}
	for i, l := range all {
		if l > '9' && (i == 0 || all[i-1] != l) && (i+1 == len(all) || all[i+1] != l) {
			result = append(result, l)
		}
	}
	return terms, result
}

// diagonal takes the diagonal of axes with the same label.
func (c *call) diagonal(x labelled) labelled {
	for i := 0; i < len(x.labels); i++ {
		j := slices.Index(x.labels[i+1:], x.labels[i])
		if j < 0 {
			continue
		}
		j += i + 1
		s := x.v.Shape()
		if s[i] != s[j] {
			c.badf("axes of size %d and %d share the label %q", s[i], s[j], x.labels[i])
		}
		var perm []int
		for a := range s {
			if a != i && a != j {
				perm = append(perm, a)
			}
		}
		v := c.transpose(x.v, append(perm, i, j))
		shape := v.Shape()
		n := shape[len(shape)-1]
		flat := append(shape[:len(shape)-2:len(shape)-2], n*n)
		index := c.indices(n)
		for k := range index {
			index[k] = k * (n + 1)
		}
		v = c.emit(op.Gather, op.GatherAttr{Axis: len(flat) - 1, Index: index}, c.reshape(v, flat))
		labels := slices.Delete(slices.Clone(x.labels), j, j+1)
		labels = append(slices.Delete(labels, i, i+1), x.labels[i])
		x, i = labelled{v, labels}, -1
	}
	return x
}

// sumOut sums over the labels that nothing needs.
func (c *call) sumOut(x labelled, needed []rune) labelled {
	var axes []int
	var shape tensor.Shape
	var labels []rune
	for a, l := range x.labels {
		if slices.Contains(needed, l) {
			labels, shape = append(labels, l), append(shape, x.v.Shape()[a])
		} else {
			axes = append(axes, a)
		}
	}
	if len(axes) == 0 {
		return x
	}
	return labelled{c.reshape(c.reduce(op.ReduceSum, x.v, axes), shape), labels}
}

// contract multiplies two operands and sums over the labels that they share and nothing else needs.
func (c *call) contract(a, b labelled, needed []rune) labelled {
	a, b = c.sumOut(a, append(slices.Clone(needed), b.labels...)), c.sumOut(b, append(slices.Clone(needed), a.labels...))
	a, b = c.sameSizes(a, b)
	var batch, inner, freeA, freeB []rune
	for _, l := range a.labels {
		switch {
		case !slices.Contains(b.labels, l):
			freeA = append(freeA, l)
		case slices.Contains(needed, l):
			batch = append(batch, l)
		default:
			inner = append(inner, l)
		}
	}
	for _, l := range b.labels {
		if !slices.Contains(a.labels, l) {
			freeB = append(freeB, l)
		}
	}
	arrange := func(x labelled, groups ...[]rune) (*ir.Value, []tensor.Shape) {
		var perm []int
		shapes := make([]tensor.Shape, len(groups))
		for i, g := range groups {
			for _, l := range g {
				at := slices.Index(x.labels, l)
				perm = append(perm, at)
				shapes[i] = append(shapes[i], x.v.Shape()[at])
			}
		}
		return c.transpose(x.v, perm), shapes
	}
	va, sa := arrange(a, batch, freeA, inner)
	vb, sb := arrange(b, batch, inner, freeB)
	labels := slices.Concat(batch, freeA, freeB)
	shape := slices.Concat(sa[0], sa[1], sb[2])
	if len(inner) == 0 {
		va = c.reshape(va, slices.Concat(sa[0], sa[1], slices.Repeat([]int{1}, len(freeB))))
		vb = c.reshape(vb, slices.Concat(sa[0], slices.Repeat([]int{1}, len(freeA)), sb[2]))
		return labelled{c.binary("Mul", va, vb), labels}
	}
	va = c.reshape(va, append(sa[0].Clone(), sa[1].Elements(), sa[2].Elements()))
	vb = c.reshape(vb, append(sa[0].Clone(), sb[1].Elements(), sb[2].Elements()))
	return labelled{c.reshape(c.emit(op.MatMul, op.MatMulAttr{}, va, vb), shape), labels}
}

// sameSizes expands axes of size 1 to the other operand's axis of the same label.
func (c *call) sameSizes(a, b labelled) (labelled, labelled) {
	sa, sb := a.v.Shape().Clone(), b.v.Shape().Clone()
	for i, l := range a.labels {
		j := slices.Index(b.labels, l)
		if j < 0 || sa[i] == sb[j] {
			continue
		}
		if sa[i] != 1 && sb[j] != 1 {
			c.badf("axes of size %d and %d share the label %q", sa[i], sb[j], l)
		}
		sa[i] = max(sa[i], sb[j])
		sb[j] = sa[i]
	}
	return labelled{c.expand(a.v, sa), a.labels}, labelled{c.expand(b.v, sb), b.labels}
}
