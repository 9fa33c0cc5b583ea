package monitor

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rivo/uniseg"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/network"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// sight is a machine with a GPU that this program shares, one that CUDA does not show, and three sessions.
func sight() Look {
	const gib = bytesize.GiB
	return Look{
		Time: noon,
		GPUs: []gpusurvey.GPU{
			{Number: 0, Index: 0, Name: "NVIDIA H200", UUID: "GPU-1", Utilization: 0.87, Health: gpusurvey.Healthy, Unattributed: gib / 2,
				Figures: gpusurvey.Figures{Total: 140 * gib, Used: 56 * gib, TrulyFree: 84 * gib, Reserved: 12 * gib, Largest: 83 * gib, Fragmentation: 1. / 84},
				Processes: []gpusurvey.ProcessInfo{
					{PID: 4001, Bytes: 41*gib + gib/2, Name: "python", User: "a-colleague-with-a-long-name", UID: 1001},
					{PID: 23456, Bytes: 12 * gib, Name: "voxcam", User: "me", UID: 1000, Ours: true, Program: true, Session: "night"},
					{PID: 301, Bytes: gib, Name: "voxcam", User: "me", UID: 1000, Program: true, Orphan: true},
					{PID: 7, Bytes: gib, Name: "", UID: -1, Elsewhere: true},
					{PID: 99, Bytes: -1, Name: "evil\x1b[2J\"\\\n日本", User: "me"},
				}},
			{Number: -1, Index: 1, Name: "NVIDIA T4", UUID: "GPU-2", Utilization: -1, Health: gpusurvey.Unknown, Figures: gpusurvey.Figures{TrulyFree: -1},
				Problem: "nvmlDeviceGetMemoryInfo: the GPU has fallen off the bus"},
		},
		Host: gpusurvey.Host{Total: 64 * gib, Free: 32 * gib, Health: gpusurvey.Healthy},
		Sessions: []Answer{
			{Status: control.Status{PID: 23400, Worker: 23456, Session: "night", Device: "cuda:0 NVIDIA H200", UUID: "GPU-1", State: "computing",
				Level: cam.LevelStreamed, Budget: 12 * gib, Arena: 8 * gib, Plans: []network.PassState{{Pass: "gradcam", Bytes: 2 * gib}, {Pass: "input", Bytes: 8 * gib}},
				Usage: backend.Usage{Allocated: 9 * gib, Reserved: 11 * gib, Overhead: gib}, Sample: "case_007", Split: "val", Passes: 12, PassesTotal: 50,
				Done: 5, Total: 20, OK: 4, Degraded: 1, LeftSeconds: 200, Started: noon.Add(-time.Minute),
				Events: []cam.Event{
					{Time: noon.Add(-time.Minute), Kind: cam.EventRefused, Text: "the driver refused 4 GiB"},
					{Time: noon.Add(-time.Second), Kind: cam.EventSmaller, Text: "went on with 12 GiB"}}}},
			{Status: control.Status{PID: 500, Session: "tiny", Device: "cpu", State: "idle", Held: true, Until: noon.Add(time.Minute), Total: 1}},
			{Status: control.Status{PID: 501}, Problem: "process 501 does not answer"},
		},
		Notes: []string{"process numbers with a question mark are those of another container or of the host"},
	}
}

// remembered is a history in which a competitor comes and goes.
func remembered(l Look) *History {
	h := NewHistory(2 * time.Minute)
	for s := -150; s <= 0; s++ {
		past := l
		past.Time = l.Time.Add(time.Duration(s) * time.Second)
		g := l.GPUs[0]
		g.TrulyFree = (84 - 30*(s/20%2)) * bytesize.GiB // s is negative
		if s < -60 {
			g.Reserved = bytesize.GiB
		}
		past.GPUs = []gpusurvey.GPU{g, l.GPUs[1]}
		h.Add(past)
	}
	return h
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is drawn (-update writes it):\n%s", file, got)
	}
}

func TestFrame(t *testing.T) {
	for _, c := range []struct {
		name          string
		width, height int
		color         bool
	}{
		{"wide", 132, 50, false}, {"narrow", 60, 60, false}, {"low", 100, 24, false}, {"color", 100, 40, true},
	} {
		l := sight()
		v := Renderer{Width: c.width, Height: c.height, Color: c.color, Title: "voxcam monitor, each second; q quits"}
		golden(t, c.name+".txt", strings.Join(v.Frame(l, remembered(l)), "\n")+"\n")
	}
}

var sequence = regexp.MustCompile("\x1b\\[[0-9;]*m")

