// Package architecture holds the order of the packages (docs/architecture.md) by a test.
package architecture

import (
	"errors"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/voxcam/voxcam"

// order is policy: each line names packages and, behind the colon, the packages of this module that they may import. A line only
// names packages of lines above it. Imports of tests are free. A new arrow is a change of the architecture: do not add one just to
// make a build pass.
const order = `
# What is computed: the way of the model.
eigen, tensor, invariants, option, parallel, printable, bytesize, input:
sysmem:                         bytesize
ir:                             tensor
op:                             tensor ir
grad, pass:                     tensor ir op
onnx:                           option bytesize input tensor ir op
layer:                          tensor ir op onnx
plan:                           parallel tensor ir op

# The methods' arithmetic, the words of requests and results, and the noise.
noise:
cam:                            bytesize option parallel eigen

# Where it is computed.
backend:                        tensor ir plan cam noise
backend/hostmem:                parallel backend cam noise
backend/reference:              tensor ir op
backend/cpu/kernel:
backend/cpu:                    tensor ir op plan invariants backend backend/hostmem backend/cpu/kernel
backend/backendtest:            tensor ir op grad plan backend backend/reference

# The same on a GPU, whose libraries are found when the program runs.
dl, backend/cuda/kernel:
backend/cuda/driver:            dl
backend/cuda/nvml:              dl
backend/cuda/cudnn:             dl backend/cuda/driver
backend/cuda/simulator:         dl
backend/cuda/devmem:            tensor backend backend/cuda/driver
backend/cuda:                   tensor ir op plan invariants dl cam noise backend backend/hostmem backend/cuda/devmem backend/cuda/driver backend/cuda/nvml backend/cuda/cudnn backend/cuda/kernel

# Volumes and files: they know nothing of models.
volume, volume/tiff:
durable:                        input
volume/array:                   volume
volume/npy:                     input volume volume/array
volume/mat, volume/nifti:       volume volume/array
volume/volumetest:              volume volume/array
volume/format:                  durable input volume volume/array volume/npy volume/mat volume/nifti
picture:                        volume volume/tiff
result:                         cam durable input picture volume volume/npy volume/mat volume/nifti
phantom:                        volume
phantom/phantomset:             phantom

# The engine that ties model, methods and volume together. It writes no files and knows no data set.
network:                        op tensor backend bytesize cam grad input ir layer onnx option pass plan sysmem volume
policy:                         backend bytesize cam option
explain:                        backend cam network noise volume
executor:                       backend bytesize cam explain network policy volume

# A device's memory: its holders, the budget, and getting it back.
gpusurvey:                      backend backend/cuda/driver backend/cuda/nvml bytesize policy sysmem

# What people run. Only here a backend is chosen.
device:                         backend backend/cpu backend/cuda backend/cuda/driver cam option sysmem
instance:                       backend bytesize device executor explain policy sysmem cam network
worker:                         cam instance backend explain input policy volume volume/npy
engine:                         cam instance worker backend bytesize explain input network policy sysmem volume
fit:                            backend bytesize cam device engine option policy network instance
control:                        backend policy cam network
monitor:                        bytesize control gpusurvey printable
reclaim:                        backend bytesize control gpusurvey policy
planview:                       ir plan bytesize printable
dataset:                        cam input option volume volume/format sysmem
config:                         bytesize cam dataset device engine input layer option policy printable result volume volume/format network instance
report:                         cam dataset durable input printable volume
session:                        cam config dataset durable explain input picture printable report result
runner:                         cam config control dataset device engine gpusurvey monitor network option policy report session sysmem volume volume/npy worker
demo:                           durable input phantom volume/npy volume/mat

# The library.
.:                              volume/array volume/npy bytesize cam config device durable engine fit network option policy result runner session sysmem volume volume/format instance

# The command line is its client.
cli:                            . backend/cpu backend/cuda bytesize cam config dataset demo device durable engine fit layer gpusurvey option policy monitor planview printable reclaim result runner session volume volume/format worker network instance
cmd/voxcam:                     cli

# Tests of the whole program on a simulated GPU.
harm:                           backend/cuda/simulator cli control report cam
`

// outside is policy too: the modules of others, and the packages that may import them. The engine needs none but what reads ONNX.
const outside = `
github.com/ebitengine/purego:        dl
google.golang.org/protobuf:          onnx
golang.org/x/sys:                    backend/cpu backend/cpu/kernel control durable reclaim session worker cli
golang.org/x/sync:                   backend/cpu phantom/phantomset session worker
golang.org/x/term:                   session cli
golang.org/x/image:                  picture report
gonum.org/v1/plot:                   report
github.com/klauspost/compress:       volume/nifti
github.com/google/renameio/v2:       backend/cuda/cudnn
github.com/pelletier/go-toml/v2:     config
github.com/agnivade/levenshtein:     option layer
github.com/schollz/progressbar/v3:   session cli
github.com/rivo/uniseg:              monitor
github.com/spf13/cobra:              cli
github.com/spf13/pflag:              cli
pgregory.net/rapid:                  backend/backendtest
unsafe:                              worker tensor backend/cpu backend/cpu/kernel backend/cuda backend/cuda/devmem backend/cuda/driver backend/cuda/nvml backend/cuda/cudnn backend/cuda/simulator
`

func TestImportsPointDownwards(t *testing.T) {
	allowed := rules(t, order)
	for name, imports := range rules(t, outside) {
		for _, pkg := range imports {
			allowed[pkg] = append(allowed[pkg], name)
		}
	}
	for pkg, imports := range packages(t) {
		may, known := allowed[pkg]
		if !known {
			t.Errorf("package %s is not in the order: give it a line", pkg)
			continue
		}
		for _, path := range imports {
			if !permitted(path, may) {
				t.Errorf("package %s imports %s, which the order does not allow", pkg, path)
			}
		}
	}
}

// The page about the architecture names every package.
func TestPageNamesAllPackages(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range packages(t) {
		if pkg != "." && pkg != "cmd/voxcam" && !strings.Contains(string(page), "`"+pkg+"`") {
			t.Errorf("docs/architecture.md does not name the package %s", pkg)
		}
	}
}

// permitted reports whether path is of the standard library, of this module and in may, or of another module in may.
func permitted(path string, may []string) bool {
	if path == "C" || path == "unsafe" {
		return slices.Contains(may, path)
	}
	if path == module {
		return slices.Contains(may, ".")
	}
	if room, ours := strings.CutPrefix(path, module+"/"); ours {
		return slices.Contains(may, strings.TrimPrefix(room, "internal/"))
	}
	host, _, _ := strings.Cut(path, "/")
	if !strings.Contains(host, ".") {
		return true
	}
	return slices.ContainsFunc(may, func(m string) bool { return path == m || strings.HasPrefix(path, m+"/") })
}

// The lines of order must name only what stands above them, so that no cycle of rooms can be written down, and the rules must
// refuse what they do not name.
func TestOrderHasNoCycle(t *testing.T) {
	seen := map[string]bool{}
	for _, line := range lines(order) {
		for _, below := range line.imports {
			if !seen[below] {
				t.Errorf("%s may import %s, which is not above it", strings.Join(line.packages, ", "), below)
			}
		}
		for _, p := range line.packages {
			seen[p] = true
		}
	}
	for _, path := range []string{"C", "unsafe", "example.com/other", module + "/internal/cli"} {
		if permitted(path, []string{"ir", "example.com/othermodule"}) {
			t.Errorf("the rules let %s through", path)
		}
	}
}

type rule struct{ packages, imports []string }

func lines(policy string) []rule {
	var out []rule
	for line := range strings.Lines(policy) {
		heads, imports, found := strings.Cut(strings.TrimSpace(line), ":")
		if !found || strings.HasPrefix(heads, "#") {
			continue
		}
		out = append(out, rule{strings.Split(heads, ", "), strings.Fields(imports)})
	}
	return out
}

func rules(t *testing.T, policy string) map[string][]string {
	t.Helper()
	m := map[string][]string{}
	for _, line := range lines(policy) {
		for _, p := range line.packages {
			if _, twice := m[p]; twice {
				t.Errorf("%s has two lines", p)
			}
			m[p] = line.imports
		}
	}
	return m
}

// root is the module's folder, seen from the folder of this test.
const root = "../.."

// packages maps each folder of the module with Go files to the imports of its files that are not tests. It reads the files itself
// rather than asking go list, because the cache of go test then knows on what the result depends.
func packages(t *testing.T) map[string][]string {
	t.Helper()
	imports := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if name := entry.Name(); path != root && (name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")) {
			return fs.SkipDir
		}
		pkg, err := build.ImportDir(path, 0)
		var none *build.NoGoError
		if errors.As(err, &none) || err == nil && len(pkg.GoFiles) == 0 { // no code but tests
			return nil
		}
		room, relErr := filepath.Rel(root, path)
		imports[strings.TrimPrefix(filepath.ToSlash(room), "internal/")] = pkg.Imports
		return errors.Join(err, relErr)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(imports) < 20 {
		t.Fatalf("only %d packages below %s: this test looks in the wrong place", len(imports), root)
	}
	return imports
}
