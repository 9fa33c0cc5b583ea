package format

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/volumetest"
)

// TestForeign reads files that are no volume's: the error names what they are and what to do.
func TestForeign(t *testing.T) {
	zip := func(content []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(content)
		z.Close()
		return b.Bytes()
	}
	be := binary.BigEndian
	mgh := make([]byte, 284+24)
	for i, n := range []uint32{1, 2, 3, 4, 1, 0} {
		be.PutUint32(mgh[4*i:], n)
	}
	torch := append([]byte("PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x12\x00volume/data.pkl"),
		make([]byte, 400)...)
	dicom := append(make([]byte, 128), "DICM\x02\x00\x00\x00UL"...)
	npy := volumetest.Open(t, "v1.npy")
	analyze := append(volumetest.Open(t, "analyze_header.nii"), make([]byte, 100)...)
	for _, test := range []struct {
		name    string
		content []byte
		want    string
	}{
		{"brain.mgz", zip(mgh), "is a FreeSurfer volume (.mgh, .mgz), which is not read; convert it: mri_convert"},
		{"brain.mgh", mgh, "mri_convert"},
		{"brain.nii.gz", zip(mgh), "mri_convert"},
		{"scan.npy.gz", zip(npy), "is a npy file compressed by gzip, which only NIfTI files may be; decompress it"},
		{"scan.nii.gz", zip(npy), "is a npy file compressed by gzip"},
		{"scan.npz", zip([]byte("notes")), "is compressed by gzip and holds no NIfTI image"},
		{"scan.gz", zip([]byte("notes")), "is compressed by gzip and holds no NIfTI image"},
		{"scan.gz", zip(npy)[:20], "is compressed by gzip and holds no NIfTI image"},
		{"scan.nii.gz", zip([]byte("notes")), "damaged nifti file"},
		{"scan.nii.gz", zip(npy)[:20], "damaged nifti file"},
		{"scan.nii.gz", zip(analyze), "ANALYZE 7.5"},
		{"scan.img.gz", zip(analyze), "a .hdr/.img pair (or ANALYZE) is not read"},
		{"volume.pt", torch, "is a file of torch.save, which is not read; if it holds a tensor, convert it: numpy.save"},
		{"volume.npz", torch, "is a file of torch.save"},
		{"volume.pt", []byte("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02"), "is a file of torch.save"},
		{"volume.pkl", []byte("\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00"), "is a Python pickle"},
		{"volume.pkl", []byte("\x80\x02"), "is a Python pickle"},
		{"volume.pkl", []byte("\x80\x05"), "is a Python pickle"},
		{"IM0000", dicom[:132], "is a DICOM file"},
		{"IM0001", dicom, "is a DICOM file, which is not read; convert its series: dcm2niix"},
		{"scan.nrrd", []byte("NRRD0004\ntype: float\n"), "SimpleITK.WriteImage"},
		{"scan.mha", []byte("ObjectType = Image\nNDims = 3\n"), "SimpleITK.WriteImage"},
		{"scan.tif", []byte("II*\x00\x08\x00\x00\x00"), "tifffile.imread"},
	} {
		path := filepath.Join(t.TempDir(), test.name)
		if err := os.WriteFile(path, test.content, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, Options{}); err == nil || !strings.Contains(err.Error(), test.want) || strings.Count(err.Error(), path) != 1 {
			t.Errorf("%s: error %v, want %q", test.name, err, test.want)
		}
	}
}

// TestNotForeign has files that differ from a kind's in one number: they are not called so.
func TestNotForeign(t *testing.T) {
	mgh := func(at int, n uint32) []byte {
		b := make([]byte, 308)
		for i, n := range []uint32{1, 1 << 20, 3, 4, 1, 10} {
			binary.BigEndian.PutUint32(b[4*i:], n)
		}
		binary.BigEndian.PutUint32(b[4*at:], n)
		return b
	}
	if !isMGH(mgh(0, 1)) {
		t.Fatal("a header of an MGH file is none")
	}
	for _, test := range []struct{ at, n int }{{0, 2}, {1, 0}, {4, 0}, {2, 1<<20 + 1}, {4, 1<<20 + 1}, {5, 11}} {
		if isMGH(mgh(test.at, uint32(test.n))) {
			t.Errorf("an MGH file whose number %d is %d", test.at, test.n)
		}
	}
	for _, content := range []string{"\x80", "\x80\x01", "\x80\x06", strings.Repeat("\x00", 128) + "DIC"} {
		path := filepath.Join(t.TempDir(), "file.bin")
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path, Options{}); err == nil || strings.Contains(err.Error(), "which is not read") {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestManyAxes gives a NIfTI image more axes than have a name here.
func TestManyAxes(t *testing.T) {
	plain := volumetest.Open(t, "f4.nii") // 2x3x4
	for _, test := range []struct {
		dim         []uint16
		axes, shape string
		want        string
	}{
		{[]uint16{6, 2, 3, 4, 1, 1, 1}, "", "1x2x3x4", ""},
		{[]uint16{7, 2, 3, 4, 1, 1, 1, 1}, "", "1x2x3x4", ""},
		{[]uint16{7, 2, 3, 2, 1, 2, 1, 1}, "", "2x2x3x2", ""},
		{[]uint16{6, 2, 3, 1, 1, 2, 2}, "", "", "an array of shape 2x3x1x1x2x2 has 6 axes; a volume has 3 (D, H, W) to 5; save the part that the model sees"},
		{[]uint16{7, 2, 3, 2, 1, 1, 1, 2}, "", "", "has 7 axes"},
		{[]uint16{1, 24}, "", "", "has 1 axis; a volume has 3 (D, H, W) to 5; save it in its own shape"},
		{[]uint16{2, 6, 4}, "", "", `has 2 axes; a volume has 3 (D, H, W) to 5; name the axes as stored to read it, e.g. axes = "HW"`},
		{[]uint16{2, 6, 4}, "HW", "1x1x6x4", ""},
	} {
		b := bytes.Clone(plain)
		for i, n := range test.dim {
			binary.LittleEndian.PutUint16(b[40+2*i:], n)
		}
		path := filepath.Join(t.TempDir(), "many.nii")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		v, err := Read(path, Options{Axes: test.axes})
		switch {
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%v: error %v, want %q", test.dim, err, test.want)
		case test.want == "" && (err != nil || v.Shape() != test.shape || !v.Geometry.Known):
			t.Errorf("%v: %+v, %v", test.dim, v, err)
		}
	}
	// The third axis of an image of two is its depth: (h, w) lies where (0, h, w) does.
	b := bytes.Clone(plain)
	for i, n := range []uint16{2, 6, 4} {
		binary.LittleEndian.PutUint16(b[40+2*i:], n)
	}
	path := filepath.Join(t.TempDir(), "flat.nii")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	v, err := Read(path, Options{Axes: "HW"})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := Read(fixture("f4.nii"), Options{Axes: "HWD"})
	if err != nil || v.Geometry != whole.Geometry {
		t.Errorf("geometry %+v, %v", v.Geometry, err)
	}
}
