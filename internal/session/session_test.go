package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/report"
	"github.com/voxcam/voxcam/internal/result"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

func TestTree(t *testing.T) {
	w := newWorld(t, 2)
	w.config.Explain.Methods = []string{"gradcam", "vargrad"}
	w.config.Output.Formats = result.Names()
	s := w.must(&fake{}, ExitOK)
	if s.Selected != 2 || s.Status.OK != 2 || s.Dir != w.session("") {
		t.Errorf("%+v", s)
	}
	tree := w.tree()
	want := []string{"session.json", "reports/overall_statistics.json", "reports/detailed_analysis_report.txt",
		"summaries/analysis_summary.png", "summaries/heatmap_detailed_analysis.png"}
	for i, class := range []string{"class_0_normal", "class_1_early_amd"} {
		id := fmt.Sprintf("case%d", i)
		dir := "heatmaps/val/" + class + "/" + id + "/"
		want = append(want, dir+id+"_metadata.json", "visualizations/val/"+id+"_combined.png",
			"visualizations/val/"+id+"_full_volume_overlay.tiff")
		for _, m := range []string{"gradcam", "vargrad"} {
			for _, end := range []string{"_map.nii.gz", "_heatmap.nii.gz", "_map.npy", "_heatmap.npy", ".mat", "_heatmap.tiff", "_overlay.tiff"} {
				want = append(want, dir+id+"_"+m+"_volume"+end)
			}
		}
	}
	for _, name := range want {
		if _, ok := tree[name]; !ok {
			t.Errorf("%s is missing", name)
		}
		delete(tree, name)
	}
	for name := range tree {
		t.Errorf("%s is too much", name)
	}
}

