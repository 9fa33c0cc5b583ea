package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/internal/volume/nifti"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
)

// samples are files that are whole.
type samples struct {
	models  []sampleModel
	volumes map[string][]byte // by name
	session string            // folder of a data set with a finished session
}

type sampleModel struct {
	name  string
	model []byte
	files map[string][]byte // besides, by name
}

const sampleCases = "../../testdata/cases"

// newSamples reads small models and volumes, and makes a data set and a session in a folder.
func newSamples(program, dir string) (*samples, error) {
	s := &samples{volumes: map[string][]byte{}, session: dir}
	paths, err := filepath.Glob(filepath.Join(sampleCases, "*", "model.*.onnx"))
	if err != nil || len(paths) == 0 {
		return nil, fmt.Errorf("no models in %s: %w", sampleCases, err)
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		volume, err := os.ReadFile(filepath.Join(filepath.Dir(p), "volume.npy"))
		if err != nil {
			return nil, err
		}
		m := sampleModel{name: strings.TrimPrefix(p, sampleCases+"/"), model: data, files: map[string][]byte{"volume.npy": volume}}
		if weights, err := os.ReadFile(p + ".data"); err == nil {
			m.files[filepath.Base(p)+".data"] = weights
		}
		s.models = append(s.models, m)
	}
	if err := s.makeVolumes(); err != nil {
		return nil, err
	}
	return s, s.makeSession(program)
}

const sampleModelPath = sampleCases + "/convs/model.torchscript_dynamic.onnx"

// makeVolumes makes a volume in each format.
func (s *samples) makeVolumes() error {
	text, err := os.ReadFile(sampleCases + "/convs/volume.npy")
	if err != nil {
		return err
	}
	a, err := npy.Read(section(string(text)), array.Options{})
	if err != nil {
		return err
	}
	dims := [3]int(a.Shape[len(a.Shape)-3:])
	data := a.Data[:dims[0]*dims[1]*dims[2]]
	pixels := make([]uint8, len(data))
	for i := range pixels {
		pixels[i] = uint8(100 * (1 + data[i]/8))
	}
	var zipped, plain, matlab, image, counts bytes.Buffer
	w := zip.NewWriter(&zipped)
	file, err := w.Create("volume.npy")
	if err == nil {
		_, err = file.Write(text)
	}
	if err != nil {
		return err
	}
	gz := gzip.NewReader
	steps := []error{w.Close(), npy.Write(&plain, dims[:], data), nifti.Write(&image, dims, data, volume.Geometry{}),
		mat.Write(&matlab, []mat.Variable{{Name: "imgMat", Shape: dims[:], Data: data}}), npy.Write(&counts, dims[:], data)}
	for _, err := range steps {
		if err != nil {
			return err
		}
	}
	r, err := gz(bytes.NewReader(image.Bytes()))
	if err != nil {
		return err
	}
	unzipped, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.volumes["volume.npy"], s.volumes["plain.npy"], s.volumes["volume.npz"] = text, plain.Bytes(), zipped.Bytes()
	s.volumes["volume.mat"], s.volumes["volume.nii.gz"], s.volumes["volume.nii"] = matlab.Bytes(), image.Bytes(), unzipped
	return nil
}

const sampleConfiguration = `[model]
file = "model.onnx"
classes = ["normal", "early", "late", "scar"]
[data]
folder = "data"
labels = "labels.csv"
scale = "minmax"
extension = ".npy"
[explain]
methods = ["gradcam", "saliency"]
device = "cpu"
n_samples = 2
[output]
dir = "out"
formats = ["npy"]
`

const sampleLabels = "caseID,label,split\na,0,val\nb,1,val\nc,2,train\n"

// makeSession makes a data set of two volumes, and a session of it.
func (s *samples) makeSession(program string) error {
	model, err := os.ReadFile(sampleModelPath)
	if err != nil {
		return err
	}
	t := &trial{dir: s.session}
	t.write("home/model.onnx", model)
	t.write("home/config.toml", []byte(sampleConfiguration))
	t.write("home/labels.csv", []byte(sampleLabels))
	t.write("home/data/a.npy", s.volumes["volume.npy"])
	t.write("home/data/b.npy", s.volumes["volume.npy"])
	t.write("tmp/x", nil)
	t.write("run/x", nil)
	t.args = sessionArgs("s")
	if t.err != nil {
		return t.err
	}
	e, err := t.run(program)
	if err == nil && e.code != session.ExitOK && e.code != session.ExitDegraded {
		err = fmt.Errorf("voxcam %s: exit code %d: %s", strings.Join(t.args, " "), e.code, e.stderr)
	}
	return err
}

func sessionArgs(name string) []string {
	return []string{"run", "--config", "config.toml", "--session", name, "--output-dir", "../out", "--device", "cpu", "--threads", "1", "--worker=false"}
}

