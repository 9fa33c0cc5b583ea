package cli

import (
	"encoding/json"
	"regexp"
	"slices"
	"testing"

	"github.com/spf13/pflag"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/result"
)

// A flag of a run overrides a key of the configuration, or is known to have none.
func TestFlagsOfRunAreKeys(t *testing.T) {
	free := []string{"config", "noise", "log-format", "verify", "check-only", "clear-cache"}
	keys := map[string]string{}
	for _, k := range config.Keys() {
		if other, twice := keys[k.Flag]; twice {
			t.Errorf("--%s stands for %s and %s", k.Flag, other, k.Name)
		}
		keys[k.Flag] = k.Name
	}
	newRun().Flags().VisitAll(func(f *pflag.Flag) {
		if (keys[f.Name] == "") != slices.Contains(free, f.Name) {
			t.Errorf("--%s: key %q", f.Name, keys[f.Name])
		}
	})
}

// Help texts that are written by hand name all values that there are.
func TestHelpNamesAllValues(t *testing.T) {
	for name, values := range map[string][]string{
		"precision": device.Precisions(), "policy": policy.Names(), "shuttle": instance.Shuttles, "dataset": dataset.Selections(),
		"formats": result.Names(), "user-signals": config.UserSignals, "layer-layout": layer.Layouts, "method": cam.Methods(),
	} {
		help := newRun().Flags().Lookup(name).Usage
		for _, v := range values {
			if !regexp.MustCompile(`(^|\W)` + regexp.QuoteMeta(v) + `(\W|$)`).MatchString(help) {
				t.Errorf("--%s does not say what %s is: %s", name, v, help)
			}
		}
	}
}

// Flags arrive in the configuration with their values, as their commands read them.
func TestOverride(t *testing.T) {
	cmd := newRun()
	args := []string{"--memory-budget", "512MiB", "--n-samples", "7", "--seed", "18446744073709551615", "--noise-level", "0.5", "--wait", "3s",
		"--cpu-fallback=false", "--worker=false", "--token-grid", "1,2,3", "--formats", "npy,mat", "--method", "gradcam,vargrad",
		"--convention", "gradcam++=paper", "--policy", "original", "--shuttle", "idle", "--device", "cuda:1"}
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	c := config.Defaults()
	if err := override(cmd.Flags(), c); err != nil {
		t.Fatal(err)
	}
	c.Model.File, c.Data.Folder, c.Data.Labels, c.Data.Scale = "m", "d", "l", "none"
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	want := `{"policy":"original","wait":3000000000,"cpu":false,"shuttle":"idle","worker":false,"budget":"512MiB","n":7,"seed":18446744073709551615,` +
		`"level":0.5,"grid":[1,2,3],"formats":["npy","mat"],"methods":["gradcam","vargrad"],"conventions":{"gradcam++":"paper"},"device":"cuda:1"}`
	got, err := json.Marshal(struct {
		Policy      string            `json:"policy"`
		Wait        int64             `json:"wait"`
		CPU         *bool             `json:"cpu"`
		Shuttle     string            `json:"shuttle"`
		Worker      bool              `json:"worker"`
		Budget      string            `json:"budget"`
		N           int               `json:"n"`
		Seed        uint64            `json:"seed"`
		Level       float64           `json:"level"`
		Grid        [3]int            `json:"grid"`
		Formats     []string          `json:"formats"`
		Methods     []string          `json:"methods"`
		Conventions map[string]string `json:"conventions"`
		Device      string            `json:"device"`
	}{c.Memory.Policy, int64(c.Memory.Wait), c.Memory.CPU, c.Memory.Shuttle, c.Memory.Worker, c.Explain.Memory.String(), c.Explain.NSamples,
		c.Explain.Seed, c.Explain.NoiseLevel, c.Model.TokenGrid, c.Output.Formats, c.Explain.Methods, c.Explain.Convention, c.Explain.Device})
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}
