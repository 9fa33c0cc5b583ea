package network

import "github.com/voxcam/voxcam/cam"

// growth is the factor by which more must be allowed than plans were made for, before larger ones are made: making and loading them takes time.
const growth = 1.25

// Exceeds reports whether plans take more than is allowed.
func (n *Network) Exceeds(allowed cam.Budget) bool {
	return allowed.Bytes > 0 && n.Taken > allowed.Bytes || allowed.Smallest && !n.Budget.Smallest && n.Taken > 0
}

// Outgrown reports whether so much more is allowed than plans were made for that others are worth it.
func (n *Network) Outgrown(allowed cam.Budget) bool {
	made := n.Taken
	if n.Budget.Bytes > 0 {
		made = n.Budget.Bytes
	}
	switch {
	case n.Taken == 0 || !n.Budget.Bounded() || allowed.Smallest || allowed.Arena > 0 || n.Full():
		return false
	case !allowed.Bounded():
		return true
	}
	return float64(allowed.Bytes) >= growth*float64(made)
}

// Full reports whether there is nothing to be had from more memory: whole tensors, and all fields on the device.
func (n *Network) Full() bool {
	return n.Level() == cam.LevelWhole && (n.Placement == placement{} || !n.ahead && n.Placement == cheaper[0])
}
