package kernel

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// forSets runs the test on every implementation that this processor has.
func forSets(t *testing.T, f func(t *testing.T, s *Set)) {
	for _, s := range Sets() {
		t.Run(s.Name(), func(t *testing.T) { f(t, s) })
	}
}

// runParts computes dst in random regions from rings that hold just the planes that SourcePlanes names.
func runParts(t *rapid.T, c *Conv, dst View, src []float32, in [3]int, e Epilogue) {
	cin, cout := c.Channels()
	scratch := make([]float32, c.Scratch())
	slab, band := rapid.IntRange(1, max(dst.Depth, 1)).Draw(t, "slab"), rapid.IntRange(1, max(dst.H, 1)).Draw(t, "band")
	cols := rapid.IntRange(1, 3).Draw(t, "columns") * c.ChannelStep()
	for z := 0; z < dst.Depth; z += slab {
		z1 := min(z+slab, dst.Depth)
		lo, hi := c.SourcePlanes(z, z1, in[0])
		v := ring(src, in[0], in[1], in[2], cin, lo, hi)
		for y := 0; y < dst.H; y += band {
			for ch := 0; ch < cout; ch += cols {
				for i := range scratch {
					scratch[i] = float32(math.NaN())
				}
				c.Run(dst, v, Region{z, z1, y, min(y+band, dst.H), ch, min(ch+cols, cout)}, e, scratch)
			}
		}
	}
}

func TestConv(t *testing.T) {
	forSets(t, func(t *testing.T, s *Set) {
		rapid.Check(t, func(t *rapid.T) {
			shape, in := drawShape(t)
			backward := rapid.Bool().Draw(t, "backward")
			out := shape.Out(in)
			r := source(rapid.Uint64().Draw(t, "seed"))
			w := randoms(r, shape.Cout*shape.Cin/shape.Groups*shape.taps())
			pack, naive, from, to := s.PackConv, naiveForward, in, out
			if backward {
				pack, naive, from, to = s.PackConvBackward, naiveBackward, out, in
			}
			c, err := pack(shape, Floats(w))
			if err != nil {
				t.Fatal(err)
			}
			cin, cout := c.Channels()
			x := randoms(r, from[0]*from[1]*from[2]*cin)
			want, mag := naive(shape, x, w, in, out)
			// Bias, accumulation and the hook.
			var e Epilogue
			dst := Whole(make([]float32, len(want)), to[0], to[1], to[2], cout)
			for i := range dst.Data {
				dst.Data[i] = float32(math.NaN())
			}
			if rapid.Bool().Draw(t, "bias") {
				e.Bias = randoms(r, cout)
				for i := range want {
					want[i] += float64(e.Bias[i%cout])
					mag[i] += math.Abs(float64(e.Bias[i%cout]))
				}
			}
			if rapid.Bool().Draw(t, "accumulate") {
				e.Accumulate = true
				dst.Data = randoms(r, len(want))
				for i, v := range dst.Data {
					want[i] += float64(v)
					mag[i] += math.Abs(float64(v))
				}
			}
			seen := make([]int, len(want))
			if rapid.Bool().Draw(t, "hook") {
				e.Hook = func(tl Tile) {
					for i := range tl.N {
						for j, v := range tl.Rows[i*tl.Stride:][:tl.C1-tl.C0] {
							k := ((tl.Z*to[1]*to[2])+tl.V+i)*cout + tl.C0 + j
							seen[k]++
							if &dst.Data[k] != &tl.Rows[i*tl.Stride+j] {
								t.Fatalf("tile at plane %d voxel %d is not that part of the output", tl.Z, tl.V)
							}
							tl.Rows[i*tl.Stride+j] = 2 * v
						}
					}
				}
				for i := range want {
					want[i], mag[i] = 2*want[i], 2*mag[i]
				}
			}
			runParts(t, c, dst, x, from, e)
			near(t, "output", dst.Data, want, mag)
			for i, n := range seen {
				if e.Hook != nil && n != 1 {
					t.Fatalf("the hook saw value %d %d times", i, n)
				}
			}
		})
	})
}

