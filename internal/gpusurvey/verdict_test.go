package gpusurvey_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// The worst of the GPUs that are asked about counts, of those that this process can use, and the host where there is none.
func TestJudge(t *testing.T) {
	gpu := func(number int, h gpusurvey.Health) gpusurvey.GPU { return gpusurvey.GPU{Number: number, Health: h} }
	host := gpusurvey.Host{Health: gpusurvey.Warning}
	two := &gpusurvey.Survey{Host: host, GPUs: []gpusurvey.GPU{gpu(0, gpusurvey.Caution), gpu(1, gpusurvey.Unknown), gpu(-1, gpusurvey.Critical)}}
	for device, want := range map[string]gpusurvey.Verdict{
		"all":    {Counted: []string{"cuda:0", "cuda:1"}, Health: gpusurvey.Unknown},
		"auto":   {Counted: []string{"cuda:0"}, Health: gpusurvey.Caution},
		"cuda:1": {Counted: []string{"cuda:1"}, Health: gpusurvey.Unknown},
		"cpu":    {Counted: []string{"cpu"}, Health: gpusurvey.Warning},
	} {
		got, err := two.Judge(device)
		if err != nil || got.Health != want.Health || !slices.Equal(got.Counted, want.Counted) {
			t.Errorf("%s: %v, %v; want %v", device, got, err, want)
		}
	}
	none := (*gpusurvey.NoGPUError)(nil)
	if _, err := two.Judge("cuda:2"); !errors.As(err, &none) {
		t.Errorf("a third GPU: %v", err)
	}
	if v, err := (&gpusurvey.Survey{Host: host}).Judge("auto"); err != nil || v.Health != gpusurvey.Warning {
		t.Errorf("no GPU: %v, %v", v, err)
	}
	if _, err := two.Judge("gpu"); err == nil {
		t.Error("gpu is taken for a device")
	}
}
