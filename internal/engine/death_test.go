package engine

import (
	"fmt"
	"testing"
	"time"
)

// The wait before another child doubles from the second one that ended on, to a limit that no number of them exceeds.
func TestBackOff(t *testing.T) {
	for deaths, want := range map[int]time.Duration{
		0: 0, 1: 0, 2: 200 * time.Millisecond, 3: 400 * time.Millisecond, 6: 3200 * time.Millisecond, 7: 5 * time.Second, 1 << 40: 5 * time.Second,
	} {
		if got := backOff(deaths); got != want {
			t.Errorf("after %d: %v, want %v", deaths, got, want)
		}
	}
}

// Half a budget is left after one kill for want of memory, and then the least.
func TestHalved(t *testing.T) {
	for text, want := range map[string]string{"64MiB": fmt.Sprint(32 << 20), "min": "min", "nonsense": "min", "1B": "min"} {
		if got := halved(text); got != want {
			t.Errorf("half of %s is %s", text, got)
		}
	}
	if got := halved("auto"); got == "min" || got == "auto" {
		t.Errorf("half of auto is %s", got)
	}
}
