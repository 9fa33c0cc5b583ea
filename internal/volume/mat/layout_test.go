package mat

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
)

// matrix4 is a matrix of level 4: its header, its name, and bytes of values.
func matrix4(order binary.AppendByteOrder, mopt, rows, cols, imaginary uint32, name string, values []byte) []byte {
	var b []byte
	for _, x := range []uint32{mopt, rows, cols, imaginary, uint32(len(name))} {
		b = order.AppendUint32(b, x)
	}
	return append(append(b, name...), values...)
}

// TestLevel4 reads a variable x behind others, in the layouts that the format has.
func TestLevel4(t *testing.T) {
	le, be := binary.LittleEndian, binary.BigEndian
	bytesOf := func(values ...byte) []byte { return values }
	for name, test := range map[string]struct {
		file []byte
		want []float32
	}{
		"uint8":            {matrix4(le, 50, 1, 3, 0, "x\x00", bytesOf(1, 2, 255)), []float32{1, 2, 255}},
		"name without end": {matrix4(le, 50, 1, 1, 0, "x", bytesOf(7)), []float32{7}},
		"uint16":           {matrix4(le, 40, 1, 1, 0, "x\x00", bytesOf(0xff, 0xff)), []float32{65535}},
		"int16, big":       {matrix4(be, 1030, 1, 2, 0, "x\x00", bytesOf(0xff, 0xfe, 0, 3)), []float32{-2, 3}},
		"int32":            {matrix4(le, 20, 1, 1, 0, "x\x00", bytesOf(0xfe, 0xff, 0xff, 0xff)), []float32{-2}},
		"behind a complex one": {append(matrix4(le, 10, 1, 2, 1, "z\x00", make([]byte, 16)),
			matrix4(le, 50, 2, 1, 0, "x\x00", bytesOf(4, 5))...), []float32{4, 5}},
		"behind an empty one": {append(matrix4(le, 0, 1<<31-1, 0, 0, "e\x00", nil),
			matrix4(le, 50, 2, 1, 0, "x\x00", bytesOf(4, 5))...), []float32{4, 5}},
		"behind a long name": {append(matrix4(le, 50, 1, 1, 0, strings.Repeat("n", maxName), bytesOf(9)),
			matrix4(le, 50, 2, 1, 0, "x\x00", bytesOf(4, 5))...), []float32{4, 5}},
	} {
		a, err := Read(volumetest.Section(test.file), array.Options{Variable: "x"})
		if err != nil || !slices.Equal(a.Data, test.want) {
			t.Errorf("%s: %v, %v, want %v", name, a, err, test.want)
		}
	}
}

