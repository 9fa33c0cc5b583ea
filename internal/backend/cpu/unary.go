package cpu

import (
	"fmt"
	"math"

	"github.com/voxcam/voxcam/internal/backend/cpu/kernel"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
)

// unaryBuilders is the part of builders whose functions are in this file.
var unaryBuilders = map[*ir.Op]builder{
	op.UnaryBackward: buildUnaryBackward,
	op.Bits:          buildBits,
	op.MaskBackward:  buildMaskBackward,
}

// activations are the functions that have vector kernels: the kernel's name, and its parameters from the operation's.
var activations = map[string]struct {
	kernel string
	params func(a op.UnaryAttr) (float64, float64)
}{
	"Relu":        {"relu", noParams},
	"LeakyRelu":   {"leaky_relu", sameParams},
	"Clip":        {"clip", sameParams},
	"Sigmoid":     {"sigmoid", noParams},
	"Silu":        {"silu", noParams},
	"Tanh":        {"tanh", noParams},
	"Gelu":        {"gelu", noParams},
	"GeluTanh":    {"gelu_tanh", noParams},
	"Softplus":    {"softplus", noParams},
	"Mish":        {"mish", noParams},
	"Elu":         {"elu", func(a op.UnaryAttr) (float64, float64) { return a.Alpha, 1 }},
	"Selu":        {"elu", sameParams},
	"HardSigmoid": {"hard_sigmoid", sameParams},
	"HardSwish":   {"hard_swish", noParams},
	"Exp":         {"exp", func(op.UnaryAttr) (float64, float64) { return 1, 0 }},
}

func noParams(op.UnaryAttr) (float64, float64)     { return 0, 0 }
func sameParams(a op.UnaryAttr) (float64, float64) { return a.Alpha, a.Beta }

// activation finds the vector kernel of a function.
func activation(name string, a op.UnaryAttr) (kernel.Activation, bool) {
	row, ok := activations[name]
	if !ok {
		return kernel.Activation{}, false
	}
	k, ok := kernel.FindActivation(row.kernel)
	x, y := row.params(a)
	k.A, k.B = float32(x), float32(y)
	return k, ok
}

// mapFunc applies a function of one variable to a range.
type mapFunc func(dst, x []float32)

// loops are functions without a vector kernel that a simple loop computes well.
var loops = map[string]func(a op.UnaryAttr) mapFunc{
	"Abs": func(op.UnaryAttr) mapFunc {
		return func(dst, x []float32) {
			for i, v := range x {
				dst[i] = math.Float32frombits(math.Float32bits(v) &^ (1 << 31))
			}
		}
	},
	"Sqrt": func(op.UnaryAttr) mapFunc {
		return func(dst, x []float32) {
			for i, v := range x {
				dst[i] = float32(math.Sqrt(float64(v)))
			}
		}
	},
	"Reciprocal": func(op.UnaryAttr) mapFunc {
		return func(dst, x []float32) {
			for i, v := range x {
				dst[i] = 1 / v
			}
		}
	},
	"PowConst": func(a op.UnaryAttr) mapFunc {
		switch a.Alpha {
		case 2:
			return func(dst, x []float32) {
				for i, v := range x {
					dst[i] = v * v
				}
			}
		case 3:
			return func(dst, x []float32) {
				for i, v := range x {
					dst[i] = v * v * v
				}
			}
		}
		return nil
	},
}

func (c *compiler) mapFunc(u *op.Unary, a op.UnaryAttr) mapFunc {
	set := c.backend.set
	if k, ok := activation(u.Name, a); ok {
		return func(dst, x []float32) { set.Apply(k, dst, x) }
	}
	if u.Name == "Linear" {
		alpha, beta := float32(a.Alpha), float32(a.Beta)
		return func(dst, x []float32) { set.Affine(dst, x, alpha, beta) }
	}
	if loop := loops[u.Name]; loop != nil {
		if f := loop(a); f != nil {
			return f
		}
	}
	return func(dst, x []float32) {
		for i, v := range x {
			dst[i] = float32(u.Apply(float64(v), a))
		}
	}
}

func buildUnary(u *op.Unary) builder {
	return func(c *compiler, n *ir.Node) error {
		f := c.mapFunc(u, n.Attr.(op.UnaryAttr))
		c.ranges(n.Out().Shape().Elements(), grain, func(from, to int, s *scratch) { f(s.out()[from:to], s.in(0)[from:to]) })
		return nil
	}
}

