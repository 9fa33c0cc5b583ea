package mat

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
)

func TestFixtures(t *testing.T) { volumetest.Fixtures(t, Read, "*.mat") }
func FuzzRead(f *testing.F)     { volumetest.Fuzz(f, Read, "", "*.mat") }

func TestRefused(t *testing.T) {
	for _, test := range []struct{ file, variable, want string }{
		{"other.mat", "", `it holds no variable "imgMat", only text (char 1x5), cell (cell 1x2), z (complex double 2x3x4), ` +
			"s (struct 1x1), sparse (sparse 3x3), scan (uint8 2x3x4); name one of them"},
		{"other.mat", "text", "variable text is a char"},
		{"other.mat", "cell", "variable cell is a cell"},
		{"other.mat", "z", "variable z is a complex double"},
		{"other.mat", "sparse", "variable sparse is a sparse"},
		{"v4.mat", "text", "variable text is a char"},
		{"v73.mat", "", "it is a v7.3 file (HDF5); save it again with save(file, 'imgMat', '-v7') in MATLAB, " +
			"or convert it with numpy.save('volume.npy', h5py.File('volume.mat')['imgMat'][()].T) in Python"},
		{"v1.npy", "", "the header has no mark of byte order"},
	} {
		_, err := Read(volumetest.Section(volumetest.Open(t, test.file)), array.Options{Variable: test.variable})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s, variable %q: error %v, want %q", test.file, test.variable, err, test.want)
		}
	}
}

