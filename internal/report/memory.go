package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/printable"
)

// levels from the most memory to the least.
var levels = []explain.Level{explain.LevelWhole, explain.LevelStreamed, explain.LevelSmallest, explain.LevelHost, explain.LevelCPU}

// Join adds what was told of another part of the same sample, such as another target class, to what is known: the lowest level, with
// its device and plans, and the incidents of both. Nil is nothing known.
func Join(known *explain.Execution, e explain.Execution) *explain.Execution {
	if e.Device == "" && e.Level == "" && len(e.Incidents) == 0 {
		return known
	}
	if known == nil {
		e.Incidents = slices.Clone(e.Incidents)
		return &e
	}
	incidents := slices.Concat(known.Incidents, e.Incidents)
	joined := *known
	if slices.Index(levels, e.Level) >= slices.Index(levels, known.Level) {
		joined = e
	}
	joined.Incidents = incidents
	return &joined
}

// Memory summarises how a session got on with memory.
type Memory struct {
	Levels    map[explain.Level]int        `json:"samples_by_level"`
	Incidents map[explain.IncidentKind]int `json:"incidents"` // by kind, of the samples' records
	Timeline  *Extremes                    `json:"timeline"`  // null without one
}

func summariseMemory(samples []*Sample) Memory {
	m := Memory{Levels: map[explain.Level]int{}, Incidents: map[explain.IncidentKind]int{}}
	for _, s := range samples {
		if s.Execution == nil {
			continue
		}
		if s.Execution.Level != "" {
			m.Levels[s.Execution.Level]++
		}
		for _, i := range s.Execution.Incidents {
			m.Incidents[i.Kind]++
		}
	}
	return m
}

func (m *Memory) known() bool { return len(m.Levels) > 0 || len(m.Incidents) > 0 || m.Timeline != nil }

// write writes the section of the report.
func (m *Memory) write(w io.Writer) {
	var used []string
	for _, l := range levels {
		if n := m.Levels[l]; n > 0 {
			used = append(used, fmt.Sprintf("%d %s", n, l))
		}
	}
	printable.Fprintf(w, "Samples by level: %s\n", orNA(strings.Join(used, ", ")))
	var kinds []string
	for _, k := range sortedKeys(m.Incidents) {
		kinds = append(kinds, fmt.Sprintf("%d %s", m.Incidents[k], k))
	}
	if kinds == nil {
		kinds = []string{"none"}
	}
	printable.Fprintf(w, "Incidents:        %s\n", strings.Join(kinds, ", "))
	printable.Fprintf(w, "Restarts:         %d\n", m.Incidents[explain.IncidentRestart])
	t := m.Timeline
	if t == nil {
		return
	}
	printable.Fprintf(w, "Observed:         %d runs, %.0f s, %d times\n", t.Runs, t.Seconds, t.Figures)
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
