package gpusurvey

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Verdict grades the memory that a run would use.
type Verdict struct {
	Counted []string `json:"counted"` // devices, such as cuda:0; the processor if there is no GPU
	Health  Health   `json:"health"`  // the worst of them
}

// Instead of a GPU's number.
const (
	AllGPUs = -1
	NoGPU   = -2
)

// NumberOf returns the number of the GPU that a device's name means: all and "" are AllGPUs, cpu is NoGPU, auto and cuda are the first, cuda:N
// is GPU N.
func NumberOf(device string) (int, error) {
	switch kind, number, numbered := strings.Cut(device, ":"); {
	case device == "all" || device == "":
		return AllGPUs, nil
	case device == "cpu":
		return NoGPU, nil
	case device == "auto" || device == "cuda":
		return 0, nil
	case numbered && kind == "cuda":
		if n, err := strconv.Atoi(number); err == nil && n >= 0 {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s: choose from all, auto, cpu, cuda, cuda:N", device)
}

// NoGPUError says that a named GPU does not exist.
type NoGPUError struct {
	Device string
	Notes  []string // of the survey
}

func (e *NoGPUError) Error() string {
	return strings.Join(append([]string{fmt.Sprintf("%s: there is no such GPU", e.Device)}, e.Notes...), "; ")
}

// Judge grades the memory of a device, named as for NumberOf: of the GPUs that this process can use, or of the host if there are none. A named
// GPU that does not exist is a *NoGPUError.
func (s *Survey) Judge(device string) (v Verdict, err error) {
	number, err := NumberOf(device)
	if err != nil {
		return v, err
	}
	for _, g := range s.GPUs {
		if g.Hidden() || number != AllGPUs && number != g.Number {
			continue
		}
		if len(v.Counted) == 0 || g.Health.worseThan(v.Health) {
			v.Health = g.Health
		}
		v.Counted = append(v.Counted, g.Label())
	}
	if len(v.Counted) > 0 {
		return v, nil
	}
	if strings.HasPrefix(device, "cuda") {
		return v, &NoGPUError{device, s.Notes}
	}
	return Verdict{[]string{"cpu"}, s.Host.Health}, nil
}

// severity lists the states of health from the best to the worst news.
var severity = []Health{Healthy, Caution, Unknown, Warning, Critical}

func (h Health) worseThan(other Health) bool {
	return slices.Index(severity, h) > slices.Index(severity, other)
}

// Label returns the GPU's name as a device or, if CUDA does not show it, by NVML's number.
func (g GPU) Label() string {
	if g.Hidden() {
		return fmt.Sprintf("NVML %d", g.Index)
	}
	return fmt.Sprintf("cuda:%d", g.Number)
}
