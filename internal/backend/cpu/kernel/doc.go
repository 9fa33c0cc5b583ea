// Package kernel is the arithmetic of the CPU backend: float32 convolutions, matrix products, pooling, elementwise functions and
// reductions, in plain Go and as AVX2 and AVX-512 assembly.
//
// A [Set] is one implementation; [Best] picks the fastest for this processor, [Named] a given one, [Sets] lists all. There is no global
// state: sets and packed weights are values, immutable, and used by any number of threads. The build tag noasm leaves only plain Go.
//
//	set := kernel.Best()
//	conv, err := set.PackConv(shape, kernel.Bytes(mapped))    // or PackConvBackward: dx from dy, ConvTranspose
//	scratch := make([]float32, conv.Scratch())                // one for each thread
//	lo, hi := conv.SourcePlanes(z0, z1, src.Depth)            // these planes of src must be in its ring
//	conv.Run(dst, src, kernel.Region{Z0: z0, Z1: z1}, kernel.Epilogue{Bias: bias, Hook: hook}, scratch)
//
// # Data
//
// Activations are channels last, [D, H, W, C], batch 1. A [View] holds planes along depth in a ring, so whole tensors and streamed slabs
// look alike. An operation computes a [Region] of its destination (planes, rows, channels) and reads the needed part of its source; regions
// that do not overlap may run in parallel. Slabs and threads use the same entry, and how the output is cut does not change its values
// by more than rounding (sums are taken in another order where a K block or a border falls elsewhere).
//
// # Contract
//
//   - K1: nothing is allocated while a kernel runs; scratch is bounded, its size known after packing, and its contents do not matter.
//   - K2: nothing outside the region is written, nothing outside the needed planes is read.
//   - K3: every assembly kernel has a Go twin of the same signature, which defines its results; the tests compare each with the twin or with
//     loops in float64.
//   - K4: wrong sizes are the caller's mistake and panic with a message that begins with "kernel:"; shapes from a model are checked when
//     packing and give errors.
//
// Dense convolution is an implicit matrix product (lattice.go), depthwise convolution has its own kernel (depthwise.go), the gradient of
// a stem is a product followed by shifted additions (scatter.go).
package kernel

//go:generate go -C _generate run . -out ../kernels_amd64.s -stubs ../kernels_amd64.go -pkg kernel
