package devmem

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

// event is a step of a trace: block ID is taken with Bytes bytes, or closed where they are 0.
type event struct {
	ID    int    `json:"id"`
	Bytes int    `json:"bytes"`
	What  string `json:"what"`
}

// memoryTrace returns what sessions take and close, in a random order: weights that stay long, arenas and scratch of plans that change with
// the budget, fields of volumes of several sizes, and moments that take several times as much. Never more than limit bytes are taken, the
// largest block is about a third of that, and at the end all are closed but those that stay of the last session.
func memoryTrace(seed uint64, steps, limit int) (events []event) {
	r := rand.New(rand.NewPCG(seed, 1))
	type block struct{ id, bytes int }
	var live []block
	taken, id := 0, 0
	volume := limit / 64 // of the present session
	kinds := []struct {
		what  string
		share int // of what is taken, in 100
		bytes func() int
	}{
		{"weights", 10, func() int { return limit/1000 + r.IntN(limit/20) }},
		{"arena", 25, func() int { return limit/200 + r.IntN(1+r.IntN(limit/3)) }},
		{"scratch", 15, func() int { return 1000 + r.IntN(limit/100) }},
		{"field", 35, func() int { return volume + 1<<20 }},
		{"moments", 15, func() int { return volume * (1 + r.IntN(4)) }},
	}
	closeOne := func(k int) {
		taken -= live[k].bytes
		events = append(events, event{ID: live[k].id})
		live = slices.Delete(live, k, k+1)
	}
	for len(events) < steps {
		if r.IntN(200) == 0 {
			volume = limit/512 + r.IntN(limit/32)
		}
		pick, k := r.IntN(100), 0
		for pick >= kinds[k].share {
			pick -= kinds[k].share
			k++
		}
		bytes := kinds[k].bytes()
		rounded := roundUp(bytes, 2<<20)
		for len(live) > 0 && (taken+rounded > limit || r.IntN(3) == 0) {
			closeOne(r.IntN(len(live)))
		}
		taken += rounded
		live = append(live, block{id, rounded})
		events = append(events, event{id, bytes, kinds[k].what})
		id++
	}
	return events
}

// After any number of blocks of any sizes were taken and closed in any order, all that is not in use can be taken as one block: at each
// step the figure says so, and now and then it is tried. A caching allocator with PyTorch's rules is shown beside it, on the same trace.
// VOXCAM_TRACE=FILE writes the trace, for bench/caching_allocator.py.
func TestNoFragmentation(t *testing.T) {
	steps, limit := 10_000, 192<<20
	if backendtest.Long() {
		steps = 100_000
	}
	if os.Getenv("VOXCAM_GPU") != "" {
		limit = 1 << 30
	}
	trace := memoryTrace(1, steps, limit)
	if path := os.Getenv("VOXCAM_TRACE"); path != "" {
		text, err := json.Marshal(trace)
		must(t, err)
		must(t, os.WriteFile(path, text, 0o644))
	}
	var a *Allocator
	if os.Getenv("VOXCAM_GPU") != "" {
		a = open(t)
	} else {
		sim := simulator.Load(t)
		sim.SetCapacity(limit + 16<<20)
		a = opened(t, sim.Path, nil)
		t.Cleanup(func() { must(t, a.Close()) })
	}
	caching := newCachingAllocator()
	live := map[int]*Allocation{}
	whole := func(bytes int) int { return bytes / a.granularity * a.granularity }
	worst, worstCaching, most := 0.0, 0.0, 0
	for i, e := range trace {
		if e.Bytes == 0 {
			must(t, live[e.ID].Close())
			delete(live, e.ID)
			caching.close(e.ID)
		} else {
			m, err := a.Allocate(e.Bytes, e.What)
			if err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			live[e.ID] = m
			caching.take(e.ID, e.Bytes)
		}
		u, err := a.Usage()
		must(t, err)
		most = max(most, u.Allocated)
		u.Free = whole(u.Free) // less than a piece does not count
		if worst = max(worst, u.Fragmentation()); worst > 0 || u.Reserved > most {
			t.Fatalf("step %d: fragmentation %v, %d bytes reserved and %d allocated at most", i, worst, u.Reserved, most)
		}
		if ratio, _ := caching.ratios(); i > steps/10 {
			worstCaching = max(worstCaching, ratio)
		}
		if (i+1)%(steps/10) != 0 || os.Getenv("VOXCAM_GPU") != "" { // a GPU has other users, too
			continue
		}
		m, err := a.Allocate(u.Largest, "all that is left")
		if err != nil {
			t.Fatalf("step %d: the largest block of %d bytes: %v", i, u.Largest, err)
		}
		if _, err := a.Allocate(1, "another piece"); Class(err) != backend.NoMemory {
			t.Errorf("step %d: beside the largest block there is room: %v", i, err)
		}
		must(t, m.Close())
		_, err = a.Trim(most - a.Allocated())
		must(t, err)
	}
	ratio, slack := caching.ratios()
	t.Logf("%d steps, at most %d MiB allocated: fragmentation %v at each step; %d MiB reserved, slack %.3f", len(trace), most>>20, worst, a.Held()>>20,
		1-float64(a.Allocated())/float64(a.Held()))
	t.Logf("a caching allocator: fragmentation %.3f at the end, %.3f at worst; %d MiB reserved, slack %.3f", ratio, worstCaching, caching.reserved>>20, slack)
	if worstCaching == 0 {
		t.Error("the caching allocator does not fragment: the trace proves nothing")
	}
	for _, m := range live {
		must(t, m.Close())
	}
}

