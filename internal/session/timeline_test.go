package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/report"
)

// short is an error of an engine that gave a sample up.
type short struct{ error }

func (short) Status() cam.Status { return cam.StatusSkipped }

// tell makes incidents in a request, as an engine does.
func tell(req cam.Request, r *cam.Result, kinds ...cam.EventKind) {
	for _, k := range kinds {
		i := cam.Event{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Kind: k, Text: "because of " + string(k)}
		req.OnEvent(i)
		r.Execution.Events = append(r.Execution.Events, i)
	}
}

func kinds(e *cam.Execution) (out []cam.EventKind) {
	if e != nil {
		for _, i := range e.Events {
			out = append(out, i.Kind)
		}
	}
	return out
}

func sampleRecord(t testing.TB, w *world, rel string) *report.Sample {
	t.Helper()
	s := &report.Sample{}
	if err := report.ReadJSON(w.files(), rel, 1<<20, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// A sample that is skipped has a record that says so and no results, lowers no accuracy, and is tried again; what happened on the way
// is in the record whether there was a result or not.
func TestSkippedAndIncidents(t *testing.T) {
	w := newWorld(t, 3)
	w.config.Model.TargetClass = "all"
	var events []Notice
	w.opt.Observer = ObserverFunc(func(e Notice) { events = append(events, e) })
	f := &fake{hook: func(_ context.Context, req cam.Request, r *cam.Result) error {
		r.Execution = cam.Execution{Device: "cuda:0 (test)", Level: cam.LevelWhole, Arena: 100}
		switch {
		case req.SampleID == "case0" && req.Target.Class.Index == 1:
			r.Execution.Level, r.Execution.Arena = cam.LevelSmallest, 10
			tell(req, r, cam.EventRefused, cam.EventSmaller)
		case req.SampleID == "case0" && req.Target.Class.Index == 2:
			tell(req, r, cam.EventLarger)
		case req.SampleID == "case1" && req.Target.Class.Index == 1:
			tell(req, r, cam.EventWaited, cam.EventSkipped)
			return fmt.Errorf("sample: %w", short{errors.New("0.3 GiB are free")})
		}
		return nil
	}}
	s := w.must(f, ExitFailed)
	if s.Status != (report.Counts{OK: 2, Skipped: 1}) || s.Pending != 0 || len(s.Problems) != 1 || s.Problems[0].Status != cam.StatusSkipped {
		t.Errorf("%+v", s)
	}
	var text strings.Builder
	if err := s.Print(&text); err != nil || !strings.Contains(text.String(), "2 ok, 0 degraded, 0 failed, 1 skipped for lack of memory") ||
		!strings.Contains(text.String(), "skipped_low_memory: val/case1: sample: 0.3 GiB are free") {
		t.Errorf("%v\n%s", err, text.String())
	}
	zero := sampleRecord(t, w, "heatmaps/val/class_0_normal/case0/case0_metadata.json")
	want := []cam.EventKind{"refused", "smaller", "larger"}
	if e := zero.Execution; e == nil || e.Level != cam.LevelSmallest || e.Arena != 10 || !reflect.DeepEqual(kinds(e), want) {
		t.Errorf("%+v", e)
	}
	one := sampleRecord(t, w, "heatmaps/val/class_1_early_amd/case1/case1_metadata.json")
	if one.Status != cam.StatusSkipped || one.PredictedClass != nil || len(one.Files) != 0 || len(one.Methods) != 0 {
		t.Errorf("%+v", one)
	}
	if e := one.Execution; !reflect.DeepEqual(kinds(e), []cam.EventKind{"waited", "skipped"}) || e.Device != "cuda:0 (test)" {
		t.Errorf("%+v", e)
	}
	var told []string
	for _, e := range events {
		if e.Kind == NoticeDevice {
			told = append(told, fmt.Sprintf("%s/%s %s", e.Split, e.Sample, e.Device.Kind))
		}
	}
	if !reflect.DeepEqual(told, []string{"val/case0 refused", "val/case0 smaller", "val/case0 larger", "val/case1 waited", "val/case1 skipped"}) {
		t.Errorf("told %q", told)
	}
	tree := w.tree()
	overall := tree["reports/overall_statistics.json"]
	for _, want := range []string{`"total_samples_processed": 2`, `"skipped": 1`, `"smallest": 1`, `"whole": 2`, `"refused": 1`, `"timeline": null`} {
		if !strings.Contains(overall, want) {
			t.Errorf("the statistics lack %s:\n%s", want, overall)
		}
	}
	if _, ok := tree[report.TimelineFile]; ok {
		t.Error("a timeline without figures")
	}

	again := &fake{}
	s = w.must(again, ExitOK)
	if calls := slices.Compact(again.called()); !reflect.DeepEqual(calls, []string{"case1"}) || s.Resumed != 2 {
		t.Errorf("calls %v, %+v", calls, s)
	}
}

// A session whose records know nothing of executions goes on.
func TestRecordsWithoutExecution(t *testing.T) {
	w := newWorld(t, 1)
	w.must(&fake{}, ExitOK)
	name := "heatmaps/val/class_0_normal/case0/case0_metadata.json"
	if strings.Contains(w.tree()[name], "execution") {
		t.Fatal("an execution of which nothing is known")
	}
	if s := w.must(&fake{}, ExitOK); s.Resumed != 1 {
		t.Errorf("%+v", s)
	}
}

func readTimeline(t *testing.T, w *world) []report.Moment {
	t.Helper()
	moments, err := report.ReadTimeline(w.files())
	if err != nil {
		t.Fatal(err)
	}
	return moments
}

// A run leaves figures and incidents between its begin and its end; one that goes on after a crash appends, behind what it had torn.
func TestTimeline(t *testing.T) {
	w := newWorld(t, 1)
	w.opt.Figures = func(context.Context) (report.Figures, error) {
		return report.Figures{GPUTotal: 100, GPUFree: 60, GPUUsed: 40, Reserved: 30, Resident: 7}, nil
	}
	memories := 0
	w.opt.Observer = ObserverFunc(func(e Notice) {
		if e.Kind == NoticeMemory && e.Figures.GPUFree == 60 {
			memories++
		}
	})
	f := &fake{hook: func(_ context.Context, req cam.Request, r *cam.Result) error {
		tell(req, r, cam.EventSmaller)
		return nil
	}}
	w.must(f, ExitOK)
	check := func(moments []report.Moment) {
		t.Helper()
		figures, incidents := 0, 0
		for i, m := range moments {
			switch {
			case i == 0 || i == len(moments)-1:
				if want := map[bool]string{true: report.Begun, false: report.Ended}[i == 0]; m.Run != want {
					t.Errorf("line %d: %+v", i, m)
				}
			case m.Figures != nil && m.Figures.Reserved == 30:
				figures++
			case m.Event == cam.EventSmaller && m.Sample == "case0" && m.Text == "because of smaller":
				incidents++
			default:
				t.Errorf("line %d: %+v", i, m)
			}
		}
		if figures < 2 || incidents > 1 {
			t.Errorf("%d figures, %d incidents", figures, incidents)
		}
	}
	first := readTimeline(t, w)
	check(first)
	if memories < 2 {
		t.Errorf("%d events", memories)
	}
	tree := w.tree()
	if tree["summaries/memory_timeline.png"] == "" || !strings.Contains(tree["reports/detailed_analysis_report.txt"], "\nMEMORY\n") {
		t.Error("no picture, or nothing in the report")
	}

	path := w.session(report.TimelineFile)
	if err := os.WriteFile(path, []byte(tree[report.TimelineFile]+`{"time":"2026-01-0`), 0o644); err != nil {
		t.Fatal(err)
	}
	w.must(&fake{}, ExitOK)
	second := readTimeline(t, w)
	if !reflect.DeepEqual(second[:len(first)], first) {
		t.Error("the first run's lines have changed")
	}
	check(second[len(first):])
	if text, err := os.ReadFile(path); err != nil || strings.Contains(string(text), `2026-01-0{`) {
		t.Errorf("%v\n%s", err, text)
	}
}

// Figures that cannot be had, or written, are warned of once, and nothing else suffers.
func TestTimelineIsNoResult(t *testing.T) {
	for name, change := range map[string]func(*world){
		"figures": func(w *world) {
			w.opt.Figures = func(context.Context) (report.Figures, error) { return report.Figures{}, errors.New("no NVML") }
		},
		"file": func(w *world) {
			w.opt.Figures = func(context.Context) (report.Figures, error) { return report.Figures{}, nil }
			if err := os.MkdirAll(w.session(report.TimelineFile), 0o755); err != nil {
				w.t.Fatal(err)
			}
		},
	} {
		w := newWorld(t, 2)
		w.must(&fake{}, ExitOK)
		change(w)
		var warnings []string
		w.opt.Observer = ObserverFunc(func(e Notice) {
			if e.Kind == NoticeWarning {
				warnings = append(warnings, e.Reason)
			}
		})
		w.opt.VerifyFiles = true
		w.must(&fake{}, ExitOK)
		about := 0
		for _, text := range warnings {
			if strings.Contains(text, "memory are missing: no NVML") || strings.Contains(text, "the timeline of memory is not continued") {
				about++
			}
		}
		if about != 1 {
			t.Errorf("%s: warnings %q", name, warnings)
		}
	}
}

// The timeline of a run that goes on for long is bounded: half of it goes, and half as many figures come from then on.
func TestTimelineIsBounded(t *testing.T) {
	folder, err := durable.Open(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	now, asked := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 0
	r := &recorder{folder: folder, observe: ObserverFunc(func(e Notice) {
		if e.Kind == NoticeWarning {
			t.Error(e.Reason)
		}
	}), most: 100, every: 1, stop: make(chan struct{}), done: make(chan struct{})}
	r.clock = func() time.Time { return now }
	r.figures = func(context.Context) (report.Figures, error) { asked++; return report.Figures{Resident: asked}, nil }
	r.begun()
	const seconds = 1000
	for range seconds {
		now = now.Add(time.Second)
		r.tick(t.Context(), false)
	}
	r.event(dataset.Sample{ID: "late"}, cam.Event{Kind: cam.EventSkipped})
	close(r.done)
	r.close()
	moments, err := report.ReadTimeline(folder.FS())
	if err != nil {
		t.Fatal(err)
	}
	first, last := moments[0], moments[len(moments)-1]
	if len(moments) > 100 || len(moments) < 40 || first.Run != report.Begun || last.Run != report.Ended || moments[len(moments)-2].Event == "" {
		t.Errorf("%d lines from %+v to %+v", len(moments), first, last)
	}
	if asked >= seconds/2 || asked < 100 {
		t.Errorf("figures were asked for %d times", asked)
	}
	for i := 2; i < len(moments)-1; i++ {
		if gap := moments[i].Time.Sub(moments[i-1].Time); gap > 64*time.Second {
			t.Errorf("a gap of %v at line %d", gap, i)
		}
	}
}
