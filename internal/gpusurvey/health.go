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