func metadata(t *testing.T, w *world, rel string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(w.session(rel))
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMetadata(t *testing.T) {
	w := newWorld(t, 2)
	w.config.Data.ImageShape = []int{4, 6, 4}
	w.config.Explain.Seed = 9
	w.config.Output.Formats = result.Names()
	w.must(&fake{}, ExitOK)
	m := metadata(t, w, "heatmaps/val/class_1_early_amd/case1/case1_metadata.json")
	for key, want := range map[string]any{
		"sample_id": "case1", "true_class": 1.0, "true_class_name": "Early AMD", "confidence": 0.9, "status": "ok", "seed": 9.0,
		"target_layer": "layer4", "crop_offset": []any{0.0, -1.0, 1.0}, "volume_shape": []any{1.0, 4.0, 6.0, 4.0},
		"input_shape": []any{1.0, 4.0, 4.0, 6.0}, "cell_size_voxels": []any{2.0, 2.0, 2.0}, "model_sha256": "abc",
		"scaling": map[string]any{"name": "none", "offset": 0.0, "divisor": 1.0},
		"layer": map[string]any{"name": "layer4", "value": "relu_8", "shape": []any{1.0, 2.0, 2.0, 3.0, 2.0}, "axes": "NCDHW", "module": "layer4",
			"call": 2.0, "calls": 2.0, "warnings": []any{"assumed"}},
	} {
		if !reflect.DeepEqual(m[key], want) {
			t.Errorf("%s = %v, want %v", key, m[key], want)
		}
	}
	for _, key := range []string{"predicted_class", "predicted_class_name", "probabilities", "correct_prediction", "processing_time", "input"} {
		if m[key] == nil {
			t.Errorf("%s is missing", key)
		}
	}
	// The map is scale * (-1, 0, 1, ... 10) over 2x3x2 cells: real values, not those of a normalised heatmap.
	stats := m["heatmap_statistics"].(map[string]any)["volume"].(map[string]any)
	scale := -stats["min_activation"].(float64)
	if got := stats["max_activation"].(float64); scale == 0 || math.Abs(got-10*scale) > 1e-5*got {
		t.Errorf("statistics %v", stats)
	}
	if got := stats["mean_activation"].(float64); math.Abs(got-4.5*scale) > 1e-5*got {
		t.Errorf("statistics %v", stats)
	}
	method := m["methods"].([]any)[0].(map[string]any)
	if method["key"] != "volume" || method["status"] != "ok" || method["time_seconds"] != 0.25 || method["target_class"] == nil ||
		method["parameters"].(map[string]any)["n_samples"] != 50.0 {
		t.Errorf("method %v", method)
	}
	// What is written can be read, with the geometry of the crop and of the layer's cells.
	base := w.session("heatmaps/val/class_1_early_amd/case1/case1_volume")
	for name, want := range map[string]volume.Affine{
		"_heatmap.nii.gz": {{1, 0, 0, 0}, {0, 1, 0, -1}, {0, 0, 1, 1}},
		"_map.nii.gz":     {{2, 0, 0, 0.5}, {0, 2, 0, -0.5}, {0, 0, 2, 1.5}},
	} {
		v, err := format.Read(base+name, format.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if v.Geometry.Affine != want {
			t.Errorf("%s: affine %v, want %v", name, v.Geometry.Affine, want)
		}
	}
	v, err := format.Read(base+".mat", format.Options{Variable: "heatmap"})
	if err != nil || v.Dims() != [3]int{4, 6, 4} {
		t.Errorf("%v %v", v, err)
	}
}

func TestEverySampleHasAStatus(t *testing.T) {
	w := newWorld(t, 1)
	w.volume("high", 1)
	w.volume("a/same", 1)
	w.volume("b/same", 2)
	w.volume("panic", 1)
	w.volume("half", 1)
	w.volume("empty", 1)
	w.volume("nan", 1)
	if err := os.WriteFile(filepath.Join(w.dir, "broken.npy"), []byte("xx"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.labels("caseID,label,split\ncase0,0,val\nhigh,3,val\na/same,0,val\nb/same,0,val\nmissing,1,val\nbroken,1,val\ncase0,2,val\nx,one,val\n" +
		"panic,0,val\nhalf,0,val\nempty,0,val\nnan,0,train\n")
	w.config.Explain.Methods = []string{"gradcam", "vargrad"}
	f := &fake{hook: func(_ context.Context, req cam.Request, r *cam.Result) error {
		switch req.SampleID {
		case "panic":
			panic("deliberate")
		case "half":
			r.Methods[1].Status, r.Methods[1].Reason, r.Methods[1].Map = cam.StatusFailed, "too deep", nil
		case "empty":
			clear(r.Methods[0].Heatmap)
		case "nan":
			r.Logits[0] = float32(math.NaN())
		}
		return nil
	}}
	s := w.must(f, ExitFailed)
	want := map[string]string{
		"high":    "failed: labels line 3: the label is 3, but the model has only the classes 0 to 2",
		"missing": "failed: no file", "broken": "failed: ", "case0": "failed: labels line 8: caseID \"case0\" is already on line 2",
		"x": "failed: labels line 9: the label is \"one\"", "panic": "failed: internal error", "half": "degraded: vargrad failed: too deep",
		"empty": "degraded: gradcam degraded: the heatmap is zero everywhere", "nan": "failed: the network's output is not finite",
	}
	for _, p := range s.Problems {
		if got := fmt.Sprintf("%s: %s", p.Status, p.Reason); !strings.HasPrefix(got, want[p.Sample]) || want[p.Sample] == "" {
			t.Errorf("%s: %s", p.Sample, got)
		}
		delete(want, p.Sample)
	}
	if len(want) > 0 {
		t.Errorf("not reported: %v", want)
	}
	if s.Status != (report.Counts{OK: 3, Degraded: 2, Failed: 7}) {
		t.Errorf("%+v", s.Status)
	}
	tree := w.tree()
	for _, name := range []string{"heatmaps/val/class_0_normal/a_same/a_same_gradcam_volume_map.npy",
		"heatmaps/val/class_0_normal/b_same/b_same_gradcam_volume_map.npy", "heatmaps/val/class_unknown/high/high_metadata.json",
		"heatmaps/val/class_2_late/case0_line8/case0_line8_metadata.json", "heatmaps/train/class_0_normal/nan/nan_metadata.json"} {
		if tree[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	for name := range tree {
		if strings.Contains(name, "half_vargrad") {
			t.Errorf("%s: a failed method has a file", name)
		}
	}
	// Seven failed: the report counts only the five with a prediction.
	text := tree["reports/overall_statistics.json"]
	if !strings.Contains(text, `"total_samples_processed": 5`) {
		t.Error(text)
	}

	// Failed samples are tried again, finished ones are not; half failed in part.
	again := &fake{}
	s = w.must(again, ExitFailed)
	calls := again.called()
	slices.Sort(calls)
	if !reflect.DeepEqual(calls, []string{"half", "nan", "panic"}) || s.Resumed != 4 || s.Status != (report.Counts{OK: 6, Degraded: 1, Failed: 5}) {
		t.Errorf("calls %v, %+v", calls, s)
	}
	if _, ok := w.tree()["heatmaps/val/class_0_normal/case0/case0_metadata.json"]; !ok {
		t.Error("a repeated ID removed the first sample's results")
	}
}

// What cannot be a map is never written as one: the method fails, with the reason.
func TestMapsThatAreNone(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, c := range map[string]struct {
		harm func(*cam.Result)
		want string
	}{
		"a NaN in the map":           {func(r *cam.Result) { r.Methods[0].Map[3] = nan }, "the map is not finite"},
		"a NaN in the heatmap":       {func(r *cam.Result) { r.Methods[0].Heatmap[95] = nan }, "the map is not finite"},
		"an infinity in the map":     {func(r *cam.Result) { r.Methods[0].Map[0] = -inf }, "the map is not finite"},
		"an infinity in the heatmap": {func(r *cam.Result) { r.Methods[0].Heatmap[0] = inf }, "the map is not finite"},
		"no map":                     {func(r *cam.Result) { r.Methods[0].Map = nil }, "internal error"},
		"a map of another size":      {func(r *cam.Result) { r.Methods[0].Map = r.Methods[0].Map[1:] }, "internal error"},
		"a heatmap of another size":  {func(r *cam.Result) { r.Methods[0].Heatmap = r.Methods[0].Heatmap[1:] }, "internal error"},
		"a heatmap in another order": {func(r *cam.Result) { r.Methods[0].HeatDims = [3]int{6, 4, 4} }, "internal error"},
		"a status that there is not": {func(r *cam.Result) { r.Methods[0].Status = "fine" }, "internal error"},
		"a NaN among probabilities":  {func(r *cam.Result) { r.Probabilities[2] = math.NaN() }, "the network's output is not finite"},
		"an infinite logit":          {func(r *cam.Result) { r.Logits[2] = inf }, "the network's output is not finite"},
		"a logit too few":            {func(r *cam.Result) { r.Logits = r.Logits[1:] }, "internal error"},
		"a probability too few":      {func(r *cam.Result) { r.Probabilities = r.Probabilities[1:] }, "internal error"},
		"a method too few":           {func(r *cam.Result) { r.Methods = nil }, "internal error"},
		"a class below":              {func(r *cam.Result) { r.Predicted = -1 }, "predicted class -1"},
		"a class above":              {func(r *cam.Result) { r.Predicted = 3 }, "predicted class 3"},
	} {
		w := newWorld(t, 1)
		s := w.must(&fake{hook: func(_ context.Context, _ cam.Request, r *cam.Result) error { c.harm(r); return nil }}, ExitFailed)
		if s.Status != (report.Counts{Failed: 1}) || len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Reason, c.want) {
			t.Errorf("%s: %+v", name, s)
		}
		for file := range w.tree() {
			if strings.HasSuffix(file, ".npy") {
				t.Errorf("%s: %s was written", name, file)
			}
		}
	}
}

func TestTargets(t *testing.T) {
	for target, want := range map[string][]string{
		"predicted": {"volume"}, "true": {"volume"}, "late": {"volume"}, "all": {"class_0_volume", "class_1_volume", "class_2_volume"},
	} {
		w := newWorld(t, 2)
		w.config.Model.TargetClass = target
		var asked []cam.Class
		f := &fake{hook: func(_ context.Context, req cam.Request, _ *cam.Result) error {
			if req.SampleID == "case1" {
				asked = append(asked, req.Target.Class)
			}
			return nil
		}}
		w.must(f, ExitOK)
		m := metadata(t, w, "heatmaps/val/class_1_early_amd/case1/case1_metadata.json")
		var keys []string
		for _, method := range m["methods"].([]any) {
			keys = append(keys, method.(map[string]any)["key"].(string))
		}
		if !reflect.DeepEqual(keys, want) || len(asked) != len(want) {
			t.Errorf("%s: keys %v, asked %v", target, keys, asked)
		}
		switch target {
		case "true":
			if asked[0] != (cam.Class{Kind: cam.ClassTrue, Index: 1}) {
				t.Errorf("true: %v", asked)
			}
		case "late":
			if asked[0] != (cam.Class{Kind: cam.ClassIndex, Index: 2}) {
				t.Errorf("late: %v", asked)
			}
		}
	}
}

// A sample whose second target fails has no results at all, and one that is stopped there is not finished.
func TestTargetsAreAllOrNothing(t *testing.T) {
	w := newWorld(t, 2)
	w.config.Model.TargetClass = "all"
	w.config.Output.Formats = []string{"npy", "tiff", "png"}
	f := &fake{hook: func(_ context.Context, req cam.Request, _ *cam.Result) error {
		if req.SampleID == "case0" && req.Target.Class.Index == 1 {
			return errors.New("no")
		}
		return nil
	}}
	s := w.must(f, ExitFailed)
	if s.Status != (report.Counts{OK: 1, Failed: 1}) || len(f.called()) != 2+3 {
		t.Errorf("%+v, calls %v", s, f.called())
	}
	for name := range w.tree() {
		if strings.Contains(name, "case0") && !strings.HasSuffix(name, "case0_metadata.json") {
			t.Errorf("%s of a failed sample", name)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	stopped := &fake{classes: 3, hook: func(ctx context.Context, req cam.Request, _ *cam.Result) error {
		if req.Target.Class.Index == 2 {
			cancel()
		}
		return ctx.Err()
	}}
	s, err := Run(ctx, w.opt, stopped)
	if ExitCode(s, err) != ExitInterrupted || s.Pending != 1 || s.Resumed != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := os.Stat(w.session(".partial")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unfinished files stayed: %v", err)
	}
	if s := w.must(&fake{}, ExitOK); s.Status.OK != 2 {
		t.Errorf("%+v", s)
	}
}

func TestResumeSkipsWhatIsDone(t *testing.T) {
	w := newWorld(t, 4)
	w.config.Data.MaxSamples = 2
	w.must(&fake{}, ExitOK)
	before := w.tree()

	w.config.Data.MaxSamples = 0
	f := &fake{}
	s := w.must(f, ExitOK)
	if !reflect.DeepEqual(f.called(), []string{"case2", "case3"}) || s.Resumed != 2 || s.Status.OK != 4 {
		t.Errorf("calls %v, %+v", f.called(), s)
	}
	after := w.tree()
	for name, text := range before {
		if strings.HasPrefix(name, "heatmaps/") && after[name] != text {
			t.Errorf("%s changed", name)
		}
	}
	if !strings.Contains(after["reports/overall_statistics.json"], `"total_samples_processed": 4`) {
		t.Error("the report does not cover what an earlier run did")
	}

	// Damage: a missing file, a changed size, a changed volume. A changed content shows when asked for.
	dir := "heatmaps/val/class_%s/case%d/case%d_volume_map.npy"
	if err := os.Remove(w.session(fmt.Sprintf(dir, "0_normal", 0, 0))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.session(fmt.Sprintf(dir, "1_early_amd", 1, 1)), []byte("short"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.volume("case2", 77)
	three := w.session(fmt.Sprintf(dir, "0_normal", 3, 3))
	text, err := os.ReadFile(three)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-1] ^= 1
	if err := os.WriteFile(three, text, 0o644); err != nil {
		t.Fatal(err)
	}
	f = &fake{}
	w.must(f, ExitOK)
	if !reflect.DeepEqual(f.called(), []string{"case0", "case1", "case2"}) {
		t.Errorf("calls %v", f.called())
	}
	w.opt.VerifyFiles = true
	f = &fake{}
	w.must(f, ExitOK)
	if !reflect.DeepEqual(f.called(), []string{"case3"}) {
		t.Errorf("calls %v", f.called())
	}
}

// A record that was made under other settings, or by another version, is not the sample's: it is explained again.
func TestResumeComparesTheRecord(t *testing.T) {
	for name, c := range map[string]struct{ key, value string }{
		"settings": {"configuration_sha256", `"` + strings.Repeat("0", 64) + `"`},
		"sample":   {"sample_id", `"case2"`},
		"label":    {"true_class", "2"},
		"status":   {"status", `"skipped_low_memory"`},
		"the same": {"processing_time", "5"},
		"schema":   {"schema", "99"},
		"bytes":    {"input", `{"bytes": 1}`},
	} {
		w := newWorld(t, 1)
		w.must(&fake{}, ExitOK)
		path := w.session("heatmaps/val/class_0_normal/case0/case0_metadata.json")
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		record := map[string]json.RawMessage{}
		if err := json.Unmarshal(text, &record); err != nil {
			t.Fatal(err)
		}
		if record[c.key] == nil {
			t.Fatalf("%s: the record has no %s: %s", name, c.key, text)
		}
		record[c.key] = json.RawMessage(c.value)
		delete(record, "record_sha256") // which would tell of any change
		w.unseal(report.SessionFile)
		if text, err = json.Marshal(record); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		f := &fake{}
		s := w.must(f, ExitOK)
		again := 1
		if name == "the same" {
			again = 0
		}
		if len(f.called()) != again || s.Status.OK != 1 {
			t.Errorf("%s: explained %d times, not %d; %+v", name, len(f.called()), again, s)
		}
	}
}

func TestCorrectedLabelMovesTheSample(t *testing.T) {
	w := newWorld(t, 2)
	w.must(&fake{}, ExitOK)
	w.labels("caseID,label,split\ncase0,2,test\ncase1,1,val\n")
	f := &fake{}
	w.must(f, ExitOK)
	if !reflect.DeepEqual(f.called(), []string{"case0"}) {
		t.Errorf("calls %v", f.called())
	}
	tree := w.tree()
	if tree["heatmaps/test/class_2_late/case0/case0_metadata.json"] == "" || tree["heatmaps/val/class_0_normal/case0/case0_metadata.json"] != "" {
		t.Error("the sample is not only in its new place")
	}
	if !strings.Contains(tree["reports/overall_statistics.json"], `"total_samples_processed": 2`) {
		t.Error("the sample is counted twice")
	}
}

func TestOtherSettingsAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world, *fake)
		want   string
	}{
		"model":    {func(_ *world, f *fake) { f.sha = "def" }, "model.sha256: the session has abc, this run abcdef (the model's file has another content)"},
		"seed":     {func(w *world, _ *fake) { w.config.Explain.Seed = 1 }, "explain.seed: the session has 0, this run 1"},
		"methods":  {func(w *world, _ *fake) { w.config.Explain.Methods = []string{"vargrad"} }, `explain.methods: the session has ["gradcam"], this run ["vargrad"]`},
		"scale":    {func(w *world, _ *fake) { w.config.Data.Scale = "div255" }, "data.scale: the session has none, this run div255"},
		"policy":   {func(w *world, _ *fake) { w.config.Memory.Policy = "original" }, "memory.policy: the session has absent, this run original"},
		"settings": {func(w *world, _ *fake) { w.opt.Noise, w.opt.NoiseName = &npy.Stack{}, "x" }, "noise: the session has absent, this run x"},
		"record": {func(w *world, _ *fake) {
			if err := os.WriteFile(w.session("session.json"), []byte("{"), 0o644); err != nil {
				w.t.Fatal(err)
			}
		}, "damaged record"},
	} {
		w := newWorld(t, 1)
		w.must(&fake{}, ExitOK)
		f := &fake{classes: 3}
		tc.change(w, f)
		s, err := w.run(f)
		if ExitCode(s, err) != ExitRefused || !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if len(f.called()) > 0 {
			t.Errorf("%s: work was begun", name)
		}
	}

	// A shuffle over other cases deals other splits.
	w := newWorld(t, 3)
	w.config.Data.Split = "shuffle"
	w.must(&fake{}, ExitOK)
	w.labels("caseID,label\ncase0,0\ncase1,1\n")
	if s, err := w.run(&fake{}); ExitCode(s, err) != ExitRefused || !strings.Contains(err.Error(), "data.deal") {
		t.Errorf("deal: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*world, *fake)
		want   string
	}{
		"configuration": {func(w *world, _ *fake) { w.config.Data.Scale = "" }, "data.scale is missing"},
		"labels":        {func(w *world, _ *fake) { w.labels("") }, "labels.csv: the file is empty"},
		"split":         {func(w *world, _ *fake) { w.config.Data.Dataset = "test" }, "no sample is in \"test\""},
		"classes":       {func(_ *world, f *fake) { f.classes = 5 }, "the configuration has 3 classes, but net.onnx has 5"},
		"target":        {func(w *world, _ *fake) { w.config.Model.Classes = nil; w.config.Model.TargetClass = "7" }, "class 7 is out of range"},
		"foreign": {func(w *world, _ *fake) {
			if err := os.MkdirAll(w.session("heatmaps"), 0o755); err != nil {
				w.t.Fatal(err)
			}
		}, "it is not a session of this program"},
		"locked": {func(w *world, _ *fake) {
			f, err := durable.Open(w.session(""))
			if err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { f.Close() })
		}, "in use by another process"},
	} {
		w := newWorld(t, 1)
		f := &fake{}
		tc.change(w, f)
		s, err := w.run(f)
		if ExitCode(s, err) != ExitRefused || !strings.Contains(fmt.Sprint(err), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(w.session("session.json")); err == nil {
			t.Errorf("%s: a session was begun", name)
		}
	}
}

func TestNewSessionsAreNamedByTime(t *testing.T) {
	w := newWorld(t, 1)
	w.config.Output.Session = ""
	a, b := w.must(&fake{}, ExitOK), w.must(&fake{}, ExitOK)
	if a.Name != "20260102_030405" || b.Name != "20260102_030405_2" || a.Dir == b.Dir {
		t.Errorf("%s, %s", a.Name, b.Name)
	}
	w.config.Output.Session = "session_" + a.Name // as the folder is called
	if s := w.must(&fake{}, ExitOK); s.Dir != a.Dir || s.Resumed != 1 {
		t.Errorf("%+v", s)
	}
}

func TestUnwritableOutput(t *testing.T) {
	w := newWorld(t, 1)
	w.config.Output.Dir = filepath.Join(w.dir, "case0.npy", "out")
	s, err := w.run(&fake{})
	if ExitCode(s, err) != ExitOutput || !strings.Contains(fmt.Sprint(err), "choose another output folder") {
		t.Errorf("%v", err)
	}
}

// A place that cannot be written stops the run at once, with one error, and leaves nothing half done.
func TestOutputFailsInTheMiddle(t *testing.T) {
	w := newWorld(t, 5)
	f := &fake{hook: func(_ context.Context, req cam.Request, _ *cam.Result) error {
		if req.SampleID == "case1" { // a file where a folder must be
			if err := os.MkdirAll(w.session("heatmaps/val"), 0o755); err != nil {
				return err
			}
			return os.WriteFile(w.session("heatmaps/val/class_1_early_amd"), nil, 0o644)
		}
		return nil
	}}
	s, err := w.run(f)
	var output *durable.Error
	if ExitCode(s, err) != ExitOutput || !errors.As(err, &output) {
		t.Fatalf("%v", err)
	}
	if s.Status.OK != 1 || s.Pending != 4 || len(f.called()) > 4 {
		t.Errorf("%+v, calls %v", s, f.called())
	}
	if err := os.Remove(w.session("heatmaps/val/class_1_early_amd")); err != nil {
		t.Fatal(err)
	}
	if s := w.must(&fake{}, ExitOK); s.Resumed != 1 || s.Status.OK != 5 {
		t.Errorf("%+v", s)
	}
}

func TestSummaryPrint(t *testing.T) {
	s := Summary{Name: "s", Dir: "out/session_s", Selected: 25, Resumed: 1, Pending: 2, Seconds: 3,
		Status: report.Counts{OK: 1, Failed: 22}}
	for i := range 22 {
		s.Problems = append(s.Problems, Problem{fmt.Sprint("case", i), "val", cam.StatusFailed, "why"})
	}
	var b bytes.Buffer
	if err := s.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"25 samples, 1 ok, 0 degraded, 22 failed, 2 not done (1 of them by earlier runs), 3.0 s\n",
		"  failed: val/case0: why\n", ": val/case19: why\n  and 2 more: see reports/detailed_analysis_report.txt\nresults: out/session_s\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q lacks %q", b.String(), want)
		}
	}
	b.Reset()
	if err := (Summary{Selected: 1, Status: report.Counts{OK: 1}}).Print(&b); err != nil || strings.Contains(b.String(), "not done") {
		t.Errorf("%v: %q", err, b.String())
	}
}

func TestExitCode(t *testing.T) {
	for _, tc := range []struct {
		s    Summary
		err  error
		want int
	}{
		{Summary{}, nil, ExitOK},
		{Summary{Status: report.Counts{Degraded: 1}}, nil, ExitDegraded},
		{Summary{Status: report.Counts{Degraded: 1, Failed: 1}}, nil, ExitFailed},
		{Summary{}, context.Canceled, ExitInterrupted},
		{Summary{}, &config.Error{}, ExitRefused},
		{Summary{}, refuse("x"), ExitRefused},
		{Summary{}, errors.New("x"), ExitError},
		{Summary{}, errors.Join(context.Canceled, &durable.Error{Err: errors.New("x")}), ExitOutput},
	} {
		if got := ExitCode(tc.s, tc.err); got != tc.want {
			t.Errorf("%v: %d instead of %d", tc.err, got, tc.want)
		}
	}
}

// TestPlace explains volumes whose headers have two forms, or none, and demands that results are written with them, moved by the crop and
// enlarged to the layer's cells. testdata/forms.py of package nifti made the volumes: 8x9x10 voxels of 1x2x3 mm.
func TestPlace(t *testing.T) {
	w := newWorld(t, 0)
	w.labels("caseID,label,split\nmni,0,val\nnone,1,val\n")
	for _, name := range []string{"mni", "none"} {
		b, err := os.ReadFile("../volume/nifti/testdata/forms_" + name + ".nii.gz")
		if err == nil {
			err = os.WriteFile(filepath.Join(w.dir, name+".nii.gz"), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.config.Data.ImageShape = []int{6, 9, 12} // offset 1, 0, -1
	w.config.Output.Formats = []string{"nifti"}
	w.must(&fake{}, ExitOK)
	for _, test := range []struct {
		path         string
		qform, sform int     // codes
		q, s         float64 // x of voxel (0, 0, 0) by each
	}{
		// The qform is diag(-1, 2, 3) with x = 9 at voxel 0, the sform is turned by 0.3 about z, with x = 21.
		{"val/class_0_normal/mni/mni_volume_heatmap.nii.gz", 1, 4, 8, 21 - math.Cos(0.3)},
		{"val/class_0_normal/mni/mni_volume_map.nii.gz", 1, 4, 7.5, 21 - 1.5*math.Cos(0.3) - 0.625*2*math.Sin(0.3)},
		// nibabel puts the centre at the origin, x from 3.5 down; ITK voxel 0, x from 0 down.
		{"val/class_1_early_amd/none/none_volume_heatmap.nii.gz", 2, 2, -1, 2.5},
		{"val/class_1_early_amd/none/none_volume_map.nii.gz", 2, 2, -1.5, 2},
	} {
		v, err := format.Read(w.session("heatmaps/"+test.path), format.Options{})
		if err != nil {
			t.Fatal(err)
		}
		f := v.Geometry.Forms
		if f.Qform.Code != test.qform || f.Sform.Code != test.sform || f.Unit != volume.Millimetre ||
			!(math.Abs(f.Qform.Affine[0][3]-test.q) < 1e-5) || !(math.Abs(f.Sform.Affine[0][3]-test.s) < 1e-5) {
			t.Errorf("%s: %+v, want %+v", test.path, f, test)
		}
	}
	for path, want := range map[string]int{"val/class_0_normal/mni/mni_metadata.json": 0, "val/class_1_early_amd/none/none_metadata.json": 1} {
		if warnings, _ := metadata(t, w, "heatmaps/"+path)["warnings"].([]any); len(warnings) != want {
			t.Errorf("%s: warnings %v", path, warnings)
		}
	}
}

// A folder that is moved while the session runs gets all results, and the summary does not name its old place.
func TestFolderMovedMeanwhile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open folder cannot be moved there")
	}
	w := newWorld(t, 3)
	was, is := w.session(""), filepath.Join(w.dir, "elsewhere")
	f := &fake{hook: func(_ context.Context, req cam.Request, _ *cam.Result) error {
		if req.SampleID == "case1" {
			return os.Rename(was, is)
		}
		return nil
	}}
	s := w.must(f, ExitOK)
	var b strings.Builder
	if err := s.Print(&b); err != nil || !s.Moved || !strings.Contains(b.String(), "and was moved since") {
		t.Errorf("%+v, %v: %s", s, err, b.String())
	}
	for _, name := range []string{"case0", "case1", "case2"} {
		if found, _ := filepath.Glob(filepath.Join(is, "heatmaps", "val", "*", name, name+"_metadata.json")); len(found) != 1 {
			t.Errorf("%s has %d records", name, len(found))
		}
	}
	if _, err := os.Stat(was); err == nil {
		t.Errorf("%s is there again", was)
	}
	if s := newWorld(t, 1).must(&fake{}, ExitOK); s.Moved {
		t.Error("a folder that stayed counts as moved")
	}
}
