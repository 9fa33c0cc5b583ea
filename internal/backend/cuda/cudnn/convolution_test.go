package cudnn

import (
	"errors"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// same is a convolution with a cubic kernel that keeps the volume's size.
func same(cin, cout, k int, size [3]int, p Precision) Convolution {
	return Convolution{Cin: cin, Cout: cout, Groups: 1, Kernel: [3]int{k, k, k}, Stride: [3]int{1, 1, 1}, Dilation: [3]int{1, 1, 1},
		Before: [3]int{k / 2, k / 2, k / 2}, After: [3]int{k / 2, k / 2, k / 2}, In: size, Out: size, Precision: p, Align: 16}
}

// stem is the first convolution of r3d_18.
func stem(p Precision) Convolution {
	return Convolution{Cin: 3, Cout: 64, Groups: 1, Kernel: [3]int{3, 7, 7}, Stride: [3]int{1, 2, 2}, Dilation: [3]int{1, 1, 1},
		Before: [3]int{1, 3, 3}, After: [3]int{1, 3, 3}, In: [3]int{16, 256, 256}, Out: [3]int{16, 128, 128}, Precision: p, Align: 4}
}

// typical are convolutions of the networks in mind.
func typical(p Precision) map[string]Convolution {
	return map[string]Convolution{
		"64 to 64":                same(64, 64, 3, [3]int{64, 128, 128}, p),
		"64 to 64, a slab":        same(64, 64, 3, [3]int{8, 128, 128}, p),
		"128 to 128":              same(128, 128, 3, [3]int{32, 64, 64}, p),
		"256 to 256":              same(256, 256, 3, [3]int{16, 32, 32}, p),
		"512 to 512":              same(512, 512, 3, [3]int{16, 16, 16}, p),
		"24 to 144, 1x1x1":        same(24, 144, 1, [3]int{64, 64, 64}, p),
		"3 to 64, 3x7x7 stride 2": stem(p),
	}
}

func TestCheck(t *testing.T) {
	good := same(8, 16, 3, [3]int{4, 5, 6}, Float32)
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Convolution){
		"groups":     func(c *Convolution) { c.Groups = 3 },
		"output":     func(c *Convolution) { c.Out[1]++ },
		"stride":     func(c *Convolution) { c.Stride[0] = 0 },
		"padding":    func(c *Convolution) { c.Before[2] = -1 },
		"planes":     func(c *Convolution) { c.InPlane = 8*5*6 - 1 },
		"activation": func(c *Convolution) { c.Activation = "gelu" },
		"precision":  func(c *Convolution) { c.Precision = 9 },
		"alignment":  func(c *Convolution) { c.Align = 2 },
		"bfloat16":   func(c *Convolution) { c.Read16 = true },
	} {
		c := good
		spoil(&c)
		if c.check() == nil {
			t.Errorf("%s: accepted", name)
		}
		if c.String() == good.String() {
			t.Errorf("%s: two problems print alike", name)
		}
	}
}

