package kernel

import "fmt"

// A Set is one implementation of the kernels: plain Go, AVX2 or AVX-512. It is immutable; packed weights belong to the set that packed
// them.
type Set struct {
	name  string
	lanes int    // float32 values of a vector
	tiles []tile // matrix kernels
	split []int  // split[v] is the tile to take when v vectors of columns are left (the last entry: that many or more)

	depthwise [3]depthwiseFunc     // for two vectors of channels, for one, for less than one
	pool      [numPool][2]poolFunc // for one vector of channels, for less than one
	copyRows  copyRowsFunc
	addRows   addRowsFunc
	unary     [numUnary]unaryFunc
	binary    [numBinary]binaryFunc
	channel   [numChannel]channelFunc
	reduce    [numReduce]reduceFunc

	zero  []float32   // stands in for padding and for a missing bias
	ident []int32     // row table of consecutive rows
	tails [][16]int32 // tails[r] is r consecutive rows, then rows of zeros
}

// Name says which implementation it is: "go", "avx2" or "avx512".
func (s *Set) Name() string { return s.name }

// Lanes returns the number of float32 values in one vector; channel counts that are multiples of it waste nothing.
func (s *Set) Lanes() int { return s.lanes }

// Sets returns the implementations that this processor can run, the best first; plain Go is always the last.
func Sets() []*Set { return append(native(), plain()) }

// Best returns the fastest implementation for this processor.
func Best() *Set { return Sets()[0] }

// Named returns the implementation of that name, or an error that lists those that this processor can run.
func Named(name string) (*Set, error) {
	var names []string
	for _, s := range Sets() {
		if s.name == name {
			return s, nil
		}
		names = append(names, s.name)
	}
	return nil, fmt.Errorf("this processor and build have no kernels %q (have %q)", name, names)
}

// finish fills the tables that all implementations share.
func (s *Set) finish() *Set {
	s.zero = make([]float32, blockK)
	s.ident = make([]int32, blockRows)
	for i := range s.ident {
		s.ident[i] = int32(i)
	}
	s.tails = make([][16]int32, 16)
	for r := range s.tails {
		for i := range s.tails[r] {
			s.tails[r][i] = int32(i)
			if i >= r {
				s.tails[r][i] = -1
			}
		}
	}
	return s
}

// plain returns the implementation in Go: the twin of every other one, and their oracle.
func plain() *Set {
	s := &Set{
		name:      "go",
		lanes:     4,
		tiles:     []tile{{4, 2, gemmGo4}},
		split:     []int{0, 0},
		depthwise: [3]depthwiseFunc{depthwiseGo, depthwiseGo, depthwiseGo},
		pool:      poolGo,
		copyRows:  copyRowsGo,
		addRows:   addRowsGo,
		unary:     unaryGo,
		binary:    binaryGo,
		channel:   channelGo,
		reduce:    reduceGo,
	}
	return s.finish()
}