// Whatever the size of the terminal: no frame is larger, none has anything that steers the terminal but colours.
func TestFrameFits(t *testing.T) {
	l := sight()
	h := remembered(l)
	for width := 1; width < 140; width += 7 {
		for height := 1; height < 70; height += 6 {
			frame := Renderer{Width: width, Height: height, Color: true, Title: "t"}.Frame(l, h)
			if len(frame) > height {
				t.Fatalf("%d lines in a terminal of %d x %d", len(frame), width, height)
			}
			for _, line := range frame {
				bare := sequence.ReplaceAllString(line, "")
				if n := uniseg.StringWidth(bare); n > width {
					t.Fatalf("%d cells in a terminal of %d x %d: %q", n, width, height, bare)
				}
				if strings.ContainsAny(bare, "\x1b\n\r") {
					t.Fatalf("a line steers the terminal: %q", bare)
				}
			}
		}
	}
	if frame := (Renderer{}).Frame(Look{Time: noon}, nil); len(frame) != 3 {
		t.Errorf("of an empty machine: %q", frame)
	}
}

func TestPlot(t *testing.T) {
	at := func(s, v int) point { return point{time.Unix(int64(s), 0), v, v} }
	value := func(p point) int { return p.free }
	least := func(a, b int) int { return min(a, b) }
	for _, c := range []struct {
		name          string
		points        []point
		columns, rows int
		want          string
		low, high     int
	}{
		{"none", nil, 4, 1, "", 0, 0},
		{"ramp", []point{at(5, 0), at(6, 1), at(7, 2), at(8, 3), at(9, 7)}, 5, 1, "▁▂▃▄█", 0, 7},
		{"two rows", []point{at(8, 0), at(9, 15)}, 2, 2, " █/▁█", 0, 15},
		{"gap and old ones", []point{at(1, 1000), at(6, 8), at(8, 16)}, 5, 1, " ▁▁██", 8, 16},
		{"small changes", []point{at(8, 1000), at(9, 1001)}, 2, 1, "▁█", 1000, 1001},
		{"constant", []point{at(8, 5), at(9, 5)}, 2, 1, "██", 0, 5},
		{"zero", []point{at(8, 0), at(9, 0)}, 2, 1, "▁▁", 0, 0},
		{"unknown", []point{at(8, -1), at(9, 3)}, 2, 1, " █", 0, 3},
	} {
		window := time.Duration(c.columns) * time.Second
		rows, low, high := plot(c.points, time.Unix(9, 0), window, c.columns, c.rows, value, least)
		var text []string
		for _, r := range rows {
			text = append(text, string(r))
		}
		if got := strings.Join(text, "/"); got != c.want || low != c.low || high != c.high {
			t.Errorf("%s: %q from %d to %d instead of %q from %d to %d", c.name, got, low, high, c.want, c.low, c.high)
		}
	}
	// Two in one column: the worse one.
	rows, _, _ := plot([]point{at(8, 3), at(9, 8)}, time.Unix(9, 0), 4*time.Second, 2, 1, value, least)
	if got := string(rows[0]); got != " █" {
		t.Errorf("%q", got)
	}
}

func TestHistoryForgets(t *testing.T) {
	h := NewHistory(time.Minute)
	for i := range 1000 {
		h.Add(Look{Time: noon.Add(time.Duration(i) * time.Second), GPUs: []gpusurvey.GPU{{UUID: "a"}}})
	}
	if n := len(h.points["a"]); n != 61 {
		t.Errorf("%d points of a minute are kept", n)
	}
}

func TestLines(t *testing.T) {
	golden(t, "lines.txt", strings.Join(Lines(sight()), "\n")+"\n")
	if got := Lines(Look{Time: noon}); len(got) != 1 {
		t.Errorf("of an empty machine: %q", got)
	}
}

// series is a line of the text format, read as its specification has it.
type series struct {
	name   string
	labels map[string]string
	value  float64
}