// TestBomb has zlib data that go on far beyond the values of the matrix, and a matrix that claims far more than it has.
func TestBomb(t *testing.T) {
	file := func(dims uint32, values, rest int) []byte {
		le := binary.LittleEndian
		var m []byte
		for _, x := range []uint32{miMatrix, 1 << 30, miUint32, 8, 9, 0, miInt32, 8, dims, 1024, miInt8, 6} {
			m = le.AppendUint32(m, x)
		}
		m = append(m, "imgMat\x00\x00"...)
		m = le.AppendUint32(le.AppendUint32(m, miUint8), dims*1024)
		m = append(m, make([]byte, values+rest)...)
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write(m)
		z.Close()
		head := append(bytes.Repeat([]byte{' '}, 124), 0, 1, 'I', 'M')
		head = le.AppendUint32(le.AppendUint32(head, miCompressed), uint32(b.Len()))
		return append(head, b.Bytes()...)
	}
	for name, test := range map[string]struct {
		file []byte
		want string
	}{
		"more than the header says": {file(1024, 1<<20, 16<<20), "goes on for more than"},
		"less than the header says": {file(1<<19, 1<<20, 0), "however compressed"},
		"more than the limit":       {file(1<<20, 1<<20, 0), "the most that is read"},
	} {
		_, err := Read(volumetest.Section(test.file), array.Options{MaxVoxels: 1 << 29})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
	if a, err := Read(volumetest.Section(file(1024, 1<<20, 0)), array.Options{}); err != nil || len(a.Data) != 1<<20 {
		t.Errorf("a file in order: %v", err)
	}
}

// TestDamageElsewhere has a variable in order behind one whose compressed data are damaged: the file is not to be trusted.
func TestDamageElsewhere(t *testing.T) {
	le := binary.LittleEndian
	matrix := func(name string, announced uint32) []byte {
		var m []byte
		for _, x := range []uint32{miMatrix, announced, miUint32, 8, mxDouble, 0, miInt32, 8, 1, 5, miInt8, uint32(len(name))} {
			m = le.AppendUint32(m, x)
		}
		m = append(append(m, name...), make([]byte, 8-len(name))...)
		m = le.AppendUint32(le.AppendUint32(m, miUint8), 5)
		return append(m, 1, 2, 3, 4, 5, 0, 0, 0)
	}
	const size = 64 // of the content above
	zip := func(m []byte) []byte {
		var b bytes.Buffer
		z := zlib.NewWriter(&b)
		z.Write(m)
		z.Close()
		return b.Bytes()
	}
	file := func(elements ...[]byte) []byte {
		b := append(bytes.Repeat([]byte{' '}, 124), 0, 1, 'I', 'M')
		for _, e := range elements {
			b = append(le.AppendUint32(le.AppendUint32(b, miCompressed), uint32(len(e))), e...)
		}
		return b
	}
	good, flipped, sum := zip(matrix("imgMat", size)), zip(matrix("other", size)), zip(matrix("other", size))
	flipped[len(flipped)/2] ^= 8
	sum[len(sum)-1] ^= 0xff
	for name, test := range map[string]struct {
		other []byte
		want  string
	}{
		"in order":  {zip(matrix("other", size)), ""},
		"checksum":  {sum, "checksum"},
		"a bit":     {flipped, "element at offset 128"},
		"cut off":   {zip(matrix("other", size)[:40]), "element at offset 128"},
		"cut short": {zip(matrix("other", size+8)), "other"},
		"longer":    {zip(append(matrix("other", size), make([]byte, 100)...)), "goes on"},
	} {
		for _, b := range [][]byte{file(test.other, good), file(good, test.other)} {
			a, err := Read(volumetest.Section(b), array.Options{})
			if test.want == "" && (err != nil || !slices.Equal(a.Data, []float32{1, 2, 3, 4, 5})) {
				t.Errorf("%s: %v, %v", name, a, err)
			}
			if test.want != "" && err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		if _, err := Read(volumetest.Section(file(test.other, good)), array.Options{}); err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

func TestWrite(t *testing.T) {
	cube := []float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23}
	large := make([]float64, 3*70*501)
	for i := range large {
		large[i] = float64(i)
	}
	variables := []Variable{
		{Name: "heatmap", Shape: []int{2, 3, 4}, Data: cube},
		{Name: "shape", Shape: []int{3}, Data: []int64{2, 3, 4}},
		{Name: "method", Data: "gradcam++ é 網"},
		{Name: "empty", Data: ""},
		{Name: "true_class", Data: -1},
		{Name: "predicted_class", Data: []int32{3}, Shape: []int{1, 1}},
		{Name: "p", Data: 0.25},
		{Name: "large", Shape: []int{3, 70, 501}, Data: large},
	}
	var b, again bytes.Buffer
	if err := Write(&b, variables); err != nil {
		t.Fatal(err)
	}
	if err := Write(&again, variables); err != nil || !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("a second file differs: %v", err)
	}
	for name, want := range map[string]struct {
		shape []int
		first float32
		last  float32
	}{
		"heatmap": {[]int{2, 3, 4}, 0, 23}, "shape": {[]int{1, 3}, 2, 4}, "true_class": {[]int{1, 1}, -1, -1},
		"predicted_class": {[]int{1, 1}, 3, 3}, "p": {[]int{1, 1}, 0.25, 0.25}, "large": {[]int{3, 70, 501}, 0, 3*70*501 - 1},
	} {
		a, err := Read(volumetest.Section(b.Bytes()), array.Options{Variable: name})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		values := a.Values()
		if !slices.Equal(a.Shape, want.shape) || values[0] != want.first || values[len(values)-1] != want.last || !slices.IsSorted(values) {
			t.Errorf("%s: shape %v, from %v to %v", name, a.Shape, values[0], values[len(values)-1])
		}
	}
	_, err := Read(volumetest.Section(b.Bytes()), array.Options{})
	if err == nil || !strings.Contains(err.Error(), "method (char 1x13), empty (char 1x0)") {
		t.Errorf("the list of variables: %v", err)
	}
	for want, v := range map[string]Variable{
		"is not a name for MATLAB": {Name: "9 lives", Data: 1},
		"do not have shape 2x2":    {Name: "a", Shape: []int{2, 2}, Data: []float32{1}},
		"[]string cannot":          {Name: "a", Data: []string{"x"}},
	} {
		if err := Write(&bytes.Buffer{}, []Variable{v}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A file may hold a variable twice, of which programs take one or the other.
func TestTwice(t *testing.T) {
	var one, two bytes.Buffer
	for _, w := range []*bytes.Buffer{&one, &two} {
		err := Write(w, []Variable{{Name: "imgMat", Shape: []int{2, 2}, Data: []float32{1, 2, 3, float32(w.Len())}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	both := append(one.Bytes(), two.Bytes()[128:]...)
	if _, err := Read(volumetest.Section(both), array.Options{}); err == nil || !strings.Contains(err.Error(), `"imgMat" 2 times`) {
		t.Errorf("error %v", err)
	}
	if _, err := Read(volumetest.Section(one.Bytes()[:one.Len()]), array.Options{}); err != nil {
		t.Error(err)
	}
}
