package cam

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Task names the meaning of a model's output.
type Task string

const (
	// TaskClassification has one of two or more classes: probabilities are the softmax of their scores, or the sigmoid of one logit.
	TaskClassification Task = "classification"
	// TaskMultiLabel has any number of classes at a time: each probability is the sigmoid of its score.
	TaskMultiLabel Task = "multi-label"
	// TaskRegression has values: they have no probabilities.
	TaskRegression Task = "regression"
	// TaskSegmentation has one of two or more classes at each voxel. One raw value a voxel stands for two classes.
	TaskSegmentation Task = "segmentation"
)

// Tasks returns all tasks. The first is the default of outputs that do not show theirs.
func Tasks() []Task {
	return []Task{TaskClassification, TaskMultiLabel, TaskRegression, TaskSegmentation}
}

// TaskNames returns the tasks as options spell them.
func TaskNames() (names []string) {
	for _, t := range Tasks() {
		names = append(names, string(t))
	}
	return names
}

// Activation names the function that makes probabilities of a model's raw output.
type Activation string

const (
	NoActivation Activation = ""
	Softmax      Activation = "softmax"
	LogSoftmax   Activation = "log-softmax" // of the file; its exponential is the softmax
	Sigmoid      Activation = "sigmoid"
)

// Head describes how scores and probabilities follow from the raw output of a model: the vector in front of the activation at the file's end.
type Head struct {
	Output     string     `json:"output"`         // name in the file
	Size       int        `json:"size"`           // number of raw values; of an output with space, that of a voxel
	Space      [3]int     `json:"space,omitzero"` // depth, height, width of an output with space, on the grid of the volume
	Task       Task       `json:"task"`           // of the output
	Activation Activation `json:"activation"`     // at the end of the file; "" where the file ends in the raw values
	// Assumed is the reason for the task, where the file does not show it; "" where it does, or where the user said so.
	Assumed string `json:"assumed,omitempty"`
	// Squashed is the operation that made the raw values from which the output is computed probabilities, or numbers from 0 to 1, where the end of the
	// file is no Activation: they are no logits. "" where there is none.
	Squashed string `json:"squashed,omitempty"`
	// Others are the names of the file's other outputs.
	Others []string `json:"other_outputs,omitempty"`
}

// NewHead returns the head of a raw output of so many values, with the activation that the file has behind it. The task is the given one, or, if
// that is "", the one that the activation shows, or else an assumption. A task that the output cannot have is an error, which begins with
// the task.
func NewHead(output string, size int, space [3]int, in Activation, task Task) (Head, error) {
	h := Head{Output: output, Size: size, Space: space, Activation: in, Task: task}
	if task == "" {
		switch {
		case h.spatial():
			h.Task = TaskSegmentation
		case in == Sigmoid && size > 1:
			h.Task = TaskMultiLabel
		case in != NoActivation:
			h.Task = TaskClassification
		default:
			h.Task = TaskClassification
			h.Assumed = fmt.Sprintf("its %d values, with no softmax or sigmoid behind them, are taken for logits of classes", size)
			if size == 1 {
				h.Assumed = "its one value, with no sigmoid behind it, is taken for the logit of class 1 of two"
			}
		}
	}
	switch {
	case h.spatial() != (h.Task == TaskSegmentation):
		return h, fmt.Errorf("is %s, but the output %q has %s", h.Task, output, map[bool]string{true: "values at each voxel", false: "no values at voxels"}[h.spatial()])
	case h.spatial() && size > 1 && in == Sigmoid:
		return h, fmt.Errorf("cannot be told: the output %q is a sigmoid of each of %d values at each voxel; a model whose file ends in front of the "+
			"sigmoids can be explained", output, size)
	case !slices.Contains(Tasks(), h.Task):
		return h, fmt.Errorf("is %q; it must be one of %s", task, strings.Join(TaskNames(), ", "))
	case h.Task == TaskMultiLabel && (in == Softmax || in == LogSoftmax):
		return h, fmt.Errorf("is %s, but the output %q is a %s, of which one class excludes the others", h.Task, output, in)
	case h.Task == TaskRegression && in != NoActivation:
		return h, fmt.Errorf("is %s, but the output %q is a %s, which gives probabilities", h.Task, output, in)
	case h.Task == TaskClassification && in == Sigmoid && size > 1:
		return h, fmt.Errorf("is %s, but the output %q is a sigmoid of each of %d values, which are labels of their own", h.Task, output, size)
	}
	return h, nil
}

// Notes returns what a user should know of the head: an assumption, and other outputs that were not chosen.
func (h Head) Notes() (notes []string) {
	if h.Assumed != "" {
		notes = append(notes, fmt.Sprintf("output %q: %s (the option task says otherwise)", h.Output, h.Assumed))
	}
	if doubt := h.squashed(); doubt != "" {
		notes = append(notes, doubt)
	}
	if len(h.Others) > 0 {
		notes = append(notes, fmt.Sprintf("the output %q is explained; the others are %q: the option output chooses", h.Output, h.Others))
	}
	return notes
}

