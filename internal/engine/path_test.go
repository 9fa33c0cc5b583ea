package engine

import (
	"slices"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/policy"
)

// A path whose device is lost goes on on the processor from the points that were done. A policy that allows fewer draws there takes none of
// its points away, nor do points that were done count as draws.
func TestPathsGoOnOnTheProcessor(t *testing.T) {
	r := newRig(t)
	r.request = cam.Request{Methods: []string{"eigencam", "integrated-gradients", "smoothgrad"}, Steps: 30, NSamples: 40, NoiseLevel: 0.1, SampleID: "x"}
	e := r.open()
	want := r.explain(e, r.request)
	r.close(e)

	r.options.Policy.Fewer = true
	e = r.open()
	req := r.request
	lose := once(25, r.LoseDevice) // at a point of the path
	req.Progress = func(done, _ int) { lose(done) }
	got := r.explain(e, req)
	if k := kinds(got.Execution.Events); !slices.Contains(k, cpu) || !slices.Contains(k, resumed) || !slices.Contains(k, fewer) {
		t.Errorf("what happened: %v", got.Execution.Events)
	}
	draws := got.Methods[2].Parameters["n_samples"]
	if p := got.Methods[1].Parameters; p["steps"] != 30 || draws != policy.LeastDraws {
		t.Errorf("the path has the parameters %v, and there are %v draws", p, draws)
	}
	got.Methods, want.Methods = got.Methods[:2], want.Methods[:2] // fewer draws are another mean
	same(t, got, want, 1e-4)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
