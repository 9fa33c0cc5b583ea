package format

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/volume"
)

// Each format that is written is read again as the same volume.
func TestWrittenIsRead(t *testing.T) {
	for _, extension := range Written() {
		for _, channels := range []int{1, 2} {
			v := volume.New(channels, 3, 4, 5)
			for i := range v.Data {
				v.Data[i] = float32(i) - 7.5
			}
			path := filepath.Join(t.TempDir(), "v"+extension)
			err := Write(path, v)
			if extension == ".nii.gz" && channels > 1 {
				if err == nil || !strings.Contains(err.Error(), "2 channels") {
					t.Errorf("%s: %v", extension, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := Read(path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Shape() != v.Shape() || !slices.Equal(got.Data, v.Data) {
				t.Errorf("%s: %s of %s came back", extension, got.Shape(), v.Shape())
			}
		}
	}
	for _, name := range []string{"v.nii", "v.npz", "v.tiff", "v"} {
		if err := Write(filepath.Join(t.TempDir(), name), volume.New(1, 1, 1, 1)); err == nil || !strings.Contains(err.Error(), ".nii.gz") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Write("v.npy", &volume.Volume{}); err == nil {
		t.Error("a volume without voxels was written")
	}
}
