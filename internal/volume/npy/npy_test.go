package npy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
	"github.com/voxcam/voxcam/volume"
)

func TestFixtures(t *testing.T)    { volumetest.Fixtures(t, Read, "*.npy") }
func TestFixturesZip(t *testing.T) { volumetest.Fixtures(t, ReadZip, "*.npz") }
func FuzzRead(f *testing.F)        { volumetest.Fuzz(f, Read, "", "*.npy") }
func FuzzReadZip(f *testing.F)     { volumetest.Fuzz(f, ReadZip, "", "*.npz") }

func TestRefused(t *testing.T) {
	for name, want := range map[string]string{
		"object.npy":  "pickled Python objects, which are never read",
		"complex.npy": `elements of type "<c8"`,
		"record.npy":  "its elements are records",
	} {
		_, err := Read(volumetest.Section(volumetest.Open(t, name)), array.Options{})
		var unsupported *volume.UnsupportedError
		if !errors.As(err, &unsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}

// raw builds a version 1 file from the text of its header.
func raw(text string, data []byte) []byte {
	return append(append([]byte(magic), 1, 0, byte(len(text)), byte(len(text)>>8)), append([]byte(text), data...)...)
}

func TestHostileHeaders(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want string
	}{
		"huge":        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000)}", "the most that is read"},
		"overflow":    {"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4)}", "the most that is read"},
		"long number": {"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999999999,)}", "size too large"},
		"large":       {"{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 1000, 1000)}", "it was cut off"},
		"empty axis":  {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 0, 2)}", "axis 1 of shape 3x0x2 has size 0"},
		"negative":    {"{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 2)}", "size expected"},
		"no shape":    {"{'descr': '<f4', 'fortran_order': False}", "is missing"},
		"many axes":   {"{'descr': '<f4', 'fortran_order': False, 'shape': (" + strings.Repeat("1,", 33) + ")}", "more than 32 axes"},
		"not a dict":  {"[1, 2]", "'{' expected"},
		"unknown key": {"{'descr': '<f4', 'code': 1}", `unknown key "code"`},
		"open string": {"{'descr", "string without end"},
		"no text":     {"", "'{' expected"},
		"ends":        {"{'descr': ", "string expected"},
		"ends in 12":  {"{'descr': '<f4', 'fortran_order': False, 'shape': (12", "')' expected"},
		"no type":     {"{'descr': '', 'fortran_order': False, 'shape': (1,)}", `elements of type ""`},
		"text behind": {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", "text behind the dictionary"},
		"more behind": {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "5 bytes follow the array"},
	} {
		_, err := Read(volumetest.Section(raw(test.text, make([]byte, 9))), array.Options{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

func TestOldPython(t *testing.T) {
	a, err := Read(volumetest.Section(raw(`{"shape": (1L, 2L), "fortran_order":True,"descr":"=i2"} `, []byte{1, 0, 2, 0})), array.Options{})
	if err != nil || !slices.Equal(a.Shape, []int{1, 2}) || !slices.Equal(a.Values(), []float32{1, 2}) {
		t.Errorf("read %v, %v", a, err)
	}
}

func TestChoiceOfArray(t *testing.T) {
	for variable, want := range map[string]string{
		"":       "it holds 2 arrays (image, mask); name one of them",
		"volume": `it holds no array "volume", only image, mask`,
	} {
		_, err := ReadZip(volumetest.Section(volumetest.Open(t, "two.npz")), array.Options{Variable: variable})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("variable %q: error %v, want %q", variable, err, want)
		}
	}
	all, err := ReadAll(volumetest.Section(volumetest.Open(t, "two.npz")))
	if err != nil || len(all) != 2 || all["mask"].Values()[3] != 1 {
		t.Errorf("ReadAll: %v, %v", all, err)
	}
}

func TestWrite(t *testing.T) {
	for _, shape := range [][]int{{}, {7}, {2, 3, 5}, {2, 100, 301}} {
		n := 1
		for _, size := range shape {
			n *= size
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(i) - 1.5
		}
		var b bytes.Buffer
		if err := Write(&b, shape, data); err != nil {
			t.Fatal(err)
		}
		if start := b.Len() - 4*n; start%64 != 0 {
			t.Errorf("shape %v: the elements begin at byte %d", shape, start)
		}
		a, err := Read(volumetest.Section(b.Bytes()), array.Options{})
		if err != nil || !slices.Equal(a.Shape, shape) || !slices.Equal(a.Values(), data) {
			t.Errorf("shape %v: read %v, %v", shape, a, err)
		}
	}
	if err := Write(&bytes.Buffer{}, []int{2, 3}, make([]float32, 5)); err == nil {
		t.Error("5 values were written as 2x3")
	}
}

func TestDraws(t *testing.T) {
	path := filepath.Join(volumetest.Dir(), "noise.npy")
	f, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !slices.Equal(f.Shape(), []int{5, 1, 2, 3, 4}) || f.Len() != 5 {
		t.Fatalf("shape %v, %d draws", f.Shape(), f.Len())
	}
	all := volumetest.Expectations(t)["noise.npy"][0].Data
	dst := make([]float32, 24)
	for _, i := range []int{4, 0, 2} {
		if err := f.Draw(i, dst); err != nil || !slices.Equal(dst, all[24*i:24*i+24]) {
			t.Errorf("draw %d: %v, %v", i, dst, err)
		}
	}
	for _, i := range []int{-1, 5} {
		if err := f.Draw(i, dst); err == nil || !strings.Contains(err.Error(), "it has 5") {
			t.Errorf("draw %d of 5: %v", i, err)
		}
	}
	if err := f.Draw(0, dst[:23]); err == nil || !strings.Contains(err.Error(), "1x2x3x4 has 24 values, 23 are needed") {
		t.Errorf("draw of 23 values: %v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(volumetest.Dir(), "fortran.npy")); err == nil || !strings.Contains(err.Error(), "Fortran") {
		t.Errorf("Fortran order: %v", err)
	}
}

// A draw is read in parts; the last one is shorter.
func TestLargeDraw(t *testing.T) {
	const n = 1<<17 + 3
	data := make([]float32, 2*n)
	for i := range data {
		data[i] = float32(i)
	}
	var b bytes.Buffer
	if err := Write(&b, []int{2, n}, data); err != nil {
		t.Fatal(err)
	}
	f, err := NewStack(volumetest.Section(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]float32, n)
	if err := f.Draw(1, dst); err != nil || !slices.Equal(dst, data[n:]) {
		t.Errorf("draw 1: from %v to %v, %v", dst[0], dst[n-1], err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("close of what was not opened: %v", err)
	}
}

func TestClose(t *testing.T) {
	f, err := Open(t.Context(), filepath.Join(volumetest.Dir(), "noise.npy"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
}

// Numbers in one row have one order: Fortran's is C's.
func TestFortranVector(t *testing.T) {
	f, err := NewStack(volumetest.Section(raw("{'descr': '<f4', 'fortran_order': True, 'shape': (2,)}", make([]byte, 8))))
	if err != nil || f.Len() != 2 {
		t.Errorf("%v, %v", f, err)
	}
}

// The limits of a header themselves are allowed.
func TestLimits(t *testing.T) {
	axes := raw("{'descr': '<f4', 'fortran_order': False, 'shape': ("+strings.Repeat("1,", 32)+")}", make([]byte, 4))
	if a, err := Read(volumetest.Section(axes), array.Options{}); err != nil || len(a.Shape) != 32 {
		t.Errorf("32 axes: %v", err)
	}
	for _, length := range []int{maxHeader, maxHeader + 1} {
		text := "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}"
		b := append([]byte(magic), 2, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(length))
		b = append(append(b, text...), bytes.Repeat([]byte{' '}, length-len(text))...)
		_, err := Read(volumetest.Section(append(b, 0, 0, 0, 0)), array.Options{})
		if (err == nil) != (length == maxHeader) {
			t.Errorf("a header of %d bytes: %v", length, err)
		}
	}
}

func TestMatchZip(t *testing.T) {
	for head, want := range map[string]bool{"PK\x03\x04\x14": true, "PK\x05\x06\x00": true, "PK\x01\x02": false, "PK": false, magic: false} {
		if MatchZip([]byte(head)) != want {
			t.Errorf("%q: %v", head, !want)
		}
	}
}

// TestHead compares heads with those that numpy.save writes (NumPy 2).
func TestHead(t *testing.T) {
	for _, test := range []struct {
		shape []int
		want  string
	}{
		{nil, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }"},
		{[]int{2}, "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }"},
		{[]int{1, 2, 1}, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 1), }"},
	} {
		var b bytes.Buffer
		if err := Write(&b, test.shape, make([]float32, max(1, 2*min(1, len(test.shape))))); err != nil {
			t.Fatal(err)
		}
		want := "\x93NUMPY\x01\x00\x76\x00" + test.want + strings.Repeat(" ", 117-len(test.want)) + "\n"
		if got := b.String()[:128]; got != want {
			t.Errorf("shape %v: head %q, want %q", test.shape, got, want)
		}
	}
}

// Draws of a file that was changed since it was opened are an error; those of one that was replaced under its name are the first one's.
func TestChangedDraws(t *testing.T) {
	const n = 1 << 18
	write := func(path string, first float32) {
		t.Helper()
		data := make([]float32, 2*n)
		data[0], data[n] = first, first
		f, err := os.Create(path)
		if err == nil {
			err = errors.Join(Write(f, []int{2, n}, data), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, replaced := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "noise.npy")
		write(path, 1)
		f, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		digest := f.SHA256()
		if replaced {
			write(path+".new", 2)
			err = os.Rename(path+".new", path)
		} else {
			write(path, 2)
		}
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]float32, n)
		err = f.Draw(1, dst)
		var changed *input.ChangedError
		if replaced && (err != nil || dst[0] != 1) || !replaced && !errors.As(err, &changed) {
			t.Errorf("replaced %v: %v, %v", replaced, dst[0], err)
		}
		again, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if again.SHA256() == digest {
			t.Error("another file has the same digest")
		}
	}
}
