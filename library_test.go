package voxcam_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/volume"
)

// What cannot be explained is an error, and no panic.
func TestVolumesThatAreNone(t *testing.T) {
	m, good := opened(t, voxcam.Options{Device: "cpu"})
	values := func(n int) []float32 { return make([]float32, n) }
	for name, c := range map[string]struct {
		volume *volume.Volume
		says   string
	}{
		"nil":         {nil, "it is nil"},
		"empty":       {&volume.Volume{}, "0x0x0x0"},
		"no data":     {&volume.Volume{Channels: 1, Depth: 12, Height: 16, Width: 14}, "1x12x16x14, channels x depth x height x width, but has 0 values"},
		"too few":     {&volume.Volume{Data: values(7), Channels: 1, Depth: 2, Height: 2, Width: 2}, "but has 7 values"},
		"too many":    {&volume.Volume{Data: values(9), Channels: 1, Depth: 2, Height: 2, Width: 2}, "but has 9 values"},
		"negative":    {&volume.Volume{Data: values(4), Channels: -1, Depth: -1, Height: 2, Width: 2}, "-1x-1x2x2"},
		"overflow":    {&volume.Volume{Data: values(1), Channels: 1 << 31, Depth: 1 << 31, Height: 4, Width: 1}, "but has 1 values"},
		"made of -1":  {voxcam.NewVolume(-1, 2, 2, 2), "-1x2x2x2"},
		"made of 0":   {voxcam.NewVolume(1, 0, 2, 2), "1x0x2x2"},
		"made of all": {voxcam.NewVolume(math.MaxInt, math.MaxInt, 2, 2), "but has 0 values"},
		"another":     {voxcam.NewVolume(1, 2, 2, 2), "depth 2 instead of 12"},
		"not finite":  {func() *volume.Volume { v := voxcam.NewVolume(1, 12, 16, 14); v.Data[3] = float32(math.NaN()); return v }(), "NaN"},
	} {
		if _, err := m.Explain(t.Context(), c.volume, cam.Request{Methods: []string{"gradcam"}}); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	//lint:ignore SA1012 a nil context is tested
	if _, err := m.Explain(nil, good, cam.Request{Methods: []string{"gradcam"}}); err == nil || !strings.Contains(err.Error(), "context is nil") {
		t.Errorf("a nil context: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Explain(ctx, good, cam.Request{Methods: []string{"gradcam"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	if r, err := m.Explain(t.Context(), good, cam.Request{Methods: []string{"gradcam"}}); err != nil || r.Methods[0].Status != cam.StatusOK {
		t.Errorf("afterwards: %v", err)
	}
}

// A model that is closed, or that Open did not make, says so.
func TestClosedModels(t *testing.T) {
	m, v := opened(t, voxcam.Options{Device: "cpu"})
	req := cam.Request{Methods: []string{"gradcam", "smoothgrad"}, NSamples: 2}
	name := m.Device()
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := m.Explain(t.Context(), v, req); !errors.Is(err, cam.ErrClosed) {
		t.Errorf("behind Close: %v", err)
	}
	if warnings, notes := m.Notes(); m.Device() != name || len(warnings)+len(notes) != 0 || m.Info().InputShape != [4]int{1, 12, 16, 14} {
		t.Errorf("behind Close: %s, %v, %v, %+v", m.Device(), warnings, notes, m.Info())
	}
	for what, m := range map[string]*voxcam.Model{"nil": nil, "zero": {}} {
		if _, err := m.Explain(t.Context(), v, req); err == nil || !strings.Contains(err.Error(), "not open") {
			t.Errorf("%s: %v", what, err)
		}
		if warnings, notes := m.Notes(); m.Device() != "" || warnings != nil || notes != nil || m.Info().Path != "" || m.Close() != nil {
			t.Errorf("a %s model says something", what)
		}
	}
}

// Volumes are explained or refused while others close the model; nothing else happens to them.
func TestCloseMeanwhile(t *testing.T) {
	for range 5 {
		m, v := opened(t, voxcam.Options{Device: "cpu"})
		var tasks sync.WaitGroup
		begun := make(chan struct{}, 8)
		for range cap(begun) {
			tasks.Go(func() {
				for {
					r, err := m.Explain(t.Context(), v, cam.Request{Methods: []string{"gradcam", "smoothgrad"}, NSamples: 2})
					if err != nil {
						if !errors.Is(err, cam.ErrClosed) {
							t.Errorf("while it is closed: %v", err)
						}
						return
					}
					if len(r.Methods) != 2 || r.Methods[1].Status != cam.StatusOK {
						t.Errorf("%+v", r.Methods)
					}
					select {
					case begun <- struct{}{}:
					default:
					}
				}
			})
		}
		<-begun
		for range 3 {
			tasks.Go(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				m.Info()
			})
		}
		tasks.Wait()
	}
}

// A model is inspected as it would be explained: by the output, the task and the input that are asked for.
func TestInspectAsAsked(t *testing.T) {
	inspect := func(file string, opt voxcam.Options) *cam.Summary {
		s, err := voxcam.Inspect(t.Context(), "internal/explain/testdata/"+file, opt)
		if err != nil || s.Head == nil {
			t.Fatalf("%+v: %v", opt, err)
		}
		return s
	}
	if h := inspect("outputs.onnx", voxcam.Options{Output: "one_value", Task: "regression"}).Head; h.Output != "one_value" || h.Task != cam.TaskRegression {
		t.Errorf("%+v", h)
	}
	for _, input := range []string{"ct", "mr"} {
		if s := inspect("inputs.onnx", voxcam.Options{Input: input}); s.DefaultTarget == "" {
			t.Errorf("%s: %+v", input, s)
		}
	}
	s, err := voxcam.Inspect(t.Context(), "internal/explain/testdata/clipped.onnx", voxcam.Options{})
	if err != nil || s.Head != nil || s.DefaultTarget == "" {
		t.Errorf("a model whose one output cannot be understood: %+v, %v", s, err)
	}
	for _, opt := range []voxcam.Options{{Output: "none"}, {Task: "segmentation"}, {Output: "clipped"}} {
		if s, err := voxcam.Inspect(t.Context(), "internal/explain/testdata/outputs.onnx", opt); err == nil {
			t.Errorf("%+v: %+v", opt, s.Head)
		}
	}
}
