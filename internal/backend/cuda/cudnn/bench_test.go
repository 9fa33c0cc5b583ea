package cudnn

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// device is a GPU with cuDNN, for tests that compute.
type device struct {
	*driver.Context
	stream *driver.Stream
	handle *Handle
}

// onDevice runs f with the first GPU, or skips the test where there is none.
func onDevice(t testing.TB, f func(d *device)) {
	t.Helper()
	l := load(t)
	drv, err := driver.Open("")
	if err != nil {
		t.Skipf("SKIPPED: needs a GPU: %v", err)
	}
	if devices, err := drv.Devices(); err != nil || len(devices) == 0 {
		t.Skipf("SKIPPED: needs a GPU: %v", err)
	} else {
		t.Logf("%s, compute capability %d.%d", devices[0].Name, devices[0].Major, devices[0].Minor)
	}
	ctx, err := drv.Context(0)
	if err != nil {
		t.Skipf("SKIPPED: needs a GPU: %v", err)
	}
	if err := ctx.Do(func() error {
		d := &device{Context: ctx}
		var err error
		if d.stream, err = ctx.NewStream(); err != nil {
			return err
		}
		if d.handle, err = l.NewHandle(); err != nil {
			return err
		}
		if err := d.handle.SetStream(d.stream.Handle()); err != nil {
			return err
		}
		f(d)
		if err := d.handle.Close(); err != nil {
			return err
		}
		return d.stream.Close()
	}); err != nil {
		t.Fatal(err)
	}
}

// here runs f with the context in the thread of the caller: each subtest has a goroutine of its own.
func (d *device) here(t testing.TB, f func()) {
	if err := d.Do(func() error { f(); return nil }); err != nil {
		t.Error(err)
	}
}

// alloc takes memory of the device until the test ends, and fills it with zeros.
func (d *device) alloc(t testing.TB, bytes int) driver.Ptr {
	t.Helper()
	unit, err := d.Granularity()
	if err != nil {
		t.Fatal(err)
	}
	bytes = max((bytes+unit-1)/unit, 1) * unit
	p, err := d.ReserveAddress(bytes, 0)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := d.CreatePhysical(bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := firstError(d.Map(p, bytes, memory), d.Allow(p, bytes)); err != nil {
		t.Fatal(err)
	}
	if err := d.stream.Fill8(p, 0, bytes); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := d.Do(func() error {
			return firstError(d.Synchronize(), d.Unmap(p, bytes), d.Release(memory), d.FreeAddress(p, bytes))
		})
		if err != nil {
			t.Error(err)
		}
	})
	return p
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// upload takes memory and copies values into it, as float32 or as bfloat16.
func (d *device) upload(t testing.TB, values []float32, narrow bool) driver.Ptr {
	t.Helper()
	p := d.alloc(t, 4*len(values))
	var err error
	if narrow {
		half := make([]uint16, len(values))
		for i, v := range values {
			half[i] = uint16(math.Float32bits(v) >> 16) // exact: the values are rounded already
		}
		err = d.stream.CopyToDevice(p, unsafe.Pointer(&half[0]), 2*len(half))
	} else {
		err = d.stream.CopyToDevice(p, unsafe.Pointer(&values[0]), 4*len(values))
	}
	if err := firstError(err, d.stream.Synchronize()); err != nil {
		t.Fatal(err)
	}
	return p
}

