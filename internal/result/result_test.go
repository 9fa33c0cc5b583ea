package result_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/result"
	"github.com/voxcam/voxcam/volume"
)

// one is the result of two methods for a volume of 2x4x4, of which the second has no map.
func one() (*volume.Volume, *cam.Result) {
	v := volume.New(1, 2, 4, 4)
	for i := range v.Data {
		v.Data[i] = float32(i)
	}
	heat := make([]float32, v.Voxels())
	heat[5] = 1
	return v, &cam.Result{Logits: []float32{0, 1}, Probabilities: []float64{0.25, 0.75}, Predicted: 1, TargetClass: 1, Methods: []cam.MethodResult{
		{Method: "gradcam", Status: cam.StatusOK, Dims: [3]int{1, 2, 2}, Map: []float32{-1, 0, 1, 2}, HeatDims: v.Dims(), Heatmap: heat},
		{Method: "saliency", Status: cam.StatusFailed, Reason: "no gradient"},
	}}
}

// Each format of the table can be written, and its files have the endings that tell them from others in a folder.
func TestEachFormat(t *testing.T) {
	v, r := one()
	endings := append(result.Endings("."), result.SheetEndings("")...)
	for _, format := range result.Names() {
		f := result.Folder{Dir: filepath.Join(t.TempDir(), format), Formats: []string{format}, Alpha: 0.4, TrueClass: -1}
		for range 2 { // what is there is replaced
			if err := f.Check(); err != nil {
				t.Fatalf("%s: %v", format, err)
			}
			if err := f.Write(v, cam.Info{SHA256: "0"}, r); err != nil {
				t.Fatalf("%s: %v", format, err)
			}
		}
		entries, err := os.ReadDir(f.Dir)
		if err != nil || len(entries) < 2 {
			t.Fatalf("%s: %v, %v", format, entries, err)
		}
		for _, e := range entries {
			known := func(ending string) bool { return strings.HasSuffix(e.Name(), ending) }
			if e.Name() != result.RecordName && !slices.ContainsFunc(endings, known) {
				t.Errorf("%s: nothing says that %s is a result", format, e.Name())
			}
		}
	}
}

// A folder with somebody else's result.json, and a format that is not known, are refused before the work.
func TestRefusedFolders(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, result.RecordName), []byte(`{"score": 3}`), 0o666); err != nil {
		t.Fatal(err)
	}
	for says, f := range map[string]*result.Folder{
		"not overwritten":           {Dir: dir},
		`format "jpg" is not known`: {Dir: t.TempDir(), Formats: []string{"npy", "jpg"}},
	} {
		if err := f.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}
