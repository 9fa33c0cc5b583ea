package session

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/phantom"
	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/volume"
)

// still gives the same maps for every volume, at once: what a run takes is what files take.
type still struct{ methods []cam.MethodResult }

func (s *still) Info() cam.Info {
	return cam.Info{Path: "net.onnx", SHA256: "abc", Classes: 3, TargetLayer: "layer4"}
}

func (s *still) Explain(context.Context, *volume.Volume, cam.Request) (*cam.Result, error) {
	return &cam.Result{
		Logits: []float32{1, 2, 3}, Probabilities: []float64{0.1, 0.2, 0.7}, Predicted: 2, TargetClass: 2, TargetLayer: "layer4",
		CellSize: [3]float64{32, 32, 32}, Methods: append([]cam.MethodResult(nil), s.methods...),
	}, nil
}

// newStill makes maps like those of a network with a stride of 32: two of the layer, smooth and for a large part zero, and two of
// the volume, which are noise with a long tail.
func (s *still) Begin(_ context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	return &oneByOne{Explainer: s, v: v, req: req}, nil
}

func newStill(b *testing.B, dims [3]int) *still {
	s := &still{}
	r := rand.New(rand.NewPCG(1, 2))
	for i, name := range []string{"gradcam", "gradcam++", "smoothgrad", "vargrad"} {
		choices, err := cam.Choose([]string{name}, nil)
		if err != nil {
			b.Fatal(err)
		}
		m := cam.MethodResult{Method: name, Status: cam.StatusOK, HeatDims: dims, Dims: dims}
		if i < 2 {
			m.Dims = [3]int{dims[0] / 32, dims[1] / 32, dims[2] / 32}
		}
		m.Map = make([]float32, m.Dims[0]*m.Dims[1]*m.Dims[2])
		for k := range m.Map {
			m.Map[k] = float32(r.NormFloat64())
			if i >= 2 {
				m.Map[k] = float32(1e-4 * math.Exp(r.NormFloat64()))
			}
		}
		if m.Heatmap, _, err = choices[0].Heatmap(m.Map, m.Dims, dims); err != nil {
			b.Fatal(err)
		}
		s.methods = append(s.methods, m)
	}
	return s
}

// BenchmarkFiles reads volumes and writes the results of all methods in the default formats.
func BenchmarkFiles(b *testing.B) {
	dims := [3]int{192, 256, 256}
	w := &world{t: b, dir: b.TempDir()}
	p, err := phantom.Generate(phantom.Params{Dims: dims, Seed: 1, Grade: phantom.Advanced})
	if err != nil {
		b.Fatal(err)
	}
	var labels strings.Builder
	labels.WriteString("caseID,label,split\n")
	first := filepath.Join(w.dir, "case0.mat")
	f, err := os.Create(first)
	if err != nil {
		b.Fatal(err)
	}
	if err := mat.Write(f, []mat.Variable{{Name: "imgMat", Shape: dims[:], Data: p.Volume().Data}}); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	for i := range b.N {
		fmt.Fprintf(&labels, "case%d,%d,val\n", i, i%3)
		if i > 0 {
			if err := os.Link(first, filepath.Join(w.dir, fmt.Sprintf("case%d.mat", i))); err != nil {
				b.Fatal(err)
			}
		}
	}
	w.labels(labels.String())
	w.configure()
	w.config.Data.Extension, w.config.Data.Scale = ".mat", "div255"
	w.config.Output.Formats = []string{"nifti", "tiff", "png"}
	s := newStill(b, dims)
	w.config.Explain.Methods = []string{"gradcam", "gradcam++", "smoothgrad", "vargrad"}
	w.opt.PlotDPI = 0
	before := processorSeconds(b)
	b.ResetTimer()
	summary, err := Run(b.Context(), w.opt, s)
	b.StopTimer()
	if err != nil || summary.Status.OK != b.N {
		b.Fatal(summary, err)
	}
	b.ReportMetric((processorSeconds(b)-before)/float64(b.N), "cpu-s/volume")
}

// processorSeconds is what the process has used of the processors.
func processorSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	seconds := func(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
	return seconds(u.Utime) + seconds(u.Stime)
}