// The block that Usage calls the largest can be taken, also where it is all that is free of a GPU.
func TestLargestBlock(t *testing.T) {
	a := open(t)
	if os.Getenv("VOXCAM_GPU") == "" {
		simulator.Load(t).SetCapacity(64 << 20)
	}
	u, err := a.Usage()
	must(t, err)
	all := u.Largest
	if os.Getenv("VOXCAM_GPU") != "" {
		all -= all / 1000 // its driver needs some of what it calls free for tables of pages
	}
	start := time.Now()
	m, err := a.Allocate(all, "all that is free")
	took := time.Since(start)
	if err != nil {
		t.Fatalf("of %d bytes the driver gave %d: %v", all, a.Held(), err)
	}
	start = time.Now()
	must(t, m.Close())
	closed := time.Since(start)
	start = time.Now()
	m, err = a.Allocate(all, "the same")
	must(t, err)
	again := time.Since(start)
	must(t, m.Close())
	start = time.Now()
	_, err = a.Trim(0)
	must(t, err)
	t.Logf("%d MiB: taken in %v, closed in %v, taken again in %v, given back in %v", all>>20, took, closed, again, time.Since(start))
}

// cachingAllocator follows the rules of PyTorch's (c10/cuda/CUDACachingAllocator.cpp, default settings): sizes are multiples of 512 bytes;
// blocks are cut from segments of 2 MiB, of 20 MiB, or of their own size, which stay; the smallest free one that fits is taken.
type cachingAllocator struct {
	unused   [2][]*cachedBlock // of small and of large blocks, by size
	live     map[int]*cachedBlock
	reserved int
	taken    int
}

type cachedBlock struct {
	bytes      int
	at         int // order of creation within equal sizes
	large      int // index of the list
	used       bool
	prev, next *cachedBlock // neighbours in the segment
}

const (
	cachedRound       = 512
	cachedSmall       = 1 << 20
	cachedSmallBuffer = 2 << 20
	cachedLarge       = 10 << 20
	cachedLargeBuffer = 20 << 20
)

func newCachingAllocator() *cachingAllocator { return &cachingAllocator{live: map[int]*cachedBlock{}} }

