package format

import (
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/internal/volume/nifti"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/internal/volume/tiff"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
	"github.com/voxcam/voxcam/volume"
)

// TestInterop writes a file of every kind and lets testdata/interop.py check them with the libraries of others. It needs
// a Python with numpy, scipy, nibabel, tifffile and imagecodecs (LZW):
//
//	VOXCAM_PYTHON=python3 go test -run Interop ./internal/volume/format
func TestInterop(t *testing.T) {
	python := os.Getenv("VOXCAM_PYTHON")
	if python == "" {
		t.Skip("VOXCAM_PYTHON names no Python: what is written was not read by NumPy, SciPy, nibabel and tifffile")
	}
	dir := t.TempDir()
	write := func(name string, f func(io.Writer) error) {
		t.Helper()
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := f(file); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
	}
	dims := []int{2, 3, 37}
	data, double, ints := make([]float32, 2*3*37), make([]float64, 2*3*37), make([]int32, 24)
	for i := range data {
		data[i] = 0.25*float32(i) - 2
		double[i] = float64(data[i])
	}
	for i := range ints {
		ints[i] = int32(i)
	}
	write("map.npy", func(w io.Writer) error { return npy.Write(w, dims, data) })
	write("scalar.npy", func(w io.Writer) error { return npy.Write(w, nil, []float32{1.5}) })
	write("vector.npy", func(w io.Writer) error { return npy.Write(w, []int{3}, []float32{1, 2, 3}) })
	write("map.mat", func(w io.Writer) error {
		return mat.Write(w, []mat.Variable{
			{Name: "heatmap", Shape: dims, Data: data},
			{Name: "double", Shape: []int{6, 37}, Data: double},
			{Name: "i32", Shape: []int{2, 3, 4}, Data: ints},
			{Name: "shape", Shape: []int{3}, Data: []int64{2, 3, 37}},
			{Name: "method", Data: "gradcam++"},
			{Name: "sample_id", Data: "Pat. é網😀"},
			{Name: "empty", Data: ""},
			{Name: "true_class", Data: -1},
			{Name: "score", Data: 0.5},
		})
	})
	cos, sin := math.Cos(0.3), math.Sin(0.3)
	for name, affine := range map[string][3][4]float64{
		"identity": volume.Identity().Affine,
		"oblique":  {{cos * 0.5, -sin * 2, 0, 1}, {sin * 0.5, cos * 2, 0, 2}, {0, 0, -3, 3}},
		"shear":    {{1, 0.3, 0, 1}, {0, 1, 0, 2}, {0, 0, 1, 3}},
	} {
		write(name+".nii.gz", func(w io.Writer) error {
			return nifti.Write(w, [3]int(dims), data, volume.Geometry{Affine: affine, Known: true})
		})
	}
	opt := tiff.Options{Width: 7, Height: 5, Pages: 3, Spacing: [3]float64{0.047, 0.25, 0.0117}}
	for name, create := range map[string]func(io.Writer, tiff.Options) (*tiff.Encoder, error){
		"classic.tiff": tiff.NewEncoder, "big.tiff": tiff.NewBigEncoder,
	} {
		write(name, func(w io.Writer) error {
			e, err := create(w, opt)
			if err != nil {
				return err
			}
			page := make([]byte, 3*7*5)
			for p := range 3 {
				for i := range page {
					page[i] = byte((p*len(page) + i) * 7)
				}
				if err := e.WritePage(page); err != nil {
					return err
				}
			}
			return e.Close()
		})
	}
	out, err := exec.Command(python, filepath.Join(volumetest.Dir(), "interop.py"), dir).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
