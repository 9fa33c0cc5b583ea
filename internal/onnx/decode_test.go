package onnx

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/voxcam/voxcam/internal/pass"
	"github.com/voxcam/voxcam/internal/tensor"
)

func sampleModel() *Model {
	m := modelOf(17, []int64{1, 2, 4, 5, 6}, []*Tensor{floats("c.weight", tensor.Shape{3, 2, 3, 3, 3}, 0.1, -0.2, 0.3), list("axes", -3, -2, -1)},
		node("Conv", "x c.weight", "a", aInts("pads", 1, 1, 1, 1, 1, 1)),
		node("Relu", "a", "b"),
		node("ReduceMean", "b", "m", aInts("axes", 2, 3, 4), aInt("keepdims", 0)),
		node("Softmax", "m", "y", aInt("axis", -1)))
	m.Graph.Nodes[0].Metadata["pkg.torch.onnx.name_scopes"] = "['', 'c', 'conv3d']"
	return m
}

func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	want := sampleModel()
	got := reread(t, want)
	if !reflect.DeepEqual(got.Graph.Nodes, want.Graph.Nodes) {
		t.Errorf("nodes differ: %+v", got.Graph.Nodes[0])
	}
	if !reflect.DeepEqual(got.Graph.Initializers, want.Graph.Initializers) || !reflect.DeepEqual(got.Graph.Inputs, want.Graph.Inputs) {
		t.Error("constants or inputs differ")
	}
	if got.Opsets[""] != 17 || got.Producer != "test" {
		t.Errorf("opset %d, producer %q", got.Opsets[""], got.Producer)
	}
}

// topLevelEnds are the lengths at which a file ends with a whole field of the model: cut there, it is a smaller message.
func topLevelEnds(data []byte) map[int]bool {
	ends := map[int]bool{}
	for at := 0; at < len(data); {
		_, _, n := protowire.ConsumeField(data[at:])
		at += n
		ends[at] = true
	}
	return ends
}

func checkTruncations(t *testing.T, data []byte, step int) {
	t.Helper()
	ends := topLevelEnds(data)
	for n := 0; n < len(data); n += step {
		m, err := Decode("cut.onnx", data[:n])
		if err == nil {
			m.Close()
			if !ends[n] {
				t.Fatalf("the first %d of %d bytes are accepted", n, len(data))
			}
			continue
		}
		var f *FormatError
		if !errors.As(err, &f) {
			t.Fatalf("the first %d bytes give %T: %v", n, err, err)
		}
	}
}

func TestTruncatedFilesAreRefused(t *testing.T) {
	checkTruncations(t, encodeModel(sampleModel()), 1)
	paths, _ := filepath.Glob(filepath.Join(golden, "*", "*.onnx"))
	if len(paths) == 0 {
		t.Skip("the golden cases are not here: only a made model was cut")
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		checkTruncations(t, data, len(data)/200+1)
	}
}