func (d *device) download(t testing.TB, p driver.Ptr, n int, narrow bool) []float32 {
	t.Helper()
	values := make([]float32, n)
	var err error
	if narrow {
		half := make([]uint16, n)
		err = firstError(d.stream.CopyToHost(unsafe.Pointer(&half[0]), p, 2*n), d.stream.Synchronize())
		for i, h := range half {
			values[i] = math.Float32frombits(uint32(h) << 16)
		}
	} else {
		err = firstError(d.stream.CopyToHost(unsafe.Pointer(&values[0]), p, 4*n), d.stream.Synchronize())
	}
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// strides returns the elements between planes (z) and rows (y) of x or y.
func strides(size [3]int, channels, plane int) (z, y int) {
	if plane == 0 {
		plane = size[1] * size[2] * channels
	}
	return plane, size[2] * channels
}

// sizes are the elements of x, w and y.
func (c Convolution) sizes() (x, w, y int) {
	xz, _ := strides(c.In, c.Cin, c.InPlane)
	yz, _ := strides(c.Out, c.Cout, c.OutPlane)
	return c.In[0] * xz, c.Cout * c.Kernel[0] * c.Kernel[1] * c.Kernel[2] * c.Cin / c.Groups, c.Out[0] * yz
}

// slow computes a convolution in float64. What is written is 0 in the gaps between planes.
func slow(c Convolution, read, w, bias, residual []float32) []float64 {
	nx, _, ny := c.sizes()
	xz, xy := strides(c.In, c.Cin, c.InPlane)
	yz, yy := strides(c.Out, c.Cout, c.OutPlane)
	out := make([]float64, ny)
	if c.Backward {
		out = make([]float64, nx)
	}
	ci, co := c.Cin/c.Groups, c.Cout/c.Groups
	k := 0 // of the weight
	for j := range c.Cout {
		for kz := range c.Kernel[0] {
			for ky := range c.Kernel[1] {
				for kx := range c.Kernel[2] {
					for i := range ci {
						weight := float64(w[k])
						k++
						for z := range c.Out[0] {
							iz := z*c.Stride[0] + kz*c.Dilation[0] - c.Before[0]
							for y := range c.Out[1] {
								iy := y*c.Stride[1] + ky*c.Dilation[1] - c.Before[1]
								for x := range c.Out[2] {
									ix := x*c.Stride[2] + kx*c.Dilation[2] - c.Before[2]
									if iz < 0 || iz >= c.In[0] || iy < 0 || iy >= c.In[1] || ix < 0 || ix >= c.In[2] {
										continue
									}
									in, o := iz*xz+iy*xy+ix*c.Cin+j/co*ci+i, z*yz+y*yy+x*c.Cout+j
									if c.Backward {
										out[in] += weight * float64(read[o])
									} else {
										out[o] += weight * float64(read[in])
									}
								}
							}
						}
					}
				}
			}
		}
	}

	size, channels, z := c.Out, c.Cout, yz
	if c.Backward {
		size, channels, z = c.In, c.Cin, xz
	}
	for p := range size[0] {
		for i := range size[1] * size[2] * channels {
			v := &out[p*z+i]
			if c.Residual {
				*v += float64(residual[p*z+i])
			}
			if c.Bias {
				*v += float64(bias[i%channels])
			}
			if c.Activation == "relu" {
				*v = max(*v, 0)
			}
		}
	}
	return out
}

// TestSlow holds the yardstick itself to what it must fulfil: backward is the adjoint of forward, and a kernel of one 1 moves the volume.
func TestSlow(t *testing.T) {
	for name, c := range shapes() {
		random := rand.New(rand.NewPCG(3, 4))
		nx, nw, ny := c.sizes()
		draw := func(n int) []float32 {
			values := make([]float32, n)
			for i := range values {
				values[i] = random.Float32() - 0.5
			}
			return values
		}
		x, w, y := draw(nx), draw(nw), draw(ny)
		forward := slow(c, x, w, nil, nil)
		c.Backward = true
		backward := slow(c, y, w, nil, nil)
		a, b := 0.0, 0.0
		for i, v := range forward {
			a += v * float64(y[i])
		}
		for i, v := range backward {
			b += v * float64(x[i])
		}
		if math.Abs(a-b) > 1e-9*math.Abs(a)+1e-9 || a == 0 {
			t.Errorf("%s: <conv x, y> is %v, <x, conv' y> is %v", name, a, b)
		}
	}
	c := same(1, 1, 3, [3]int{1, 1, 4}, Float32)
	w := make([]float32, 27)
	w[(1*3+1)*3+0] = 1 // the voxel before, along W
	c.Bias, c.Residual, c.Activation = true, true, "relu"
	got := slow(c, []float32{1, 2, 3, 4}, w, []float32{10}, []float32{0, 0, -100, 0})
	if !slices.Equal(got, []float64{10, 11, 0, 13}) {
		t.Errorf("moved by one: %v", got)
	}
}

// shapes are small problems of every kind.
func shapes() map[string]Convolution {
	small := same(8, 16, 3, [3]int{5, 9, 10}, Float32)
	asymmetric := small
	asymmetric.Before, asymmetric.After, asymmetric.Out = [3]int{0, 1, 2}, [3]int{1, 0, 1}, [3]int{4, 8, 11}
	strided := small
	strided.Stride, strided.Out = [3]int{2, 2, 2}, [3]int{3, 5, 5}
	gaps := small
	gaps.InPlane, gaps.OutPlane = 9*10*8+16, 9*10*16+32
	grouped := small
	grouped.Groups = 2
	dilated := small
	dilated.Dilation, dilated.Before, dilated.After = [3]int{2, 2, 2}, [3]int{2, 2, 2}, [3]int{2, 2, 2}
	odd := same(3, 5, 3, [3]int{5, 9, 10}, Float32)
	odd.Align = 4
	return map[string]Convolution{"small": small, "asymmetric": asymmetric, "strided": strided, "gaps": gaps, "grouped": grouped,
		"dilated": dilated, "odd": odd, "wide": same(64, 64, 3, [3]int{3, 12, 12}, Float32), "point": same(24, 144, 1, [3]int{4, 8, 8}, Float32)}
}

// TestOnDevice holds every candidate of small problems against a convolution in float64, and runs it twice, for equal bits.
func TestOnDevice(t *testing.T) {
	tolerance := map[Precision]float64{Float32: 1e-5, TF32: 2e-3, BFloat16: 1.5e-2}

	problems := shapes()
	onDevice(t, func(d *device) {
		for _, name := range slices.Sorted(maps.Keys(problems)) {
			for _, precision := range []Precision{Float32, TF32, BFloat16} {
				for _, backward := range []bool{false, true} {
					for fuse := range 4 {
						c := problems[name]
						c.Precision, c.Backward = precision, backward
						c.Bias, c.Residual = fuse > 0, fuse > 2
						if fuse > 1 {
							c.Activation = "relu"
						}
						if backward && fuse > 0 {
							continue // fused engines for it are compiled for seconds
						}
						c.Read16 = precision == BFloat16 && (backward || fuse != 2)
						c.Write16 = precision == BFloat16 && fuse == 0
						t.Run(fmt.Sprintf("%s %v backward=%v fused=%d", name, precision, backward, fuse), func(t *testing.T) {
							d.here(t, func() { d.compare(t, c, tolerance[precision]) })
						})
					}
				}
			}
		}
	})
}

func (d *device) compare(t *testing.T, c Convolution, tolerance float64) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func(n int) []float32 {
		values := make([]float32, n)
		for i := range values {
			v := float32(random.NormFloat64())
			if c.Precision == BFloat16 {
				v = math.Float32frombits(math.Float32bits(v) &^ 0xffff)
			}
			values[i] = v
		}
		return values
	}
	nx, nw, ny := c.sizes()
	from, to, channels := nx, ny, c.Cout
	if c.Backward {
		from, to, channels = ny, nx, c.Cin
	}
	read, w, bias, residual := draw(from), draw(nw), draw(channels), draw(to)
	want := slow(c, read, w, bias, residual)
	largest := 0.0
	for _, v := range want {
		largest = max(largest, math.Abs(v))
	}

	plans, err := d.handle.Candidates(c, 64<<20)
	if err != nil {
		if c.Precision == BFloat16 {
			t.Skip("SKIPPED: ", err) // not every problem has engines for it
		}
		t.Fatal(err)
	}
	a := Addresses{W: d.upload(t, w, c.Precision == BFloat16), Bias: d.upload(t, bias, false), Residual: d.upload(t, residual, c.Write16),
		Workspace: d.alloc(t, 64<<20)}
	in, out := d.upload(t, read, c.Read16), d.alloc(t, 4*to)
	a.X, a.Y = in, out
	if c.Backward {
		a.X, a.Y = out, in
	}
	for _, p := range plans {
		var first []float32
		for range 2 {
			if err := firstError(d.stream.Fill8(out, 0, 4*to), p.Run(a)); err != nil {
				t.Fatal(err)
			}
			got := d.download(t, out, to, c.Write16)
			if first == nil {
				first = got
			} else if !slices.Equal(first, got) {
				t.Errorf("engine %s: two runs differ", p.Engine)
			}
		}
		worst, where := 0.0, 0
		for i, v := range first {
			if e := math.Abs(float64(v)-want[i]) / largest; !(e <= worst) {
				worst, where = e, i
			}
		}
		t.Logf("engine %s: error %.2g of the maximum, workspace %d", p.Engine, worst, p.Workspace)
		if !(worst <= tolerance) {
			t.Errorf("engine %s: element %d is %v, want %v", p.Engine, where, first[where], want[where])
		}
		p.Close()
	}
}

