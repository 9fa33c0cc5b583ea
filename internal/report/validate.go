package report

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/volume"
)

var statuses = []cam.Status{cam.StatusOK, cam.StatusDegraded, cam.StatusFailed, cam.StatusSkipped}

// validate returns an error if no run can have written this record of a sample in the folder place. Reports rely on it: a folder of results
// may come from another person.
func (s *Sample) validate(place string, m *ModelInfo) error {
	split := dataset.Split(path.Base(path.Dir(path.Dir(place))))
	switch {
	case s.Schema != Schema:
		return fmt.Errorf("schema is %d, not %d", s.Schema, Schema)
	case s.Name != path.Base(place) || s.Split != string(split):
		return fmt.Errorf("it is of %q in split %q, which does not lie here", s.Name, s.Split)
	case split != dataset.Unassigned && !slices.Contains(dataset.Splits, split):
		return fmt.Errorf("split is %q", s.Split)
	case !slices.Contains(statuses, s.Status):
		return fmt.Errorf("status is %q", s.Status)
	case !(s.Seconds >= 0 && s.Seconds < 1e9):
		return fmt.Errorf("processing_time is %g", s.Seconds)
	}
	return errors.Join(
		class("true_class", s.TrueClass, s.TrueClassName, m),
		class("predicted_class", s.PredictedClass, s.PredictedClassName, m),
		s.validatePrediction(m),
		s.validateInput(),
		s.validateMethods(m),
		s.validateExecution(),
		s.validateFiles(place),
	)
}

// class compares a class with its name.
func class(key string, index *int, name *string, m *ModelInfo) error {
	switch {
	case index == nil && name == nil:
		return nil
	case index == nil || name == nil || !inRange(*index, m.Classes) || *name != m.ClassNames[*index]:
		return fmt.Errorf("%s is no class of the model, or has not its name", key)
	}
	return nil
}

func (s *Sample) validatePrediction(m *ModelInfo) error {
	p := s.PredictedClass
	switch {
	case p == nil && (s.hasResult() || s.Confidence != nil || s.CorrectPrediction != nil):
		return errors.New("predicted_class is missing")
	case p == nil:
		return nil
	case s.TrueClass == nil || s.CorrectPrediction == nil || *s.CorrectPrediction != (*p == *s.TrueClass):
		return errors.New("correct_prediction does not fit the classes")
	case len(s.Probabilities) != m.Classes || len(s.Logits) != m.Classes:
		return fmt.Errorf("%d probabilities and %d logits for %d classes", len(s.Probabilities), len(s.Logits), m.Classes)
	case slices.ContainsFunc(s.Probabilities, func(x float64) bool { return !within(x, 0, 1) }):
		return errors.New("probabilities are not from 0 to 1")
	case s.Confidence == nil || *s.Confidence != s.Probabilities[*p]:
		return errors.New("confidence is not the probability of the predicted class")
	}
	return nil
}

// hasResult reports whether there are maps by the sample's status.
func (s *Sample) hasResult() bool {
	return s.Status == cam.StatusOK || s.Status == cam.StatusDegraded
}

func (s *Sample) validateInput() error {
	if s.hasResult() && (s.Input == nil || s.InputShape == nil || s.Shape == nil || s.CropOffset == nil || s.Scaling == nil || s.CellSize == nil) {
		return errors.New("the facts about the volume are missing")
	}
	for _, shape := range []*[4]int{s.InputShape, s.Shape} {
		if shape != nil && !extents(shape[:]) {
			return fmt.Errorf("the shape %v is none of a volume", *shape)
		}
	}
	switch {
	case s.Input != nil && s.Input.Bytes <= 0:
		return fmt.Errorf("input.bytes is %d", s.Input.Bytes)
	case s.Scaling != nil && (!slices.Contains(volume.Scalings(), s.Scaling.Name) || s.Scaling.Divisor <= 0):
		return errors.New("scaling is none that there is")
	case s.CellSize != nil && slices.ContainsFunc(s.CellSize[:], func(x float64) bool { return x < 0 }):
		return fmt.Errorf("cell_size_voxels is %v", *s.CellSize)
	}
	return nil
}

