package policy

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
)

func budget(t *testing.T, text string) bytesize.Budget {
	t.Helper()
	b, err := bytesize.ParseBudget(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAllow(t *testing.T) {
	const total = 40 * bytesize.GiB
	for _, c := range []struct {
		budget         string
		reserved, free int
		bytes          int
		least          bool
	}{
		{"auto", 0, 10 * bytesize.GiB, 6 * bytesize.GiB, false},
		{"auto", 6 * bytesize.GiB, 4 * bytesize.GiB, 6 * bytesize.GiB, false}, // what it has is no reason to take less
		{"50%", 2 * bytesize.GiB, 2 * bytesize.GiB, 2 * bytesize.GiB, false},
		{"100%", 0, bytesize.GiB, bytesize.GiB - Reserve, false},
		{"2GiB", 0, 10 * bytesize.GiB, 2 * bytesize.GiB, false},
		{"2GiB", 0, bytesize.GiB, bytesize.GiB - Reserve, false},
		{"2GiB", 0, 80 * bytesize.MiB, 70 * bytesize.MiB, false}, // a small device leaves an eighth
		{"min", 0, 10 * bytesize.GiB, 0, true},
		{"auto", 0, 0, 0, true},
		{"2GiB", 0, 0, 0, true},
	} {
		bytes, least := NewGovernor(budget(t, c.budget), nil).Allow(backend.Usage{Total: total, Reserved: c.reserved, Free: c.free})
		if bytes != c.bytes || least != c.least {
			t.Errorf("%s with %s and %s free gave %d, %t", c.budget, bytesize.Format(c.reserved), bytesize.Format(c.free), bytes, least)
		}
	}
	for text, want := range map[string]int{"auto": 0, "30%": 0, "1GiB": bytesize.GiB} {
		if bytes, least := NewGovernor(budget(t, text), nil).Allow(backend.Usage{}); bytes != want || least {
			t.Errorf("%s of no device gave %d, %t", text, bytes, least)
		}
	}
}

// More that is free never allows less, and never is more allowed than there is.
func TestAllowIsMonotone(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, text := range []string{"auto", "1%", "37%", "100%", "1B", "700MiB", "30GiB", "min"} {
		g := NewGovernor(budget(t, text), nil)
		for range 2000 {
			u := backend.Usage{Total: 1 + r.IntN(80*bytesize.GiB)}
			u.Reserved = r.IntN(u.Total)
			u.Free = r.IntN(u.Total - u.Reserved)
			if r.IntN(4) == 0 { // where little is left, roundings show
				u.Reserved, u.Free = r.IntN(20), r.IntN(20)
			}
			more := u
			more.Free += r.IntN(1 + min(u.Free, bytesize.GiB))
			a, leastA := g.Allow(u)
			b, leastB := g.Allow(more)
			switch {
			case a > u.Available() || a < 0:
				t.Fatalf("%s: %d of %d are available, %d allowed", text, u.Available(), u.Total, a)
			case leastA != (a == 0):
				t.Fatalf("%s: %d allowed, least %t", text, a, leastA)
			case b < a || leastB && !leastA:
				t.Fatalf("%s: %+v allows %d, %+v only %d", text, u, a, more, b)
			}
		}
	}
}

func TestRelease(t *testing.T) {
	var mu sync.Mutex
	clock := time.Unix(1000, 0)
	g := NewGovernor(bytesize.Budget{}, func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return clock
	})
	u := backend.Usage{Total: bytesize.GiB, Free: bytesize.GiB}
	check := func(when string, want bool) {
		t.Helper()
		_, held := g.Held()
		if _, least := g.Allow(u); held != want || least != want {
			t.Errorf("%s: held %t, the least %t", when, held, least)
		}
	}
	check("at first", false)
	g.Release(time.Time{})
	clock = clock.Add(1000 * time.Hour)
	check("released without end", true)
	g.Resume()
	check("resumed", false)
	end := clock.Add(time.Minute)
	g.Release(end)
	if until, held := g.Held(); !held || !until.Equal(end) {
		t.Errorf("held %t until %v", held, until)
	}
	clock = clock.Add(59 * time.Second)
	check("before the end", true)
	clock = clock.Add(time.Second)
	check("at the end", false)
	g.Release(clock.Add(-time.Second))
	check("released until a time that is gone", false)

	var wait sync.WaitGroup // for the race detector
	for range 4 {
		wait.Go(func() {
			for range 100 {
				g.Release(end)
				g.Allow(u)
				g.Held()
				g.Resume()
			}
		})
	}
	wait.Wait()
	check("after all have resumed", false)
}
