package network

import "github.com/voxcam/voxcam/cam"

// Kind says which gradient programs a method runs, and at what.
type Kind int

const (
	AtLayer  Kind = iota // the gradient at the layer, at the volume itself
	AtInput              // the gradient at the input, at the volume itself
	AtPoints             // the gradient at the input, at other points
)

// KindOf returns the kind of a method.
func KindOf(c cam.Choice) Kind {
	switch {
	case c.Convention.Kind() == cam.AtLayer:
		return AtLayer
	case c.Convention.Sampling() == cam.Once:
		return AtInput
	}
	return AtPoints
}
