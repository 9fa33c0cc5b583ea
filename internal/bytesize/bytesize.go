// Package bytesize reads and prints amounts of memory: sizes ("512MiB", "64MB"), budgets ("auto", "min", "50%", a size), and how
// much memory a process may still take.
package bytesize

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Units of sizes. Those of powers of 1024 come first because sizes are printed in them.
const (
	KiB = 1 << 10
	MiB = 1 << 20
	GiB = 1 << 30
	TiB = 1 << 40
)

// units are the spellings that Parse knows, in lower case. A single letter is a power of 1024, as container runtimes read it.
var units = map[string]float64{
	"": 1, "b": 1,
	"k": KiB, "kib": KiB, "kb": 1e3,
	"m": MiB, "mib": MiB, "mb": 1e6,
	"g": GiB, "gib": GiB, "gb": 1e9,
	"t": TiB, "tib": TiB, "tb": 1e12,
}

// most is a bound on sizes that keeps sums of them away from overflow.
const most = 1 << 60

// Parse reads a size in bytes: a decimal number that is not negative, and a unit: B, KiB, MiB, GiB, TiB (powers of 1024), KB, MB, GB,
// TB (powers of 1000), in any case, with or without a blank between. Fractions of a byte are cut off.
func Parse(text string) (int, error) {
	s := strings.TrimSpace(text)
	end := strings.LastIndexAny(s, "0123456789.") + 1
	number := s[:end]
	unit, known := units[strings.ToLower(strings.TrimSpace(s[end:]))]
	// Digits only, so that strconv's spellings of other things (1e9, 0x10, inf) are not sizes.
	if !known || strings.Trim(number, "0123456789.") != "" {
		return 0, fmt.Errorf("%q is not a size: a number and a unit expected, such as 512MiB, 1.5GiB or 64MB", text)
	}
	tooMuch := fmt.Errorf("%q is more memory than any machine has", text)
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > most/int64(unit) {
			return 0, tooMuch
		}
		return int(n) * int(unit), nil
	}
	x, err := strconv.ParseFloat(number, 64)
	switch {
	case x*unit > most:
		return 0, tooMuch
	case err != nil:
		return 0, fmt.Errorf("%q is not a size: %q is not a number", text, number)
	}
	return int(x * unit), nil
}

// Format prints a size for people, to three digits: "830 B", "62.6 MiB", "1.25 GiB".
func Format(n int) string {
	return format(float64(n), math.Round)
}

// FormatUp prints a size as Format does, but without a blank and never less than n, so that it can be given to Parse as a size
// that suffices for n.
func FormatUp(n int) string {
	return strings.ReplaceAll(format(float64(n), math.Ceil), " ", "")
}

func format(n float64, round func(float64) float64) string {
	if n < 0 {
		return "-" + format(-n, round)
	}
	names := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for i := 0; ; i++ {
		decimals := 0
		switch {
		case i > 0 && n < 10:
			decimals = 2
		case i > 0 && n < 100:
			decimals = 1
		}
		scale := math.Pow10(decimals)
		rounded := round(n*scale) / scale
		if rounded < 1024 || i == len(names)-1 {
			return strconv.FormatFloat(rounded, 'f', -1, 64) + " " + names[i]
		}
		n /= 1024
	}
}

// FormatMiB writes n bytes in MiB, rounded up to a tenth.
func FormatMiB(n int) string { return fmt.Sprintf("%.1f MiB", math.Ceil(float64(n)/MiB*10)/10) }
