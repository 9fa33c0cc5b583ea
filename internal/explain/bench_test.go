package explain_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/executor"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// Benchmarks of whole networks take their settings from the environment:
//
//	VOXCAM_MODELS           folder with models, which bench/network_peer.py fills
//	VOXCAM_BENCH_DEVICE     cpu (default) or cuda
//	VOXCAM_BENCH_PRECISION  fp32 (default), tf32 or bf16
//	VOXCAM_BENCH_SHAPE      of the volume, C,D,H,W, where it is not the model's
//	VOXCAM_BENCH_ARENAS     more sizes of the arena, in MiB, separated by commas

// benchmarkModels are the models to be timed.
func benchmarkModels(b *testing.B) []string {
	paths, err := filepath.Glob(filepath.Join(os.Getenv("VOXCAM_MODELS"), "*.onnx"))
	if err != nil {
		b.Fatal(err)
	}
	if os.Getenv("VOXCAM_MODELS") == "" || len(paths) == 0 {
		b.Skip("VOXCAM_MODELS names no folder with models: make one with bench/network_peer.py")
	}
	return paths
}

// openBenchmark opens the device to be timed.
func openBenchmark(b *testing.B) (device backend.Backend, done func() error) {
	switch name := os.Getenv("VOXCAM_BENCH_DEVICE"); name {
	case "", "cpu":
		d, err := cpu.New(cpu.Options{})
		if err != nil {
			b.Fatal(err)
		}
		return d, d.Close
	case "cuda":
		precision, known := map[string]cuda.Precision{
			"": cuda.Float32, "fp32": cuda.Float32, "tf32": cuda.TF32, "bf16": cuda.BFloat16,
		}[os.Getenv("VOXCAM_BENCH_PRECISION")]
		if !known {
			b.Fatal("VOXCAM_BENCH_PRECISION is none of fp32, tf32, bf16")
		}
		d, err := cuda.New(cuda.Options{Precision: precision, Kernels: os.Getenv("VOXCAM_CUDA_KERNELS"), Cudnn: os.Getenv("VOXCAM_BENCH_CUDNN") != ""})
		if err != nil {
			b.Fatal(err)
		}
		return d, d.Close
	default:
		b.Fatalf("VOXCAM_BENCH_DEVICE is %q: cpu or cuda", name)
		return nil, nil
	}
}

// benchmarkOptions are those of the environment.
func benchmarkOptions(b *testing.B) (opt executor.Options) {
	text := os.Getenv("VOXCAM_BENCH_SHAPE")
	if text == "" {
		return opt
	}
	fields := strings.Split(text, ",")
	if len(fields) != len(opt.Shape) {
		b.Fatalf("VOXCAM_BENCH_SHAPE is %q: C,D,H,W expected", text)
	}
	for i, f := range fields {
		var err error
		if opt.Shape[i], err = strconv.Atoi(f); err != nil {
			b.Fatal("VOXCAM_BENCH_SHAPE: ", err)
		}
	}
	return opt
}

// randomVolume returns a volume of a shape [C, D, H, W].
func randomVolume(s [4]int) *volume.Volume {
	v := volume.New(s[0], s[1], s[2], s[3])
	r := rand.New(rand.NewPCG(1, 1))
	for i := range v.Data {
		v.Data[i] = r.Float32()
	}
	return v
}

// BenchmarkNetworks times one Grad-CAM and one gradient at the volume of every model, with whole tensors and within arenas of other
// sizes. The volume is where the network reads it, and heatmap and gradient are left where they are made. The arena's bytes are
// reported beside the time, and on a GPU all that is held there.
func BenchmarkNetworks(b *testing.B) {
	for _, path := range benchmarkModels(b) {
		for _, method := range []string{"gradcam", "gradient"} {
			benchmarkArenas(b, path, method)
		}
	}
}

