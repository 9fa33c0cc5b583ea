package explain_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/volume"
)

// BenchmarkNetworks times one Grad-CAM and one input gradient of every model in the folder $VOXCAM_MODELS, which
// bench/network_peer.py fills, with whole tensors and within budgets. The arena's bytes are reported beside the time.
func BenchmarkNetworks(b *testing.B) {
	paths, err := filepath.Glob(filepath.Join(os.Getenv("VOXCAM_MODELS"), "*.onnx"))
	if err != nil {
		b.Fatal(err)
	}
	if os.Getenv("VOXCAM_MODELS") == "" || len(paths) == 0 {
		b.Skip("VOXCAM_MODELS names no folder with models: make one with bench/network_peer.py")
	}
	device, err := cpu.New(cpu.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer device.Close()
	for _, path := range paths {
		for _, method := range []string{"gradcam", "saliency"} {
			name := strings.TrimSuffix(filepath.Base(path), ".onnx") + "/" + method
			passes, err := explain.Plans(path, device, explain.Options{}, []string{method})
			if err != nil {
				b.Fatal(err)
			}
			p := passes[0]
			for _, budget := range []struct {
				name  string
				bytes int
			}{{"whole", 0}, {"fifth", p.Whole / 5}, {"thirtieth", p.Whole / 30}, {"smallest", p.Smallest}} {
				b.Run(name+"/"+budget.name, func(b *testing.B) { benchmarkNetwork(b, path, method, p, budget.bytes) })
			}
		}
	}
}

func benchmarkNetwork(b *testing.B, path, method string, pass explain.PlannedPass, arena int) {
	if arena > 0 && arena < pass.Smallest {
		b.Skipf("%d bytes are less than the smallest plan, %d", arena, pass.Smallest)
	}
	device, err := cpu.New(cpu.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer device.Close()
	// Copies of the weights are counted in a budget, not in the figures here.
	opt := explain.Options{}
	if arena > 0 {
		opt.Budget.Arena = arena
	}
	m, err := explain.Open(path, device, opt)
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	s := m.Info().InputShape
	v := volume.New(s[0], s[1], s[2], s[3])
	r := rand.New(rand.NewPCG(1, 1))
	for i := range v.Data {
		v.Data[i] = r.Float32()
	}
	req := explain.Request{Methods: []string{method}, Class: explain.Class{Kind: explain.ClassIndex}}
	run := func() {
		result, err := m.Explain(context.Background(), v, req)
		if err != nil {
			b.Fatal(err)
		}
		if r := result.Methods[0]; r.Status == explain.StatusFailed {
			b.Fatal(r.Reason)
		}
	}
	run()
	for b.Loop() {
		run()
	}
}
