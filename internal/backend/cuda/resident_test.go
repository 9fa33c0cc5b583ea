package cuda

import (
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
)

func TestResident(t *testing.T) { backendtest.RunResident(t, open(t, Options{})) }

// Work with the memory while it is vacated and brought back gives either the right result or the error that says why, and memory that is
// taken meanwhile does not keep it from returning.
func TestVacateMeanwhile(t *testing.T) {
	b := open(t, Options{})
	const n = 100_000
	values := counting(n, 1)
	var group sync.WaitGroup
	done := make(chan struct{})
	var went [4]atomic.Int64
	allowed := func(err error) bool { return err == nil || errors.Is(err, devmem.ErrVacated) }
	var fields []backend.Field
	for range 2 {
		fields = append(fields, newField(t, b, n, backend.OnDevice))
		must(t, fields[len(fields)-1].Write(values))
	}
	for i, work := range []func() error{
		func() error { return fields[0].Write(values) },
		func() error {
			got, err := fields[1].Take()
			if err == nil && !slices.Equal(got, values) {
				return errors.New("a field that was kept holds something else")
			}
			return err
		},
		func() error { return b.Copy(fields[0], fields[1]) },
		func() error {
			f, err := b.NewField(n, backend.OnDevice)
			if err != nil {
				return err
			}
			_, err = b.Trim(0)
			return errors.Join(err, f.Close())
		},
	} {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				err := work()
				if !allowed(err) {
					t.Error(err)
					return
				}
				if err == nil {
					went[i].Add(1)
				}
			}
		})
	}
	for range 8 {
		_, err := b.Vacate(fields...)
		must(t, err)
		must(t, b.Return())
		for i := range went { // each gets a turn
			for before := went[i].Load(); went[i].Load() == before && !t.Failed(); {
				runtime.Gosched()
			}
		}
	}
	close(done)
	group.Wait()
}

// A state of moments that was saved goes on after the memory returned; one that was not is an error and no figure.
func TestMomentsVacated(t *testing.T) {
	b := open(t, Options{})
	choices, err := cam.Choose([]string{"vargrad", "smoothgrad"}, nil)
	must(t, err)
	const n = 5000
	m, err := b.NewMoments(n, 1, backend.OnDevice, choices...)
	must(t, err)
	want, err := hostmem.Attribution{}.NewMoments(n, 1, backend.OnHost, choices...)
	must(t, err)
	g, out := newField(t, b, n, backend.OnDevice), newField(t, b, n, backend.OnDevice)
	add := func(from float32) {
		values := counting(n, from)
		must(t, g.Write(values))
		share := 1 / float64(want.Draws()+1)
		must(t, m.Add(g, share))
		must(t, want.Add(hostmem.View(values), share))
	}
	add(1)
	add(2)
	state := make([]float32, m.Len())
	must(t, m.Save(state))
	_, err = b.Vacate()
	must(t, err)
	must(t, b.Return())
	if m.Add(g, 1) == nil || m.Map(out, choices[0], g, 0) == nil || m.Save(make([]float32, m.Len())) == nil {
		t.Error("moments that were lost go on as if nothing had been")
	}
	must(t, m.Load(state, 2))
	add(3)
	for _, c := range choices {
		onHost, err := hostmem.NewField(n)
		must(t, err)
		must(t, errors.Join(m.Map(out, c, g, 0), want.Map(onHost, c, nil, 0)))
		alike(t, c.Key(), out, onHost, 1e-7)
	}
	must(t, m.Close())
}