// data puts the data set of the samples into the trial's folder.
func (t *trial) data() {
	t.err = first(t.err, os.CopyFS(t.path("home"), os.DirFS(filepath.Join(t.samples.session, "home"))))
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// flipped changes some bytes.
func flipped(r *rand.Rand, data []byte) []byte {
	b := slices.Clone(data)
	for range pick(r, []int{1, 1, 2, 4, 16}) {
		if len(b) == 0 {
			return b
		}
		at := r.IntN(len(b))
		switch r.IntN(7) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = pick(r, []byte{0, 1, 0x7f, 0x80, 0xff, byte(r.IntN(256))})
		case 2:
			b = slices.Delete(b, at, min(len(b), at+pick(r, []int{1, 2, 4, 8, 100})))
		case 3:
			more := make([]byte, pick(r, []int{1, 2, 4, 8}))
			for i := range more {
				more[i] = byte(r.IntN(256))
			}
			b = slices.Insert(b, at, more...)
		case 4:
			copy(b[at:], pick(r, [][]byte{{0xff, 0xff, 0xff, 0xff}, {0xff, 0xff, 0xff, 0x7f}, {0, 0, 0, 0x80}, {0, 0, 0, 0}, {1, 0, 0, 0}}))
		case 5:
			from := b[r.IntN(len(b)):]
			copy(b[at:], slices.Clone(from[:min(16, len(from))]))
		case 6:
			if r.IntN(4) == 0 {
				b = b[:at]
			}
		}
	}
	return b
}

// damagedVolume damages a volume, and has it explained.
func damagedVolume(t *trial) {
	names := make([]string, 0, len(t.samples.volumes))
	for name := range t.samples.volumes {
		names = append(names, name)
	}
	slices.Sort(names)
	name := pick(t.Rand, names)
	data, what := t.damageVolume(name, t.samples.volumes[name])
	t.told("%s of %s", what, name)
	model, err := os.ReadFile(sampleModelPath)
	t.err = first(t.err, err)
	t.write("home/model.onnx", model)
	t.write("home/"+name, data)
	t.args = []string{"explain", name, "--model", "model.onnx", "--method", pick(t.Rand, []string{"gradcam", "saliency,gradcam"}), "--device", "cpu", "--threads", "1",
		"--save", pick(t.Rand, []string{"npy,nifti", "npy", "npy,tiff"}), "--normalize", pick(t.Rand, []string{"none", "minmax", "zscore"}), "--out", "../out"}
	if t.IntN(8) == 0 {
		t.write("home/whole.npy", t.samples.volumes["volume.npy"])
		t.args[1] = "whole.npy"
		t.args = append(t.args, "--noise", name, "--n-samples", "1")
		t.args[5] = "smoothgrad"
	}
	t.withBudget()
}

// damageVolume damages the part of a file that says what is in it, what is compressed, or any bytes.
func (t *trial) damageVolume(name string, data []byte) ([]byte, string) {
	if t.IntN(4) == 0 {
		return flipped(t.Rand, data), "bytes"
	}
	switch {
	case strings.HasSuffix(name, ".npy"):
		return t.damageNpy(data), "the header"
	case strings.HasSuffix(name, ".npz"):
		r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.err = err
			return nil, ""
		}
		var out bytes.Buffer
		w := zip.NewWriter(&out)
		for _, f := range r.File {
			in, err := f.Open()
			t.err = first(t.err, err)
			text, err := io.ReadAll(in)
			t.err = first(t.err, err)
			inner, err := w.Create(pick(t.Rand, []string{f.Name, f.Name, f.Name, "../x.npy", "", strings.Repeat("n", 70000)[:65000], "a\x1b[31m.npy"}))
			t.err = first(t.err, err)
			_, err = inner.Write(t.damageNpy(text))
			t.err = first(t.err, err)
		}
		t.err = first(t.err, w.Close())
		return out.Bytes(), "the header inside"
	case strings.HasSuffix(name, ".nii"):
		return t.damageNifti(data), "the header"
	case strings.HasSuffix(name, ".nii.gz"):
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		inner := t.damageNifti(t.samples.volumes["volume.nii"])
		if t.IntN(6) == 0 { // much more than the header says
			inner = append(inner, make([]byte, pick(t.Rand, []int{1 << 10, 1 << 20, 64 << 20}))...)
		}
		_, err := w.Write(inner)
		t.err = first(t.err, first(err, w.Close()))
		return out.Bytes(), "the header inside"
	}
	return t.damageMat(data), "the header inside"
}