func TestWhatIsNoModel(t *testing.T) {
	for name, c := range map[string]struct{ data, want string }{
		"empty":      {"", "empty"},
		"text":       {"this is not a model at all", "not an ONNX file"},
		"only nulls": {strings.Repeat("\x00", 100), "not an ONNX file"},
		"zip":        {"PK\x03\x04abcdefghijklm", "not an ONNX"},
		"no graph":   {"\x08\x08", "no graph"},
	} {
		_, err := Decode("f.onnx", []byte(c.data))
		var f *FormatError
		if !errors.As(err, &f) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "f.onnx") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHostileTensors(t *testing.T) {
	tensorOf := func(fill func(e *encoder)) []byte {
		var e encoder
		e.message(7, func(e *encoder) { e.message(5, fill) })
		encodeOpsets(&e, 8, map[string]int{"": 17})
		return e
	}
	for name, data := range map[string][]byte{
		"huge shape":     tensorOf(func(e *encoder) { e.number(1, 1<<40); e.number(1, 1<<40); e.number(2, 1); e.bytes(9, nil) }),
		"negative shape": tensorOf(func(e *encoder) { e.number(1, -1); e.number(2, 1) }),
		"too few bytes":  tensorOf(func(e *encoder) { e.number(1, 5); e.number(2, 1); e.bytes(9, make([]byte, 16)) }),
		"odd bytes":      tensorOf(func(e *encoder) { e.number(1, 4); e.number(2, 1); e.bytes(9, make([]byte, 17)) }),
		"unknown type":   tensorOf(func(e *encoder) { e.number(1, 1); e.number(2, 99) }),
		"wrong field":    tensorOf(func(e *encoder) { e.number(1, 1); e.number(2, 1); e.number(7, 5) }),
	} {
		_, err := Decode("f.onnx", data)
		var f *FormatError
		if !errors.As(err, &f) || f.Offset < 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	deep := []byte(nil)
	for range 3000 { // graph in attribute in node in graph ...
		var e encoder
		e.message(1, func(e *encoder) { e.message(5, func(e *encoder) { e.bytes(6, deep) }) })
		deep = e
	}
	var e encoder
	e.bytes(7, deep)
	if _, err := Decode("f.onnx", e); err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("deep nesting: %.200v", err)
	}
}

func TestTypedFields(t *testing.T) {
	half := []int64{0x3c00, 0xc000, 0x0001} // 1, -2, the smallest subnormal
	bf := []int64{0x3f80, 0xc000, 0x4049}   // 1, -2, 3.140625
	for _, c := range []struct {
		name string
		elem tensor.Elem
		fill func(e *encoder)
		want []float64
	}{
		{"float_data packed", tensor.F32, func(e *encoder) { e.bytes(4, floats("", tensor.Shape{3}, 1, -2, 0.5).Data) }, []float64{1, -2, 0.5}},
		{"int64_data", tensor.I64, func(e *encoder) { e.number(7, -5); e.number(7, 1<<40); e.number(7, 3) }, []float64{-5, 1 << 40, 3}},
		{"int32_data", tensor.I32, func(e *encoder) { e.number(5, -5); e.number(5, 7); e.number(5, 3) }, []float64{-5, 7, 3}},
		{"int8", tensor.I8, func(e *encoder) { e.number(5, -5); e.number(5, 127); e.number(5, -128) }, []float64{-5, 127, -128}},
		{"bool", tensor.Bool, func(e *encoder) { e.number(5, 1); e.number(5, 0); e.number(5, 1) }, []float64{1, 0, 1}},
		{"float16", tensor.F16, func(e *encoder) { e.number(5, half[0]); e.number(5, half[1]); e.number(5, half[2]) }, []float64{1, -2, 1. / (1 << 24)}},
		{"bfloat16", tensor.BF16, func(e *encoder) { e.number(5, bf[0]); e.number(5, bf[1]); e.number(5, bf[2]) }, []float64{1, -2, 3.140625}},
		{"uint64_data", tensor.U64, func(e *encoder) { e.number(11, 1); e.number(11, 2); e.number(11, 3) }, []float64{1, 2, 3}},
		{"double_data", tensor.F64, func(e *encoder) {
			var b []byte
			for _, v := range []uint64{0x3ff0000000000000, 0xc000000000000000, 0x3fe0000000000000} {
				b = binary.LittleEndian.AppendUint64(b, v)
			}
			e.bytes(10, b)
		}, []float64{1, -2, 0.5}},
	} {
		var e encoder
		e.message(7, func(e *encoder) {
			e.message(5, func(e *encoder) {
				e.number(1, 3)
				e.number(2, codeOf(c.elem))
				c.fill(e)
			})
		})
		encodeOpsets(&e, 8, map[string]int{"": 17})
		m, err := Decode("f.onnx", e)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		l, err := m.Graph.Initializers[0].literal()
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range c.want {
			if l.float(i) != want {
				t.Errorf("%s: element %d is %g, not %g", c.name, i, l.float(i), want)
			}
		}
	}
}

// externalModel writes a model whose weight lies in another file.
func externalModel(t *testing.T, entries map[string]string) string {
	t.Helper()
	m := modelOf(17, []int64{1, 2}, nil, node("Add", "x w", "y"))
	var e encoder
	e.number(1, 8)
	e.message(7, func(e *encoder) {
		encodeGraph(e, m.Graph)
		e.message(5, func(e *encoder) {
			e.number(1, 2)
			e.number(2, typeFloat)
			e.text(8, "w")
			e.number(14, externalFlag)
			for k, v := range entries {
				e.message(13, func(e *encoder) { e.text(1, k); e.text(2, v) })
			}
		})
	})
	encodeOpsets(&e, 8, m.Opsets)
	dir := filepath.Join(t.TempDir(), "model")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	weights := append(make([]byte, 8), floats("", tensor.Shape{2}, 3, 4).Data...)
	for _, p := range []string{"w.bin", "sub/w.bin", "../outside.bin"} {
		if err := os.WriteFile(filepath.Join(dir, p), weights, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"good.bin": "w.bin", "good": "sub", // inside
		"link.bin": "../outside.bin", "absolute.bin": filepath.Join(dir, "../outside.bin"), "chain.bin": "link.bin", "up": "..", "away": filepath.Dir(dir),
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "m.onnx")
	if err := os.WriteFile(path, e, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExternalData(t *testing.T) {
	for _, location := range []string{"w.bin", "sub/w.bin", "good.bin", "good/w.bin"} {
		path := externalModel(t, map[string]string{"location": location, "offset": "8", "length": "8"})
		m, err := Open(context.Background(), path)
		if err != nil {
			t.Errorf("%s: %v", location, err)
			continue
		}
		l, _ := m.Graph.Initializers[0].literal()
		if l.float(0) != 3 || l.float(1) != 4 {
			t.Errorf("%s holds %g, %g", location, l.float(0), l.float(1))
		}
		before := m.SHA256()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), location), make([]byte, 16), 0o644); err != nil {
			t.Fatal(err)
		}
		if m, err = Open(context.Background(), path); err != nil {
			t.Fatal(err)
		}
		if m.SHA256() == before {
			t.Errorf("%s: the hash does not cover external data", location)
		}
		m.Close()
	}
	// Each of these links leads to weights that would fit.
	for _, location := range []string{"link.bin", "absolute.bin", "chain.bin", "up/outside.bin", "away/outside.bin", "up/model/w.bin"} {
		m, err := Open(t.Context(), externalModel(t, map[string]string{"location": location, "offset": "8", "length": "8"}))
		if err == nil {
			t.Errorf("%s: weights outside of the model's folder were read", location)
			m.Close()
		} else if !strings.Contains(err.Error(), "escapes") {
			t.Errorf("%s: %v", location, err)
		}
	}
	outside, _ := filepath.Abs("outside.bin")
	for name, entries := range map[string]map[string]string{
		"absolute":       {"location": outside},
		"parent":         {"location": "../outside.bin"},
		"link outside":   {"location": "link.bin"},
		"folder outside": {"location": "up/outside.bin"},
		"backslash":      {"location": "..\\outside.bin"},
		"no location":    {},
		"missing":        {"location": "none.bin"},
		"folder":         {"location": "sub"},
		"behind the end": {"location": "w.bin", "offset": "12"},
		"negative":       {"location": "w.bin", "offset": "-8"},
		"huge":           {"location": "w.bin", "offset": "9223372036854775807", "length": "8"},
		"wrong length":   {"location": "w.bin", "length": "4"},
		"no number":      {"location": "w.bin", "offset": "eight"},
	} {
		m, err := Open(context.Background(), externalModel(t, entries))
		var f *FormatError
		if !errors.As(err, &f) || !strings.Contains(err.Error(), `"w"`) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			m.Close()
		}
	}
}

func TestOpenReportsWhatIsNoFile(t *testing.T) {
	if _, err := Open(context.Background(), filepath.Join(t.TempDir(), "none.onnx")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Open(context.Background(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Error(err)
	}
}

// FuzzImport feeds damaged models to the whole path. Nothing may panic, and memory is bounded by the options.
func FuzzImport(f *testing.F) {
	f.Add(encodeModel(sampleModel()))
	for _, c := range importCases {
		f.Add(encodeModel(modelOf(c.opset, c.input, c.constants, c.nodes...)))
	}
	for _, c := range evalCases {
		f.Add(encodeModel(evalModel(c)))
	}
	f.Add(encodeModel(functionModel()))
	f.Add(encodeModel(ifModel(1)))
	path := filepath.Join(f.TempDir(), "fuzz.onnx") // one folder: to make one takes longer than to read a model
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(path, data)
		if err != nil {
			return
		}
		im, err := Import(m, Options{MaxFolded: 1 << 12, Memory: 64 << 20})
		var internal *internalError
		if errors.As(err, &internal) {
			t.Fatal(err)
		}
		if err != nil {
			return
		}
		if err := pass.Run(context.Background(), im.Graph, nil, pass.Recognition); err != nil {
			t.Fatal(err)
		}
	})
}