func compareCached(a, b *cachedBlock) int {
	if a.bytes != b.bytes {
		return a.bytes - b.bytes
	}
	return a.at - b.at
}

func (c *cachingAllocator) put(b *cachedBlock) {
	list := &c.unused[b.large]
	i, _ := slices.BinarySearchFunc(*list, b, compareCached)
	*list = slices.Insert(*list, i, b)
}

func (c *cachingAllocator) drop(b *cachedBlock) {
	list := &c.unused[b.large]
	i, _ := slices.BinarySearchFunc(*list, b, compareCached)
	*list = slices.Delete(*list, i, i+1)
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

func (c *cachingAllocator) take(id, bytes int) {
	bytes = max(roundUp(bytes, cachedRound), cachedRound)
	large := 1
	if bytes <= cachedSmall {
		large = 0
	}
	var b *cachedBlock
	if i := slices.IndexFunc(c.unused[large], func(b *cachedBlock) bool { return b.bytes >= bytes }); i >= 0 {
		b = c.unused[large][i]
		c.drop(b)
	} else {
		segment := roundUp(bytes, cachedSmallBuffer)
		switch {
		case large == 0:
			segment = cachedSmallBuffer
		case bytes < cachedLarge:
			segment = cachedLargeBuffer
		}
		b = &cachedBlock{bytes: segment, at: c.reserved, large: large}
		c.reserved += segment
	}
	if rest := b.bytes - bytes; large == 0 && rest >= cachedRound || large == 1 && rest > cachedSmall {
		r := &cachedBlock{bytes: rest, at: b.at + bytes, large: large, prev: b, next: b.next}
		if b.next != nil {
			b.next.prev = r
		}
		b.bytes, b.next = bytes, r
		c.put(r)
	}
	b.used = true
	c.live[id] = b
	c.taken += b.bytes
}

func (c *cachingAllocator) close(id int) {
	b := c.live[id]
	delete(c.live, id)
	c.taken -= b.bytes
	b.used = false
	if n := b.next; n != nil && !n.used {
		c.drop(n)
		b.bytes += n.bytes
		if b.next = n.next; b.next != nil {
			b.next.prev = b
		}
	}
	if p := b.prev; p != nil && !p.used {
		c.drop(p)
		p.bytes += b.bytes
		if p.next = b.next; p.next != nil {
			p.next.prev = p
		}
		b = p
	}
	c.put(b)
}

// ratios returns the share of free memory in its segments outside of the largest free block, and the share of the segments that is free.
func (c *cachingAllocator) ratios() (fragmentation, slack float64) {
	rest, largest := c.reserved-c.taken, 0
	for _, list := range c.unused {
		if n := len(list); n > 0 {
			largest = max(largest, list[n-1].bytes)
		}
	}
	if rest == 0 {
		return 0, 0
	}
	return 1 - float64(largest)/float64(rest), float64(rest) / float64(c.reserved)
}

// The model of the caching allocator does what its rules say.
func TestCachingAllocator(t *testing.T) {
	c := newCachingAllocator()
	c.take(0, 100)     // 512 bytes of a segment of 2 MiB
	c.take(1, 3<<20)   // of 20 MiB
	c.take(2, 11<<20)  // beside it? no: 17 MiB are left there, and it takes 11 of them
	c.take(3, 11<<20)  // of its own, 12 MiB, whose rest is not more than 1 MiB
	c.take(4, 600<<10) // small
	if want := (2 + 20 + 12) << 20; c.reserved != want || c.taken != 512+3<<20+11<<20+12<<20+600<<10 {
		t.Errorf("%d reserved and not %d, %d taken", c.reserved, want, c.taken)
	}
	for id := range 5 {
		c.close(id)
	}
	if c.taken != 0 || len(c.unused[0]) != 1 || len(c.unused[1]) != 2 || c.unused[1][1].bytes != 20<<20 {
		t.Errorf("what is free is not merged: %+v", c.unused)
	}
}
