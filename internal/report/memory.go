package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/printable"
)

// Join returns the execution of two parts of a sample, such as two target classes: the lower level, with its device and plans, and the
// events of both. Nil stands for no part yet.
func Join(known *cam.Execution, e cam.Execution) *cam.Execution {
	if e.Device == "" && e.Level == "" && len(e.Events) == 0 {
		return known
	}
	if known == nil {
		e.Events = slices.Clone(e.Events)
		return &e
	}
	events := slices.Concat(known.Events, e.Events)
	joined := *known
	if levels := cam.Levels(); slices.Index(levels, e.Level) >= slices.Index(levels, known.Level) {
		joined = e
	}
	joined.Events = events
	return &joined
}

// MemorySummary counts levels and events of a session, and has the extremes of its timeline.
type MemorySummary struct {
	Levels   map[cam.Level]int     `json:"samples_by_level"`
	Events   map[cam.EventKind]int `json:"incidents"` // by kind, of the samples' records
	Timeline *Extremes             `json:"timeline"`  // null without one
}

func summariseMemory(samples []*Sample) MemorySummary {
	m := MemorySummary{Levels: map[cam.Level]int{}, Events: map[cam.EventKind]int{}}
	for _, s := range samples {
		if s.Execution == nil {
			continue
		}
		if s.Execution.Level != "" {
			m.Levels[s.Execution.Level]++
		}
		for _, i := range s.Execution.Events {
			m.Events[i.Kind]++
		}
	}
	return m
}

func (m *MemorySummary) known() bool {
	return len(m.Levels) > 0 || len(m.Events) > 0 || m.Timeline != nil
}

// write writes the section of the report.
func (m *MemorySummary) write(w io.Writer) {
	var used []string
	for _, l := range cam.Levels() {
		if n := m.Levels[l]; n > 0 {
			used = append(used, fmt.Sprintf("%d %s", n, l))
		}
	}
	printable.Fprintf(w, "Samples by level: %s\n", orNA(strings.Join(used, ", ")))
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(m.Events)) {
		kinds = append(kinds, fmt.Sprintf("%d %s", m.Events[k], k))
	}
	if kinds == nil {
		kinds = []string{"none"}
	}
	printable.Fprintf(w, "Incidents:        %s\n", strings.Join(kinds, ", "))
	printable.Fprintf(w, "Restarts:         %d\n", m.Events[cam.EventRestart])
	t := m.Timeline
	if t == nil {
		return
	}
	printable.Fprintf(w, "Observed:         %s, %.0f s, %s\n", printable.Count(t.Runs, "run"), t.Seconds, printable.Count(t.Figures, "time"))
	if t.GPUTotal > 0 {
		printable.Fprintf(w, "GPU:              %.2f GiB; at most %.2f GiB by this session, %.2f GiB by others; %.2f GiB free at the least\n",
			gib(t.GPUTotal), gib(t.MostOurs), gib(t.MostOthers), gib(t.LeastFree))
	}
	printable.Fprintf(w, "Host:             at most %.2f GiB by this session", gib(t.MostResident))
	if t.LeastAvailable > 0 {
		printable.Fprintf(w, "; %.2f GiB available at the least", gib(t.LeastAvailable))
	}
	printable.Fprintln(w)
}

func gib(bytes int) float64 { return float64(bytes) / (1 << 30) }
