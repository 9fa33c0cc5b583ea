package explain_test

import (
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// targetRun is a run of the case.json of a target case.
type targetRun struct {
	Name    string
	Args    []string
	Methods string
	Score   string
	Expect  map[string]string
}

// zero are maps that are zero but for rounding, by the network: the norm behind the layer takes the mean of the gradient away.
var zero = map[string]bool{"segmentation/gradcam": true}

// Scores, maps and segmentations of models with other heads and outputs agree with float64.
func TestTargetCases(t *testing.T) {
	const folder = "../../../shared/targets"
	paths, err := filepath.Glob(filepath.Join(folder, "*", "case.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) == 0 {
		t.Skipf("TARGET CASES NOT CHECKED: there are none in %s", folder)
	}
	for _, p := range paths {
		var c struct{ Runs []targetRun }
		text, err := os.ReadFile(p)
		if err == nil {
			err = json.Unmarshal(text, &c)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range c.Runs {
			t.Run(filepath.Base(filepath.Dir(p))+"/"+r.Name, func(t *testing.T) { r.check(t, filepath.Dir(p)) })
		}
	}
}

func (r targetRun) check(t *testing.T, dir string) {
	req := cam.Request{Methods: strings.Split(r.Methods, ",")}
	opt, file := network.ModelOptions{}, ""
	args, inputs := r.Args, map[string]string{} // names of files by input; "" where there is one
	if !strings.HasPrefix(args[0], "--") {
		inputs[""], args = args[0], args[1:]
	}
	for i := 0; i+1 < len(args); i += 2 {
		value, err := args[i+1], error(nil)
		switch args[i] {
		case "--input":
			name, path, _ := strings.Cut(value, "=")
			inputs[name] = path
		case "--model":
			file = value
		case "--target-layer":
			opt.TargetLayer = value
		case "--output":
			opt.Output = value
		case "--target-class":
			req.Target.Class.Kind = cam.ClassIndex
			err = json.Unmarshal([]byte(value), &req.Target.Class.Index)
		case "--score":
			req.Target.Score = value
		case "--against":
			req.Target.Against, err = cam.ParseAgainst(value, nil)
		case "--target-region":
			region, ok := cam.ParseRegion(value)
			if req.Target.Region = region; !ok {
				mask := readData(t, filepath.Join(dir, value))
				req.Target.Region = cam.Region{Kind: cam.RegionMask, Mask: cam.NewMask(mask.Dims(), func(i int) bool { return mask.Data[i] != 0 })}
			}
		default:
			t.Skipf("NOT CHECKED: there is no %s yet", args[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	expected := readExpected(t, filepath.Join(dir, "expected.npz"))
	volumes := map[string]*volume.Volume{}
	for name, path := range inputs {
		volumes[name] = readData(t, filepath.Join(dir, path))
	}
	b, err := cpu.New(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	seen := 0
	for input, v := range volumes {
		opt, req := opt, req
		opt.Input, req.Inputs = input, map[string]cam.Array{}
		for name, other := range volumes {
			if name != input {
				req.Inputs[name] = cam.Array{Shape: []int{other.Channels, other.Depth, other.Height, other.Width}, Data: other.Data}
			}
		}
		if input != "" && !strings.HasPrefix(opt.TargetLayer, input) && input != "image" { // the layer is not computed from it
			opt.TargetLayer, req.Methods = "", []string{"saliency"}
		}
		result := explainOn(t, bind(t, b, filepath.Join(dir, file), opt, v), v, req)
		want := float64(expected[r.Score].Data[0])
		if got := result.Score.Value; math.Abs(got-want) > 1e-5*max(1, math.Abs(want)) {
			t.Errorf("the %s is %v, not %v", result.Score.Definition, got, want)
		}
		largest := float32(0)
		for _, m := range result.Methods {
			for _, x := range m.Map {
				largest = max(largest, x, -x)
			}
		}
		for _, m := range result.Methods {
			key, given := r.Expect[m.Method+".map.npy"]
			if !given {
				key = r.Expect[m.Method+"."+input+".map.npy"]
			}
			seen++
			if zero[filepath.Base(dir)+"/"+m.Method] {
				for _, x := range m.Map {
					if x > 1e-5*largest || x < -1e-5*largest {
						t.Fatalf("%s is not zero but for rounding: %v beside %v", m.Method, x, largest)
					}
				}
				continue
			}
			if e := worst(m.Map, expected[key].Data); !(e <= 1e-5) {
				t.Errorf("%s of %q is %.1e of the maximum off", m.Method, input, e)
			}
		}
	}
	if seen != len(r.Expect) {
		t.Errorf("%d maps of %d were compared", seen, len(r.Expect))
	}
}

// readData reads a volume, or a vector as one of one row.
func readData(t *testing.T, path string) *volume.Volume {
	t.Helper()
	if strings.HasSuffix(path, "clinical.npy") {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		a, err := npy.Read(io.NewSectionReader(f, 0, info.Size()), array.Options{})
		if err != nil {
			t.Fatal(err)
		}
		v := volume.New(1, 1, 1, len(a.Data))
		copy(v.Data, a.Data)
		return v
	}
	v, err := format.Read(path, format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Integrated gradients are complete for every score: the map's sum is the difference of the scores at the ends of the path.
func TestPathsOfOtherScores(t *testing.T) {
	for _, c := range []struct {
		name, file string
		target     cam.Target
	}{
		{"one logit", "binary", cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: 1}}},
		{"its probability", "binary_sigmoid", cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: 0}, Score: "probability"}},
		{"against others", "softmax_in_file", cam.Target{Against: cam.Against{Kind: cam.AgainstOthers}}},
		{"a region", "segmentation", cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join("../../../shared/targets", c.file)
			if _, err := os.Stat(dir); err != nil {
				t.Skipf("TARGET CASES NOT CHECKED: %v", err)
			}
			v := readData(t, filepath.Join(dir, "volume.npy"))
			b, err := cpu.New(cpu.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			n := bind(t, b, filepath.Join(dir, "model.onnx"), network.ModelOptions{}, v)
			r := explainOn(t, n, v, cam.Request{Methods: []string{"integrated-gradients"}, Target: c.target, Steps: 200})
			m := r.Methods[0]
			sum := 0.0
			for _, x := range m.Map {
				sum += float64(x)
			}
			difference, _ := m.Parameters["score_difference"].(float64)
			start, _ := m.Parameters["baseline_score"].(float64)
			if math.Abs(r.Score.Value-start-difference) > 1e-4*math.Abs(difference) || math.Abs(sum-difference) > 0.05*math.Abs(difference) {
				t.Errorf("%s: the sum is %v, the score %v, and %v where the path begins: %v", r.Score.Definition, sum, r.Score.Value, start, m.Parameters)
			}
		})
	}
}
