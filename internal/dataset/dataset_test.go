package dataset

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

func TestLabels(t *testing.T) {
	samples, hasSplit, err := parseLabels("\ufeffsplit, label ,caseID,eye\r\ntrain,0,a,L\r\nValidation,1,sub/a.mat,R\r\n" +
		"test,-1,c,L\r\ntest,x,d,L\r\nnone,2,e,L\r\ntest,3,a,L\r\ntest,3,../f,L\r\ntest,3,,L\r\ntest\r\n\"test\",2,\"A b/ü\",L\r\nval,0,sub/../a,L\r\n")
	if err != nil || !hasSplit {
		t.Fatal(err, hasSplit)
	}
	type row struct {
		ID, Name string
		Label    int
		Split    Split
		Err      string
	}
	want := []row{
		{"a", "a", 0, Train, ""},
		{"sub/a.mat", "sub_a", 1, Val, ""},
		{"c", "c", -1, Test, "line 4: the label is -1"},
		{"d", "d", -1, Test, "line 5: the label is \"x\""},
		{"e", "e", 2, Unassigned, "line 6: the split is \"none\""},
		{"a", "a_line7", 3, Test, "line 7: caseID \"a\" is already on line 2"},
		{"../f", "f", 3, Test, "line 8: caseID \"../f\" leads out"},
		{"", "sample", 3, Test, "line 9: caseID is empty"},
		{"", "sample_line10", -1, Test, "line 10: caseID is empty"},
		{"A b/ü", "ü", 2, Test, ""},
		{"sub/../a", "sub_.._a", 0, Val, "line 12: caseID \"sub/../a\" is already on line 2"},
	}
	if len(samples) != len(want) {
		t.Fatalf("%d samples", len(samples))
	}
	for i, s := range samples {
		got := row{s.ID, s.Name, s.Label, s.Split, ""}
		if s.Err != nil {
			got.Err = s.Err.Error()
		}
		if !strings.Contains(got.Err, want[i].Err) || (want[i].Err == "") != (got.Err == "") {
			t.Errorf("row %d: error %q, want %q", i, got.Err, want[i].Err)
		}
		got.Err, want[i].Err = "", ""
		if got != want[i] {
			t.Errorf("row %d: %+v, want %+v", i, got, want[i])
		}
	}
}

func TestLabelFaults(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "is empty",
		"\xff\xfec\x00":           "UTF-16",
		"id,label\na,0\n":         "must include caseID and label",
		"caseID;label\na;0\n":     "separated by commas",
		"caseID,label\na,\"0\n":   "line 2",
		"caseID,label,label\na,0": "two columns",

		"caseID,label\na,0\nM\xfcller,0\nM\xf6ller,0\n": `line 3: the file is not UTF-8 ("M\xfcller,0")`,
	} {
		if _, _, err := parseLabels(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Names must differ, also for file systems without case, whatever the table holds.
func TestNamesNeverCollide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.StringMatching(`([aA]/)?([aAb_.:]|a_line2)(\.mat)?`), 1, 12).Draw(t, "ids")
		text := "caseID,label\n"
		for _, id := range ids {
			text += id + ",0\n"
		}
		samples, _, err := parseLabels(text)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, s := range samples {
			key := strings.ToLower(s.Name)
			if seen[key] || s.Name == "" || s.Name != filepath.Base(s.Name) || strings.HasPrefix(s.Name, ".") {
				t.Fatalf("name %q of %q in %v", s.Name, s.ID, ids)
			}
			seen[key] = true
		}
	})
}

