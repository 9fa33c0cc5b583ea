package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/session"
)

const demoModel = "../demo/model.onnx"

// runPlan runs the command alone.
func runPlan(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if os.Getenv(device.Driver) == "" {
		t.Setenv(device.Driver, "/absent/libcuda.so.1") // the same on machines with a GPU
	}
	cmd := newPlan()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestPlanShowsEachPass(t *testing.T) {
	dir := t.TempDir()
	svg, page := filepath.Join(dir, "plan.svg"), filepath.Join(dir, "plan.html")
	text, err := runPlan(t, demoModel, "--method", "gradcam,smoothgrad,saliency", "--memory-budget", "min", "--svg", svg, "--html", page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"(gradcam)\n", "gradient at the volume (smoothgrad, saliency)\n", "smallest feasible budget", "estimated time", "through rings of"} {
		if !strings.Contains(text, want) {
			t.Errorf("the plan does not say %q:\n%s", want, text)
		}
	}
	for file, begins := range map[string]string{svg: "<svg ", page: "<!DOCTYPE html>"} {
		if data, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(data), begins) {
			t.Errorf("%s: %v, %.20q", file, err, data)
		}
	}
	text, err = runPlan(t, demoModel, "--memory-budget", "4MiB", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Passes []struct {
			Peak   int `json:"peak_bytes"`
			Budget int `json:"budget_bytes"`
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Passes) != 1 || doc.Passes[0].Peak < 1<<19 || doc.Passes[0].Peak > 4<<20 || doc.Passes[0].Budget != 4<<20 {
		t.Errorf("a budget of 4 MiB gave %+v", doc.Passes)
	}
}

// The graph is written as imported, after each pass, and for each gradient; a folder that has files in it is refused.
func TestPlanDumpsPasses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "passes")
	args := []string{demoModel, "--method", "gradcam,saliency", "--dump-passes", dir}
	if _, err := runPlan(t, args...); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i, e := range entries {
		number, name, _ := strings.Cut(strings.TrimSuffix(e.Name(), ".txt"), "-")
		if number != fmt.Sprintf("%02d", i) {
			t.Errorf("file %d is %s", i, e.Name())
		}
		names = append(names, name)
		if text, err := os.ReadFile(filepath.Join(dir, e.Name())); err != nil || !strings.HasPrefix(string(text), "input %") || !strings.Contains(string(text), "\noutput %") {
			t.Errorf("%s: %v, %.40q", e.Name(), err, text)
		}
	}
	if got := strings.Join(names, " "); !strings.HasPrefix(got, "import padding ") ||
		!strings.Contains(got, " layout constants affine layer-differentiation layer-split-norms volume-differentiation volume-split-norms") {
		t.Errorf("graphs were written after %s", got)
	}
	if _, err := runPlan(t, args...); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("into the same folder: %v", err)
	}
}

// A refusal names the least that works, which must work, and the methods that need less.
func TestPlanRefuses(t *testing.T) {
	_, err := runPlan(t, demoModel, "--method", "gradcam,saliency", "--memory-budget", "20KiB")
	var exit *exitError
	if !errors.As(err, &exit) || exit.code != session.ExitRefused {
		t.Fatalf("20 KiB: %v", err)
	}
	least := ""
	for _, line := range strings.Split(err.Error(), "\n") {
		if _, size, found := strings.Cut(line, "--memory-budget "); found && strings.HasPrefix(line, "gradient at the volume") {
			least, _, _ = strings.Cut(size, " ")
		}
	}
	if _, err := runPlan(t, demoModel, "--method", "gradcam,saliency", "--memory-budget", least); err != nil {
		t.Errorf("%q was said to do: %v", least, err)
	}
	for _, args := range [][]string{
		{demoModel, "--volume-shape", "1,2,3"}, {demoModel, "--memory-budget", "plenty"}, {demoModel, "--method", "guess"},
		{demoModel, "--token-grid", "1,2"}, {demoModel, "--layer-layout", "sideways"}, {"none.onnx"}, {},
	} {
		if text, err := runPlan(t, args...); err == nil {
			t.Errorf("%q printed\n%s", args, text)
		}
	}
}

// A command that is interrupted while it opens or plans says so, and was not refused.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, args := range [][]string{{"inspect", demoModel}, {"plan", demoModel, "--device", "cpu"}, {"check", "--device", "cpu", "--model", demoModel}} {
		var stdout, stderr bytes.Buffer
		if code := Run(ctx, args, &stdout, &stderr); code != session.ExitInterrupted || !strings.Contains(stderr.String(), "interrupted") {
			t.Errorf("%v: exit code %d, %q", args, code, stderr.String())
		}
	}
}