func buildUnaryBackward(c *compiler, n *ir.Node) error {
	attr := n.Attr.(op.UnaryBackwardAttr)
	a := op.UnaryAttr{Alpha: attr.Alpha, Beta: attr.Beta}
	u, ok := op.UnaryNamed(attr.Func)
	if !ok || u.Slope == nil {
		return fmt.Errorf("%q has no derivative", attr.Func)
	}
	set := c.backend.set
	f := func(dx, dy, saved []float32) {
		for i, v := range saved {
			dx[i] = dy[i] * float32(u.Slope(float64(v), a))
		}
	}
	if k, ok := activation(attr.Func, a); ok && k.FromOutput == (u.Saves == op.SavesY) {
		f = func(dx, dy, saved []float32) { set.Derive(k, dx, dy, saved) }
	}
	c.ranges(n.Out().Shape().Elements(), grain, func(from, to int, s *scratch) {
		f(s.out()[from:to], s.in(0)[from:to], s.in(1)[from:to])
	})
	return nil
}

// bit returns 1 if the condition holds; the compiler makes it a flag without a branch.
func bit(condition bool) uint64 {
	if condition {
		return 1
	}
	return 0
}

func buildBits(c *compiler, n *ir.Node) error {
	a := n.Attr.(op.BitsAttr)
	if err := checkBits(n.Out()); err != nil {
		return err
	}
	lo, hi := ordered(float32(a.Lo)), ordered(float32(a.Hi))
	rectifier := a.Lo == 0 && math.IsInf(a.Hi, 1) && n.Inputs[0].Const == nil && littleEndian
	c.ranges(n.Out().Shape().Elements(), grain, func(from, to int, s *scratch) {
		x, words := s.in(0), as[uint64](s.result())
		for i := from; i < to; i += 64 {
			block := x[i:min(i+64, to)]
			if rectifier && len(block) == 64 {
				words[i/64] = signBits(pairsOf(block))
				continue
			}
			word := uint64(0)
			for k := len(block) - 1; k >= 0; k-- {
				v := ordered(block[k])
				word = word<<1 | uint64((lo-v)&(v-hi))>>63
			}
			words[i/64] = word
		}
	})
	return nil
}

const (
	low31 = 0x7fffffff_7fffffff // all but the sign of two numbers
	signs = ^uint64(low31)
)

// signBits packs which of 64 numbers are positive. Two go through a word at a time: a number is positive if its sign is clear and
// something else is set, which the addition carries to the place of the sign.
func signBits(x []uint64) uint64 {
	var first, second uint64 // numbers 0 to 31 and 32 to 63; those at even places in the lower half of the word
	for k, v := range x[:16] {
		first |= (v&low31 + low31) &^ v & signs >> (31 - k)
	}
	for k, v := range x[16:32] {
		second |= (v&low31 + low31) &^ v & signs >> (15 - k)
	}
	return interleave(first | second)
}

// interleave moves the lower 32 bits to the even places and the upper ones to the odd places.
func interleave(w uint64) uint64 {
	for _, s := range [...]struct {
		mask  uint64
		shift int
	}{{0x00000000ffff0000, 16}, {0x0000ff000000ff00, 8}, {0x00f000f000f000f0, 4}, {0x0c0c0c0c0c0c0c0c, 2}, {0x2222222222222222, 1}} {
		t := (w>>s.shift ^ w) & s.mask
		w ^= t ^ t<<s.shift
	}
	return w
}

// ordered maps numbers to integers of the same order, so that they are compared without branches; a NaN lies outside all ranges.
func ordered(x float32) int64 {
	b := int32(math.Float32bits(x + 0)) // -0 is 0
	return int64(b ^ b>>31&math.MaxInt32)
}

func buildMaskBackward(c *compiler, n *ir.Node) error {
	a := n.Attr.(op.MaskAttr)
	if err := checkBits(n.Inputs[1]); err != nil {
		return err
	}
	slope := [2]float32{float32(a.Out), float32(a.In)}
	rectifier := slope == [2]float32{0, 1} && n.Inputs[0].Const == nil && littleEndian
	c.ranges(n.Out().Shape().Elements(), grain, func(from, to int, s *scratch) {
		dy, words, dx := s.in(0), as[uint64](s.ops[1]), s.out()
		for i := from; i < to; i += 64 {
			word, end := words[i/64], min(i+64, to)
			out, in := dx[i:end], dy[i:end]
			if rectifier && len(out) == 64 {
				keep(pairsOf(out), pairsOf(in), word)
				continue
			}
			for k, v := range in {
				out[k] = v * slope[word>>k&1]
			}
		}
	})
	return nil
}

// kept are the bits of two numbers that stay, by the bits of both.
var kept = [4]uint64{0, 0xffffffff, 0xffffffff << 32, math.MaxUint64}

// keep copies those of 64 numbers whose bit is set, and sets the others to 0.
func keep(dst, x []uint64, word uint64) {
	dst = dst[:32]
	for k, v := range x[:32] {
		dst[k] = v & kept[word&3]
		word >>= 2
	}
}
