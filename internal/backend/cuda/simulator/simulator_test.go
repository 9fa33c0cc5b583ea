package simulator_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

// on runs f in a context of this process.
func on(t *testing.T, s *simulator.Simulator, f func(c *driver.Context) error) {
	t.Helper()
	d, err := driver.Open(s.Path)
	must(t, err)
	c, err := d.Context(0)
	must(t, err)
	must(t, c.Do(func() error { return f(c) }))
	must(t, c.Close())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// code is the driver's number of an error; 0 if there is none.
func code(err error) int {
	if e, ok := errors.AsType[*driver.Error](err); ok {
		return e.Code
	}
	return 0
}

func TestFaults(t *testing.T) {
	s := simulator.Load(t)
	on(t, s, func(c *driver.Context) error {
		codes := func(calls int) (all []int) {
			for range calls {
				_, _, err := c.MemInfo()
				all = append(all, code(err))
			}
			return all
		}
		for name, test := range map[string]struct {
			set  func()
			want []int
		}{
			"call":           {func() { s.FailCall("cuMemGetInfo_v2", 2, 999) }, []int{0, 999, 0, 0, 0}},
			"another call":   {func() { s.FailCall("cuMemCreate", 1, 2) }, []int{0, 0, 0}},
			"any":            {func() { s.FailAny(3, 7) }, []int{0, 0, 7, 0, 0, 0}},
			"every":          {func() { s.FailEvery(2, 2) }, []int{0, 2, 0, 2, 0, 2}},
			"every call":     {func() { s.FailEvery(1, 2) }, []int{2, 2, 2}},
			"both":           {func() { s.FailEvery(3, 2); s.FailAny(2, 7); s.FailCall("cuMemGetInfo_v2", 3, 9) }, []int{0, 7, 2, 0, 0, 2}},
			"instead":        {func() { s.FailAny(1, 7); s.FailAny(2, 8) }, []int{0, 8, 0}},
			"taken back":     {func() { s.FailEvery(2, 2); s.FailEvery(0, 0); s.FailAny(2, 2); s.FailAny(0, 0) }, []int{0, 0, 0, 0}},
			"lost":           {func() { s.LoseAfter(2) }, []int{0, 719, 719, 719}},
			"lost by a test": {func() { s.LoseDevice() }, []int{719, 719}},
		} {
			s.Reset()
			test.set()
			if got := codes(len(test.want)); !slices.Equal(got, test.want) {
				t.Errorf("%s: %v, not %v", name, got, test.want)
			}
		}
		s.Reset()
		codes(5)
		if s.Calls("cuMemGetInfo_v2") != 5 || s.Count() != 5 || s.Calls("cuMemCreate") != 0 {
			t.Errorf("%d calls of %d", s.Calls("cuMemGetInfo_v2"), s.Count())
		}
		return nil
	})
}

// A context that was lost is closed with all that it had, and the process gets no other. One that was not lost keeps what was forgotten.
func TestLostContext(t *testing.T) {
	s := simulator.Load(t)
	make := func(c *driver.Context) error {
		at, err := c.ReserveAddress(2<<20, 0)
		must(t, err)
		h, err := c.CreatePhysical(2 << 20)
		must(t, err)
		must(t, c.Map(at, 2<<20, h))
		must(t, c.Allow(at, 2<<20))
		_, err = c.CreatePhysical(2 << 20)
		must(t, err)
		stream, err := c.NewStream()
		must(t, err)
		event, err := c.NewEvent(false)
		must(t, err)
		must(t, event.Record(stream))
		_, err = c.LoadModule([]byte("any"))
		must(t, err)
		_, err = c.AllocHost(1000)
		must(t, err)
		must(t, stream.BeginCapture())
		must(t, stream.Fill8(at, 0, 1))
		g, err := stream.EndCapture()
		must(t, err)
		_, err = g.Instantiate()
		must(t, err)
		if s.Handles() != 5 || s.Host() != 1000 || s.Used() != 5*2<<20 {
			t.Errorf("%d handles, %d bytes of the host, %d of the device", s.Handles(), s.Host(), s.Used())
		}
		return nil
	}
	for range 2 {
		s.SetContext(3 * 2 << 20)
		on(t, s, func(c *driver.Context) error {
			must(t, make(c))
			s.LoseDevice()
			if err := c.Synchronize(); code(err) != 719 {
				t.Error(err)
			}
			return nil
		})
		if s.Handles() != 0 || s.Host() != 0 || s.Used() != 0 {
			t.Errorf("%d handles, %d bytes of the host, %d of the device are left", s.Handles(), s.Host(), s.Used())
		}
		d, err := driver.Open(s.Path)
		must(t, err)
		if _, err := d.Context(0); code(err) != 719 {
			t.Errorf("another context: %v", err)
		}
		s.Reset() // as another process
	}
	s.SetContext(3 * 2 << 20)
	on(t, s, make)
	if s.Handles() != 5 || s.Host() != 1000 || s.Used() != 2*2<<20 {
		t.Errorf("%d handles, %d bytes of the host, %d of the device are left", s.Handles(), s.Host(), s.Used())
	}
	on(t, s, func(*driver.Context) error { s.LoseDevice(); return nil }) // takes the rest
}

// Others can be made up for a process that has the devices for itself, too.
func TestTake(t *testing.T) {
	s := simulator.Load(t)
	s.SetCapacity(10 * 2 << 20)
	if got := s.Take(9 * 2 << 20); got != 9*2<<20 {
		t.Error(got)
	}
	on(t, s, func(c *driver.Context) error {
		if _, err := c.CreatePhysical(2 * 2 << 20); code(err) != driver.CodeOutOfMemory {
			t.Error(err)
		}
		s.Take(8 * 2 << 20)
		h, err := c.CreatePhysical(2 * 2 << 20)
		must(t, err)
		if got := s.Take(10 * 2 << 20); got != 8*2<<20 {
			t.Error(got)
		}
		return c.Release(h)
	})
	if s.Refusals() != 1 || s.Free() != 2*2<<20 {
		t.Errorf("%d refused, %d free", s.Refusals(), s.Free())
	}
	s.Reset()
	if s.Refusals() != 0 || s.Free() != 8<<30 {
		t.Errorf("%d refused, %d free", s.Refusals(), s.Free())
	}
}

func BenchmarkCall(b *testing.B) {
	for name, load := range map[string]func() *simulator.Simulator{
		"alone":  func() *simulator.Simulator { return simulator.Load(b) },
		"shared": func() *simulator.Simulator { return simulator.Share(b).Simulator },
	} {
		b.Run(name, func(b *testing.B) {
			s := load()
			d, err := driver.Open(s.Path)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := d.Version(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
