package nifti

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
	"github.com/voxcam/voxcam/volume"
)

func TestFixtures(t *testing.T) { volumetest.Fixtures(t, Read, "*.nii", "*.nii.gz") }
func FuzzRead(f *testing.F)     { volumetest.Fuzz(f, Read, "", "*.nii", "*.nii.gz") }

func TestRefused(t *testing.T) {
	for name, want := range map[string]string{
		"complex.nii":        "its voxels are of type complex64",
		"pair_header.nii":    "it is the header of a .hdr/.img pair",
		"analyze_header.nii": "ANALYZE 7.5",
		"v7.mat":             "does not begin with a NIfTI header",
	} {
		_, err := Read(volumetest.Section(volumetest.Open(t, name)), array.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}

// TestBrokenHeaders changes one field of a good file at a time.
func TestBrokenHeaders(t *testing.T) {
	good := volumetest.Open(t, "f4.nii")
	le := binary.LittleEndian
	for name, test := range map[string]struct {
		change func(b []byte)
		want   string
	}{
		"axes":         {func(b []byte) { le.PutUint16(b[40:], 9) }, "the header has 9 axes"},
		"negative":     {func(b []byte) { le.PutUint16(b[42:], 0xfffe) }, "has size -2"},
		"huge":         {func(b []byte) { b[43], b[45], b[47] = 127, 127, 127 }, "the most that is read"},
		"too large":    {func(b []byte) { le.PutUint16(b[42:], 3) }, "it was cut off"},
		"offset":       {func(b []byte) { le.PutUint32(b[108:], math.Float32bits(100)) }, "inside the header"},
		"far offset":   {func(b []byte) { le.PutUint32(b[108:], math.Float32bits(1e9)) }, "it was cut off"},
		"offset NaN":   {func(b []byte) { le.PutUint32(b[108:], 0x7fc00000) }, "inside the header"},
		"intercept":    {func(b []byte) { le.PutUint32(b[116:], 0x7fc00000) }, "scl_inter is NaN"},
		"sform":        {func(b []byte) { le.PutUint32(b[280:], 0x7fc00000) }, "the sform"},
		"type":         {func(b []byte) { le.PutUint16(b[70:], 128) }, "RGB24"},
		"unknown type": {func(b []byte) { le.PutUint16(b[70:], 77) }, "type 77"},
		"magic":        {func(b []byte) { b[344] = 'x' }, "ANALYZE"},
	} {
		b := slices.Clone(good)
		test.change(b)
		_, err := Read(volumetest.Section(b), array.Options{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
	for name, change := range map[string]func(b []byte){
		"slope NaN means none": func(b []byte) { le.PutUint32(b[112:], 0x7fc00000); le.PutUint32(b[116:], 0x7fc00000) },
		"slope 0 means none":   func(b []byte) { le.PutUint32(b[112:], 0); le.PutUint32(b[116:], math.Float32bits(5)) },
		"offset 0 means 352":   func(b []byte) { le.PutUint32(b[108:], 0) },
	} {
		b := slices.Clone(good)
		change(b)
		a, err := Read(volumetest.Section(b), array.Options{})
		if err != nil || a.Values()[0] != -2 || a.Values()[23] != 3.75 {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
	b := slices.Clone(volumetest.Open(t, "two.nii"))
	b[8] = '\n'
	if _, err := Read(volumetest.Section(b), array.Options{}); err == nil || !strings.Contains(err.Error(), "text mode") {
		t.Errorf("converted line ends: %v", err)
	}
}

func TestUnits(t *testing.T) {
	b := slices.Clone(volumetest.Open(t, "f4.nii"))
	mm, err := Read(volumetest.Section(b), array.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b[123] = 3 // micrometres
	um, err := Read(volumetest.Section(b), array.Options{})
	if err != nil || math.Abs(um.Geometry.Affine[0][3]-mm.Geometry.Affine[0][3]/1000) > 1e-12 {
		t.Errorf("affine in micrometres %v, in mm %v: %v", um.Geometry.Affine, mm.Geometry.Affine, err)
	}
}

func TestBomb(t *testing.T) {
	head, err := encodeHeader([3]int{64, 64, 64}, formsOf([3]int{64, 64, 64}, volume.Identity()))
	if err != nil {
		t.Fatal(err)
	}
	zip := func(values int) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(head)
		z.Write(make([]byte, values))
		z.Close()
		return b.Bytes()
	}
	if _, err := Read(volumetest.Section(zip(4<<18)), array.Options{}); err != nil {
		t.Errorf("a file in order: %v", err)
	}
	if _, err := Read(volumetest.Section(zip(4<<18+2<<20)), array.Options{}); err == nil || !strings.Contains(err.Error(), "goes on") {
		t.Errorf("a stream with 2 MiB behind the voxels: %v", err)
	}
	damaged := zip(4 << 18)
	damaged[len(damaged)-6] ^= 1
	if _, err := Read(volumetest.Section(damaged), array.Options{}); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a wrong sum: %v", err)
	}
}

func TestWrite(t *testing.T) {
	dims := [3]int{3, 4, 37}
	data := make([]float32, 3*4*37)
	for i := range data {
		data[i] = float32(i)/8 - 3
	}
	cos, sin := math.Cos(0.3), math.Sin(0.3)
	for name, test := range map[string]struct {
		affine [3][4]float64
		qform  bool
	}{
		"identity":    {volume.Identity().Affine, true},
		"LPS":         {[3][4]float64{{-0.5, 0, 0, 90}, {0, -0.5, 0, 120}, {0, 0, 2, -60}}, true},
		"axes turned": {[3][4]float64{{0, 0, 0.25, 1}, {0, -0.5, 0, 2}, {2, 0, 0, 3}}, true},
		"oblique":     {[3][4]float64{{cos * 0.5, -sin * 2, 0, 1}, {sin * 0.5, cos * 2, 0, 2}, {0, 0, -3, 3}}, true},
		"half turn":   {[3][4]float64{{-1, 0, 0, 1}, {0, 1, 0, 2}, {0, 0, -1, 3}}, true},
		"shear":       {[3][4]float64{{1, 0.3, 0, 1}, {0, 1, 0, 2}, {0, 0, 1, 3}}, false},
		"flat":        {[3][4]float64{{1, 0, 0, 1}, {0, 0, 0, 2}, {0, 0, 1, 3}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			var b, again bytes.Buffer
			g := volume.Geometry{Affine: test.affine, Known: true}
			if err := Write(&b, dims, data, g); err != nil {
				t.Fatal(err)
			}
			if err := Write(&again, dims, data, g); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
				t.Errorf("a second file differs: %v", err)
			}
			a, err := Read(volumetest.Section(b.Bytes()), array.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(a.Shape, dims[:]) || !slices.Equal(a.Values(), data) {
				t.Errorf("read shape %v, values %v...", a.Shape, a.Values()[:8])
			}
			equal(t, "sform", a.Geometry.Affine, test.affine)

			// Without the sform, the qform must say the same, if there is one.
			z, err := gzip.NewReader(&b)
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			if code := plain[252]; (code == aligned) != test.qform {
				t.Fatalf("qform code %d", code)
			}
			if test.qform {
				plain[254] = 0
				if a, err = Read(volumetest.Section(plain), array.Options{}); err != nil {
					t.Fatal(err)
				}
				equal(t, "qform", a.Geometry.Affine, test.affine)
			}
		})
	}
	if err := Write(io.Discard, [3]int{2, 2, 2}, data, volume.Identity()); err == nil {
		t.Error("a wrong shape was written")
	}
	if err := Write(io.Discard, [3]int{40000, 1, 1}, make([]float32, 40000), volume.Identity()); err == nil {
		t.Error("an axis of 40000 was written")
	}
}

func equal(t *testing.T, what string, got, want [3][4]float64) {
	t.Helper()
	for r := range want {
		for c := range want[r] {
			if math.Abs(got[r][c]-want[r][c]) > 1e-5 {
				t.Fatalf("%s: affine %v, want %v", what, got, want)
			}
		}
	}
}
