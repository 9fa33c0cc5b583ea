package report

import (
	"bytes"
	"encoding/json"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/volume"
)

func ptr[T any](x T) *T { return &x }

var names = []string{"Normal", "Early AMD", "Late"}

func session() *Session {
	return &Session{Schema: Schema, Name: "s", Model: ModelInfo{Classes: 3, ClassNames: names, Backbone: "net", File: "net.onnx"}}
}

func predicted(split, name string, truth, prediction int, confidence, peak float64) *Sample {
	probabilities := make([]float64, len(names))
	probabilities[prediction] = confidence
	return &Sample{Schema: Schema, ID: name, Name: name, Split: split, Status: cam.StatusOK,
		TrueClass: ptr(truth), TrueClassName: ptr(names[truth]), PredictedClass: ptr(prediction), PredictedClassName: ptr(names[prediction]),
		Confidence: ptr(confidence), CorrectPrediction: ptr(truth == prediction), Seconds: 2,
		Probabilities: probabilities, Logits: make([]float32, len(names)),
		Input: &dataset.Input{Path: name, Bytes: 1}, InputShape: &[4]int{1, 4, 4, 4}, Shape: &[4]int{1, 4, 4, 4}, CropOffset: &[3]int{},
		Scaling: &volume.Scaling{Name: "none", Divisor: 1}, CellSize: &[3]float64{2, 2, 2},
		Methods:    []Method{{Method: "gradcam", Key: "volume", Status: cam.StatusOK, MapShape: &[3]int{2, 2, 2}}},
		Statistics: map[string]Statistics{"volume": {Max: peak, Mean: peak / 2, Std: peak / 2}}}
}

func failed(split, name string) *Sample {
	return &Sample{Schema: Schema, ID: name, Name: name, Split: split, Status: cam.StatusFailed, Reason: "no file",
		TrueClass: ptr(0), TrueClassName: ptr(names[0])}
}

func samples() []*Sample {
	return []*Sample{
		predicted("train", "a", 0, 0, 0.9, 1),
		predicted("train", "b", 1, 1, 0.7, 3),
		predicted("train", "c", 2, 1, 0.5, 5),
		failed("train", "d"),
		failed("val", "e"),
	}
}

func TestAggregate(t *testing.T) {
	o := Aggregate(session(), samples(), time.Time{})
	train, val := o.Splits["train"], o.Splits["val"]
	if train.Processed != 3 || math.Abs(*train.Accuracy-2.0/3) > 1e-12 || math.Abs(*train.Confidence-0.7) > 1e-12 || *train.Seconds != 2 ||
		train.Status != (Counts{OK: 3, Failed: 1}) || train.ClassDistribution["Normal"] != 2 {
		t.Errorf("train: %+v", train)
	}
	h := train.Heatmaps["volume"]
	if h.N != 3 || math.Abs(h.AvgMax-3) > 1e-12 || math.Abs(h.StdMax-math.Sqrt(8.0/3)) > 1e-12 || math.Abs(h.AvgMean-1.5) > 1e-12 {
		t.Errorf("maps: %+v", h)
	}
	if val.Processed != 0 || val.Accuracy != nil || val.Confidence != nil || val.Seconds != nil || len(val.Heatmaps) != 0 {
		t.Errorf("a split without predictions has no averages: %+v", val)
	}
	if o.Overall.Processed != 3 || math.Abs(*o.Overall.Accuracy-2.0/3) > 1e-12 || o.Overall.Confusion[2][1] != 1 ||
		o.Overall.Status != (Counts{OK: 3, Failed: 2}) {
		t.Errorf("overall: %+v", o.Overall)
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{`"analysis_timestamp"`, `"config_used"`, `"model_info"`, `"n_classes":3`, `"class_names"`, `"backbone":"net"`,
		`"samples_processed":3`, `"accuracy":null`, `"class_distribution"`, `"avg_processing_time":2`, `"avg_confidence":null`,
		`"avg_max_activation":3`, `"std_max_activation"`, `"avg_mean_activation"`, `"std_mean_activation"`,
		`"total_samples_processed":3`, `"overall_accuracy":0.66`} {
		if !bytes.Contains(text, []byte(key)) {
			t.Errorf("overall_statistics.json lacks %s: %s", key, text)
		}
	}
}

func TestMeasure(t *testing.T) {
	s := Measure([]float32{-2, 0, 2, 4}, []float32{0, 0, 0.75, 0, 0, 1, 0, 0.5}, [3]int{2, 2, 2})
	want := Statistics{Max: 4, Mean: 1, Std: math.Sqrt(5), Min: -2, PositiveShare: 0.5, HeatmapMean: 0.28125,
		HeatmapStd: s.HeatmapStd, HotShare: 0.25, Peak: [3]int{1, 0, 1}}
	if s != want || math.Abs(s.HeatmapStd-0.384006) > 1e-6 {
		t.Errorf("got %+v", s)
	}
}

func write(t *testing.T, dir string, s *Sample) {
	t.Helper()
	folder := filepath.Join(dir, "heatmaps", s.Split, "class_0_x", s.Name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := WriteJSON(&b, s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, MetadataName(s.Name)), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestWriteMakesEveryReportFromTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "odd [name]*")
	for _, s := range samples() {
		write(t, dir, s)
	}
	damaged := filepath.Join(dir, "heatmaps", "test", "class_0_x", "z")
	if err := os.MkdirAll(damaged, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(damaged, "z_metadata.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	folder, err := durable.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	o, problems, err := Write(folder, session(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 40, 0)
	if err != nil {
		t.Fatal(err)
	}
	if o.Overall.Status.All() != 5 || len(problems) != 1 || !strings.Contains(problems[0].Error(), "z_metadata.json") {
		t.Errorf("%+v, problems %v", o.Overall, problems)
	}
	for _, name := range []string{"summaries/analysis_summary.png", "summaries/heatmap_detailed_analysis.png"} {
		f, err := os.Open(folder.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		img, err := png.DecodeConfig(f)
		f.Close()
		if err != nil || img.Width < 200 {
			t.Errorf("%s: %v, %+v", name, err, img)
		}
	}
	text, err := os.ReadFile(folder.Path("reports/detailed_analysis_report.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Accuracy:         0.6667", "Accuracy:           n/a", "train/c: Late taken for Early AMD (0.500)", "val/e: no file",
		"2 samples without a complete result", "Avg Max Activation: 3 +- 1.63299", "right in 66.7 % of these"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the report lacks %q", want)
		}
	}
	if strings.Contains(string(text), "NaN") {
		t.Error("NaN in the report")
	}
}

// A session in which nothing worked still has reports.
func TestReportsOfNothing(t *testing.T) {
	for name, s := range map[string][]*Sample{"none": nil, "failed": {failed("val", "e")}} {
		o := Aggregate(session(), s, time.Time{})
		var b bytes.Buffer
		if err := WriteSummaryPlot(&b, o, 40); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := WriteDetailPlot(&b, o, s, 40); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		b.Reset()
		if err := WriteText(&b, session(), o, s, "dir"); err != nil || strings.Contains(b.String(), "NaN") {
			t.Errorf("%s: %v\n%s", name, err, b.String())
		}
	}
}
