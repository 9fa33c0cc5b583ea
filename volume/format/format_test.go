package format

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
	"github.com/voxcam/voxcam/volume"
)

func fixture(name string) string { return filepath.Join(volumetest.Dir(), name) }

// copyTo copies a fixture to another name in a temporary folder.
func copyTo(t *testing.T, name, as string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), as)
	if err := os.WriteFile(path, volumetest.Open(t, name), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	for _, test := range []struct {
		file  string
		opt   Options
		shape string
	}{
		{"v1.npy", Options{}, "1x2x3x4"},
		{"v2.npy", Options{}, "2x2x3x4"},
		{"v3.npy", Options{}, "2x2x3x4"},
		{"flat.npy", Options{Axes: "HW"}, "1x1x3x4"},
		{"flat.npy", Options{Axes: "WH"}, "1x1x4x3"},
		{"fortran.npy", Options{}, "1x2x3x4"},
		{"v1.npy", Options{Axes: "WDH"}, "1x3x4x2"},
		{"v1.npy", Options{Axes: "CHW"}, "2x1x3x4"},
		{"two.npz", Options{Variable: "image"}, "1x2x3x4"},
		{"v7.mat", Options{}, "1x2x3x4"},
		{"v7.mat", Options{Axes: "HWD"}, "1x4x2x3"},
		{"v7.mat", Options{Variable: "v_u1"}, "1x2x3x4"},
		{"f4.nii", Options{}, "1x2x3x4"},
		{"channels.nii.gz", Options{}, "2x2x3x4"},
		{"vector.nii.gz", Options{}, "2x2x3x4"},
		{"nan.npy", Options{AllowNonFinite: true}, "1x2x3x4"},
	} {
		v, err := Read(fixture(test.file), test.opt)
		if err != nil {
			t.Errorf("%s %+v: %v", test.file, test.opt, err)
			continue
		}
		if v.Shape() != test.shape || len(v.Data) != v.Channels*v.Voxels() {
			t.Errorf("%s %+v: shape %s with %d voxels, want %s", test.file, test.opt, v.Shape(), len(v.Data), test.shape)
		}
		if known := strings.Contains(test.file, ".nii"); v.Geometry.Known != known {
			t.Errorf("%s: geometry known: %v", test.file, v.Geometry.Known)
		}
	}
}

// TestAxes demands that voxels and geometry move together: wherever a stored element (i, j, k) of a NIfTI image with
// channels ends up, its value and its place in millimetres stay what they are in the file.
func TestAxes(t *testing.T) {
	want := volumetest.Expectations(t)["channels.nii.gz"][0]
	for _, axes := range []string{"", "DHWC", "WHDC", "HDWC", "DWHC", "HWDC", "WDHC"} {
		v, err := Read(fixture("channels.nii.gz"), Options{Axes: axes})
		if err != nil {
			t.Fatalf("axes %q: %v", axes, err)
		}
		if axes == "" {
			axes = "DHWC"
		}
		for n, value := range want.Data {
			stored, rest := [4]int{}, n
			for i := 3; i >= 0; i-- {
				stored[i], rest = rest%want.Shape[i], rest/want.Shape[i]
			}
			var at [4]int // c, d, h, w
			for i, letter := range axes {
				at[strings.IndexRune("CDHW", letter)] = stored[i]
			}
			if got := v.Data[((at[0]*v.Depth+at[1])*v.Height+at[2])*v.Width+at[3]]; got != value {
				t.Fatalf("axes %s: stored %v is at %v: %v, want %v", axes, stored, at, got, value)
			}
			for r := range 3 {
				file, here := want.Affine[r][3], v.Geometry.Affine[r][3]
				for i := range 3 {
					file += want.Affine[r][i] * float64(stored[i])
					here += v.Geometry.Affine[r][i] * float64(at[i+1])
				}
				if d := file - here; d > 1e-9 || d < -1e-9 {
					t.Fatalf("axes %s: stored %v lies at %v mm of axis %d, the voxel %v at %v", axes, stored, file, r, at, here)
				}
			}
		}
	}
	// Channels first in a NIfTI file: its affine is not about D, H, W.
	v, err := Read(fixture("channels.nii.gz"), Options{Axes: "CDHW"})
	if err != nil || v.Geometry != volume.Identity() || len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], `(axes "CDHW")`) {
		t.Errorf("axes CDHW of a NIfTI file: geometry %+v, %v", v, err)
	}
}

func TestNoCopy(t *testing.T) {
	a := &array.Array{Shape: []int{2, 3, 4}, Strides: array.RowMajor([]int{2, 3, 4}), Data: make([]float32, 24)}
	v, err := arrange(a, Format{}, "")
	if err != nil || &v.Data[0] != &a.Data[0] {
		t.Errorf("an array in order was copied: %v", err)
	}
}

