package config

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/volume/format"
)

func TestEveryKeyArrives(t *testing.T) {
	c, err := Load(filepath.Join("testdata", "full.toml"))
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := &Config{
		Path: filepath.Join("testdata", "full.toml"),
		Model: ModelSection{File: "testdata/m/net.onnx", Name: "Net", ModelOptions: network.ModelOptions{TargetLayer: "layer4", LayerLayout: "channels-last",
			TokenGrid: [3]int{4, 8, 8}, InputAxes: "NDHWC", PrefixTokens: 2, Output: "grade", Task: "classification"}, TargetClass: "Early AMD", Against: "Normal", Classes: []string{"Normal", "Early AMD"}},
		Data: dataset.Options{Folder: "testdata/volumes", Labels: "testdata/labels.csv", Extension: ".nii.gz", Variable: "v", Axes: "HWDC",
			ImageShape: []int{8, 16, 32}, Scale: "zscore", Split: "shuffle", SplitRatio: []float64{0.5, 0.25, 0.25},
			SplitSeed: 7, Dataset: "all", MaxSamples: 3},
		Explain: ExplainSection{Request: cam.Request{Methods: []string{"gradcam", "vargrad"}, Target: cam.Target{Score: "probability"}, NSamples: 8, NoiseLevel: 1, Steps: 16, Baseline: "-1",
			Quadrature: "midpoint", Seed: 42, Convention: map[string]string{"gradcam++": "paper"}}, Device: "cuda:1", Precision: "tf32", Threads: 6},
		Memory: MemorySection{Policy: "original", Wait: 2500 * time.Millisecond, CPU: new(bool), Fewer: &yes, Skip: new(bool), Shuttle: "idle",
			LaunchBlocking: true, PassTimeout: time.Minute, UserSignals: "stop"},
		Output: OutputSection{Dir: "testdata/out", Session: "first", Formats: []string{"nifti", "mat"}, OverlayAlpha: 0.5},
	}
	if err := want.Explain.Memory.Set("512MiB"); err != nil {
		t.Fatal(err)
	}
	for _, k := range Keys() {
		if !strings.HasSuffix(k.Name, ".*") && c.lines[k.Name] == 0 {
			t.Errorf("testdata/full.toml does not set %s", k.Name)
		}
	}
	c.lines = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestComplaints(t *testing.T) {
	const rest = "[model]\nfile = 'm'\n[data]\nfolder = 'd'\nlabels = 'l'\nscale = 'none'\n"
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"spelling", "[data]\nfoldr = 'x'\n", []string{"c.toml:2: unknown key data.foldr; the nearest known key is data.folder"}},
		{"wrong section", "[explain]\n\nfolder = 'x'\n", []string{"c.toml:3: unknown key explain.folder; did you mean data.folder?"}},
		{"section", "[modle]\nfile = 'x'\n", []string{"c.toml:1: unknown section [modle]; did you mean model?"}},
		{"top level", "seed = 3\n", []string{"c.toml:1: unknown key seed; did you mean explain.seed?"}},
		{"inline table", "model = { fil = 'x' }\n", []string{"c.toml:1: unknown key model.fil; the nearest known key is model.file"}},
		{"array of tables", "[[model]]\nfile = 'x'\n", []string{"c.toml:2: model.file must be a text in quotes"}},
		{"syntax", "[model]\nfile = \n", []string{"c.toml:2: "}},
		{"twice", "[model]\nfile = 'a'\nfile = 'b'\n", []string{"c.toml:3: "}},
		{"all at once", "[explain]\nn_samples = 'many'\nnoise_level = 0\nseed = -1\nmethods = [1]\n[data]\nimage_shape = [1, 2]\naxes = 'DHX'\nscale='div256'\n",
			[]string{"c.toml:2: explain.n_samples must be an integer, not \"many\"",
				"c.toml:3: explain.noise_level is 0; it must be a positive number",
				"c.toml:4: explain.seed must be an integer from 0 up, not -1",
				"c.toml:5: explain.methods must be a list of texts, not 1",
				"c.toml:7: data.image_shape is [1 2]",
				"c.toml:8: data.axes is \"DHX\"",
				"c.toml:9: data.scale is \"div256\"; choose one of: div255, minmax, zscore, none; did you mean div255?"}},
		{"missing", "[output]\nsession = 's'\n", []string{"model.file is missing", "data.folder is missing", "data.labels is missing",
			"data.scale is missing: how the training scaled"}},
		{"vargrad", rest + "[explain]\nmethods = ['all']\nn_samples = 1\n", []string{"c.toml:9: explain.n_samples is 1; vargrad (original) needs at least 2 draws"}},
		{"method", rest + "[explain]\nmethods = ['gradcamm']\n", []string{"c.toml:8: explain.methods "}},
		{"convention", rest + "[explain.conventions]\n'gradcam++' = 'papr'\ngradcm = 'paper'\n", []string{"c.toml:8: explain.conventions.gradcam++ ",
			"c.toml:9: explain.conventions.gradcm "}},
		{"ratio", rest + "split_ratio = [0.6, 0.2, 0.1]\n", []string{"c.toml:7: data.split_ratio is [0.6 0.2 0.1]"}},
		{"session", rest + "[output]\nsession = '../x'\n", []string{"c.toml:8: output.session is \"../x\""}},
		{"class", "[model]\nfile='m'\nclasses = ['a', 'b']\ntarget_class = 'c'\n[data]\nfolder='d'\nlabels='l'\nscale='none'\n",
			[]string{"c.toml:4: model.target_class is \"c\": no class is called \"c\"; choose one of: predicted, true, all, an index, a, b"}},
		{"class index", "[model]\nfile='m'\nclasses = ['a', 'b']\ntarget_class = 2\n[data]\nfolder='d'\nlabels='l'\nscale='none'\n",
			[]string{"class 2 is out of range: the model has classes 0 to 1"}},
		{"memory", rest + "[memory]\npolicy = 'exakt'\nwait = 'long'\nskip = 1\nshuttle = 'now'\npass_timeout = -1\nworker = 'no'\nuser_signals = 'usr1'\nwaits = 3\n" +
			"[explain]\nthreads = -2\n", []string{
			"c.toml:8: memory.policy is \"exakt\"; choose one of: exact, original; did you mean exact?",
			"c.toml:9: memory.wait must be a number of seconds, not \"long\"",
			"c.toml:10: memory.skip must be true or false, not 1",
			"c.toml:11: memory.shuttle is \"now\"; choose one of: never, idle, always",
			"c.toml:12: memory.pass_timeout is -1s; a time cannot be negative",
			"c.toml:13: memory.worker must be true or false, not \"no\"",
			"c.toml:14: memory.user_signals is \"usr1\"; choose one of: auto, memory, stop",
			"c.toml:15: unknown key memory.waits; the nearest known key is memory.wait",
			"c.toml:17: explain.threads is -2; it must be at least 0"}},
		{"endless", rest + "[memory]\nwait = 1e300\n", []string{"c.toml:8: memory.wait is 1e+300; it must be a number of seconds up to"}},
		{"device", rest + "[explain]\ndevice = 'cuda:x'\n", []string{`c.toml:8: explain.device "cuda:x" is not known: a number stands behind cuda: only`}},
		{"threads", rest + "[explain]\nthreads = 5000\n", []string{"c.toml:8: explain.threads is 5000; it must be at most 4096, and 0 stands for all"}},
		{"session letters", rest + "[output]\nsession = \"a\\u0007\"\n", []string{`c.toml:8: output.session is "a\a"; it must be a plain name`}},
		{"good", rest, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := parse("c.toml", []byte(tc.text))
			if err == nil {
				err = c.Validate()
			}
			if tc.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var ce *Error
			if !errors.As(err, &ce) {
				t.Fatalf("got %v", err)
			}
			if len(ce.Complaints) != len(tc.want) {
				t.Errorf("%d complaints instead of %d:\n%v", len(ce.Complaints), len(tc.want), err)
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("got %v\nwant %s", err, w)
				}
			}
		})
	}
}

