package op

import "github.com/voxcam/voxcam/internal/ir"

// Parts of the rules for running on slabs, ir.Op.Slab and ir.Op.Accumulates.

// samePlanes is the rule of operations that make a plane of the same plane of their inputs.
func samePlanes(_ *ir.Node, _, z0, z1 int) (int, int, bool) { return z0, z1, true }

// deepInput reports whether the first input has depth, and can be accumulated plane by plane.
func deepInput(n *ir.Node) bool { return n.Inputs[0].HasDepth() }

// clampPlanes cuts [lo, hi) to [0, n).
func clampPlanes(lo, hi, n int) (int, int) {
	lo = min(max(lo, 0), n)
	return lo, min(max(hi, lo), n)
}

// windowPlanes returns the planes, of an input of n, that windows z0 to z1-1 look at.
func windowPlanes(z0, z1, n, kernel, stride, dilation, before int) (lo, hi int) {
	return clampPlanes(z0*stride-before, (z1-1)*stride-before+dilation*(kernel-1)+1, n)
}

// gradientPlanes returns the windows, of n, that look at planes z0 to z1-1.
func gradientPlanes(z0, z1, n, kernel, stride, dilation, before int) (lo, hi int) {
	first := z0 + before - dilation*(kernel-1) // the start of the first window that reaches z0
	return clampPlanes(ceilDiv(first, stride), floorDiv(z1-1+before, stride)+1, n)
}

func floorDiv(a, b int) int {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func ceilDiv(a, b int) int { return -floorDiv(-a, b) }
