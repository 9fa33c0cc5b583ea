package network

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
)

// Opening may take what the budget comes to, a little in any case, and a share of what is free where the budget is no size.
func TestOpeningFollowsTheBudget(t *testing.T) {
	b, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for budget, want := range map[int]int{1 << 20: leastOpening, leastOpening + 1: leastOpening + 1, 1 << 40: 1 << 40} {
		if got := OpeningBytes(cam.Budget{Bytes: budget}, b); got != want {
			t.Errorf("%d bytes for a budget of %d, not %d", got, budget, want)
		}
	}
	if got := OpeningBytes(cam.Budget{Smallest: true}, b); got < leastOpening {
		t.Errorf("%d bytes for the smallest budget", got)
	}
}

// The least that works is refused where not even that is free, and said with what is.
func TestSmallestNeedsFreeMemory(t *testing.T) {
	b, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	n := openPools(t, Binding{Backend: b, Budget: cam.Budget{Smallest: true}})
	free := 1000
	n.free = func() (int, error) { return free, nil }
	var small *cam.BudgetError
	if err := n.Require(t.Context(), Needs{layer: true}); !errors.As(err, &small) || !small.Free || small.Budget != free || small.Smallest <= free {
		t.Fatalf("with %d bytes free: %v", free, err)
	}
	free = small.Smallest
	if err := n.Require(t.Context(), Needs{layer: true}); err != nil {
		t.Errorf("with the %d bytes that it asked for: %v", free, err)
	}
}

// Small models that state large sizes are refused by name, and take little.
func TestHostileModelsAreRefused(t *testing.T) {
	paths, err := filepath.Glob("../../../shared/cases/hostile/fuzzers/bad_onnx_1/*/m.onnx")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Skip("NOT TESTED: the cases of hostile models are not there")
	}
	b, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, path := range paths {
		for name, budget := range map[string]cam.Budget{"min": {Smallest: true}, "64 MiB": {Bytes: 64 << 20}, "1 GiB": {Bytes: 1 << 30}} {
			t.Run(filepath.Base(filepath.Dir(path))+" "+name, func(t *testing.T) {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				file, err := OpenFile(t.Context(), path, ModelOptions{InputAxes: "NCDHW"}, leastOpening)
				if err != nil {
					t.Fatal(err)
				}
				defer file.Close()
				shape, err := file.FullShape()
				if err != nil {
					t.Fatal(err)
				}
				_, err = file.Bind(t.Context(), Binding{Shape: shape, Backend: b, Budget: budget})
				runtime.ReadMemStats(&after)
				if err == nil || !strings.Contains(err.Error(), "node ") {
					t.Errorf("no node is refused: %v", err)
				}
				if taken := after.TotalAlloc - before.TotalAlloc; taken > 128<<20 {
					t.Errorf("%d MiB were taken", taken>>20)
				}
			})
		}
	}
}
