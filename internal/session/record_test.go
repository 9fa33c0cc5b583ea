package session

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/report"
)

// A record says whether the prediction is right, which class each map is of, and how long it took; a failed method has no map's shape.
func TestWhatARecordSays(t *testing.T) {
	w := newWorld(t, 2)
	w.config.Explain.Methods = []string{"gradcam", "vargrad"}
	f := &fake{delay: time.Millisecond, hook: func(_ context.Context, req cam.Request, r *cam.Result) error {
		if r.Predicted, r.TargetClass = 0, 0; req.SampleID == "case1" {
			r.Predicted, r.TargetClass = 2, -1 // of no class, as for an output without classes
		}
		r.Methods[1].Status, r.Methods[1].Reason, r.Methods[1].Map = cam.StatusFailed, "too deep", nil
		return nil
	}}
	w.must(f, ExitDegraded)
	for i, test := range []struct {
		file  string
		right bool
		class any
		name  any
	}{
		{"class_0_normal/case0/case0", true, 0.0, "Normal"}, {"class_1_early_amd/case1/case1", false, nil, nil},
	} {
		m := metadata(t, w, "heatmaps/val/"+test.file+"_metadata.json")
		if m["correct_prediction"] != test.right {
			t.Errorf("case%d: true class %v, predicted %v, right: %v", i, m["true_class"], m["predicted_class"], m["correct_prediction"])
		}
		if seconds := m["processing_time"].(float64); seconds <= 0 {
			t.Errorf("case%d took %v s", i, seconds)
		}
		methods := m["methods"].([]any)
		first, second := methods[0].(map[string]any), methods[1].(map[string]any)
		if first["target_class"] != test.class || first["target_class_name"] != test.name {
			t.Errorf("case%d: a map of class %v (%v)", i, first["target_class"], first["target_class_name"])
		}
		if fmt.Sprint(first["map_shape"]) != "[2 2 3]" || second["map_shape"] != nil {
			t.Errorf("case%d: maps of %v and %v", i, first["map_shape"], second["map_shape"])
		}
	}
}

func TestOverall(t *testing.T) {
	ok := report.Method{Method: "gradcam", Key: "gradcam_class_1_volume", Status: cam.StatusOK}
	degraded := report.Method{Method: "gradcam", Key: "volume", Status: cam.StatusDegraded, Reason: "flat"}
	failed := report.Method{Method: "vargrad", Key: "vargrad_class_1_volume", Status: cam.StatusFailed, Reason: "deep"}
	for _, test := range []struct {
		methods []report.Method
		status  cam.Status
		reason  string
	}{
		{[]report.Method{ok, ok}, cam.StatusOK, ""},
		{[]report.Method{degraded}, cam.StatusDegraded, "gradcam degraded: flat"},
		{[]report.Method{ok, failed}, cam.StatusDegraded, "vargrad_class_1 failed: deep"},
		{[]report.Method{failed, degraded}, cam.StatusDegraded, "vargrad_class_1 failed: deep; gradcam degraded: flat"},
		{[]report.Method{failed}, cam.StatusFailed, "vargrad_class_1 failed: deep"},
	} {
		if status, reason := overall(test.methods); status != test.status || reason != test.reason {
			t.Errorf("%s: %q, want %s: %q", status, reason, test.status, test.reason)
		}
	}
}

// The passes of a sample count through all of its targets to the total.
func TestPassesCountToTheTotal(t *testing.T) {
	w := newWorld(t, 1)
	w.config.Model.TargetClass = "all"
	w.config.Explain.Methods = []string{"gradcam", "vargrad"}
	var got []string
	last := Notice{Left: -1}
	w.opt.Observer = ObserverFunc(func(e Notice) {
		switch e.Kind {
		case NoticePass:
			got = append(got, fmt.Sprintf("%d/%d", e.Passes, e.PassesTotal))
		case NoticeSample:
			last = e
		}
	})
	w.must(&fake{}, ExitOK)
	if want := "1/6 2/6 3/6 4/6 5/6 6/6"; strings.Join(got, " ") != want {
		t.Errorf("passes %v, want %s", got, want)
	}
	if last.Done != 1 || last.Left != 0 {
		t.Errorf("after the last sample %+v", last)
	}
}

// A volume that was moved away after its sample was done is not missed, and an empty folder is as good as none.
func TestMovedVolume(t *testing.T) {
	w := newWorld(t, 2)
	if err := os.MkdirAll(w.session(""), 0o755); err != nil {
		t.Fatal(err)
	}
	w.must(&fake{}, ExitOK)
	if err := os.Remove(filepath.Join(w.dir, "case0.npy")); err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	if s := w.must(f, ExitOK); s.Resumed != 2 || len(f.called()) != 0 {
		t.Errorf("%+v, explained %v", s, f.called())
	}
}

func TestOneClass(t *testing.T) {
	w := newWorld(t, 1)
	w.config.Model.Classes = []string{"Only"}
	if s := w.must(&fake{classes: 1}, ExitOK); s.Status.OK != 1 {
		t.Errorf("%+v", s)
	}
}

func TestDuration(t *testing.T) {
	for seconds, want := range map[float64]string{
		-1: "?", 0: "0.0 s", 9.94: "9.9 s", 10: "10 s", 119: "119 s", 120: "2 min", 7199: "120 min", 7200: "2.0 h", 9000: "2.5 h",
	} {
		if got := duration(seconds); got != want {
			t.Errorf("%v s: %q, want %q", seconds, got, want)
		}
	}
}

func TestTitle(t *testing.T) {
	name, confidence := "Late", 0.75
	record := &report.Sample{ID: "a", Split: "val", PredictedClassName: &name, Confidence: &confidence, TargetLayer: "layer4"}
	if got, want := title(record)[0], "a (val)   true: unknown   predicted: Late (0.750)   layer: layer4"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	record.TrueClassName = &name
	if got := title(record)[0]; !strings.Contains(got, "true: Late ") {
		t.Errorf("%q", got)
	}
}