// String returns the head in words.
func (h Head) String() string {
	text := fmt.Sprintf("output %q: %s, %d classes", h.Output, h.Task, h.Classes())
	if h.Task == TaskRegression {
		text = fmt.Sprintf("output %q: %s, %d values", h.Output, h.Task, h.Size)
	}
	if h.spatial() {
		text += " at each voxel"
	}
	if h.Activation == NoActivation {
		return text
	}
	return text + ", " + string(h.Activation) + " in the file"
}

// binary reports whether one raw value stands for two classes.
func (h Head) binary() bool {
	return (h.Task == TaskClassification || h.Task == TaskSegmentation) && h.Size == 1
}

// spatial reports whether the output has space.
func (h Head) spatial() bool { return h.Space != [3]int{} }

// Classes returns the number of classes; of a regression, that of values.
func (h Head) Classes() int {
	if h.binary() {
		return 2
	}
	return h.Size
}

// Logits returns the scores of the classes: the raw values, or those of one logit z, (-z, z).
func (h Head) Logits(raw []float32) []float32 {
	if h.binary() {
		return []float32{-raw[0], raw[0]}
	}
	return raw
}

// Probabilities returns those of the classes from their logits; nil for a regression.
func (h Head) Probabilities(logits []float32) []float64 {
	switch {
	case h.Task == TaskRegression:
		return nil
	case h.binary():
		p := sigmoid(float64(logits[1]))
		return []float64{sigmoid(float64(logits[0])), p}
	case h.Task == TaskMultiLabel:
		p := make([]float64, len(logits))
		for i, l := range logits {
			p[i] = sigmoid(float64(l))
		}
		return p
	}
	return softmax(logits)
}

func sigmoid(z float64) float64 {
	if z >= 0 {
		return 1 / (1 + math.Exp(-z))
	}
	e := math.Exp(z)
	return e / (1 + e)
}