func TestDealIsSeededAndFollowsTheRatio(t *testing.T) {
	samples := make([]Sample, 35)
	for i := range samples {
		samples[i].ID = fmt.Sprint(i)
	}
	a, b := deal(samples, []float64{0.6, 0.2, 0.2}, 1), deal(samples, []float64{0.6, 0.2, 0.2}, 1)
	if !reflect.DeepEqual(a, b) {
		t.Error("the same seed deals differently")
	}
	if reflect.DeepEqual(a, deal(samples, []float64{0.6, 0.2, 0.2}, 2)) {
		t.Error("another seed deals the same")
	}
	count := map[Split]int{}
	ids := map[string]bool{}
	for _, s := range a {
		count[s.Split]++
		ids[s.ID] = true
	}
	if count[Train] != 21 || count[Val] != 7 || count[Test] != 7 || len(ids) != 35 {
		t.Errorf("counts %v of %d", count, len(ids))
	}
	for n := range 8 { // no split goes below nothing
		if got := deal(samples[:n], []float64{0.5, 0.5, 0}, 1); len(got) != n {
			t.Errorf("%d samples became %d", n, len(got))
		}
	}
}

// ramp holds 1, 2, 3, ... so that every voxel tells where it came from.
func ramp(c, d, h, w int) *volume.Volume {
	v := volume.New(c, d, h, w)
	for i := range v.Data {
		v.Data[i] = float32(i + 1)
	}
	return v
}

