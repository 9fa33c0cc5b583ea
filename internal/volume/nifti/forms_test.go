package nifti

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
	"github.com/voxcam/voxcam/volume"
)

// operation names a change that testdata/forms.py made to a volume.
type operation struct {
	dims   [3]int
	change func(volume.Geometry) volume.Geometry
}

var operations = map[string]operation{
	"none":  {[3]int{8, 9, 10}, func(g volume.Geometry) volume.Geometry { return g }},
	"crop":  {[3]int{6, 5, 8}, func(g volume.Geometry) volume.Geometry { return g.Shift([3]int{1, 2, 1}) }},
	"pad":   {[3]int{12, 11, 10}, func(g volume.Geometry) volume.Geometry { return g.Shift([3]int{-2, -1, 0}) }},
	"cells": {[3]int{4, 3, 2}, func(g volume.Geometry) volume.Geometry { return g.Resample([3]float64{2, 3, 5}) }},
	"crop and cells": {[3]int{3, 5, 2}, func(g volume.Geometry) volume.Geometry {
		return g.Shift([3]int{1, 2, 1}).Resample([3]float64{2, 1, 4})
	}},
	"axes": {[3]int{10, 8, 9}, func(g volume.Geometry) volume.Geometry { return g.Permute([3]int{2, 0, 1}) }},
}

