package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/report"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
)

// fake explains by arithmetic: the map is a function of the volume, the method and the class alone.
type fake struct {
	classes int
	sha     string
	delay   time.Duration
	hook    func(ctx context.Context, req cam.Request, r *cam.Result) error // may change or refuse a result

	mu    sync.Mutex
	calls []string // sample IDs in order
}

// targetLayer is the layer that the fake explains.
var targetLayer = &cam.Layer{
	Name: "layer4", Value: "relu_8", Shape: []int{1, 2, 2, 3, 2}, Axes: "NCDHW", Module: "layer4", Call: 2, Calls: 2, Warnings: []string{"assumed"},
}

func (f *fake) Info() cam.Info {
	return cam.Info{Path: "net.onnx", SHA256: "abc" + f.sha, Classes: f.classes, TargetLayer: "layer4", Layer: targetLayer}
}

func (f *fake) Explain(ctx context.Context, v *volume.Volume, req cam.Request) (*cam.Result, error) {
	f.mu.Lock()
	f.calls = append(f.calls, req.SampleID)
	f.mu.Unlock()
	select {
	case <-time.After(f.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	r := &cam.Result{TargetLayer: "layer4", Layer: targetLayer, CellSize: [3]float64{2, 2, 2}}
	sum := float32(0)
	for _, x := range v.Data {
		sum += x
	}
	r.Predicted = int(math.Abs(float64(sum))) % f.classes
	for c := range f.classes {
		p := 0.1 / float64(f.classes-1)
		if c == r.Predicted {
			p = 0.9
		}
		r.Probabilities = append(r.Probabilities, p)
		r.Logits = append(r.Logits, float32(math.Log(p)))
	}
	r.TargetClass = req.Target.Class.Index
	if req.Target.Class.Kind == cam.ClassPredicted {
		r.TargetClass = r.Predicted
	}
	for i, m := range req.Methods {
		h := fnv.New32()
		fmt.Fprintf(h, "%s %d", m, r.TargetClass)
		scale := float32(h.Sum32()%97+1) / 10
		mr := cam.MethodResult{Method: m, Status: cam.StatusOK, Seconds: 0.25, HeatDims: v.Dims(),
			Dims: [3]int{v.Depth / 2, v.Height / 2, v.Width / 2}, Parameters: map[string]any{"n_samples": req.NSamples}}
		mr.Map = make([]float32, mr.Dims[0]*mr.Dims[1]*mr.Dims[2])
		for k := range mr.Map {
			mr.Map[k] = scale * (float32(k) - 1)
		}
		mr.Heatmap = make([]float32, v.Voxels())
		for k := range mr.Heatmap {
			mr.Heatmap[k] = float32((k*(i+1))%v.Voxels()) / float32(v.Voxels()-1)
		}
		r.Methods = append(r.Methods, mr)
		if req.Progress != nil {
			req.Progress(i+1, len(req.Methods))
		}
	}
	if f.hook != nil {
		if err := f.hook(ctx, req, r); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func (f *fake) called() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls...)
}

// Begin implements explain.Overlapping for one volume at a time.
func (f *fake) Begin(_ context.Context, v *volume.Volume, req cam.Request) (explain.Work, error) {
	return &oneByOne{Explainer: f, v: v, req: req}, nil
}

// oneByOne is the work of an Explainer on one volume at a time.
type oneByOne struct {
	explain.Explainer
	v      *volume.Volume
	req    cam.Request
	result *cam.Result
}

func (w *oneByOne) Compute(ctx context.Context) (err error) {
	w.result, err = w.Explain(ctx, w.v, w.req)
	return err
}

func (w *oneByOne) Result() (*cam.Result, error) { return w.result, nil }
func (w *oneByOne) Drop()                        {}

var _ explain.Overlapping = (*fake)(nil)

// world is a small data set on disk with a configuration for it.
type world struct {
	t      testing.TB
	dir    string
	config *config.Config
	opt    Options
}

// newWorld writes n volumes case0, case1, ... of 4x4x6 with labels i % 3, all in split val.
func newWorld(t testing.TB, n int) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	var labels strings.Builder
	labels.WriteString("caseID,label,split\n")
	for i := range n {
		fmt.Fprintf(&labels, "case%d,%d,val\n", i, i%3)
		w.volume(fmt.Sprintf("case%d", i), float32(i))
	}
	w.labels(labels.String())
	w.configure()
	return w
}

// configure makes the configuration for the files in w.dir.
func (w *world) configure() {
	c := config.Defaults()
	c.Model.File = "net.onnx"
	c.Model.Classes = []string{"Normal", "Early AMD", "Late"}
	c.Data.Folder, c.Data.Labels, c.Data.Scale, c.Data.Dataset = w.dir, filepath.Join(w.dir, "labels.csv"), "none", "all"
	c.Output.Dir, c.Output.Session = filepath.Join(w.dir, "out"), "s"
	c.Output.Formats = []string{"npy"}
	w.config = c
	w.opt = Options{Config: c, PlotDPI: 20, Version: "test", Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func (w *world) labels(text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "labels.csv"), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) volume(id string, first float32) {
	w.t.Helper()
	v := volume.New(1, 4, 4, 6)
	for i := range v.Data {
		v.Data[i] = float32(i % 5)
	}
	v.Data[0] = first
	var b bytes.Buffer
	if err := npy.Write(&b, []int{4, 4, 6}, v.Data); err != nil {
		w.t.Fatal(err)
	}
	path := filepath.Join(w.dir, filepath.FromSlash(id)+".npy")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) run(f *fake) (Summary, error) {
	w.t.Helper()
	if f.classes == 0 {
		f.classes = 3
	}
	return Run(w.t.Context(), w.opt, f)
}

// must runs and wants the exit code.
func (w *world) must(f *fake, code int) Summary {
	w.t.Helper()
	s, err := w.run(f)
	if got := ExitCode(s, err); got != code {
		w.t.Fatalf("exit code %d instead of %d: %+v, %v", got, code, s, err)
	}
	return s
}

func (w *world) session(rel string) string {
	return filepath.Join(w.dir, "out", "session_s", filepath.FromSlash(rel))
}

// files is the session's folder.
func (w *world) files() fs.FS { return os.DirFS(w.session("")) }

// record is session.json.
func (w *world) record() *report.Session {
	w.t.Helper()
	s, err := report.ReadSession(w.files())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// tree lists the files of the session, without its lock.
func (w *world) tree() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	root := w.session("")
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		rel, _ := filepath.Rel(root, path)
		if rel != ".lock" {
			out[filepath.ToSlash(rel)] = string(text)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}