func writeVolume(t *testing.T, path string, v *volume.Volume) {
	t.Helper()
	var b bytes.Buffer
	if err := npy.Write(&b, []int{v.Depth, v.Height, v.Width}, v.Data); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func testSet(t *testing.T, labels string, change func(*Options)) (*Set, string) {
	t.Helper()
	dir := t.TempDir()
	o := DefaultOptions()
	o.Folder, o.Labels, o.Scale = dir, filepath.Join(dir, "labels.csv"), "none"
	if change != nil {
		change(&o)
	}
	if err := os.WriteFile(o.Labels, []byte(labels), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func TestPrepare(t *testing.T) {
	s, dir := testSet(t, "caseID,label\nok,0\nmissing,1\nnan,1\ntwice,0\nbroken,0\nfile.npy,0\nok.npy,0\n./ok,0\nfile.mat,1\n", func(o *Options) {
		o.ImageShape = []int{2, 4, 3}
		o.Scale = "div255"
	})
	writeVolume(t, filepath.Join(dir, "ok.npy"), ramp(1, 3, 3, 3))
	writeVolume(t, filepath.Join(dir, "file.npy"), ramp(1, 3, 3, 3))
	bad := ramp(1, 2, 2, 2)
	bad.Data[3] = float32(math.NaN())
	writeVolume(t, filepath.Join(dir, "nan.npy"), bad)
	writeVolume(t, filepath.Join(dir, "twice.npy"), ramp(1, 2, 2, 2))
	writeVolume(t, filepath.Join(dir, "twice.npz"), ramp(1, 2, 2, 2))
	if err := os.WriteFile(filepath.Join(dir, "broken.npy"), []byte("not an array"), 0o644); err != nil {
		t.Fatal(err)
	}
	byID := map[string]Sample{}
	for _, sample := range s.Samples {
		byID[sample.ID] = sample
	}
	p, err := s.Prepare(t.Context(), byID["ok"])
	if err != nil {
		t.Fatal(err)
	}
	if p.Volume.Shape() != "1x2x4x3" || p.InputShape != [4]int{1, 3, 3, 3} || p.CropOffset != [3]int{0, 0, 0} ||
		p.Input.Path != filepath.Join(dir, "ok.npy") || p.Volume.Data[1] != float32(2.0/255) {
		t.Errorf("%s %+v", p.Volume.Shape(), p)
	}
	if _, err := s.Prepare(t.Context(), byID["file.npy"]); err != nil {
		t.Errorf("an ID with the extension: %v", err)
	}
	for id, want := range map[string]string{
		"missing": "no file", "nan": "not finite", "twice": "both", "broken": "broken.npy",
		"ok.npy": `line 8: caseID "ok.npy" is the file of caseID "ok" on line 2`, "./ok": `line 9: caseID "./ok" is already on line 2`,
		"file.mat": "does not exist",
	} {
		if _, err := s.Prepare(t.Context(), byID[id]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// A format that is a row of the table of package format is one of a data set, too.
func TestEveryVolumeFormatIsFound(t *testing.T) {
	for _, ext := range format.Extensions() {
		for _, extension := range []string{"", ext} {
			s, dir := testSet(t, "caseID,label\ncase,0\n", func(o *Options) { o.Extension = extension })
			path := filepath.Join(dir, "case"+ext)
			if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			if in, err := s.Locate(s.Samples[0]); err != nil || in.Path != path {
				t.Errorf("%s: found %q, %v", ext, in.Path, err)
			}
		}
		if id := SampleID("a/case" + ext); id != "case" {
			t.Errorf("the sample of a/case%s is %q", ext, id)
		}
	}
}

func TestOptions(t *testing.T) {
	good := DefaultOptions()
	good.Folder, good.Labels, good.Scale = "d", "l", "none"
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Options){
		"folder is missing":                  func(o *Options) { o.Folder = "" },
		"labels is missing":                  func(o *Options) { o.Labels = "" },
		"scale is missing: how the":          func(o *Options) { o.Scale = "" },
		`extension is ".doc"; choose one of`: func(o *Options) { o.Extension = ".doc" },
		`axes is "DHWW"`:                     func(o *Options) { o.Axes = "DHWW" },
		`axes is "DHWX"`:                     func(o *Options) { o.Axes = "DHWX" },
		"image_shape is [1 2 65537]":         func(o *Options) { o.ImageShape = []int{1, 2, 1<<16 + 1} },
		`split is "column "`:                 func(o *Options) { o.Split = "column " },
		"split_ratio is []":                  func(o *Options) { o.SplitRatio = nil },
		`dataset is "vall"; choose one of: train, val, test, all; did you mean val?`: func(o *Options) { o.Dataset = "vall" },
		"max_samples is -1; it must be at least 0":                                   func(o *Options) { o.MaxSamples = -1 },
	} {
		o := good
		change(&o)
		if _, err := Open(o); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestSelect(t *testing.T) {
	labels := "caseID,label,split\na,0,train\nb,0,val\nc,0,val\nd,0,test\ne,0,nowhere\n"
	for _, tc := range []struct {
		dataset string
		max     int
		want    string
	}{{"val", 0, "b c e"}, {"all", 0, "a b c d e"}, {"all", 1, "a b d e"}, {"test", 5, "d e"}} {
		s, _ := testSet(t, labels, func(o *Options) { o.Dataset, o.MaxSamples = tc.dataset, tc.max })
		samples, err := s.Select()
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, sample := range samples {
			ids = append(ids, sample.ID)
		}
		if got := strings.Join(ids, " "); got != tc.want {
			t.Errorf("%s, %d: %s, want %s", tc.dataset, tc.max, got, tc.want)
		}
		if s.Split != "column" || s.Deal() != "" {
			t.Errorf("split %s, deal %q", s.Split, s.Deal())
		}
	}
	s, _ := testSet(t, "caseID,label,split\na,0,train\n", nil)
	if _, err := s.Select(); err == nil || !strings.Contains(err.Error(), "no sample is in \"val\" (train has 1") {
		t.Errorf("got %v", err)
	}
}

func TestSplitColumnRequired(t *testing.T) {
	s, _ := testSet(t, "caseID,label\na,0\n", nil)
	s.Options.Split = "column"
	if _, err := Open(s.Options); err == nil {
		t.Error("no error")
	}
	if s.Split != "shuffle" || len(s.Deal()) != 64 {
		t.Errorf("split %s, deal %q", s.Split, s.Deal())
	}
}

func FuzzLabels(f *testing.F) {
	f.Add("caseID,label,split\na,0,train\n")
	f.Add("\ufefflabel,caseID\r\n\"0\",\"x/y\"\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		samples, _, err := parseLabels(text)
		if err != nil {
			return
		}
		names := []string{}
		for _, s := range samples {
			names = append(names, strings.ToLower(s.Name))
			if s.Err == nil && (s.Label < 0 || !filepath.IsLocal(s.ID)) {
				t.Errorf("%+v has no error", s)
			}
		}
		slices.Sort(names)
		if len(slices.Compact(names)) != len(samples) {
			t.Errorf("names collide in %q", text)
		}
	})
}
