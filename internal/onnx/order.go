package onnx

import (
	"container/heap"
	"fmt"
	"slices"
	"strings"
)

// topological returns the places of nodes in an order in which each comes behind those that compute its inputs; nil if they stand in
// such an order already, as ONNX demands. Converters to float16 break that rule: they put the casts of inputs and outputs last. Of
// several possible next nodes it takes the first in the file. known reports names that have a meaning before any node. Nodes that wait
// for one another are an error that names them.
func topological(nodes []*Node, known func(name string) bool) ([]int, error) {
	maker := map[string]int{} // node that computes a name
	for i, n := range nodes {
		for _, name := range n.Outputs {
			if _, twice := maker[name]; name != "" && !twice {
				maker[name] = i
			}
		}
	}
	needs := func(i int) (makers []int, last int) {
		last = -1
		nodes[i].reads(nil, func(name string) {
			if m, ok := maker[name]; ok && !known(name) {
				makers, last = append(makers, m), max(last, m)
			}
		})
		return makers, last
	}
	sorted := true
	for i := range nodes {
		_, last := needs(i)
		sorted = sorted && last < i
	}
	if sorted {
		return nil, nil
	}
	waits, readers, next := make([]int, len(nodes)), make([][]int, len(nodes)), places{}
	for i := range nodes {
		makers, _ := needs(i)
		for _, m := range makers {
			readers[m] = append(readers[m], i)
		}
		if waits[i] = len(makers); waits[i] == 0 {
			next = append(next, i)
		}
	}
	var order []int
	for len(next) > 0 {
		i := heap.Pop(&next).(int)
		order = append(order, i)
		for _, r := range readers[i] {
			if waits[r]--; waits[r] == 0 {
				heap.Push(&next, r)
			}
		}
	}
	if len(order) == len(nodes) {
		return order, nil
	}
	// Among those that are left, each waits for another one that is left: going from one to the next ends in a cycle.
	at := slices.IndexFunc(waits, func(n int) bool { return n > 0 })
	var way []int
	for !slices.Contains(way, at) {
		way = append(way, at)
		makers, _ := needs(at)
		at = makers[slices.IndexFunc(makers, func(m int) bool { return waits[m] > 0 })]
	}
	return nil, fmt.Errorf("its nodes wait for one another: %s", describeCycle(nodes, way[slices.Index(way, at):]))
}

// places is a heap of the places of nodes.
type places []int

func (p places) Len() int           { return len(p) }
func (p places) Less(i, j int) bool { return p[i] < p[j] }
func (p places) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }
func (p *places) Push(x any)        { *p = append(*p, x.(int)) }
func (p *places) Pop() any {
	last := len(*p) - 1
	x := (*p)[last]
	*p = (*p)[:last]
	return x
}

// describeCycle names the nodes of a cycle: each needs the next, and the last needs the first.
func describeCycle(nodes []*Node, cycle []int) string {
	const most = 8
	var names []string
	for k, i := range append(cycle, cycle[0]) {
		if k == most && len(cycle) > most {
			names = append(names, fmt.Sprintf("%d more", len(cycle)-most))
			break
		}
		n := nodes[i]
		name := n.Name
		if name == "" && len(n.Outputs) > 0 {
			name = n.Outputs[0]
		}
		names = append(names, fmt.Sprintf("%q (%s)", name, n.Op))
	}
	return strings.Join(names, " needs ")
}

// reads yields the names from outside that the node and the branches in it read. inside holds names that mean something else there.
func (n *Node) reads(inside []map[string]bool, yield func(name string)) {
	outside := func(name string) {
		if name != "" && !slices.ContainsFunc(inside, func(names map[string]bool) bool { return names[name] }) {
			yield(name)
		}
	}
	for _, name := range n.Inputs {
		outside(name)
	}
	for _, a := range n.Attributes {
		if a.Graph == nil {
			continue
		}
		own := map[string]bool{}
		for _, v := range a.Graph.Inputs {
			own[v.Name] = true
		}
		for _, t := range a.Graph.Initializers {
			own[t.Name] = true
		}
		for _, m := range a.Graph.Nodes {
			for _, name := range m.Outputs {
				own[name] = true
			}
		}
		within := append(slices.Clip(inside), own)
		for _, m := range a.Graph.Nodes {
			m.reads(within, yield)
		}
		for _, v := range a.Graph.Outputs {
			if !own[v.Name] {
				outside(v.Name)
			}
		}
	}
}