// Formats of volumes do as the documentation says.
func TestDocsOfFormats(t *testing.T) {
	docs := map[string]string{}
	for _, k := range Keys() {
		docs[k.Name] = k.Doc
	}
	if doc := docs["data.variable"]; !strings.Contains(doc, ".mat (default: "+mat.DefaultVariable+")") {
		t.Errorf("data.variable: %s", doc)
	}
	for _, f := range format.Table() {
		if axes := f.DefaultAxes(4); !strings.Contains(docs["data.axes"], axes) {
			t.Errorf("data.axes does not say %s of %s: %s", axes, f.Name, docs["data.axes"])
		}
	}
	for key, names := range map[string][]string{
		"explain.precision": device.Precisions(), "memory.policy": policy.Names(), "memory.shuttle": instance.Shuttles,
		"memory.user_signals": UserSignals, "model.layer_layout": layer.Layouts, "data.split": dataset.SplitSources,
	} {
		for _, name := range names {
			if !regexp.MustCompile(`\b` + name + `\b`).MatchString(docs[key]) {
				t.Errorf("%s does not say what %s is: %s", key, name, docs[key])
			}
		}
	}
}

// A value of a flag is in place of the file's, and complaints about it name the flag.
func TestFlags(t *testing.T) {
	c, err := parse("c.toml", []byte("[model]\nfile = 'm'\ntoken_grid = [1, 2, 3]\n[data]\nfolder = 'd'\nlabels = 'l'\nscale = 'none'\n[memory]\nwait = 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	budget := bytesize.Budget{}
	if err := budget.Set("512MiB"); err != nil {
		t.Fatal(err)
	}
	c.SetFlag("model.token_grid", "--token-grid", []int{4, 5, 6})
	c.SetFlag("explain.seed", "--seed", uint64(math.MaxUint64))
	c.SetFlag("explain.memory_budget", "--memory-budget", "512MiB")
	c.SetFlag("memory.wait", "--wait", 1500*time.Millisecond)
	c.SetFlag("memory.cpu_fallback", "--cpu-fallback", false)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.Model.TokenGrid != [3]int{4, 5, 6} || c.Explain.Seed != math.MaxUint64 || c.Explain.Memory != budget ||
		c.Memory.Wait != 1500*time.Millisecond || c.Memory.CPU == nil || *c.Memory.CPU {
		t.Errorf("%+v %+v %+v", c.Model, c.Explain, c.Memory)
	}
	c.SetFlag("model.token_grid", "--token-grid", []int{4})
	c.SetFlag("memory.wait", "--wait", -5*time.Second)
	c.SetFlag("explain.threads", "--threads", 1000000)
	c.SetFlag("explain.device", "--device", "gpu")
	c.SetFlag("output.session", "--session", "a\x1b[31mb")
	want := `--token-grid is [4]; it must be three sizes from 1 to 65536: depth, height, width
--device "gpu" is not known: choose from auto, cpu, cuda, cuda:N
--threads is 1000000; it must be at most 4096, and 0 stands for all
--wait is -5s; a time cannot be negative
--session is "a\x1b[31mb"; it must be a plain name, without control characters`
	if err := c.Validate(); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

// A session goes on if nothing that changes results was changed, and with the defaults of keys that it does not know.
func TestSettings(t *testing.T) {
	c := Defaults()
	before := c.Settings()
	for key, want := range map[string]string{"model.token_grid": "null", "model.prefix_tokens": "0", "model.layer_layout": "auto", "data.image_shape": "null",
		"data.scale": "", "explain.noise_level": "0.15", "explain.conventions": "null", "output.overlay_alpha": "0.4"} {
		if got, ok := before[key]; !ok || got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	c.Explain.Device, c.Explain.Threads, c.Data.MaxSamples, c.Memory.Wait = "cpu", 3, 7, time.Minute
	if now := c.Settings(); !reflect.DeepEqual(now, before) {
		t.Errorf("%v\nwas %v", now, before)
	}
	c.Model.TokenGrid, c.Explain.Precision, c.Memory.Policy = [3]int{1, 2, 3}, "tf32", "original"
	for key, want := range map[string]string{"model.token_grid": "[1,2,3]", "explain.precision": "tf32", "memory.policy": "original"} {
		if got := c.Settings()[key]; got != want || before[key] == want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// What is not said is as the policy decides.
func TestMemoryDefaults(t *testing.T) {
	want := MemorySection{Policy: "exact", Wait: 10 * time.Second, Shuttle: "never", PassTimeout: 5 * time.Minute, Worker: true, UserSignals: "auto"}
	if got := Defaults().Memory; got != want {
		t.Errorf("%+v instead of %+v", got, want)
	}
}

func TestOriginalConfiguration(t *testing.T) {
	c, err := Load(filepath.Join("testdata", "config_3d.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Original || c.Data.Folder != "./data/oct3d" || c.Data.Labels != "./data/trainingset.csv" || c.Output.Dir != "CAMVis" {
		t.Errorf("paths are relative to the working directory in the original: %+v %+v", c.Data, c.Output)
	}
	if c.Data.Scale != "div255" || c.Data.Variable != "imgMat" || c.Data.Extension != ".mat" || c.Data.Axes != "DHW" ||
		!reflect.DeepEqual(c.Data.ImageShape, []int{192, 256, 256}) || c.ClassFolder(1) != "class_1_early_amd" ||
		c.ModelName() != "efficientnet_b2" {
		t.Errorf("got %+v %+v", c.Data, c.Model)
	}
	if len(c.Notices) != 1 || !strings.Contains(c.Notices[0], "NetModule.lr") || !strings.Contains(c.Notices[0], "DataModule.data_ext") ||
		strings.Contains(c.Notices[0], "data_path") {
		t.Errorf("notices: %q", c.Notices)
	}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "model.file is missing") {
		t.Errorf("without a model: %v", err)
	}
	c.Model.File = "net.onnx"
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	_, err = parse("o.toml", []byte("[DataModule]\ndata_path=3\nimage_shape=[1,2]\n"))
	if err == nil || !strings.Contains(err.Error(), "o.toml:2: DataModule.data_path must be a text") ||
		!strings.Contains(err.Error(), "o.toml:3: DataModule.image_shape is [1 2]") || !strings.Contains(err.Error(), "label_path is missing") {
		t.Errorf("got %v", err)
	}
}

func TestTarget(t *testing.T) {
	c := Defaults()
	c.Model.Classes = []string{"Normal", "Early AMD"}
	for text, want := range map[string]cam.Class{
		"predicted": {Kind: cam.ClassPredicted}, "true": {Kind: cam.ClassTrue},
		"1": {Kind: cam.ClassIndex, Index: 1}, "early_amd": {Kind: cam.ClassIndex, Index: 1},
	} {
		c.Model.TargetClass = text
		if got, all, err := c.Target(2); got != want || all || err != nil {
			t.Errorf("%s: %v %v %v", text, got, all, err)
		}
	}
	c.Model.TargetClass = "all"
	if _, all, err := c.Target(2); !all || err != nil {
		t.Errorf("all: %v %v", all, err)
	}
}

func TestLoadFaults(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "none.toml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Load(t.TempDir()); err == nil {
		t.Error("a folder was read as a configuration")
	}
}

func FuzzConfig(f *testing.F) {
	for _, name := range []string{"full.toml", "config_3d.toml"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("[[explain.conventions]]\n\"\" = 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parse("f.toml", text)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if c != nil {
			c.Validate()
		}
	})
}

// A file system has room for the folder of any class.
func TestClassFolderIsBounded(t *testing.T) {
	for _, name := range []string{strings.Repeat("x", 5000), strings.Repeat("黄", 5000), strings.Repeat("../", 100), "\x1b[31m", "a\x00b"} {
		c := &Config{Model: ModelSection{Classes: []string{name}}}
		if folder := c.ClassFolder(0); len(folder) > 128 || !utf8.ValidString(folder) || strings.ContainsAny(folder, "/.\x00\x1b") {
			t.Errorf("the folder of %.20q is %q", name, folder)
		}
	}
}

// A policy is that of its name, but for what was said besides.
func TestPolicyOfConfiguration(t *testing.T) {
	yes, no := true, false
	for name, tc := range map[string]struct {
		change func(*MemorySection)
		want   policy.Policy
	}{
		"default":  {func(*MemorySection) {}, policy.DefaultPolicy()},
		"original": {func(m *MemorySection) { m.Policy = "original" }, policy.Policy{Original: true, Wait: 10 * time.Second, Fewer: true, Skip: true}},
		"besides": {func(m *MemorySection) {
			m.Policy, m.CPU, m.Fewer, m.Skip, m.Wait = "original", &yes, &no, &no, time.Second
		},
			policy.Policy{Original: true, CPU: true, Wait: time.Second}},
	} {
		c := Defaults()
		tc.change(&c.Memory)
		if got, err := c.Policy(); err != nil || got != tc.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
