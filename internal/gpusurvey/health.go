package gpusurvey

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/internal/bytesize"
)

// Health grades a device's memory: the worse of the grades of its free memory and of its fragmentation.
type Health uint8

// From the best to the worst, so that max returns the worse of two.
const (
	Unknown Health = iota // the free memory is not known
	Healthy
	Caution
	Warning
	Critical
)

var healths = []string{"unknown", "healthy", "caution", "warning", "critical"}

func (h Health) String() string { return healths[h] }

// MarshalText implements encoding.TextMarshaler.
func (h Health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Health) UnmarshalText(text []byte) error {
	i := slices.Index(healths, string(text))
	if i < 0 {
		return fmt.Errorf("%q is no state of health: choose from %s", text, strings.Join(healths, ", "))
	}
	*h = Health(i)
	return nil
}

// Bands are the bounds between states of health.
type Bands struct {
	Free          [3]int     `json:"free_bytes"`    // healthy above the first, caution from the second, warning from the third, else critical
	Fragmentation [3]float64 `json:"fragmentation"` // healthy below the first, caution up to the second, warning up to the third, else critical
}

// DefaultBands returns those of the original's document. Its GB are 2^30 bytes.
func DefaultBands() Bands {
	return Bands{Free: [3]int{5 * bytesize.GiB, bytesize.GiB, bytesize.GiB / 2}, Fragmentation: [3]float64{0.10, 0.25, 0.50}}
}

// Judge grades memory with free bytes free.
func (b Bands) Judge(free int, fragmentation float64) Health {
	byFree, bySplit := Critical, Critical
	switch {
	case free > b.Free[0]:
		byFree = Healthy
	case free >= b.Free[1]:
		byFree = Caution
	case free >= b.Free[2]:
		byFree = Warning
	}
	switch {
	case fragmentation < b.Fragmentation[0]:
		bySplit = Healthy
	case fragmentation <= b.Fragmentation[1]:
		bySplit = Caution
	case fragmentation <= b.Fragmentation[2]:
		bySplit = Warning
	}
	return max(byFree, bySplit)
}

// ParseBands reads bounds as String writes them: three sizes from large to small and three shares from small to large, separated by
// commas, such as 5GiB,1GiB,512MiB,10%,25%,50%. Without shares, those of DefaultBands stay.
func ParseBands(text string) (Bands, error) {
	b := DefaultBands()
	parts := strings.Split(text, ",")
	if len(parts) != 3 && len(parts) != 6 {
		return b, fmt.Errorf("%q: three sizes, and three shares if need be, expected, such as %s", text, b)
	}
	for i, part := range parts {
		part = strings.TrimSpace(part)
		if i < 3 {
			n, err := bytesize.Parse(part)
			if err != nil {
				return b, err
			}
			b.Free[i] = n
			continue
		}
		x, err := strconv.ParseFloat(strings.TrimSuffix(part, "%"), 64)
		if err != nil || !strings.HasSuffix(part, "%") || !(x >= 0 && x <= 100) {
			return b, fmt.Errorf("%q is not a share from 0%% to 100%%", part)
		}
		b.Fragmentation[i-3] = x / 100
	}
	if b.Free[0] < b.Free[1] || b.Free[1] < b.Free[2] || b.Fragmentation[0] > b.Fragmentation[1] || b.Fragmentation[1] > b.Fragmentation[2] {
		return b, fmt.Errorf("%q: sizes must go from large to small, and shares from small to large", text)
	}
	return b, nil
}

func (b Bands) String() string {
	var parts []string
	for _, n := range b.Free {
		parts = append(parts, bytesize.FormatUp(n))
	}
	for _, x := range b.Fragmentation {
		parts = append(parts, strconv.FormatFloat(100*x, 'g', 4, 64)+"%")
	}
	return strings.Join(parts, ",")
}

// Set implements flag.Value.
func (b *Bands) Set(text string) (err error) {
	*b, err = ParseBands(text)
	return err
}

// Type names the kind of value in help texts.
func (b *Bands) Type() string { return "bands" }

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