func TestErrors(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.npy")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(text, []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		opt  Options
		want string
	}{
		{fixture("none.npy"), Options{}, "no such file"},
		{empty, Options{}, "the file is empty"},
		{text, Options{}, "is of no known format; volumes are read from " + strings.Join(Extensions(), ", ")},
		{fixture(""), Options{}, "is a folder"},
		{copyTo(t, "v1.npy", "scan.mat"), Options{}, "is called .mat but holds a npy file; rename it to .npy"},
		{copyTo(t, "scaled.nii.gz", "scan.npz"), Options{}, "is called .npz but holds a nifti file; rename it to .nii.gz"},
		{copyTo(t, "f4.nii", "scan.img"), Options{}, "a .hdr/.img pair (or ANALYZE) is not read"},
		{copyTo(t, "v73.mat", "scan.npy"), Options{}, "is called .npy but holds a mat file"},
		{fixture("flat.npy"), Options{}, `an array of shape 3x4 has 2 axes; a volume has 3`},
		{fixture("v4.mat"), Options{}, `an array of shape 3x4 has 2 axes`},
		{fixture("noise.npy"), Options{}, "the array of shape 5x1x2x3x4 holds 5 samples along axis N"},
		{fixture("v1.npy"), Options{Axes: "CDHW"}, `axes "CDHW" name 4 axes, the array has shape 2x3x4`},
		{fixture("v1.npy"), Options{Axes: "DHX"}, `'X' is none of N (sample)`},
		{fixture("v1.npy"), Options{Axes: "DHH"}, "H appears twice"},
		{fixture("v1.npy"), Options{Axes: "DHC"}, "W is missing"},
		{fixture("v1.npy"), Options{MaxVoxels: 23}, "2x3x4 has more than 23 voxels"},
		{fixture("nan.npy"), Options{}, "1 of 24 voxels are not finite, the first at [c d h w] = [0 1 0 1] (NaN)"},
		{fixture("v7.mat"), Options{Variable: "scan"}, `it holds no variable "scan", only v_f4 (single 2x3x4)`},
	} {
		_, err := Read(test.path, test.opt)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Count(err.Error(), test.path) != 1 {
			t.Errorf("%s %+v: error %v, want %q and the path once", test.path, test.opt, err, test.want)
		}
	}
	if _, err := Read(fixture("none.npy"), Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	var malformed *volume.MalformedError
	truncated := copyTo(t, "v1.npy", "cut.npy")
	if err := os.Truncate(truncated, 150); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(truncated, Options{}); !errors.As(err, &malformed) {
		t.Errorf("truncated file: %v", err)
	}
}

// TestContent reads files whose extension says nothing.
func TestContent(t *testing.T) {
	for _, name := range []string{"v1.npy", "one.npz", "v7.mat", "f4.nii", "scaled.nii.gz", "two.nii"} {
		if v, err := Read(copyTo(t, name, "scan.bin"), Options{}); err != nil || v.Shape() != "1x2x3x4" {
			t.Errorf("%s under another name: %v, %v", name, v, err)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := ReadContext(ctx, fixture("v7.mat"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestFind(t *testing.T) {
	for path, want := range map[string]string{
		"a/b.c/Scan.NII.GZ": ".NII.GZ", "x.nii": ".nii", "scan.01.mat": ".mat", "x.gz": "", "npy": "", "x.tiff": "",
	} {
		if _, got, ok := Find(path); got != want || ok != (want != "") {
			t.Errorf("Find(%s) = %q, %v", path, got, ok)
		}
	}
}

// TestTable demands of each format what Find and Read rely on.
func TestTable(t *testing.T) {
	var seen []string
	for _, f := range Table() {
		if f.Name == "" || f.Description == "" || f.read == nil || len(f.Extensions) == 0 {
			t.Errorf("incomplete row %+v", f)
		}
		for _, e := range f.Extensions {
			if !strings.HasPrefix(e, ".") || e != strings.ToLower(e) || slices.Contains(seen, e) {
				t.Errorf("extension %q", e)
			}
			seen = append(seen, e)
		}
		for _, axes := range f.Axes {
			if err := CheckAxes(axes); err != nil {
				t.Error(err)
			}
		}
	}
}

// A volume that takes more memory than may be taken is refused before any of it is, in every format.
func TestAllow(t *testing.T) {
	refusal := errors.New("too much")
	for _, name := range []string{"v1.npy", "one.npz", "f4.nii", "scaled.nii.gz", "v4.mat", "v7.mat"} {
		path := fixture(name)
		var opt Options
		if strings.HasSuffix(name, ".mat") {
			opt.Variable = "imgMat"
		}
		if v, err := Read(path, opt); err == nil {
			opt.Allow = func(bytes int) error {
				if bytes < 8*len(v.Data) {
					t.Errorf("%s: %d bytes asked for %d voxels", name, bytes, len(v.Data))
				}
				return refusal
			}
		} else {
			opt.Allow = func(int) error { return refusal }
		}
		if _, err := Read(path, opt); !errors.Is(err, refusal) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The file that is told of is the one that was read.
func TestReadFile(t *testing.T) {
	path := fixture("f4.nii")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, file, err := ReadFile(t.Context(), path, Options{})
	if sum := sha256.Sum256(data); err != nil || file.Path != path || file.Bytes != int64(len(data)) || file.SHA256 != hex.EncodeToString(sum[:]) || file.Modified.IsZero() {
		t.Errorf("%+v, %v", file, err)
	}
}

// TestWarnings demands that a file that does not say where it lies is marked, and one that does is not.
func TestWarnings(t *testing.T) {
	for name, want := range map[string]string{"none": "qform_code and sform_code are 0", "aligned": "", "sform_only": "", "oblique": ""} {
		v, err := Read(filepath.Join("..", "..", "internal", "volume", "nifti", "testdata", "forms_"+name+".nii.gz"), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(v.Warnings, "; "); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: warnings %q, want %q", name, got, want)
		}
	}
}
