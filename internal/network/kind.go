package network

import "github.com/voxcam/voxcam/cam"

// Kind names the gradient program that a method runs, and the points at which it runs.
type Kind int

const (
	AtLayer  Kind = iota // the activation of the layer and the gradient at it, or the activation alone, at the volume itself
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
