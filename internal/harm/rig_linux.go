package harm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
)

const (
	Capacity = 8 << 30 // of the simulated GPU, in bytes
	Piece    = 2 << 20 // bytes that the simulated GPU's memory is handed out in
)

// Long reports whether the tests are to take long.
func Long() bool { return os.Getenv("VOXCAM_LONG") != "" }

// Often returns how often something is done: by default, or in tests that take long.
func Often(short, long int) int {
	if Long() {
		return long
	}
	return short
}

// Rig is a data set, a simulated GPU, and the program's runs with both, in processes of their own.
type Rig struct {
	T    *testing.T
	GPU  *simulator.Shared
	Dir  string    // of the data set
	Args []string  // of all runs
	Cmd  *exec.Cmd // the latest run

	program string   // the name that runs are started with
	env     []string // of all runs, besides
	out     *bytes.Buffer
	done    chan struct{} // closed when the latest run has ended

	want  map[string][]float32 // by the names of files
	files []string             // of a session's folder
}

// In returns the rig for a subtest.
func (r *Rig) In(t *testing.T) *Rig {
	inner := *r
	inner.T = t
	return &inner
}

// cases is the folder of a model and a volume for it, relative to a package below this one.
const cases = "../../../testdata/cases/methods"

// methodsCase returns a small volume as a .npy file, and the path of a model for it.
func methodsCase(t *testing.T) (volume []byte, model string) {
	t.Helper()
	volume, err := os.ReadFile(filepath.Join(cases, "volume.npy"))
	if err != nil {
		t.Fatal(err)
	}
	if model, err = filepath.Abs(filepath.Join(cases, "model.torchscript.onnx")); err != nil {
		t.Fatal(err)
	}
	return volume, model
}

// New writes a data set of equal volumes for Grad-CAM and SmoothGrad, and gives it a GPU. When the test ends, no temporary file of a run
// may be left.
func New(t *testing.T, volumes int) *Rig {
	t.Helper()
	r := &Rig{T: t, GPU: simulator.Share(t), Dir: t.TempDir(), program: program}
	runtime, err := os.MkdirTemp("", "vx") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(runtime) })
	t.Setenv("XDG_RUNTIME_DIR", runtime) // without sessions of other runs
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	t.Cleanup(func() {
		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("temporary files are left: %v, %v", left, err)
		}
	})
	text, model := methodsCase(t)
	labels := "caseID,label,split\n"
	for i := range volumes {
		labels += fmt.Sprintf("v%d,1,val\n", i)
		r.write(fmt.Sprintf("v%d.npy", i), text)
	}
	r.write("labels.csv", []byte(labels))
	r.write("config.toml", fmt.Appendf(nil, `
[model]
file = %q
[data]
folder = "."
labels = "labels.csv"
scale = "none"
[explain]
device = "cuda"
methods = ["gradcam", "smoothgrad"]
n_samples = 12
[output]
dir = "out"
formats = ["npy"]
`, model))
	return r
}

// WithMethods returns a rig with different volumes for the small network that all methods work on.
func WithMethods(t *testing.T, volumes, draws int) *Rig {
	t.Helper()
	r := New(t, volumes)
	text, model := methodsCase(t)
	head := 10 + int(binary.LittleEndian.Uint16(text[8:]))
	for i := range volumes { // the same values in another order
		at := head + 4*(37*i%((len(text)-head)/4))
		r.write(fmt.Sprintf("v%d.npy", i), slices.Concat(text[:head], text[at:], text[head:at]))
	}
	r.write("config.toml", fmt.Appendf(nil, `
[model]
file = %q
target_layer = "/act_3/Relu_output_0" # of a module that is called four times: the default is told of
[data]
folder = "."
labels = "labels.csv"
scale = "none"
[explain]
device = "cuda"
methods = ["all"]
n_samples = %d
[output]
dir = "out"
formats = ["npy"]
`, model, draws))
	return r
}

// WithDemo returns a rig with phantoms of the demonstration, whose whole tensors take more than a piece of memory.
func WithDemo(t *testing.T, volumes, draws int) *Rig {
	t.Helper()
	r := New(t, 0)
	demo := r.Program("demo", "--out", "demo", "--volumes", strconv.Itoa(volumes))
	demo.Env = append(os.Environ(), "VOXCAM_CUDA_DRIVER=/absent")
	if out, err := demo.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.RemoveAll(filepath.Join(r.Dir, "demo", "results")); err != nil {
		t.Fatal(err)
	}
	r.Dir = filepath.Join(r.Dir, "demo")
	text, err := os.ReadFile(filepath.Join(r.Dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	r.write("config.toml", []byte(strings.ReplaceAll(string(text), `dir = "results"`, `dir = "out"`)))
	r.Args = []string{"--device", "cuda", "--method", "all,saliency", "--formats", "npy", "--n-samples", strconv.Itoa(draws)}
	return r
}

func (r *Rig) write(name string, text []byte) {
	r.T.Helper()
	if err := os.WriteFile(filepath.Join(r.Dir, name), text, 0o644); err != nil {
		r.T.Fatal(err)
	}
}
