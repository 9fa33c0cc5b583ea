package bytesize

import (
	"fmt"
	"strconv"
	"strings"
)

// AutoShare is the share of the free memory that the budget "auto" takes. The rest is for the volumes, heatmaps and packed weights
// that a budget does not count, for the page cache that weights are read through, and for other programs on the machine.
const AutoShare = 0.60

// Budget bounds memory, as a user writes it. The zero value is "auto".
type Budget struct {
	text  string
	share float64 // of the free memory
	bytes int
	min   bool
}

// ParseBudget reads "auto", "min" (the least that works), a share of the free memory such as "50%", or a size.
func ParseBudget(text string) (Budget, error) {
	switch s := strings.ToLower(strings.TrimSpace(text)); {
	case s == "" || s == "auto":
		return Budget{}, nil
	case s == "min":
		return Budget{text: s, min: true}, nil
	case strings.HasSuffix(s, "%"):
		x, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(s, "%")), 64)
		if err != nil || !(x > 0 && x <= 100) {
			return Budget{}, fmt.Errorf("%q is not a share of the free memory: more than 0%% and at most 100%% expected", text)
		}
		return Budget{text: s, share: x / 100}, nil
	}
	n, err := Parse(text)
	if err != nil {
		return Budget{}, fmt.Errorf("%w; or auto, min, or a share such as 50%%", err)
	}
	if n == 0 {
		return Budget{}, fmt.Errorf("a budget of %q leaves nothing to work with: min asks for the least that works", text)
	}
	return Budget{text: strings.TrimSpace(text), bytes: n}, nil
}

// Min reports whether the least that works is asked for.
func (b Budget) Min() bool { return b.min }

// Size returns the bytes of a budget that is a size; 0 for one that depends on the free memory or on the plan.
func (b Budget) Size() int { return b.bytes }

// Bytes is the budget in bytes; 0 stands for the least that works. free is called only for budgets that depend on the free memory.
func (b Budget) Bytes(free func() (int, error)) (int, error) {
	share := b.share
	switch {
	case b.min:
		return 0, nil
	case b.bytes > 0:
		return b.bytes, nil
	case share == 0:
		share = AutoShare
	}
	n, err := free()
	if err != nil {
		return 0, fmt.Errorf("the memory budget %s: %w", b, err)
	}
	if n = int(float64(n) * share); n < 1 {
		return 0, fmt.Errorf("the memory budget %s: no memory is free", b)
	}
	return n, nil
}

// String says the budget as it was written.
func (b Budget) String() string {
	if b.text == "" {
		return "auto"
	}
	return b.text
}

// Set implements flag.Value.
func (b *Budget) Set(text string) (err error) {
	*b, err = ParseBudget(text)
	return err
}

// Type names the kind of value in help texts.
func (b *Budget) Type() string { return "budget" }
