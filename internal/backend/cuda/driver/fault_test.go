package driver_test

import (
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

func TestParseFaults(t *testing.T) {
	ask := func(text string, calls ...string) (codes []int) {
		f, err := driver.ParseFaults(text)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			codes = append(codes, f(c))
		}
		return codes
	}
	for _, c := range []struct {
		text string
		want []int
	}{
		{"cuA:2:999", []int{0, 0, 999, 0, 0, 0}},
		{"any:3:2", []int{0, 0, 2, 0, 0, 0}},
		{"any:2:2:repeat", []int{0, 2, 0, 2, 0, 2}},
		{"cuA:1:700:repeat, cuB:2:2", []int{700, 0, 700, 700, 2, 700}},
	} {
		if got := ask(c.text, "cuA", "cuB", "cuA", "cuA", "cuB", "cuA"); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.text, got)
		}
	}
	for _, bad := range []string{"", "cuA", "cuA:0:2", "cuA:1:0", "cuA:1:x", "cuA:1:2:often", "A:1:2", "cuA:1:2,"} {
		if _, err := driver.ParseFaults(bad); err == nil {
			t.Errorf("%q is a fault", bad)
		}
	}
}
