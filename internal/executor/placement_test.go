package executor_test

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// placed is a layer of a case of testdata/placement, and its map in the volume's axes, as PyTorch has it in float64, or why there is none.
type placed struct {
	Layer   string
	Grid    []int
	Prefix  int
	Layout  string
	Size    [3]int
	Map     []float64
	Error   string // regular expressions
	Warning string
}

// Maps lie where the network saw, whatever it does to the axes of the volume, and what is not in place is refused.
func TestPlacement(t *testing.T) {
	text, err := os.ReadFile("testdata/placement/cases.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Shape  [4]int
		Volume []float32
		Cases  []struct {
			Name   string
			Layers []placed
		}
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	v := volume.New(all.Shape[0], all.Shape[1], all.Shape[2], all.Shape[3])
	copy(v.Data, all.Volume)
	for _, c := range all.Cases {
		for _, want := range c.Layers {
			name := strings.Join([]string{c.Name, want.Layer, want.Layout}, "/")
			t.Run(name, func(t *testing.T) {
				opt := executor.Options{ModelOptions: network.ModelOptions{TargetLayer: want.Layer, LayerLayout: want.Layout, PrefixTokens: want.Prefix}}
				copy(opt.TokenGrid[:], want.Grid)
				checkPlaced(t, b, filepath.Join("testdata", "placement", c.Name+".onnx"), opt, v, want)
			})
		}
	}
}

func checkPlaced(t *testing.T, b *cpu.Backend, path string, opt executor.Options, v *volume.Volume, want placed) {
	m, err := executor.Open(context.Background(), path, b, opt)
	if err == nil {
		defer m.Close()
		err = m.Bind(context.Background(), [4]int{v.Channels, v.Depth, v.Height, v.Width})
	}
	if want.Error != "" {
		if err == nil || !regexp.MustCompile(want.Error).MatchString(err.Error()) {
			t.Errorf("the error is %v, not %q", err, want.Error)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	r, err := m.Explain(context.Background(), v, cam.Request{Methods: []string{"gradcam"}, Target: cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	got := r.Methods[0]
	if got.Dims != want.Size {
		t.Fatalf("the map is %v (%s), not %v", got.Dims, got.Reason, want.Size)
	}
	most, off := 0.0, 0.0
	for i, x := range want.Map {
		most, off = max(most, math.Abs(x)), max(off, math.Abs(x-float64(got.Map[i])))
	}
	if off > 1e-5*most {
		t.Errorf("the map is off by %.2g of its maximum", off/most)
	}
	warnings := m.Info().Warnings
	if want.Warning == "" && len(warnings) > 0 || want.Warning != "" && !slices.ContainsFunc(warnings, regexp.MustCompile(want.Warning).MatchString) {
		t.Errorf("the warnings are %q, not %q", warnings, want.Warning)
	}
}

// Networks on slices and with class tokens, as both exporters write them; testdata/placement/shared.py has the right values.
func TestSharedPlacement(t *testing.T) {
	text, err := os.ReadFile("testdata/placement/shared.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []struct {
		placed
		Name  string
		Shape [3]int
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, c := range all {
		t.Run(c.Name, func(t *testing.T) {
			path := filepath.Join("../../../shared/cases/architectures", c.Name)
			if _, err := os.Stat(path); err != nil {
				t.Skipf("SHARED CASE NOT CHECKED: %v", err)
			}
			v := volume.New(1, c.Shape[0], c.Shape[1], c.Shape[2])
			for i := range v.Data {
				v.Data[i] = float32(float64(i*7919%1009)/1009 - 0.5)
			}
			checkPlaced(t, b, path, executor.Options{ModelOptions: network.ModelOptions{TargetLayer: c.Layer}}, v, c.placed)
		})
	}
}
