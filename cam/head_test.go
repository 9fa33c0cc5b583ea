package cam_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
)

func head(t *testing.T, size int, in cam.Activation, task cam.Task) cam.Head {
	t.Helper()
	h, err := cam.NewHead("out", size, [3]int{}, in, task)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// What the end of a file shows decides the task; what it does not show is assumed aloud.
func TestNewHead(t *testing.T) {
	for _, c := range []struct {
		size    int
		in      cam.Activation
		asked   cam.Task
		task    cam.Task
		classes int
		assumed string
	}{
		{3, cam.Softmax, "", cam.TaskClassification, 3, ""},
		{3, cam.LogSoftmax, "", cam.TaskClassification, 3, ""},
		{1, cam.Sigmoid, "", cam.TaskClassification, 2, ""},
		{4, cam.Sigmoid, "", cam.TaskMultiLabel, 4, ""},
		{4, cam.NoActivation, "", cam.TaskClassification, 4, "taken for logits of classes"},
		{1, cam.NoActivation, "", cam.TaskClassification, 2, "taken for the logit of class 1 of two"},
		{1, cam.NoActivation, cam.TaskRegression, cam.TaskRegression, 1, ""},
		{4, cam.NoActivation, cam.TaskMultiLabel, cam.TaskMultiLabel, 4, ""},
		{1, cam.NoActivation, cam.TaskClassification, cam.TaskClassification, 2, ""},
	} {
		h := head(t, c.size, c.in, c.asked)
		if h.Task != c.task || h.Classes() != c.classes || !strings.Contains(h.Assumed, c.assumed) || (h.Assumed == "") != (c.assumed == "") {
			t.Errorf("%d values, %q, %q: %+v with %d classes", c.size, c.in, c.asked, h, h.Classes())
		}
	}
	for _, c := range []struct {
		size int
		in   cam.Activation
		task cam.Task
	}{{3, cam.Softmax, cam.TaskMultiLabel}, {3, cam.LogSoftmax, cam.TaskRegression}, {1, cam.Sigmoid, cam.TaskRegression},
		{3, cam.Sigmoid, cam.TaskClassification}, {3, cam.NoActivation, "guess"}} {
		if h, err := cam.NewHead("out", c.size, [3]int{}, c.in, c.task); err == nil {
			t.Errorf("%+v was taken for %+v", c, h)
		}
	}
}

// Probabilities are those of the network, whatever the file ends in.
func TestProbabilities(t *testing.T) {
	for _, c := range []struct {
		h    cam.Head
		raw  []float32
		want []float64
	}{
		{head(t, 1, cam.Sigmoid, ""), []float32{9.1}, []float64{1.1165330e-4, 0.99988833}},
		{head(t, 1, cam.NoActivation, ""), []float32{-120}, []float64{1, 7.667648e-53}},
		{head(t, 3, cam.Softmax, ""), []float32{1, 2, 3}, []float64{0.09003057, 0.24472847, 0.66524096}},
		{head(t, 3, cam.Sigmoid, ""), []float32{0, -1, 800}, []float64{0.5, 0.26894142, 1}},
		{head(t, 2, cam.NoActivation, cam.TaskRegression), []float32{61, 2}, nil},
	} {
		got := c.h.Probabilities(c.h.Logits(c.raw))
		if len(got) != len(c.want) {
			t.Errorf("%v of %+v", got, c.h)
			continue
		}
		for i := range got {
			if math.Abs(got[i]-c.want[i]) > 1e-7*math.Max(1e-45, c.want[i]) {
				t.Errorf("%v instead of %v of %+v", got, c.want, c.h)
			}
		}
	}
}

// The gradient of every score is that of differences, and Linear says whether it moves.
func TestScoreGradients(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, h := range []cam.Head{head(t, 1, cam.Sigmoid, ""), head(t, 1, cam.NoActivation, ""), head(t, 2, cam.Softmax, ""), head(t, 5, cam.NoActivation, ""),
		head(t, 4, cam.Sigmoid, ""), head(t, 3, cam.NoActivation, cam.TaskRegression)} {
		for _, score := range cam.Scores() {
			for _, against := range []cam.Against{{}, {Kind: cam.AgainstClass}, {Kind: cam.AgainstOthers}} {
				target := cam.Target{Class: cam.Class{Kind: cam.ClassIndex, Index: h.Classes() - 1}, Score: score, Against: against}
				target, err := h.Settle(target, 0)
				if err != nil {
					if h.Task != cam.TaskRegression {
						t.Error(err)
					}
					continue
				}
				raw := make([]float32, h.Size)
				for i := range raw {
					raw[i] = float32(random.NormFloat64())
				}
				at := func(i int, step float32) float64 {
					moved := slices.Clone(raw)
					moved[i] += step
					value, _ := h.Score(target, h.Logits(moved))
					return value
				}
				_, gradient := h.Score(target, h.Logits(raw))
				for i := range raw {
					const step = 1.0 / 64
					if want := (at(i, step) - at(i, -step)) / (2 * step); math.Abs(want-float64(gradient[i])) > 1e-4 {
						t.Errorf("%s: gradient %d is %v, not %v", h.Define(target), i, gradient[i], want)
					}
				}
				_, elsewhere := h.Score(target, h.Logits(make([]float32, h.Size)))
				if same := slices.Equal(gradient, elsewhere); same != h.Linear(target) {
					t.Errorf("%s: linear is %t, and the gradient the same elsewhere: %t", h.Define(target), h.Linear(target), same)
				}
			}
		}
	}
}

// What a head does not have is refused by name.
func TestSettle(t *testing.T) {
	binary, one, three := head(t, 1, cam.Sigmoid, ""), head(t, 1, cam.NoActivation, cam.TaskRegression), head(t, 3, cam.Softmax, "")
	index := func(i int) cam.Class { return cam.Class{Kind: cam.ClassIndex, Index: i} }
	for _, c := range []struct {
		h      cam.Head
		target cam.Target
		want   string
	}{
		{binary, cam.Target{Class: index(2)}, "classes 0 to 1"},
		{one, cam.Target{Score: "probability"}, "no probabilities"},
		{one, cam.Target{Against: cam.Against{Kind: cam.AgainstOthers}}, "no other"},
		{three, cam.Target{Class: index(1), Against: cam.Against{Kind: cam.AgainstClass, Index: 1}}, "against itself"},
		{three, cam.Target{Class: index(1), Against: cam.Against{Kind: cam.AgainstClass, Index: 3}}, "classes 0 to 2"},
	} {
		if _, err := c.h.Settle(c.target, 0); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v of %+v: %v", c.target, c.h, err)
		}
	}
	if got, err := three.Settle(cam.Target{}, 2); err != nil || got.Class.Index != 2 {
		t.Errorf("the predicted class is %+v, %v", got, err)
	}
}

