package voxcam_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/volume/format"
)

// A result is saved in each format, as the program saves it.
func TestSave(t *testing.T) {
	m, v := opened(t, voxcam.Options{Device: "cpu"})
	r, err := m.Explain(t.Context(), v, cam.Request{Methods: []string{"both"}})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := m.Save(dir, v, r, voxcam.SaveOptions{Formats: voxcam.SaveFormats()}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gradcam.map.nii.gz", "gradcam++.heatmap.npy", "gradcam.mat", "gradcam.overlay.tiff", "combined.png", "result.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for name, of := range map[string]cam.MethodResult{"gradcam": r.Methods[0], "gradcam++": r.Methods[1]} {
		saved, err := voxcam.Read(t.Context(), filepath.Join(dir, name+".map.nii.gz"), format.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if signed := voxcam.SignedMap(v, &of); saved.Dims() != of.Dims || !slices.Equal(saved.Data, of.Map) || saved.Geometry.Affine != signed.Geometry.Affine {
			t.Errorf("%s: another map was saved: %v", name, saved.Dims())
		}
	}
	if err := m.Save(dir, v, r, voxcam.SaveOptions{Formats: []string{"jpg"}}); err == nil || !strings.Contains(err.Error(), "choose from nifti") {
		t.Errorf("jpg: %v", err)
	}
	if err := m.Save(dir, v, nil, voxcam.SaveOptions{}); err == nil {
		t.Error("nothing was saved")
	}
}

// What inspecting, planning and fitting say is of the model and the options.
func TestLooksAhead(t *testing.T) {
	s, err := voxcam.Inspect(t.Context(), model, voxcam.Options{})
	if err != nil || s.Classes != 4 || s.Volume != [4]int{1, 12, 16, 14} || s.DefaultTarget == "" || len(s.Layers) == 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	req := cam.Request{Methods: []string{"gradcam", "smoothgrad"}, NSamples: 7}
	passes, err := voxcam.Plan(t.Context(), model, voxcam.Options{Device: "cpu"}, req)
	if err != nil || len(passes) != 2 || passes[0].Err != nil || passes[1].Runs != 7 || passes[1].Arena <= 0 {
		t.Fatalf("%+v, %v", passes, err)
	}
	small := voxcam.Options{Device: "cpu", Budget: "1KiB"}
	passes, err = voxcam.Plan(t.Context(), model, small, req)
	if least := (*cam.BudgetError)(nil); err != nil || !errors.As(passes[0].Err, &least) || least.Smallest != passes[0].Needs {
		t.Fatalf("%+v, %v", passes, err)
	}
	f, err := voxcam.Fit(t.Context(), model, small, req)
	if err != nil || f.Fits || f.Device != "cpu" || !strings.Contains(f.Reason, "the option memory_budget") {
		t.Fatalf("%+v, %v", f, err)
	}
	m, _ := opened(t, small)
	if least := (*cam.BudgetError)(nil); !errors.As(m.Prepare(t.Context(), req.Methods...), &least) {
		t.Error("the plans fit into a budget of 1 KiB")
	}
	if f, err = voxcam.Fit(t.Context(), model, voxcam.Options{Device: "cpu"}, req); err != nil || !f.Fits || f.Draws != 7 || f.Level != cam.LevelWhole {
		t.Fatalf("%+v, %v", f, err)
	}
	for _, wrong := range []cam.Request{{}, {Methods: []string{"gradcamm"}}} {
		if _, err := voxcam.Fit(t.Context(), model, voxcam.Options{}, wrong); !errors.As(err, new(*cam.OptionError)) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
}

// A configuration is made in a program as well as in a file, and what is wrong with it has types.
func TestConfig(t *testing.T) {
	c := voxcam.NewConfig()
	wrong := new(*voxcam.ConfigError)
	if err := c.Validate(); !errors.As(err, wrong) || len((*wrong).Complaints) < 3 || (*wrong).Complaints[len((*wrong).Complaints)-1].Key != "model.file" {
		t.Errorf("an empty configuration: %v", err)
	}
	for key, value := range map[string]any{
		"model.file": "m.onnx", "data.max_samples": 3, "explain.noise_level": 0.2, "memory.worker": false, "memory.wait": 3 * time.Second,
		"data.image_shape": []int{4, 4, 4}, "explain.methods": []string{"both"}, "data.split_ratio": []float64{0.5, 0.25, 0.25},
	} {
		if err := c.Set(key, value); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	for key, value := range map[string]any{"model.fil": "m.onnx", "data.max_samples": "three", "explain.noise_level": -1.0, "explain.device": "gpu"} {
		if err := c.Set(key, value); !errors.As(err, new(*cam.OptionError)) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, k := range voxcam.Keys() {
		if k.Name == "" || k.Doc == "" {
			t.Errorf("%+v", k)
		}
	}
	_, err := voxcam.Run(t.Context(), voxcam.NewConfig(), voxcam.RunOptions{})
	if !errors.As(err, wrong) {
		t.Errorf("a run of an empty configuration: %v", err)
	}
	path := dataSet()
	defer os.RemoveAll(filepath.Dir(path))
	if c, err = voxcam.LoadConfig(path); err != nil {
		t.Fatal(err)
	}
	if f, err := c.Fit(t.Context()); err != nil || !f.Fits {
		t.Errorf("%+v, %v", f, err)
	}
	if err := c.Set("model.target_class", "9"); err != nil {
		t.Fatal(err)
	}
	if _, err = voxcam.Run(t.Context(), c, voxcam.RunOptions{}); !errors.As(err, new(*voxcam.RefusedError)) || !strings.Contains(err.Error(), "class 9") {
		t.Errorf("a class that is not there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = voxcam.Run(ctx, c, voxcam.RunOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a run that is stopped: %v", err)
	}
}