// Larger shapes reach what small ones do not: several K blocks, M blocks and panels.
func TestConvBlocks(t *testing.T) {
	for _, tc := range []struct {
		name  string
		shape ConvShape
		in    [3]int
	}{
		{"k blocks", ConvShape{Cin: 70, Cout: 150, Groups: 1, Kernel: [3]int{3, 3, 3}, PadBefore: [3]int{1, 1, 1}, PadAfter: [3]int{1, 1, 1}}, [3]int{3, 9, 14}},
		{"many channels", ConvShape{Cin: 900, Cout: 20, Groups: 1, Kernel: [3]int{1, 1, 2}}, [3]int{2, 5, 7}},
		{"stem", ConvShape{Cin: 3, Cout: 40, Groups: 1, Kernel: [3]int{3, 7, 7}, PadBefore: [3]int{1, 3, 3}, PadAfter: [3]int{1, 3, 3}, Stride: [3]int{1, 2, 2}}, [3]int{3, 21, 30}},
		{"stride over the kernel", ConvShape{Cin: 3, Cout: 500, Groups: 1, Kernel: [3]int{1, 1, 1}, Stride: [3]int{2, 2, 2}}, [3]int{3, 5, 6}},
		{"pointwise", ConvShape{Cin: 24, Cout: 144, Groups: 1, Kernel: [3]int{1, 1, 1}}, [3]int{2, 10, 15}},
		{"depthwise", ConvShape{Cin: 70, Cout: 70, Groups: 70, Kernel: [3]int{3, 5, 3}, PadBefore: [3]int{1, 2, 1}, PadAfter: [3]int{1, 2, 1}}, [3]int{3, 18, 21}},
		{"patches", ConvShape{Cin: 2, Cout: 48, Groups: 1, Kernel: [3]int{4, 4, 4}, Stride: [3]int{4, 4, 4}}, [3]int{8, 16, 40}},
	} {
		for a := range 3 {
			tc.shape.Stride[a], tc.shape.Dilation[a] = max(tc.shape.Stride[a], 1), 1
		}
		t.Run(tc.name, func(t *testing.T) {
			r := source(7)
			out := tc.shape.Out(tc.in)
			w := randoms(r, tc.shape.Cout*tc.shape.Cin/tc.shape.Groups*tc.shape.taps())
			x := randoms(r, tc.in[0]*tc.in[1]*tc.in[2]*tc.shape.Cin)
			dy := randoms(r, out[0]*out[1]*out[2]*tc.shape.Cout)
			y, ymag := naiveForward(tc.shape, x, w, tc.in, out)
			dx, dxmag := naiveBackward(tc.shape, dy, w, tc.in, out)
			forSets(t, func(t *testing.T, s *Set) {
				check := func(what string, c *Conv, err error, v []float32, from, to [3]int, want, mag []float64) {
					if err != nil {
						t.Fatal(err)
					}
					cin, cout := c.Channels()
					dst := Whole(make([]float32, len(want)), to[0], to[1], to[2], cout)
					scratch := make([]float32, c.Scratch())
					src := Whole(v, from[0], from[1], from[2], cin)
					run := func() { c.Run(dst, src, Region{Z1: to[0]}, Epilogue{}, scratch) }
					run()
					near(t, what, dst.Data, want, mag)
					if n := testing.AllocsPerRun(1, run); n > 0 {
						t.Errorf("%s allocates %v times", what, n)
					}
				}
				c, err := s.PackConv(tc.shape, Floats(w))
				check("forward", c, err, x, tc.in, out, y, ymag)
				c, err = s.PackConvBackward(tc.shape, Floats(w))
				check("backward", c, err, dy, out, tc.in, dx, dxmag)
			})
		})
	}
}

func TestWeightsFromBytes(t *testing.T) {
	f := []float32{1, -2.5, 3e-9}
	var b []byte
	for _, v := range f {
		u := math.Float32bits(v)
		b = append(b, byte(u), byte(u>>8), byte(u>>16), byte(u>>24))
	}
	w := Bytes(b)
	got := make([]float32, w.Len())
	for i := range got {
		got[i] = w.At(i)
	}
	if !slices.Equal(got, f) {
		t.Errorf("got %v, want %v", got, f)
	}
}

func TestShapeErrors(t *testing.T) {
	one := [3]int{1, 1, 1}
	for _, s := range []ConvShape{
		{Cin: 0, Cout: 1, Groups: 1, Kernel: one, Stride: one, Dilation: one},
		{Cin: 3, Cout: 4, Groups: 2, Kernel: one, Stride: one, Dilation: one},
		{Cin: 1, Cout: 1, Groups: 1, Kernel: [3]int{1, 0, 1}, Stride: one, Dilation: one},
		{Cin: 1, Cout: 1, Groups: 1, Kernel: [3]int{1 << 30, 1 << 30, 1 << 30}, Stride: one, Dilation: one},
		{Cin: 2, Cout: 2, Groups: 1, Kernel: one, Stride: one, Dilation: one},
	} {
		if _, err := Best().PackConv(s, Floats(make([]float32, 3))); err == nil {
			t.Errorf("no error for %+v", s)
		}
	}
}
