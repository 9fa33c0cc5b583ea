package onnx

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestAnyOrder lists nodes in other orders than that in which they can run, as converters to float16 do, also in a branch and with
// a branch that reads a value from outside.
func TestAnyOrder(t *testing.T) {
	var nodes []*Node
	build := func(order []int, reversed bool) *Model {
		inner := []*Node{node("Exp", "x", "i1"), node("Mul", "i1 late", "i2"), node("Neg", "i2", "o")}
		if reversed {
			slices.Reverse(inner)
		}
		branch := &Graph{Name: "b", Nodes: inner, Outputs: []ValueInfo{{Name: "o", Type: typeFloat}}}
		nodes = []*Node{node("Abs", "x", "a"), node("Add", "a x", "late"),
			node("If", "c", "r", aGraph("then_branch", branch), aGraph("else_branch", branch)), node("Mul", "r a", "y")}
		m := modelOf(17, []int64{3}, []*Tensor{int64s("c", sh{}, 1)})
		for _, i := range order {
			m.Graph.Nodes = append(m.Graph.Nodes, nodes[i])
		}
		return m
	}
	im, err := Import(reread(t, build([]int{0, 1, 2, 3}, false)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := evaluateModel(t, im)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		order := rng.Perm(4)
		im, err := Import(reread(t, build(order, true)), Options{})
		if err != nil {
			t.Errorf("order %v: %v", order, err)
			continue
		}
		checkValues(t, evaluateModel(t, im), want)
		for _, info := range im.Nodes {
			if made := nodes[order[info.Index]]; made.Op != "If" && info.OutputNames[0] != made.Outputs[0] {
				t.Errorf("order %v: node %q is said to be number %d of the file", order, info.Name, info.Index)
			}
		}
	}
}

// TestSortedStays demands that nodes in order are not moved.
func TestSortedStays(t *testing.T) {
	none := func(string) bool { return false }
	nodes := []*Node{node("Exp", "x", "b"), node("Exp", "x", "a"), node("Add", "a b", "y")}
	if order, err := topological(nodes, none); err != nil || order != nil {
		t.Errorf("order %v, %v", order, err)
	}
	nodes = []*Node{node("Neg", "c", "z"), node("Exp", "x", "b"), node("Add", "a b", "c"), node("Exp", "x", "a")}
	if order, err := topological(nodes, none); err != nil || !slices.Equal(order, []int{1, 3, 2, 0}) {
		t.Errorf("order %v, %v", order, err)
	}
	// A long chain, backwards.
	nodes = nil
	for i := range 50000 {
		nodes = append(nodes, node("Exp", fmt.Sprint(i+1), fmt.Sprint(i)))
	}
	if order, err := topological(nodes, none); err != nil || order[0] != len(nodes)-1 {
		t.Errorf("%d nodes, %v", len(order), err)
	}
}
