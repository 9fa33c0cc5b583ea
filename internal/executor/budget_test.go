package executor_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// goldenCase is case.json of a golden case.
type goldenCase struct {
	Target string `json:"target_layer"`
	Class  int    `json:"target_class"`
	Grid   []int  `json:"token_grid"`
}

// A smaller budget costs time, not truth: from the smallest plan up, every golden model gives what it gives with whole tensors,
// to 1e-5 of the maximum.
func TestBudgetsDoNotChangeResults(t *testing.T) {
	for _, folder := range []string{"../../testdata/cases", "../../../shared/golden"} {
		paths, err := filepath.Glob(filepath.Join(folder, "*", "model.torchscript.onnx"))
		if err != nil {
			t.Fatal(err)
		}
		if len(paths) == 0 {
			t.Run(folder, func(t *testing.T) { t.Skipf("BUDGETS NOT CHECKED on %s: there are no models", folder) })
		}
		for _, path := range paths {
			t.Run(filepath.Base(filepath.Dir(path)), func(t *testing.T) { checkBudgets(t, path) })
		}
	}
}

func checkBudgets(t *testing.T, path string) {
	dir := filepath.Dir(path)
	var c goldenCase
	text, err := os.ReadFile(filepath.Join(dir, "case.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	v, err := format.Read(filepath.Join(dir, "volume.npy"), format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	methods := []string{"gradcam", "saliency"}
	opt := executor.Options{ModelOptions: network.ModelOptions{TargetLayer: c.Target, Shape: [4]int{v.Channels, v.Depth, v.Height, v.Width}}}
	if c.Grid != nil {
		opt.TokenGrid = [3]int(c.Grid)
	}
	want := explainOnce(t, path, opt, v, methods, c.Class)
	device, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	choices, err := cam.Choose(methods, nil)
	if err != nil {
		t.Fatal(err)
	}
	passes, err := network.Plans(context.Background(), path, opt.ModelOptions, network.Binding{Backend: device, Budget: opt.Budget}, choices)
	if err != nil {
		t.Fatal(err)
	}
	low, high := 0, 0
	for _, p := range passes {
		low, high = max(low, p.Smallest), max(high, p.Whole)
	}
	least := fitting(t, path, opt, v, methods, c.Class)
	budgets := map[string]cam.Budget{"smallest": {Smallest: true}}
	for name, part := range map[string]int{"tight": 1 << 30, "quarter": 4, "half": 2} {
		budgets[name] = cam.Budget{Bytes: least + (high-low)/part}
	}
	for name, b := range budgets {
		opt.Budget = b
		got := explainOnce(t, path, opt, v, methods, c.Class)
		if e := worst(got.Logits, want.Logits); !(e <= 1e-5) {
			t.Errorf("%s: logits are %.1e of the maximum off", name, e)
		}
		for i, m := range got.Methods {
			if e := worst(m.Map, want.Methods[i].Map); !(e <= 1e-5) {
				t.Errorf("%s: the map of %s is %.1e of the maximum off", name, m.Method, e)
			}
		}
	}
}

// fitting is a budget that a refusal names, and that is enough. What steps compute with depends on the plan, so that the next plan may
// need a little more again.
func fitting(t *testing.T, path string, opt executor.Options, v *volume.Volume, methods []string, class int) int {
	opt.Budget = cam.Budget{Bytes: 1}
	for range 8 {
		r, err := tryExplain(path, opt, v, methods, class)
		var e *cam.BudgetError
		if err == nil {
			for _, m := range r.Methods {
				if m.Status == cam.StatusFailed {
					if !strings.Contains(m.Reason, "the least that works is") {
						t.Fatal(m.Reason)
					}
					err = errors.New(m.Reason)
				}
			}
			if err == nil {
				return opt.Budget.Bytes
			}
			opt.Budget.Bytes += opt.Budget.Bytes/4 + 1<<16
			continue
		}
		if !errors.As(err, &e) {
			t.Fatal(err)
		}
		opt.Budget.Bytes = e.Smallest
	}
	t.Fatal("no budget that a refusal names is enough")
	return 0
}

func explainOnce(t *testing.T, path string, opt executor.Options, v *volume.Volume, methods []string, class int) *cam.Result {
	r, err := tryExplain(path, opt, v, methods, class)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Methods {
		if m.Status == cam.StatusFailed {
			t.Fatalf("%s: %s", m.Method, m.Reason)
		}
	}
	return r
}

func tryExplain(path string, opt executor.Options, v *volume.Volume, methods []string, class int) (*cam.Result, error) {
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	m, err := executor.Open(context.Background(), path, b, opt)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.Explain(context.Background(), v, cam.Request{Methods: methods, Target: cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: class}}})
}

// worst is the largest difference relative to the largest magnitude of want; differing lengths and NaN are infinitely bad.
func worst(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	off, top := 0.0, 1e-30
	for i := range want {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if math.IsNaN(d) {
			return math.Inf(1)
		}
		off, top = max(off, d), max(top, math.Abs(float64(want[i])))
	}
	return off / top
}