// damageNpy changes the text that says the shape and type.
func (t *trial) damageNpy(data []byte) []byte {
	if len(data) < 10 {
		return data
	}
	end := 10 + int(binary.LittleEndian.Uint16(data[8:]))
	if end > len(data) {
		return data
	}
	head := string(data[10:end])
	n := fmt.Sprint(pick(t.Rand, numbers))
	switch t.IntN(6) {
	case 0:
		head = strings.Replace(head, "(", "("+n+", ", 1)
	case 1:
		head = strings.Replace(head, ")", ", "+n+")", 1)
	case 2:
		at := strings.Index(head, "(")
		head = head[:at+1] + strings.Repeat(n+", ", pick(t.Rand, []int{1, 3, 5, 70})) + ")}"
	case 3:
		head = strings.Replace(head, "<f4", pick(t.Rand, []string{"<f8", ">f4", "|u1", "<i8", "|O", "<U9999999", "<f2", "<c8", "|V1000000"}), 1)
	case 4:
		head = strings.Replace(head, "False", pick(t.Rand, []string{"True", "None", "[[[[[["}), 1)
	case 5:
		head = string(flipped(t.Rand, []byte(head)))
	}
	out := slices.Clone(data[:10])
	binary.LittleEndian.PutUint16(out[8:], uint16(len(head)))
	return slices.Concat(out, []byte(head), data[end:])
}

// damageNifti changes numbers of a header of version 1.
func (t *trial) damageNifti(data []byte) []byte {
	b := slices.Clone(data)
	words := []int{0, 40, 42, 44, 46, 48, 50, 52, 54, 68, 70, 72, 74, 252, 254}
	reals := []int{76, 80, 84, 88, 92, 108, 112, 116, 256, 260, 264, 268, 280, 284, 296, 312, 324}
	for range pick(t.Rand, []int{1, 1, 2, 4}) {
		if t.IntN(2) == 0 {
			binary.LittleEndian.PutUint16(b[pick(t.Rand, words):], uint16(pick(t.Rand, []int{0, 1, 2, 3, 5, 7, 8, 15, 16, 64, 255, 256, 512, 1024, 32767, -1, -32768})))
		} else {
			binary.LittleEndian.PutUint32(b[pick(t.Rand, reals):], math.Float32bits(float32(pick(t.Rand, append([]float64{352.5, 1e9, -352}, oddFloats...)))))
		}
	}
	return b
}

// damageMat changes the first bytes inside of a compressed element, which say what it is.
func (t *trial) damageMat(data []byte) []byte {
	const head, compressed = 128, 15
	if len(data) < head+8 || binary.LittleEndian.Uint32(data[head:]) != compressed {
		return flipped(t.Rand, data)
	}
	r, err := zlib.NewReader(bytes.NewReader(data[head+8:]))
	if err != nil {
		t.err = err
		return nil
	}
	inner, err := io.ReadAll(r)
	t.err = first(t.err, err)
	n := min(len(inner), 120)
	inner = append(flipped(t.Rand, inner[:n]), inner[n:]...)
	if t.IntN(6) == 0 {
		inner = append(inner, make([]byte, 64<<20)...)
	}
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	_, err = w.Write(inner)
	t.err = first(t.err, first(err, w.Close()))
	b := slices.Concat(data[:head+8], out.Bytes())
	binary.LittleEndian.PutUint32(b[head+4:], uint32(out.Len()))
	return b
}

// junk has values that nobody expects in a record.
func junk() []any {
	return []any{nil, true, -1, 0, 1e308, -1e308, 1 << 40, "", "\x1b[31m", "../../other", "../other/keep", "/", "a\x00b", "\xff\xfe", []any{}, map[string]any{}, []any{nil},
		strings.Repeat("x", 100000), []any{1, 2, 3}, "a/../../../other/folder"}
}

// damagedSession damages what lies in the folder of a session, and continues it.
func damagedSession(t *trial) {
	t.data()
	from := filepath.Join(t.samples.session, "out")
	t.err = first(t.err, os.CopyFS(t.path("out"), os.DirFS(from)))
	var files, records []string
	t.err = first(t.err, filepath.WalkDir(t.path("out"), func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if files = append(files, p); strings.HasSuffix(p, ".json") {
				records = append(records, p)
			}
		}
		return err
	}))
	if t.err != nil || len(records) == 0 {
		t.err = first(t.err, fmt.Errorf("no records in %s", from))
		return
	}
	file := pick(t.Rand, files)
	switch t.IntN(8) {
	case 0, 1, 2, 3:
		file = pick(t.Rand, records)
		t.damageRecord(file)
	case 4:
		text, err := os.ReadFile(file)
		t.err = first(t.err, first(err, os.WriteFile(file, flipped(t.Rand, text), 0o644)))
		t.told("bytes")
	default:
		if t.IntN(3) == 0 {
			file = filepath.Dir(file)
		}
		t.err = first(t.err, os.RemoveAll(file))
		switch t.IntN(5) {
		case 0:
			t.told("missing")
		case 1:
			t.err = first(t.err, os.Mkdir(file, 0o755))
			t.told("a folder")
		case 2:
			t.err = first(t.err, os.Symlink(t.path("other/keep"), file))
			t.told("a link to a file of others")
		case 3:
			t.err = first(t.err, os.Symlink(t.path("other/folder"), file))
			t.told("a link to a folder of others")
		case 4:
			t.err = first(t.err, syscall.Mkfifo(file, 0o644))
			t.told("a pipe")
		}
	}
	t.told("%s", strings.TrimPrefix(file, t.path("out")))
	t.may = append(t.may, session.ExitOutput) // where a folder cannot be written any more
	t.args = sessionArgs("s")
	if t.IntN(2) == 0 {
		t.args = append(t.args, "--verify")
	}
}

