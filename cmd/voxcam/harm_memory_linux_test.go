package main

import (
	"os"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/explain"
)

// Another program holds so much of the GPU that only smaller and smaller plans fit beside it.
func TestHarmLittleMemory(t *testing.T) {
	h := withDemo(t, often(1, 20), 2)
	h.args = append(h.args, "--dataset", "all", "--wait", "0s")
	h.wholly()
	const context = 4 * piece // of which it gives half back
	for _, c := range []struct {
		name    string
		free    int // pieces
		context int // bytes
		level   explain.Level
		long    bool
	}{
		{name: "all-fits", free: 24, level: explain.LevelWhole},
		{name: "no-whole-tensors", free: 18, level: explain.LevelStreamed},
		{name: "volumes-on-host", free: 4, level: explain.LevelHost},
		{name: "no-plan", free: 2, level: explain.LevelCPU},
		{name: "nothing", free: 0, level: explain.LevelCPU, long: true},
		{name: "streamed-beside-context", free: 18 + context/piece/2, context: context, level: explain.LevelStreamed, long: true},
		{name: "no-context", free: context/piece - 1, context: context, level: explain.LevelCPU},
	} {
		if c.long && !isLong() {
			continue
		}
		h.gpu.SetContext(c.context)
		if got := h.gpu.TakeAs(os.Getpid(), "another program", 0, capacity-c.free*piece); got != capacity-c.free*piece {
			t.Fatalf("it holds %d", got)
		}
		refused := h.gpu.Refusals()
		h.run(c.name, 0)
		worst := h.check(c.name)
		levels, kinds := h.levels(c.name)
		t.Logf("%2d pieces free, context %d MiB: %v, what happened: %v, %.1e off", c.free, c.context>>20, levels, kinds, worst)
		if levels[c.level] != len(h.records(c.name)) {
			t.Errorf("%s: %v instead of %s", c.name, levels, c.level)
		}
		if n := h.gpu.Refusals() - refused; n > 0 != (kinds[explain.IncidentRefused] > 0) {
			t.Errorf("%s: the device refused memory %d times, the records tell of %d", c.name, n, kinds[explain.IncidentRefused])
		}
		h.isFree(capacity - c.free*piece)
	}

	// Where the processor may not help, a volume is given up without a file, and finished when there is memory.
	h.gpu.SetContext(0)
	h.gpu.TakeAs(os.Getpid(), "another program", 0, capacity-2*piece)
	h.run("skipped", 4, "--cpu-fallback=false")
	for _, s := range h.records("skipped") {
		if s.Status != explain.StatusSkipped || len(s.Files) != 0 {
			t.Errorf("%s is %s, with the files %v", s.ID, s.Status, s.Files)
		}
	}
	for _, name := range h.names("skipped") {
		if strings.HasSuffix(name, ".npy") || strings.HasPrefix(name, ".partial/") {
			t.Errorf("%s was written for a volume that was given up", name)
		}
	}
	h.gpu.TakeAs(os.Getpid(), "", 0, 0)
	h.run("skipped", 0)
	if worst := h.check("skipped"); worst != 0 {
		t.Errorf("%.1e off", worst)
	}
	h.isFree(0)
	h.noSockets()
}

// A competitor takes and gives memory at random while volumes are explained. Its moves come with the calls of the driver: time is counted
// in them, and a move stands for the half second that another program may well take for it, so that 3600 are half an hour.
func TestHarmCompetitor(t *testing.T) {
	h := withMethods(t, 3, 8)
	h.args = []string{"--wait", "1s"}
	h.wholly()
	moves, least := 0, often(200, 3600)
	levels, kinds, refusals, volumes, off := map[explain.Level]int{}, map[explain.IncidentKind]int{}, h.gpu.Refusals(), 0, 0.0
	for seed := uint64(1); moves < least; seed++ {
		took, gave := h.gpu.Moves()
		h.gpu.CompeteEach(20, seed, 0, []int{4, 8, 16}[seed%3]*piece)
		name := "c" + string(rune('a'+seed%26)) + string(rune('a'+seed/26%26))
		refused := h.gpu.Refusals()
		h.run(name, 0)
		h.gpu.Rest()
		off = max(off, h.check(name))
		l, k := h.levels(name)
		for level, n := range l {
			levels[level] += n
			volumes += n
		}
		for kind, n := range k {
			kinds[kind] += n
		}
		if n := h.gpu.Refusals() - refused; n > 0 && k[explain.IncidentRefused] == 0 {
			t.Errorf("%s: the device refused memory %d times, and no record tells of it", name, n)
		}
		took2, gave2 := h.gpu.Moves()
		if took2 == took && gave2 == gave {
			t.Fatal("the competitor does not move")
		}
		moves = took2 + gave2
		h.isFree(0)
	}
	t.Logf("%d moves, %d volumes: %v; refused %d times, what happened: %v; %.1e off", moves, volumes, levels, h.gpu.Refusals()-refusals, kinds, off)
	h.noSockets()
}
