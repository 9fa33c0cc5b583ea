package format

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
)

// TestGolden reads the volumes and the reference arrays of every golden case, where they are at hand.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("../../../shared/golden/*/volume.npy")
	if err != nil || len(cases) == 0 {
		t.Skip("../shared/golden is not here: its volumes and references were not read")
	}
	for _, path := range cases {
		if v, err := Read(path, Options{}); err != nil || v.Voxels() < 2 {
			t.Errorf("%s: %v", path, err)
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(path), "expected.npz"))
		if err != nil {
			t.Error(err)
			continue
		}
		arrays, err := npy.ReadAll(volumetest.Section(b))
		if err != nil || arrays["logits"] == nil || arrays["gradcam.heatmap"] == nil {
			t.Errorf("%s: %d arrays, %v", path, len(arrays), err)
		}
	}
}