// BenchmarkCandidates times every candidate of typical convolutions, with ten runs each: -bench Candidates -benchtime 10x. A part of them
// is chosen by -bench Candidates/64_to_64/tf32/forward.
func BenchmarkCandidates(b *testing.B) {
	onDevice(b, func(d *device) {
		names := slices.Sorted(maps.Keys(typical(Float32)))
		for _, name := range names {
			b.Run(name, func(b *testing.B) {
				for _, precision := range []Precision{Float32, TF32, BFloat16} {
					b.Run(precision.String(), func(b *testing.B) {
						c := typical(precision)[name]
						d.time(b, "forward", c)
						fused := c
						fused.Bias, fused.Activation = true, "relu"
						d.time(b, "forward bias relu", fused)
						backward := c
						backward.Backward, backward.Read16 = true, precision == BFloat16
						d.time(b, "backward", backward)
						if precision == BFloat16 {
							fused.Read16 = true
							d.time(b, "forward bias relu from bfloat16", fused)
							c.Read16, c.Write16, backward.Write16 = true, true, true
							d.time(b, "forward from and to bfloat16", c)
							d.time(b, "backward from and to bfloat16", backward)
						}
					})
				}
			})
		}
	})
}

// time times all candidates of one problem. Its own running time is that of making the plans.
func (d *device) time(b *testing.B, name string, c Convolution) {
	b.Run(name, func(b *testing.B) {
		var plans []*Plan
		d.here(b, func() {
			var err error
			if plans, err = d.handle.Candidates(c, 256<<20); err != nil {
				b.Log(err)
			}
		})
		for _, p := range plans {
			b.Run("engine "+p.Engine, func(b *testing.B) {
				d.here(b, func() { d.repeat(b, p) })
			})
			p.Close()
		}
	})
}

