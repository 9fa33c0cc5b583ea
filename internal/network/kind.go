package network

import "github.com/voxcam/voxcam/cam"

// Kind says which pass through the network a method takes part in.
type Kind int

const (
	AtLayer Kind = iota
	AtInput
	ByDraws
)

func KindOf(c cam.Choice) Kind {
	switch needs := c.Convention.Needs; {
	case needs.Has(cam.Draws):
		return ByDraws
	case needs.Has(cam.LayerGradient):
		return AtLayer
	}
	return AtInput
}
