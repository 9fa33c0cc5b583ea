package monitor

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// The text format of Prometheus, version 0.0.4:
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format. It is written here, because it is small: the client
// library is made for counters within a program, not for figures of one moment, and brings ten modules with it.

// contentType of the format.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// metrics writes families of gauges.
type metrics struct{ bytes.Buffer }

// gauge begins a family.
func (m *metrics) gauge(name, help string) func(value float64, labels ...string) {
	begun := false
	return func(value float64, labels ...string) {
		if !begun {
			begun = true
			m.WriteString("# HELP " + name + " " + escapeHelp.Replace(help) + "\n# TYPE " + name + " gauge\n")
		}
		m.WriteString(name)
		for i := 0; i+1 < len(labels); i += 2 {
			sep := ","
			if i == 0 {
				sep = "{"
			}
			m.WriteString(sep + labels[i] + `="` + escapeLabel.Replace(strings.ToValidUTF8(labels[i+1], "�")) + `"`)
		}
		if len(labels) > 0 {
			m.WriteByte('}')
		}
		m.WriteString(" " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
	}
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// gpuGauges are the figures of a GPU; -1 is unknown and left out.
var gpuGauges = []struct {
	name, help string
	value      func(gpusurvey.GPU) float64
}{
	{"voxcam_gpu_memory_total_bytes", "Memory of the GPU.", func(g gpusurvey.GPU) float64 { return float64(g.Total) }},
	{"voxcam_gpu_memory_used_bytes", "Memory that all processes together use.", func(g gpusurvey.GPU) float64 { return known(g, float64(g.Used)) }},
	{"voxcam_gpu_memory_free_bytes", "Memory that the driver would give to anybody.", func(g gpusurvey.GPU) float64 { return float64(g.TrulyFree) }},
	{"voxcam_gpu_memory_ours_bytes", "Memory that processes of voxcam hold.", func(g gpusurvey.GPU) float64 { return float64(g.Reserved) }},
	{"voxcam_gpu_memory_largest_bytes", "The largest block that could be handed out to one process.", func(g gpusurvey.GPU) float64 { return known(g, float64(g.Largest)) }},
	{"voxcam_gpu_fragmentation_ratio", "One minus the largest block over all that is unused.", func(g gpusurvey.GPU) float64 { return known(g, g.Fragmentation) }},
	{"voxcam_gpu_utilization_ratio", "Part of the last moments in which the GPU worked.", func(g gpusurvey.GPU) float64 { return g.Utilization }},
}

func known(g gpusurvey.GPU, x float64) float64 {
	if g.TrulyFree < 0 {
		return -1
	}
	return x
}

var healths = []gpusurvey.Health{gpusurvey.Unknown, gpusurvey.Healthy, gpusurvey.Caution, gpusurvey.Warning, gpusurvey.Critical}

// sessionGauges are the figures of a session that answers.
var sessionGauges = []struct {
	name, help string
	value      func(Answer) float64
}{
	{"voxcam_session_budget_bytes", "Memory budget of the session now; 0 is the least that works.", func(s Answer) float64 { return float64(s.Budget) }},
	{"voxcam_session_arena_bytes", "Memory that the plans of the session compute in.", func(s Answer) float64 { return float64(s.Arena) }},
	{"voxcam_session_allocated_bytes", "Memory of the device that something is in.", func(s Answer) float64 { return float64(s.Usage.Allocated) }},
	{"voxcam_session_reserved_bytes", "Memory of the device that the session has of the driver for computing.", func(s Answer) float64 { return float64(s.Usage.Reserved) }},
	{"voxcam_session_overhead_bytes", "Memory of the device besides: context, kernels, libraries.", func(s Answer) float64 { return float64(s.Usage.Overhead) }},
	{"voxcam_session_held", "1 while the session holds little because it was asked to.", func(s Answer) float64 { return truth(s.Held) }},
	{"voxcam_session_samples", "Samples that the session has to do in all.", func(s Answer) float64 { return float64(s.Total) }},
	{"voxcam_session_samples_done", "Samples that are done.", func(s Answer) float64 { return float64(s.Done) }},
	{"voxcam_session_sample_passes", "Passes through the network that the sample at work needs.", func(s Answer) float64 { return float64(s.PassesTotal) }},
	{"voxcam_session_sample_passes_done", "Passes of the sample at work that are done.", func(s Answer) float64 { return float64(s.Passes) }},
	{"voxcam_session_left_seconds", "Estimated time until all samples are done.", func(s Answer) float64 { return s.LeftSeconds }},
	{"voxcam_session_start_time_seconds", "When the session began, in seconds since 1970.", func(s Answer) float64 {
		if s.Started.IsZero() {
			return -1
		}
		return float64(s.Started.UnixMilli()) / 1000
	}},
}

// Metrics writes a look in the text format of Prometheus.
func Metrics(l Look) []byte {
	m := &metrics{}
	for _, gauge := range gpuGauges {
		set := m.gauge(gauge.name, gauge.help)
		for _, g := range l.GPUs {
			if v := gauge.value(g); v >= 0 {
				set(v, "gpu", label(g), "uuid", g.UUID, "name", g.Name)
			}
		}
	}
	health := m.gauge("voxcam_gpu_health", "1 for the state of health that the GPU's memory is in, by voxcam check's thresholds.")
	for _, g := range l.GPUs {
		for _, h := range healths {
			health(truth(g.Health == h), "gpu", label(g), "uuid", g.UUID, "state", h.String())
		}
	}
	process := m.gauge("voxcam_process_memory_bytes", "Memory of the GPU that a process holds.")
	for _, g := range l.GPUs {
		for _, p := range g.Processes {
			if p.Bytes >= 0 {
				process(float64(p.Bytes), "gpu", label(g), "uuid", g.UUID, "pid", strconv.Itoa(p.PID), "name", p.Name, "user", p.User,
					"ours", strconv.FormatBool(p.Program), "orphan", strconv.FormatBool(p.Orphan))
			}
		}
	}
	if l.Host.Free >= 0 && l.Host.Total > 0 {
		m.gauge("voxcam_host_memory_total_bytes", "Memory of the machine.")(float64(l.Host.Total))
		m.gauge("voxcam_host_memory_free_bytes", "Memory of the machine that a process may still take.")(float64(l.Host.Free))
	}
	up := m.gauge("voxcam_session_up", "1 for a session that answers.")
	for _, s := range l.Sessions {
		up(truth(s.Problem == ""), "session", s.Session, "pid", strconv.Itoa(s.PID))
	}
	of := func(s Answer) []string {
		return []string{"session", s.Session, "pid", strconv.Itoa(s.PID), "uuid", s.UUID}
	}
	for _, gauge := range sessionGauges {
		set := m.gauge(gauge.name, gauge.help)
		for _, s := range l.Sessions {
			if v := gauge.value(s); s.Problem == "" && v >= 0 {
				set(v, of(s)...)
			}
		}
	}
	results := m.gauge("voxcam_session_results", "Samples of the session by their status.")
	for _, s := range l.Sessions {
		if s.Problem == "" {
			for _, c := range tallies(s) {
				results(float64(c.n), append(of(s), "status", c.name)...)
			}
		}
	}
	level := m.gauge("voxcam_session_level", "1 for how the session computes: whole, streamed, smallest, host or cpu.")
	for _, s := range l.Sessions {
		if s.Problem == "" && s.Level != "" {
			level(1, append(of(s), "level", string(s.Level))...)
		}
	}
	return m.Bytes()
}

// Handler answers with the metrics of a look that it takes for each request. Sessions use it on their control sockets, voxcam monitor on a
// port that the user opens.
func Handler(look func(context.Context) (Look, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l, err := look(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(Metrics(l)) // the client has gone if this fails
	})
}