// repeat runs a plan b.N times.
func (d *device) repeat(b *testing.B, p *Plan) {
	c := p.Problem
	nx, nw, ny := c.sizes()
	a := Addresses{X: d.alloc(b, 4*nx), W: d.alloc(b, 4*nw), Y: d.alloc(b, 4*ny), Bias: d.alloc(b, 4*max(c.Cin, c.Cout)),
		Workspace: d.alloc(b, p.Workspace)}
	before, after := d.event(b), d.event(b)
	if err := firstError(p.Run(a), d.stream.Synchronize(), before.Record(d.stream)); err != nil {
		b.Fatal(err)
	}
	for range b.N {
		if err := p.Run(a); err != nil {
			b.Fatal(err)
		}
	}
	if err := firstError(after.Record(d.stream), after.Synchronize()); err != nil {
		b.Fatal(err)
	}
	seconds, err := after.Elapsed(before)
	if err := firstError(err, before.Close(), after.Close()); err != nil {
		b.Fatal(err)
	}
	seconds /= float64(b.N)
	products := 2 * float64(nw) * float64(c.Out[0]*c.Out[1]*c.Out[2])
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(seconds*1e3, "ms")
	b.ReportMetric(products/seconds/1e12, "TFLOP/s")
	b.ReportMetric(float64(p.Workspace)/(1<<20), "MiB")
}

func (d *device) event(b *testing.B) *driver.Event {
	e, err := d.NewEvent(true)
	if err != nil {
		b.Fatal(err)
	}
	return e
}