// TestOverlay demands that a file written on a grid that was made of a volume's lies where nibabel and ITK, which choose between
// the forms in different ways, put that grid. Their values are in testdata/forms.json.
func TestOverlay(t *testing.T) {
	b, err := os.ReadFile("testdata/forms.json")
	if err != nil {
		t.Fatal(err)
	}
	var expect map[string]map[string]struct{ Nibabel, ITK [3][4]float64 }
	if err := json.Unmarshal(b, &expect); err != nil {
		t.Fatal(err)
	}
	for file, operations := range expect {
		b, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		a, err := Read(volumetest.Section(b), array.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range operations {
			got := written(t, name, *a.Geometry)
			near(t, file+", "+name+", nibabel", nibabelAffine(got), want.Nibabel)
			near(t, file+", "+name+", ITK", itkAffine(got), want.ITK)
			if f := a.Geometry.Forms; f.Coded() && (got.sform != f.Sform.Code || got.qform != f.Qform.Code) || got.units != int(f.Unit) {
				t.Errorf("%s, %s: codes %d and %d in unit %d, the volume has %d and %d in unit %d", file, name,
					got.sform, got.qform, got.units, f.Sform.Code, f.Qform.Code, f.Unit)
			}
		}
	}
}

// TestOverlayInterop lets nibabel and ITK themselves read the files of TestOverlay. It needs a Python with numpy, nibabel and
// SimpleITK:
//
//	VOXCAM_PYTHON=python3 go test -run Interop ./internal/volume/nifti
func TestOverlayInterop(t *testing.T) {
	python := os.Getenv("VOXCAM_PYTHON")
	if python == "" {
		t.Skip("VOXCAM_PYTHON names no Python: where files lie was not asked of nibabel and ITK")
	}
	dir := t.TempDir()
	files, err := filepath.Glob("testdata/forms_*.nii.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Read(volumetest.Section(b), array.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for name, o := range operations {
			var b bytes.Buffer
			if err := Write(&b, o.dims, make([]float32, o.dims[0]*o.dims[1]*o.dims[2]), o.change(*a.Geometry)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name+"."+filepath.Base(file)), b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := exec.Command(python, "testdata/overlay.py", dir, "testdata/forms.json").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// written returns the header of a file on the grid that an operation makes of the 8x9x10 voxels of g.
func written(t *testing.T, name string, g volume.Geometry) fields {
	t.Helper()
	o, ok := operations[name]
	if !ok {
		t.Fatalf("no operation is called %s", name)
	}
	return fields1(inflate(t, o.dims, o.change(g)), binary.LittleEndian)
}

// inflate returns the content of a file of zeros on a grid.
func inflate(t *testing.T, dims [3]int, g volume.Geometry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, dims, make([]float32, dims[0]*dims[1]*dims[2]), g); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(&b)
	if err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(z); err != nil {
		t.Fatal(err)
	}
	return plain.Bytes()
}

// nibabelAffine returns the affine that nibabel 5 makes of a header; it ignores units.
func nibabelAffine(f fields) volume.Affine {
	f.units = 0
	return f.geometry().Affine
}

// itkAffine returns the affine that ITK 5 makes of one, in millimetres: the sform if its code is 1 or the qform has none, else the qform; without
// both, voxel 0 at the origin and the axes of DICOM.
func itkAffine(f fields) volume.Affine {
	switch {
	case f.sform == 0 && f.qform == 0:
		f.sform, f.srow = 1, volume.Affine{{-f.pixdim[1], 0, 0, 0}, {0, -f.pixdim[2], 0, 0}, {0, 0, f.pixdim[3], 0}}
	case f.sform != 1 && f.qform != 0:
		f.sform = 0
	}
	return f.geometry().Affine
}

func near(t *testing.T, what string, got, want [3][4]float64) {
	t.Helper()
	largest := 0.0
	for r := range want {
		for _, x := range want[r] {
			largest = max(largest, math.Abs(x))
		}
	}
	for r := range want {
		for c := range want[r] {
			if !(math.Abs(got[r][c]-want[r][c]) <= 1e-6*largest) {
				t.Errorf("%s: affine %v, want %v", what, got, want)
				return
			}
		}
	}
}

// TestSameHeader demands that a result on the volume's own grid has its numbers to the last bit.
func TestSameHeader(t *testing.T) {
	files, err := filepath.Glob("testdata/forms_*.nii.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Read(volumetest.Section(b), array.Options{})
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var plain bytes.Buffer
		if _, err := plain.ReadFrom(z); err != nil {
			t.Fatal(err)
		}
		want, got := fields1(plain.Bytes(), binary.LittleEndian), written(t, "none", *a.Geometry)
		if got.sform != want.sform || got.qform != want.qform || got.units != want.units || got.pixdim[1] != want.pixdim[1] ||
			got.pixdim[2] != want.pixdim[2] || got.pixdim[3] != want.pixdim[3] || want.sform != 0 && got.srow != want.srow ||
			want.qform != 0 && (got.pixdim[0] != want.pixdim[0] || got.quaternion != want.quaternion || got.shift != want.shift) {
			t.Errorf("%s: header %+v, the volume has %+v", file, got, want)
		}
	}
}

// TestNoPlace changes a number of a NIfTI-2 header, which has float64, so that it cannot be written as float32, places nothing, or contradicts another.
func TestNoPlace(t *testing.T) {
	good := volumetest.Open(t, "two.nii")
	f64 := func(at int, x float64) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint64(b[at:], math.Float64bits(x)) }
	}
	code := func(at int, x uint32) func([]byte) {
		return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], x) }
	}
	for _, test := range []struct {
		want    string
		changes []func([]byte)
	}{
		{"the sform", []func([]byte){code(348, 1), f64(400, 1e308)}},
		{"the sform", []func([]byte){code(348, 1), f64(424, math.NaN())}},
		{"the qform", []func([]byte){code(344, 1), f64(376, math.Inf(-1))}},
		{"is no rotation", []func([]byte){code(344, 1), f64(352, 1e308)}},
		{"the qform", []func([]byte){code(344, 1), f64(352, math.NaN())}},
		{"the size of a voxel along axis 1 is +Inf", []func([]byte){f64(120, math.Inf(1))}},
		{"the size of a voxel along axis 0 is NaN", []func([]byte){code(344, 0), code(348, 0), f64(112, math.NaN())}},
		{"the size of a voxel along axis 2 is 1e-320", []func([]byte){f64(128, -1e-320)}},
		{"sform_code is 65536", []func([]byte){code(348, 1<<16)}},
		{"and bitpix is 24; repair the header", []func([]byte){func(b []byte) { binary.LittleEndian.PutUint16(b[14:], 24) }}},
	} {
		b := slices.Clone(good)
		for _, change := range test.changes {
			change(b)
		}
		_, err := Read(volumetest.Section(b), array.Options{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v, want %q", err, test.want)
		}
	}
	// What is not used may be anything.
	b := slices.Clone(good)
	for _, change := range []func([]byte){code(344, 0), f64(352, math.NaN()), f64(376, math.Inf(1)), code(348, 1)} {
		change(b)
	}
	if _, err := Read(volumetest.Section(b), array.Options{}); err != nil {
		t.Errorf("a qform without a code: %v", err)
	}
	if err := Write(&bytes.Buffer{}, [3]int{1, 1, 1}, []float32{0}, volume.Geometry{Affine: volume.Affine{{1e39, 0, 0, 0}}}); err == nil {
		t.Error("an infinite affine was written")
	}
}
