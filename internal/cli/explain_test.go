package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/volume/format"
)

// TestExplainOverlays explains the volumes of a case from use, whose forms differ, that have none, or whose unit is the micrometre. The
// heatmap, on the volume's grid, must have the same forms, so that no program can put it elsewhere.
func TestExplainOverlays(t *testing.T) {
	dir := "../../../shared/cases/models_and_files/07-qform-and-sform-differ"
	volumes, err := filepath.Glob(filepath.Join(dir, "volume_*.nii"))
	if err != nil || len(volumes) == 0 {
		t.Skipf("CASE 07 NOT CHECKED: no volumes in %s", dir)
	}
	for _, path := range volumes {
		out := t.TempDir()
		var talk bytes.Buffer
		if code := Run(t.Context(), []string{"explain", path, "--model", filepath.Join(dir, "model.onnx"), "--target-class", "0", "--device", "cpu", "--out", out},
			&talk, &talk); code != 0 {
			t.Fatalf("%s: exit code %d\n%s", path, code, talk.String())
		}
		want, err := format.Read(path, format.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"gradcam.heatmap.nii.gz", "gradcam.map.nii.gz"} { // one cell a voxel
			got, err := format.Read(filepath.Join(out, name), format.Options{})
			if err != nil || got.Geometry != want.Geometry {
				t.Errorf("%s of %s: geometry %+v, want %+v (%v)", name, path, got.Geometry, want.Geometry, err)
			}
		}
		text, err := os.ReadFile(filepath.Join(out, "result.json"))
		var record struct{ Warnings []string }
		if err == nil {
			err = json.Unmarshal(text, &record)
		}
		places := strings.Contains(strings.Join(record.Warnings, " "), "does not say where it lies")
		if none := strings.Contains(path, "s0q0"); err != nil || places != none || strings.Contains(talk.String(), "does not say where") != none {
			t.Errorf("%s: warnings %q, %v\n%s", path, record.Warnings, err, talk.String())
		}
	}
}