// Values that look like probabilities behind no softmax that is known are doubted.
func TestDoubt(t *testing.T) {
	plain := head(t, 3, cam.NoActivation, "")
	if plain.Doubt([]float32{0.135, 0.863, 0.002}) == "" {
		t.Error("probabilities are taken for logits without a word")
	}
	for _, logits := range [][]float32{{0.2, 0.3, 0.1}, {-0.1, 0.6, 0.5}, {3, -1, -1}} {
		if doubt := plain.Doubt(logits); doubt != "" {
			t.Errorf("%v: %s", logits, doubt)
		}
	}
	if doubt := head(t, 3, cam.Softmax, "").Doubt([]float32{0.2, 0.3, 0.5}); doubt != "" {
		t.Errorf("in front of a softmax: %s", doubt)
	}
}

func TestParseAgainst(t *testing.T) {
	names := []string{"Normal", "AMD"}
	for text, want := range map[string]cam.Against{"": {}, "others": {Kind: cam.AgainstOthers}, "1": {Kind: cam.AgainstClass, Index: 1}, "AMD": {Kind: cam.AgainstClass, Index: 1}} {
		if got, err := cam.ParseAgainst(text, names); err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1", "amd?", "1.5"} {
		if got, err := cam.ParseAgainst(text, names); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}