func TestLevel4Refused(t *testing.T) {
	le, be := binary.LittleEndian, binary.BigEndian
	one := make([]byte, 8)
	for name, test := range map[string]struct {
		file []byte
		want string
	}{
		"machine":           {matrix4(le, 5000, 1, 1, 0, "x\x00", one), "holds no matrix"},
		"hundreds":          {matrix4(le, 100, 1, 1, 0, "x\x00", one), "holds no matrix"},
		"type":              {matrix4(le, 60, 1, 1, 0, "x\x00", one), "holds no matrix"},
		"kind":              {matrix4(le, 3, 1, 1, 0, "x\x00", one), "holds no matrix"},
		"sparse":            {matrix4(le, 2, 1, 1, 0, "x\x00", one), "variable x is a sparse"},
		"char":              {matrix4(le, 1, 1, 1, 0, "x\x00", one), "variable x is a char"},
		"complex":           {matrix4(le, 10, 1, 1, 1, "x\x00", one), "variable x is a complex single"},
		"VAX":               {matrix4(le, 2000, 1, 1, 0, "x\x00", one), "machine type 2, which is not IEEE"},
		"Cray":              {matrix4(le, 4000, 1, 1, 0, "x\x00", one), "machine type 4, which is not IEEE"},
		"big mark, little":  {matrix4(le, 1000, 1, 1, 0, "x\x00", one), "machine type 1"},
		"little mark, big":  {matrix4(be, 10, 1, 1, 0, "x\x00", one), "machine type 0"},
		"rows":              {matrix4(le, 50, 1<<31, 0, 0, "x\x00", nil), "is 2147483648x0 with a name of 2 bytes"},
		"columns":           {matrix4(le, 50, 0, 1<<31, 0, "x\x00", nil), "is 0x2147483648 with a name of 2 bytes"},
		"no name":           {matrix4(le, 50, 1, 1, 0, "", one), "with a name of 0 bytes"},
		"long name":         {matrix4(le, 50, 1, 1, 0, strings.Repeat("n", maxName+1), one), "with a name of 4097 bytes"},
		"imaginary":         {matrix4(le, 50, 1, 1, 2, "x\x00", one), "is 1x1 with a name of 2 bytes"},
		"one byte short":    {matrix4(le, 0, 1, 1, 0, "x\x00", one[:7]), "goes beyond the end"},
		"one value short":   {matrix4(le, 50, 3, 3, 0, "x\x00", one), "goes beyond the end"},
		"no imaginary part": {matrix4(le, 0, 1, 1, 1, "x\x00", one), "goes beyond the end"},
		"name cut off":      {matrix4(le, 50, 0, 0, 0, "name\x00", nil)[:22], "goes beyond the end"},
		"header cut off":    {append(matrix4(le, 50, 1, 1, 0, "y\x00", one[:1]), one...), "the matrix at offset 23 is cut off"},
		"three bytes":       {[]byte{0, 0, 0}, "it has 3 bytes"},
	} {
		_, err := Read(volumetest.Section(test.file), array.Options{Variable: "x"})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}

// TestManyVariables lists twenty at most, and refuses a file of more than any program writes.
func TestManyVariables(t *testing.T) {
	var b []byte
	for i := range maxVariables + 1 {
		if i == 20 || i == 25 || i == maxVariables {
			_, err := Read(volumetest.Section(b), array.Options{Variable: "missing"})
			more := fmt.Sprintf(", and %d more;", i-20)
			if err == nil || !strings.Contains(err.Error(), "v (uint8 0x0)") || strings.Contains(err.Error(), more) != (i > 20) {
				t.Errorf("%d variables: %v", i, err)
			}
		}
		b = append(b, matrix4(binary.LittleEndian, 50, 0, 0, 0, "v", nil)...)
	}
	if _, err := Read(volumetest.Section(b), array.Options{}); err == nil || !strings.Contains(err.Error(), "more than 65536 variables") {
		t.Errorf("error %v", err)
	}
}

// part5 is an element of a matrix of level 5 with its padding.
func part5(kind, length uint32, content string) string {
	le := binary.LittleEndian
	b := append(le.AppendUint32(le.AppendUint32(nil, kind), length), content...)
	return string(append(b, make([]byte, -len(content)&7)...))
}

// file5 is a file of level 5 with one matrix; more is by how much its tag exaggerates.
func file5(more int, parts ...string) []byte {
	content := strings.Join(parts, "")
	le := binary.LittleEndian
	b := append(bytes.Repeat([]byte{' '}, 124), 0, 1, 'I', 'M')
	b = le.AppendUint32(le.AppendUint32(b, miMatrix), uint32(len(content)+more))
	return append(b, content...)
}

func TestLevel5Refused(t *testing.T) {
	flags := func(class string) string { return part5(miUint32, 8, class+"\x00\x00\x00\x00\x00\x00\x00") }
	double := flags("\x06")
	dims := func(rows, cols string) string { return part5(miInt32, 8, rows+cols) }
	two, three, minus := "\x02\x00\x00\x00", "\x03\x00\x00\x00", "\xfd\xff\xff\xff"
	name := part5(miInt8, 1, "x")
	values := part5(miUint8, 6, "\x01\x02\x03\x04\x05\x06")
	a, err := Read(volumetest.Section(file5(0, double, dims(two, three), name, values)), array.Options{Variable: "x"})
	if err != nil || !slices.Equal(a.Shape, []int{2, 3}) || !slices.Equal(a.Data, []float32{1, 2, 3, 4, 5, 6}) {
		t.Fatalf("a file in order: %v, %v", a, err)
	}
	small := part5(5<<16|miUint8, 0, "")
	for want, file := range map[string][]byte{
		"has 65 bytes, the file only 64 more; it was cut off": file5(1, double, dims(two, three), name, values),
		"type 5 instead of 6":                           file5(0, part5(miInt32, 8, "\x06\x00\x00\x00\x00\x00\x00\x00"), dims(two, three), name, values),
		"flags of the matrix: 4 bytes":                  file5(0, part5(miUint32, 4, two), dims(two, three), name, values),
		"flags of the matrix: 16 bytes":                 file5(0, part5(miUint32, 16, strings.Repeat(two, 4)), dims(two, three), name, values),
		"dimensions of the matrix: 4 bytes":             file5(0, double, part5(miInt32, 4, two), name, values),
		"dimension 1 of the matrix is -3":               file5(0, double, dims(two, minus), name, values),
		"shape 2x3 needs 6 bytes of its type, it has 5": file5(0, double, dims(two, three), name, part5(miUint8, 5, "\x01\x02\x03\x04\x05")),
		"a small element claims 5 bytes":                file5(0, double, dims(two, three), name, small),
		"a part claims 9 bytes, its matrix has 8 more":  file5(0, double, dims(two, three), name, part5(miUint8, 9, "\x01\x02\x03\x04\x05\x06")),
		"its values are of type 99":                     file5(0, double, dims(two, three), name, part5(99, 6, "\x01\x02\x03\x04\x05\x06")),
		"variable x is a class 99":                      file5(0, flags("\x63"), dims(two, three), name, values),
		"variable x is a class 0":                       file5(0, flags("\x00"), dims(two, three), name, values),
		"variable x is a sparse":                        file5(0, flags("\x05"), dims(two, three), name, values),
		"variable x is a function":                      file5(0, flags("\x10"), dims(two, three), name, values),
		"variable x is a opaque object":                 file5(0, flags("\x11"), name, values),
	} {
		_, err := Read(volumetest.Section(file), array.Options{Variable: "x"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	_, err = Read(volumetest.Section(file5(0, flags("\x11"), name, values)), array.Options{})
	if err == nil || !strings.Contains(err.Error(), "only x (opaque object);") {
		t.Errorf("a variable without a shape: %v", err)
	}
}

// TestHDF5 has the three signs of a v7.3 file, each alone.
func TestHDF5(t *testing.T) {
	behind := append(bytes.Repeat([]byte{' '}, 512), hdf5...)
	for name, file := range map[string][]byte{
		"signature":              []byte(hdf5 + strings.Repeat(" ", 600)),
		"text":                   []byte("MATLAB 7.3 MAT-file" + strings.Repeat(" ", 600)),
		"signature behind block": behind,
	} {
		_, err := Read(volumetest.Section(file), array.Options{})
		if err == nil || !strings.Contains(err.Error(), "it is a v7.3 file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The end of compressed data is an unexpected one.
func TestCutOff(t *testing.T) {
	le := binary.LittleEndian
	b := append(bytes.Repeat([]byte{' '}, 124), 0, 1, 'I', 'M')
	b = le.AppendUint32(le.AppendUint32(b, miCompressed), 0)
	if _, err := Read(volumetest.Section(b), array.Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
}

// TestPadding demands that each part of a matrix is filled to a multiple of 8 bytes, and the sum of them is the size in the tag.
func TestPadding(t *testing.T) {
	for n := range 9 {
		for _, v := range []Variable{
			{Name: "text", Data: strings.Repeat("x", n)},
			{Name: "numbers", Shape: []int{n}, Data: make([]int32, n)},
		} {
			var b bytes.Buffer
			if err := Write(&b, []Variable{v}); err != nil {
				t.Fatal(err)
			}
			z, err := zlib.NewReader(bytes.NewReader(b.Bytes()[headerSize+8:]))
			if err != nil {
				t.Fatal(err)
			}
			m, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			if len(m)%8 != 0 || int(binary.LittleEndian.Uint32(m[4:])) != len(m)-8 {
				t.Errorf("%s of %d: a matrix of %d bytes, its tag says %d", v.Name, n, len(m), binary.LittleEndian.Uint32(m[4:]))
			}
		}
	}
}

func TestBasicPlane(t *testing.T) {
	if got, want := basicPlane("aé\uffff😀z"), []uint16{'a', 'é', 0xffff, 0xfffd, 'z'}; !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}