func TestParseEngine(t *testing.T) {
	for _, text := range []string{"0", "67,2=1,13=0,18=0", "7,24=21"} {
		e, err := parseEngine(text)
		if err != nil || e.String() != text {
			t.Errorf("%q: %v %v", text, e, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1,", "1,2", "1,2=", "1,=2", "1,2=3,", "1," + strings.Repeat("2=3,", 100) + "2=3"} {
		if e, err := parseEngine(text); err == nil {
			t.Errorf("%q: %v", text, e)
		}
	}
}

// TestPlans makes plans for a device that is only described, with all that cuDNN does to make one: heuristics, support checks, knobs.
func TestPlans(t *testing.T) {
	h := imagine(t, load(t), h200)
	try := func(name string, c Convolution) {
		plans, err := h.Candidates(c, 64<<20)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		for _, p := range plans {
			if p.Workspace < 0 || p.Workspace > 64<<20 || p.Problem != c {
				t.Errorf("%s: workspace %d for %v", name, p.Workspace, p.Problem)
			}
			q, err := h.Rebuild(c, p.Engine)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else {
				if q.Engine != p.Engine || q.Workspace != p.Workspace {
					t.Errorf("%s: rebuilt as %s with %d bytes, was %s with %d", name, q.Engine, q.Workspace, p.Engine, p.Workspace)
				}
				q.Close()
			}
			t.Logf("%s: engine %s, workspace %d", name, p.Engine, p.Workspace)
		}
		for _, p := range plans {
			p.Close()
			p.Close()
		}
	}
	for _, precision := range []Precision{Float32, TF32} {
		for name, c := range typical(precision) {
			try(name+" forward "+precision.String(), c)
			c.Bias, c.Activation = true, "relu"
			try(name+" forward fused "+precision.String(), c)
			c.Bias, c.Activation, c.Backward = false, "", true
			try(name+" backward "+precision.String(), c)
		}
	}
	for _, backward := range []bool{false, true} {
		c := same(64, 64, 3, [3]int{8, 128, 128}, BFloat16)
		c.Read16, c.Write16, c.Backward = true, true, backward
		try(c.String(), c)
	}

	c := same(64, 64, 3, [3]int{8, 64, 64}, Float32)
	c.Before[0], c.After[0], c.Out[0] = 0, 1, 7 // a slab at the far end of a volume: padded on one side
	c.Bias, c.Residual, c.Activation = true, true, "relu"
	c.InPlane = 64*64*64 + 16
	try("one-sided padding, residual, gaps between planes", c)
	c = same(32, 64, 3, [3]int{8, 64, 64}, TF32)
	c.Groups, c.Dilation, c.Before, c.After = 2, [3]int{1, 2, 2}, [3]int{1, 2, 2}, [3]int{1, 2, 2}
	try("groups and dilation", c)
}

// unsuited are notes that no plan of strict float32 may have.
func TestStrictFloat32(t *testing.T) {
	h := imagine(t, load(t), h200)
	for name, c := range typical(Float32) {
		g, err := h.graph(c)
		if err != nil {
			t.Fatal(err)
		}
		g.users = 1
		refused, kept := 0, 0
		for _, mode := range []int32{heuristicA, heuristicB, heuristicFallback} {
			found := maker{lib: h.lib}
			for _, config := range h.suggest(&found, g, mode) {
				s, err := h.describe(config)
				if err != nil {
					t.Fatal(err)
				}
				if unwanted(s.notes, Float32) == "" {
					kept++
				} else {
					refused++
				}
			}
			found.close()
		}
		g.release()
		t.Logf("%s: %d engines refused, %d kept", name, refused, kept)
		if kept == 0 || refused == 0 {
			t.Errorf("%s: %d engines refused and %d kept: the library offers both, so the notes are not read", name, refused, kept)
		}
	}
	for notes, want := range map[[2]note]bool{
		{noteTensorCore, noteTensorCore}:                               false,
		{noteWinograd, noteDownConvertInputs}:                          false,
		{noteReducedPrecisionReduction, noteReducedPrecisionReduction}: false,
		{noteNondeterministic, noteStrictNaN}:                          false,
		{noteStrictNaN, noteStrictNaN}:                                 true,
	} {
		if got := unwanted(notes[:], Float32) == ""; got != want {
			t.Errorf("notes %v: accepted %v", notes, got)
		}
	}
	if unwanted([]note{noteTensorCore, noteDownConvertInputs}, TF32) != "" || unwanted([]note{noteNondeterministic}, TF32) == "" {
		t.Error("TF32 takes tensor cores, and nothing that differs from run to run")
	}
}

func TestErrors(t *testing.T) {
	h := imagine(t, load(t), h200)
	c := same(64, 64, 3, [3]int{8, 64, 64}, Float32)
	for _, engine := range []string{"4000", "67,99=1", "nonsense"} {
		p, err := h.Rebuild(c, engine)
		if err == nil {
			p.Close()
			t.Errorf("engine %q was built", engine)
			continue
		}
		t.Log(err)
		if !strings.Contains(err.Error(), engine) {
			t.Errorf("the error does not name the engine: %v", err)
		}
	}
	if _, err := h.Candidates(c, -1); err == nil || !strings.Contains(err.Error(), "workspace") {
		t.Errorf("a workspace of -1 bytes: %v", err)
	}

	plans, err := h.Candidates(c, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	p := plans[0]
	for _, q := range plans[1:] {
		q.Close()
	}
	// The addresses are checked before anything is started.
	good := driver.Ptr(1 << 20)
	for _, a := range []Addresses{{}, {X: good, W: good}, {X: good + 4, W: good, Y: good, Workspace: good}} {
		if err := p.Run(a); err == nil || errors.As(err, new(*Error)) {
			t.Errorf("%v: %v", a, err)
		}
	}
	// Here is no device to run it, which the library says in its own words.
	var refused *Error
	err = p.Run(Addresses{X: good, W: good, Y: good, Workspace: good})
	if !errors.As(err, &refused) || refused.Status == 0 || refused.Text == "" {
		t.Errorf("run without a device: %v", err)
	}
	t.Log(err)
	p.Close()
	if err := p.Run(Addresses{}); err == nil {
		t.Error("a closed plan was run")
	}
}