func softmax(logits []float32) []float64 {
	top := slices.Max(logits)
	p, sum := make([]float64, len(logits)), 0.0
	for i, l := range logits {
		p[i] = math.Exp(float64(l - top))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// squashed returns in words that the raw values are no logits; "" where they may be, or need not be.
func (h Head) squashed() string {
	if h.Squashed == "" || h.Task == TaskRegression {
		return ""
	}
	return fmt.Sprintf("the output %q is computed from a %s, and is not recognised as a softmax or sigmoid of classes: its values are no logits, and "+
		"probabilities, predictions and the score may not be those of the model; a file that ends in front of the %[2]s can be explained", h.Output, h.Squashed)
}

// Doubt returns what speaks against the head, by the end of the file or by the logits of a volume, if it has any; "" for nothing. Logits of classes
// that are all between 0 and 1, and add up to 1, are probabilities whose softmax was not recognised.
func (h Head) Doubt(logits []float32) string {
	if doubt := h.squashed(); doubt != "" {
		return doubt
	}
	if h.Task != TaskClassification || h.Activation != NoActivation || h.binary() || len(logits) < 2 {
		return ""
	}
	sum := 0.0
	for _, l := range logits {
		if l < 0 || l > 1 {
			return ""
		}
		sum += float64(l)
	}
	if math.Abs(sum-1) > 1e-4 {
		return ""
	}
	return fmt.Sprintf("the values of the output %q are all between 0 and 1 and add up to 1, as behind a softmax, but no softmax is recognised at the "+
		"end of the file: probabilities and the score may not be those of the model", h.Output)
}

// Values of Target.Score.
const (
	scoreLogit       = "logit" // in front of softmax or sigmoid
	scoreProbability = "probability"
)

// Scores returns the values of Target.Score. The first is the default.
func Scores() []string { return []string{scoreLogit, scoreProbability} }

// Score is the value that is explained.
type Score struct {
	Definition string  // in words
	Value      float64 // at the volume
}

// Score returns the score of a target whose class is settled, given the logits, and its gradient with respect to the raw values.
func (h Head) Score(t Target, logits []float32) (value float64, gradient []float32) {
	weights := h.weights(t, logits)
	if t.Score == scoreProbability {
		p := h.Probabilities(logits)
		for i, w := range weights {
			value += w * p[i]
		}
		weights = h.chain(weights, p)
	} else {
		for i, w := range weights {
			value += w * float64(logits[i])
		}
	}
	gradient = make([]float32, h.Size)
	if h.binary() {
		gradient[0] = float32(weights[1] - weights[0])
		return value, gradient
	}
	for i, w := range weights {
		gradient[i] = float32(w)
	}
	return value, gradient
}

// ClassWeights returns the factors of the raw values of a voxel in the score of a target whose class is settled.
func (h Head) ClassWeights(t Target) []float32 {
	_, weights := h.Score(t, h.Logits(make([]float32, h.Size)))
	return weights
}

// weights returns the factors of the classes' logits or probabilities in a score.
func (h Head) weights(t Target, logits []float32) []float64 {
	w := make([]float64, len(logits))
	switch t.Against.Kind {
	case AgainstClass:
		w[t.Against.Index]--
	case AgainstOthers:
		for i := range w {
			if i != t.Class.Index {
				w[i] -= 1 / float64(len(w)-1)
			}
		}
	}
	w[t.Class.Index]++
	return w
}

// chain returns the gradient with respect to the logits of the sum of w*p. Of two classes with one logit z, both probabilities are sigmoids of
// their own logit, -z and z.
func (h Head) chain(w, p []float64) []float64 {
	g := make([]float64, len(w))
	if h.Task == TaskMultiLabel || h.binary() {
		for i := range g {
			g[i] = w[i] * p[i] * (1 - p[i])
		}
		return g
	}
	mean := 0.0
	for i := range w {
		mean += w[i] * p[i]
	}
	for i := range g {
		g[i] = p[i] * (w[i] - mean)
	}
	return g
}

// ParseAgainst reads what a class is explained against: others, the index of a class, or one of names; "" is nothing. The error begins with the
// text.
func ParseAgainst(text string, names []string) (Against, error) {
	switch text {
	case "":
		return Against{}, nil
	case "others":
		return Against{Kind: AgainstOthers}, nil
	}
	i, err := strconv.Atoi(text)
	if err != nil {
		i = slices.Index(names, text)
	}
	if i < 0 {
		return Against{}, fmt.Errorf("is %q; it must be others, the index of a class, or one of its names%s", text, strings.Join(append([]string{""}, names...), " "))
	}
	return Against{Kind: AgainstClass, Index: i}, nil
}

// Linear reports whether the gradient of a target's score is the same at every volume.
func (h Head) Linear(t Target) bool { return t.Score != scoreProbability }

// Define returns a target's score in words. Its class is settled.
func (h Head) Define(t Target) string {
	text, other := fmt.Sprintf("logit of class %d", t.Class.Index), "that of class"
	switch {
	case h.Task == TaskRegression:
		text, other = fmt.Sprintf("value %d", t.Class.Index), "value"
	case t.Score == scoreProbability:
		text = fmt.Sprintf("probability of class %d", t.Class.Index)
	}
	switch t.Against.Kind {
	case AgainstClass:
		text += fmt.Sprintf(" minus %s %d", other, t.Against.Index)
	case AgainstOthers:
		text += " minus the mean of the others"
	}
	if h.spatial() {
		text = "sum of the " + text + " over " + t.Region.String()
	}
	return text + " of " + h.Output
}

// Settle returns a target with its class as an index, for the class that is predicted. An error names what the head does not have.
func (h Head) Settle(t Target, predicted int) (Target, error) {
	if t.Class.Kind == ClassPredicted {
		t.Class.Index = predicted
	}
	n := h.Classes()
	switch {
	case h.spatial() && t.Class.Kind == ClassPredicted:
		return t, fmt.Errorf("the output %q has a class at each voxel, 0 to %d: choose one by the option target_class", h.Output, n-1)
	case h.spatial() && t.Score == scoreProbability:
		return t, fmt.Errorf("the output %q has a class at each voxel: its logits can be explained by the option score, no probabilities", h.Output)
	case !h.spatial() && t.Region != (Region{}):
		return t, fmt.Errorf("the output %q has no voxels, so that the option target_region has no effect: leave it out", h.Output)
	case t.Class.Index < 0 || t.Class.Index >= n:
		return t, fmt.Errorf("class %d is out of range: the output %q has classes 0 to %d", t.Class.Index, h.Output, n-1)
	case h.Task == TaskRegression && t.Score == scoreProbability:
		return t, fmt.Errorf("the output %q has values, which have no probabilities: explain the value itself", h.Output)
	case t.Against.Kind == AgainstNothing:
		return t, nil
	case n < 2:
		return t, fmt.Errorf("the output %q has one value, with no other to explain it against", h.Output)
	case t.Against.Kind == AgainstClass && (t.Against.Index < 0 || t.Against.Index >= n):
		return t, fmt.Errorf("class %d, to explain against, is out of range: the output %q has classes 0 to %d", t.Against.Index, h.Output, n-1)
	case t.Against.Kind == AgainstClass && t.Against.Index == t.Class.Index:
		return t, fmt.Errorf("class %d cannot be explained against itself", t.Class.Index)
	}
	return t, nil
}
