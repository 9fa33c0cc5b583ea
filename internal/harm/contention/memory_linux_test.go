package contention

import (
	"os"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/harm"
)

// Another program holds so much of the GPU that only smaller and smaller plans fit beside it.
func TestHarmLittleMemory(t *testing.T) {
	h := harm.WithDemo(t, harm.Often(1, 20), 2)
	h.Args = append(h.Args, "--dataset", "all", "--wait", "0s")
	h.Undisturbed()
	const context = 4 * harm.Piece // of which it gives half back
	for _, c := range []struct {
		name    string
		free    int // pieces
		context int // bytes
		level   cam.Level
		long    bool
	}{
		{name: "all-fits", free: 24, level: cam.LevelWhole},
		{name: "no-whole-tensors", free: 18, level: cam.LevelStreamed},
		{name: "volumes-on-host", free: 4, level: cam.LevelHost},
		{name: "no-plan", free: 2, level: cam.LevelCPU},
		{name: "nothing", free: 0, level: cam.LevelCPU, long: true},
		{name: "streamed-beside-context", free: 18 + context/harm.Piece/2, context: context, level: cam.LevelStreamed, long: true},
		{name: "no-context", free: context/harm.Piece - 1, context: context, level: cam.LevelCPU},
	} {
		if c.long && !harm.Long() {
			continue
		}
		h.GPU.SetContext(c.context)
		if got := h.GPU.TakeAs(os.Getpid(), "another program", 0, harm.Capacity-c.free*harm.Piece); got != harm.Capacity-c.free*harm.Piece {
			t.Fatalf("it holds %d", got)
		}
		refused := h.GPU.Refusals()
		h.Run(c.name, 0)
		worst := h.Check(c.name)
		levels, kinds := h.Levels(c.name)
		t.Logf("%2d pieces free, context %d MiB: %v, what happened: %v, %.1e off", c.free, c.context>>20, levels, kinds, worst)
		if levels[c.level] != len(h.Records(c.name)) {
			t.Errorf("%s: %v instead of %s", c.name, levels, c.level)
		}
		if n := h.GPU.Refusals() - refused; n > 0 != (kinds[cam.EventRefused] > 0) {
			t.Errorf("%s: the device refused memory %d times, the records tell of %d", c.name, n, kinds[cam.EventRefused])
		}
		h.IsFree(harm.Capacity - c.free*harm.Piece)
	}

	// Where the processor may not help, a volume is given up without a file, and finished when there is memory.
	h.GPU.SetContext(0)
	h.GPU.TakeAs(os.Getpid(), "another program", 0, harm.Capacity-2*harm.Piece)
	h.Run("skipped", 4, "--cpu-fallback=false")
	for _, s := range h.Records("skipped") {
		if s.Status != cam.StatusSkipped || len(s.Files) != 0 {
			t.Errorf("%s is %s, with the files %v", s.ID, s.Status, s.Files)
		}
	}
	for _, name := range h.Names("skipped") {
		if strings.HasSuffix(name, ".npy") || strings.HasPrefix(name, ".partial/") {
			t.Errorf("%s was written for a volume that was given up", name)
		}
	}
	h.GPU.TakeAs(os.Getpid(), "", 0, 0)
	h.Run("skipped", 0)
	if worst := h.Check("skipped"); worst != 0 {
		t.Errorf("%.1e off", worst)
	}
	h.IsFree(0)
	h.NoSockets()
}

// A competitor takes and gives memory at random while volumes are explained. Its moves come with the calls of the driver: time is counted
// in them, and a move stands for the half second that another program may well take for it, so that 3600 are half an hour.
func TestHarmCompetitor(t *testing.T) {
	h := harm.WithMethods(t, 3, 8)
	h.Args = []string{"--wait", "1s"}
	h.Undisturbed()
	moves, least := 0, harm.Often(200, 3600)
	levels, kinds, refusals, volumes, off := map[cam.Level]int{}, map[cam.EventKind]int{}, h.GPU.Refusals(), 0, 0.0
	for seed := uint64(1); moves < least; seed++ {
		took, gave := h.GPU.Moves()
		h.GPU.CompeteEach(20, seed, 0, []int{4, 8, 16}[seed%3]*harm.Piece)
		name := "c" + string(rune('a'+seed%26)) + string(rune('a'+seed/26%26))
		refused := h.GPU.Refusals()
		h.Run(name, 0)
		h.GPU.Rest()
		off = max(off, h.Check(name))
		l, k := h.Levels(name)
		for level, n := range l {
			levels[level] += n
			volumes += n
		}
		for kind, n := range k {
			kinds[kind] += n
		}
		if n := h.GPU.Refusals() - refused; n > 0 && k[cam.EventRefused] == 0 {
			t.Errorf("%s: the device refused memory %d times, and no record tells of it", name, n)
		}
		took2, gave2 := h.GPU.Moves()
		if took2 == took && gave2 == gave {
			t.Fatal("the competitor does not move")
		}
		moves = took2 + gave2
		h.IsFree(0)
	}
	t.Logf("%d moves, %d volumes: %v; refused %d times, what happened: %v; %.1e off", moves, volumes, levels, h.GPU.Refusals()-refusals, kinds, off)
	h.NoSockets()
}
