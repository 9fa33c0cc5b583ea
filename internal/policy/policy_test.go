package policy

import (
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/bytesize"
)

func TestSamples(t *testing.T) {
	original, err := ParsePolicy("original")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		n    int
		free float64 // GB
		want int
	}{
		{50, 5.01, 50}, {50, 5, 25}, {30, 3, 20}, {50, 2.01, 25}, {50, 2, 12}, {20, 1.5, 10}, {100, 1.5, 25}, {50, 1, 5}, {50, 0, 5},
		// The original system makes 20, 10 and 5 of these.
		{8, 3, 8}, {8, 1.5, 8}, {3, 0.7, 3}, {1, 0, 1},
	} {
		free := int(c.free * bytesize.GiB)
		if got := original.Samples(c.n, free); got != c.want {
			t.Errorf("%d draws with %g GB free: %d instead of %d", c.n, c.free, got, c.want)
		}
		if got := DefaultPolicy().Samples(c.n, free); got != c.n {
			t.Errorf("by default, %d draws with %g GB free became %d", c.n, c.free, got)
		}
	}
	if !original.Skips(bytesize.GiB/2-1) || original.Skips(bytesize.GiB/2) || DefaultPolicy().Skips(0) {
		t.Error("only the original skips, below 0.5 GB")
	}
}

func TestSamplesOnProcessor(t *testing.T) {
	original, _ := ParsePolicy("original")
	for _, c := range []struct {
		Policy
		n, gigabytes, want int
	}{{DefaultPolicy(), 50, 0, 50}, {original, 50, 8, 25}, {original, 30, 8, 20}, {original, 12, 8, 12}, {original, 50, 0, 5}} {
		if got := c.SamplesOnProcessor(c.n, c.gigabytes*bytesize.GiB); got != c.want {
			t.Errorf("%v: %d draws with %d GB free became %d instead of %d", c.Policy, c.n, c.gigabytes, got, c.want)
		}
	}
}

func TestPolicyAsFlag(t *testing.T) {
	p := DefaultPolicy()
	p.Wait = time.Minute
	if err := p.Set("Original"); err != nil || p.String() != "original" || !p.Original || p.CPU || p.Wait != time.Minute {
		t.Errorf("%v, %+v", err, p)
	}
	if err := p.Set("exact"); err != nil || p.String() != "exact" || p.Fewer {
		t.Errorf("%v, %+v", err, p)
	}
	if err := p.Set("guess"); err == nil || p.String() != "exact" {
		t.Errorf("%v, %+v", err, p)
	}
	var fresh Policy
	if err := fresh.Set("exact"); err != nil || fresh != DefaultPolicy() {
		t.Errorf("%v, %+v", err, fresh)
	}
}