var (
	seriesLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)
	pair       = regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(?:,|$)`)
	unescape   = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n")
)

// parse reads the text format, and refuses what a scraper would refuse: families that are not together, series that are there twice.
func parse(t *testing.T, text string) (all []series) {
	t.Helper()
	typed, seen, current := map[string]bool{}, map[string]bool{}, ""
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			if kind != "gauge" || typed[name] {
				t.Errorf("%q", line)
			}
			typed[name], current = true, name
			continue
		}
		if strings.HasPrefix(line, "# HELP ") {
			continue
		}
		m := seriesLine.FindStringSubmatch(line)
		if m == nil || m[1] != current {
			t.Errorf("%q is not a sample of %s", line, current)
			continue
		}
		s := series{name: m[1], labels: map[string]string{}}
		for rest := m[2]; rest != ""; {
			p := pair.FindStringSubmatch(rest)
			if p == nil {
				t.Errorf("%q in %q are not labels", rest, line)
				break
			}
			if _, twice := s.labels[p[1]]; twice {
				t.Errorf("%s twice in %q", p[1], line)
			}
			s.labels[p[1]], rest = unescape.Replace(p[2]), rest[len(p[0]):]
		}
		var err error
		if s.value, err = strconv.ParseFloat(m[3], 64); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		key := fmt.Sprint(s.name, s.labels)
		if seen[key] {
			t.Errorf("%q is there twice", line)
		}
		seen[key] = true
		all = append(all, s)
	}
	return all
}

func TestMetrics(t *testing.T) {
	l := sight()
	l.GPUs[0].Processes[4].Bytes = 5
	all := parse(t, string(Metrics(l)))
	for _, c := range []struct {
		name   string
		labels map[string]string
		want   float64
	}{
		{"voxcam_gpu_memory_total_bytes", map[string]string{"gpu": "cuda:0", "uuid": "GPU-1"}, 140 << 30},
		{"voxcam_gpu_memory_free_bytes", map[string]string{"gpu": "cuda:0"}, 84 << 30},
		{"voxcam_gpu_utilization_ratio", map[string]string{"gpu": "cuda:0"}, 0.87},
		{"voxcam_gpu_health", map[string]string{"gpu": "cuda:0", "state": "healthy"}, 1},
		{"voxcam_gpu_health", map[string]string{"gpu": "cuda:0", "state": "critical"}, 0},
		{"voxcam_gpu_health", map[string]string{"gpu": "nvml:1", "state": "unknown"}, 1},
		{"voxcam_process_memory_bytes", map[string]string{"pid": "23456", "ours": "true", "user": "me"}, 12 << 30},
		{"voxcam_process_memory_bytes", map[string]string{"pid": "99", "name": "evil\x1b[2J\"\\\n日本"}, 5},
		{"voxcam_process_memory_bytes", map[string]string{"pid": "301", "orphan": "true"}, 1 << 30},
		{"voxcam_session_up", map[string]string{"pid": "23400"}, 1},
		{"voxcam_session_up", map[string]string{"pid": "501"}, 0},
		{"voxcam_session_samples_done", map[string]string{"session": "night"}, 5},
		{"voxcam_session_sample_passes", map[string]string{"session": "night"}, 50},
		{"voxcam_session_left_seconds", map[string]string{"session": "night"}, 200},
		{"voxcam_session_results", map[string]string{"session": "night", "status": "degraded"}, 1},
		{"voxcam_session_level", map[string]string{"session": "night", "level": "streamed"}, 1},
		{"voxcam_session_held", map[string]string{"session": "tiny"}, 1},
		{"voxcam_host_memory_free_bytes", nil, 32 << 30},
	} {
		found := 0
		for _, s := range all {
			matches := s.name == c.name
			for k, v := range c.labels {
				matches = matches && s.labels[k] == v
			}
			if matches {
				found++
				if s.value != c.want {
					t.Errorf("%s%v is %g instead of %g", c.name, c.labels, s.value, c.want)
				}
			}
		}
		if found != 1 {
			t.Errorf("%s%v is there %d times", c.name, c.labels, found)
		}
	}
	for _, s := range all {
		if s.labels["gpu"] == "nvml:1" && s.name == "voxcam_gpu_memory_free_bytes" {
			t.Error("what is not known is told")
		}
		if s.labels["pid"] == "501" && s.name != "voxcam_session_up" {
			t.Errorf("%s of a session that does not answer", s.name)
		}
	}
}

func TestHandler(t *testing.T) {
	var err error
	h := Handler(func(context.Context) (Look, error) { return sight(), err })
	r := httptest.NewRecorder()
	h.ServeHTTP(r, httptest.NewRequest("GET", "/metrics", nil))
	if r.Code != 200 || r.Header().Get("Content-Type") != contentType || !bytes.Equal(r.Body.Bytes(), Metrics(sight())) {
		t.Errorf("%d %v", r.Code, r.Header())
	}
	err = errors.New("no NVML")
	r = httptest.NewRecorder()
	h.ServeHTTP(r, httptest.NewRequest("GET", "/metrics", nil))
	if r.Code != 503 || !strings.Contains(r.Body.String(), "no NVML") {
		t.Errorf("%d %s", r.Code, r.Body)
	}
}

func TestScreen(t *testing.T) {
	var b bytes.Buffer
	s, err := NewScreen(&b)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Draw([]string{"a", "b"}), s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), enter+home+"a"+clearLine+"\r\nb"+clearLine+clearRest+leave; got != want {
		t.Errorf("%q instead of %q", got, want)
	}
}

func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := Watch(ctx, time.Millisecond, func(context.Context) (Look, error) { return sight(), nil }, func(Look) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if err != nil || n != 3 {
		t.Errorf("%d looks, %v", n, err)
	}
	broken := errors.New("broken pipe")
	if err := Watch(t.Context(), time.Hour, func(context.Context) (Look, error) { return sight(), nil }, func(Look) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}
