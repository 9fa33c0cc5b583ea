package onnx

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/internal/pass"
)

// caseInfo is what the tests need of a case.json.
type caseInfo struct {
	Shape  []int  `json:"input_shape"`
	Class  int    `json:"target_class"`
	Target string `json:"target_layer"`
}

// caseFiles lists the exported models of a folder of cases with the shape of their volume.
func caseFiles(t testing.TB, folder string) map[string]caseInfo {
	t.Helper()
	paths, _ := filepath.Glob(filepath.Join(folder, "*", "case.json"))
	if len(paths) == 0 {
		t.Skipf("no cases in %s", folder)
	}
	files := map[string]caseInfo{}
	for _, p := range paths {
		var c caseInfo
		b, err := os.ReadFile(p)
		if err == nil {
			err = json.Unmarshal(b, &c)
		}
		if err != nil {
			t.Fatalf("%s: %v", p, err)
		}
		models, _ := filepath.Glob(filepath.Join(filepath.Dir(p), "*.onnx"))
		for _, m := range models {
			files[m] = c
		}
	}
	return files
}

const golden = "../../../shared/golden"

// TestCorpus imports exported models, and brings them into the form that they run in. VOXCAM_CASES names another folder of cases
// than the golden ones.
func TestCorpus(t *testing.T) {
	folder := os.Getenv("VOXCAM_CASES")
	if folder == "" {
		folder = golden
	}
	for path, c := range caseFiles(t, folder) {
		t.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), func(t *testing.T) {
			m, err := Open(context.Background(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			im, err := Import(m, Options{InputShape: c.Shape})
			if err != nil {
				t.Fatal(err)
			}
			g := im.Graph
			g.Prune()
			if err := g.Verify(); err != nil {
				t.Fatal(err)
			}
			if err := pass.Run(context.Background(), g, nil, pass.Recognition, pass.Lowering); err != nil {
				t.Fatal(err)
			}
			ops := map[string]int{}
			for _, n := range g.Nodes {
				ops[n.Op.Name]++
			}
			t.Logf("%d nodes: %v", len(g.Nodes), ops)
			for _, scaffold := range []string{"Erf", "Pad", "Where", "Expand", "Gather", "Equal", "Floor", "Sqrt"} {
				if folder == golden && ops[scaffold] > 0 {
					t.Errorf("%d %s are left, which the exporter put there", ops[scaffold], scaffold)
				}
			}
		})
	}
}