// damageRecord changes values of a JSON file.
func (t *trial) damageRecord(file string) {
	text, err := os.ReadFile(file)
	var v any
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	for range pick(t.Rand, []int{1, 1, 2, 4}) {
		v = t.damageValue(v, "")
	}
	if err == nil {
		text, err = json.Marshal(v)
	}
	t.err = first(t.err, first(err, os.WriteFile(file, text, 0o644)))
}

// damageValue puts junk somewhere into a value.
func (t *trial) damageValue(v any, where string) any {
	switch x := v.(type) {
	case map[string]any:
		if len(x) > 0 && t.IntN(12) > 0 {
			keys := make([]string, 0, len(x))
			for k := range x {
				keys = append(keys, k)
			}
			slices.Sort(keys)
			k := pick(t.Rand, keys)
			if t.IntN(6) == 0 {
				delete(x, k)
				t.told("no %s.%s", where, k)
			} else {
				x[k] = t.damageValue(x[k], where+"."+k)
			}
			return x
		}
	case []any:
		if len(x) > 0 && t.IntN(6) > 0 {
			i := t.IntN(len(x))
			x[i] = t.damageValue(x[i], fmt.Sprint(where, ".", i))
			return x
		}
	}
	t.told("%s", where)
	return pick(t.Rand, junk())
}

// damagedConfiguration damages a configuration, and has it run or checked.
func damagedConfiguration(t *trial) {
	t.data()
	lines := strings.Split(sampleConfiguration, "\n")
	for range pick(t.Rand, []int{1, 1, 2, 4}) {
		i := t.IntN(len(lines))
		key, _, ok := strings.Cut(lines[i], "=")
		switch t.IntN(5) {
		case 0:
			lines = slices.Delete(lines, i, i+1)
		case 1:
			lines = slices.Insert(lines, i, pick(t.Rand, lines))
		case 2:
			lines[i] = string(flipped(t.Rand, []byte(lines[i])))
		default:
			if ok {
				lines[i] = key + "= " + pick(t.Rand, []string{"-1", "0", "1e308", "nan", "true", `""`, `"../other/keep"`, `"."`, `"/dev/zero"`, `"/dev/stdin"`, `"\u001b[31m"`, "[]", `["", ""]`, "{}",
					"9223372036854775807", `["gradcam", "gradcam"]`, "[[[[[[", `"` + strings.Repeat("x", 100000) + `"`, "1979-05-27"})
			}
		}
		lines = append(lines, "")
	}
	t.told("%q", clip(strings.Join(lines, "\n"), 400))
	t.write("home/config.toml", []byte(strings.Join(lines, "\n")))
	t.args = sessionArgs("s")
}

// damagedTable damages the table of cases, and has it run.
func damagedTable(t *trial) {
	t.data()
	lines := strings.Split(sampleLabels, "\n")
	for range pick(t.Rand, []int{1, 1, 2, 4}) {
		i := t.IntN(len(lines))
		cells := strings.Split(lines[i], ",")
		switch t.IntN(6) {
		case 0:
			lines = slices.Delete(lines, i, i+1)
		case 1:
			lines = slices.Insert(lines, i, pick(t.Rand, lines))
		case 2:
			lines[i] = string(flipped(t.Rand, []byte(lines[i])))
		default:
			cells[t.IntN(len(cells))] = pick(t.Rand, []string{"", "../other/keep", "/dev/zero", "a\x1b[31m", "a\xffb", "\"", "\"\n\"", strings.Repeat("x", 300), strings.Repeat("x", 100000), "-1",
				"9223372036854775808", "nan", "a/b", "..", ".", "sub/../a", "a ", "ä", "a\u202eb", "CON", "a\tb", "\ufeffcaseID", "test", "true"})
			lines[i] = strings.Join(cells, ",")
		}
		lines = append(lines, "")
	}
	text := strings.Join(lines, pick(t.Rand, []string{"\n", "\n", "\r\n", "\r"}))
	t.told("%q", clip(text, 400))
	t.write("home/labels.csv", []byte(text))
	t.args = sessionArgs("s")
}