func benchmarkArenas(b *testing.B, path, method string) {
	device, done := openBenchmark(b)
	ask := method
	if ask == "gradient" {
		ask = "saliency"
	}
	choices, err := cam.Choose([]string{ask}, nil)
	if err != nil {
		b.Fatal(err)
	}
	passes, err := network.Plans(context.Background(), path, benchmarkOptions(b).ModelOptions, network.Binding{Backend: device}, choices)
	if err != nil {
		b.Fatal(err)
	}
	if err := done(); err != nil {
		b.Fatal(err)
	}
	type arena struct {
		name  string
		bytes int
	}
	p := passes[0]
	arenas := []arena{{"whole", 0}, {"fifth", p.Whole / 5}, {"thirtieth", p.Whole / 30}, {"smallest", p.Smallest}}
	if text := os.Getenv("VOXCAM_BENCH_ARENAS"); text != "" {
		for f := range strings.SplitSeq(text, ",") {
			n, err := strconv.Atoi(f)
			if err != nil {
				b.Fatal("VOXCAM_BENCH_ARENAS: ", err)
			}
			arenas = append(arenas, arena{f + "MiB", n << 20})
		}
	}
	name := strings.TrimSuffix(filepath.Base(path), ".onnx") + "/" + method
	for _, a := range arenas {
		b.Run(name+"/"+a.name, func(b *testing.B) {
			if a.bytes > 0 && a.bytes < p.Smallest {
				b.Skipf("%d bytes are less than the smallest plan, %d", a.bytes, p.Smallest)
			}
			opt := benchmarkOptions(b)
			opt.Budget.Arena = a.bytes // copies of the weights are counted in a budget, not in the figures here
			benchmarkStaying(b, path, opt, cam.Request{Methods: []string{ask}}, method == "gradient")
		})
	}
}

func benchmarkStaying(b *testing.B, path string, opt executor.Options, req cam.Request, gradient bool) {
	device, done := openBenchmark(b)
	ctx := context.Background()
	file, err := network.OpenFile(ctx, path, opt.ModelOptions, network.OpeningBytes(opt.Budget, device))
	if err != nil {
		b.Fatal(err)
	}
	n, err := file.Bind(ctx, network.Binding{Shape: file.Shape(), Backend: device, Budget: opt.Budget})
	if err != nil {
		b.Fatal(err)
	}
	req.Target.Class.Kind = cam.ClassIndex
	s, err := explain.Stay(ctx, n, randomVolume(n.Shape), req)
	if err != nil {
		b.Fatal(err)
	}
	run := s.Explain
	if gradient {
		run = s.Gradient
	}
	for range 2 { // a CUDA graph is recorded the second time
		if err := run(ctx); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if err := run(ctx); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n.Arena.Bytes())/(1<<20), "arena-MiB")
	if d, ok := device.(*cuda.Backend); ok {
		b.ReportMetric(float64(d.Held())/(1<<20), "held-MiB")
	}
	if err := errors.Join(n.Close(), file.Close(), done()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAll times --method all with 50 draws for every model: up to the heatmaps on the device, and with all copies.
func BenchmarkAll(b *testing.B) {
	req := cam.Request{
		Methods: []string{"gradcam", "gradcam++", "smoothgrad", "vargrad"}, NSamples: 50, NoiseLevel: 0.15, SampleID: "benchmark",
		Target: cam.Target{Class: cam.Class{Kind: cam.ClassIndex}},
	}
	for _, path := range benchmarkModels(b) {
		name := strings.TrimSuffix(filepath.Base(path), ".onnx")
		device, done := openBenchmark(b)
		opt := benchmarkOptions(b)
		if d, ok := device.(*cuda.Backend); ok {
			free, err := d.FreeMemory()
			if err != nil {
				b.Fatal(err)
			}
			opt.Budget.Bytes = free / 10 * 6 // as --memory-budget auto
		}
		if err := done(); err != nil {
			b.Fatal(err)
		}
		b.Run(name+"/device", func(b *testing.B) { benchmarkStaying(b, path, opt, req, false) })
		b.Run(name+"/copies", func(b *testing.B) {
			device, done := openBenchmark(b)
			m, err := executor.Open(context.Background(), path, device, opt)
			if err != nil {
				b.Fatal(err)
			}
			v := randomVolume(m.Info().InputShape)
			run := func() error {
				r, err := m.Explain(context.Background(), v, req)
				if err != nil {
					return err
				}
				for _, method := range r.Methods {
					if method.Status == cam.StatusFailed {
						return fmt.Errorf("%s: %s", method.Method, method.Reason)
					}
				}
				return nil
			}
			if err := run(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := run(); err != nil {
					b.Fatal(err)
				}
			}
			if err := m.Close(); err != nil {
				b.Fatal(err)
			}
			if err := done(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
