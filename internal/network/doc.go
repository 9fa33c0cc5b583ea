// Package network binds a model to the shape of its volumes: a graph that the compiler's passes have prepared, the gradient programs made
// from it on demand, their plans within a budget, and the placement of the device buffers that they read and write. It runs a program when it
// is asked to, tries nothing twice, and is used by one goroutine at a time.
package network