// extents reports whether sizes are those of an array that can be in memory.
func extents(sizes []int) bool {
	product := 1.0
	for _, n := range sizes {
		if n < 1 {
			return false
		}
		product *= float64(n)
	}
	return product < 1<<48
}

func (s *Sample) validateMethods(m *ModelInfo) error {
	keys := map[string]bool{}
	maps := 0
	for _, method := range s.Methods {
		switch {
		case method.Key == "" || keys[method.Key]:
			return fmt.Errorf("methods: the key %q is empty or there twice", method.Key)
		case !slices.Contains(statuses, method.Status):
			return fmt.Errorf("methods: %s: status is %q", method.Key, method.Status)
		}
		keys[method.Key] = true
		if err := class("target_class", method.TargetClass, method.TargetClassName, m); err != nil {
			return fmt.Errorf("methods: %s: %w", method.Key, err)
		}
		if method.Status == cam.StatusFailed {
			continue
		}
		maps++
		statistics, ok := s.Statistics[method.Key]
		if !ok || method.MapShape == nil || !extents(method.MapShape[:]) || s.Shape == nil {
			return fmt.Errorf("methods: %s: map_shape or statistics are missing", method.Key)
		}
		if !statistics.possible([3]int(s.Shape[1:])) {
			return fmt.Errorf("heatmap_statistics: %s: they are none of a map", method.Key)
		}
	}
	switch {
	case maps != len(s.Statistics):
		return fmt.Errorf("heatmap_statistics has %d entries for %d maps", len(s.Statistics), maps)
	case s.hasResult() != (maps > 0):
		return fmt.Errorf("status is %q with %d maps", s.Status, maps)
	}
	return nil
}

// possible reports whether a map of finite float32 and a heatmap of a size can have these statistics.
func (s Statistics) possible(dims [3]int) bool {
	rounding := 1e-6 * math.Max(math.Abs(s.Min), math.Abs(s.Max)) // of sums
	for i, n := range dims {
		if !inRange(s.Peak[i], n) {
			return false
		}
	}
	return within(s.Min, -math.MaxFloat32, math.MaxFloat32) && within(s.Max, s.Min, math.MaxFloat32) &&
		within(s.Mean, s.Min-rounding, s.Max+rounding) && within(s.Std, 0, s.Max-s.Min+rounding) && within(s.PositiveShare, 0, 1) &&
		within(s.HeatmapMean, 0, 1+1e-6) && within(s.HeatmapStd, 0, 1) && within(s.HotShare, 0, 1)
}

func within(x, low, high float64) bool { return x >= low && x <= high }

func (s *Sample) validateExecution() error {
	e := s.Execution
	if e != nil && (e.Budget < 0 || e.Arena < 0 || !(e.ShuttleOut >= 0 && e.ShuttleIn >= 0) || e.Level != "" && !slices.Contains(cam.Levels(), e.Level)) {
		return errors.New("execution: memory, times or level are impossible")
	}
	return nil
}

// validateFiles wants files of the sample in its folder and among the session's pictures.
func (s *Sample) validateFiles(place string) error {
	pictures := path.Join("visualizations", s.Split)
	for _, f := range s.Files {
		dir, name := path.Split(f.Path)
		switch {
		case !fs.ValidPath(f.Path) || path.Clean(dir) != place && path.Clean(dir) != pictures || !strings.HasPrefix(name, s.Name+"_"):
			return fmt.Errorf("files: %q is none of this sample", f.Path)
		case f.Bytes <= 0 || len(f.SHA256) != 64:
			return fmt.Errorf("files: %s: size or digest are impossible", f.Path)
		}
	}
	return nil
}
