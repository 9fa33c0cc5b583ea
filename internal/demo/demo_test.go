package demo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/phantom"
	"github.com/voxcam/voxcam/internal/volume/npy"
)

// TestDatasetIsReadable reads the files with the packages that the main job uses: what comes out must be the phantoms.
func TestDatasetIsReadable(t *testing.T) {
	dir := t.TempDir()
	written, err := WriteDataset(t.Context(), dir, 9, 3)
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(written.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if c.Model.File != written.Model || !slices.Equal(c.Model.Classes, phantom.GradeNames[:]) || c.Model.TargetLayer != TargetLayer {
		t.Errorf("model section: %+v", c.Model)
	}
	set, err := dataset.Open(c.Data)
	if err != nil {
		t.Fatal(err)
	}
	samples, err := set.Select()
	if err != nil {
		t.Fatal(err)
	}
	if len(samples) != len(written.Cases) {
		t.Fatalf("%d samples, want %d", len(samples), len(written.Cases))
	}
	seen := map[string]bool{}
	for _, s := range samples {
		i := slices.IndexFunc(written.Cases, func(c Case) bool { return c.ID == s.ID })
		if i < 0 {
			t.Fatalf("sample %q is none of the cases", s.ID)
		}
		want := written.Cases[i]
		if s.Label != int(want.Params.Grade) || string(s.Split) != want.Split || seen[s.ID] {
			t.Errorf("%s: label %d in %s, want %d in %s", s.ID, s.Label, s.Split, want.Params.Grade, want.Split)
		}
		seen[s.ID] = true
		p, err := phantom.Generate(want.Params)
		if err != nil {
			t.Fatal(err)
		}
		got, err := set.Prepare(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for j, x := range got.Volume.Data {
			if want := float32(p.Image[j]) / 255; x != want {
				t.Fatalf("%s: voxel %d is %g, want %g", s.ID, j, x, want)
			}
		}
		checkMask(t, filepath.Join(written.Masks, s.ID+".npy"), p)
	}
}

func checkMask(t *testing.T, path string, p *phantom.Phantom) {
	t.Helper()
	f, err := npy.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !slices.Equal(f.Shape(), p.Dims[:]) {
		t.Fatalf("%s: shape %v, want %v", path, f.Shape(), p.Dims)
	}
	slice := make([]float32, p.Dims[1]*p.Dims[2])
	for d := range f.Len() {
		if err := f.Draw(d, slice); err != nil {
			t.Fatal(err)
		}
		for i, got := range slice {
			if want := p.Mask[d*len(slice)+i]; got != float32(want) {
				t.Fatalf("%s: slice %d, voxel %d: %g, want %d", path, d, i, got, want)
			}
		}
	}
}

func TestWritesTheSameAgain(t *testing.T) {
	read := func(seed uint64) map[string][]byte {
		dir := t.TempDir()
		if _, err := WriteDataset(t.Context(), dir, 4, seed); err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{}
		for _, pattern := range []string{"*", "*/*"} {
			paths, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, p := range paths {
				if b, err := os.ReadFile(p); err == nil {
					rel, _ := filepath.Rel(dir, p)
					files[rel] = b
				}
			}
		}
		return files
	}
	a, b, c := read(1), read(1), read(2)
	if len(a) != 3+2*4 {
		t.Errorf("%d files, want 11", len(a))
	}
	for name := range a {
		if !bytes.Equal(a[name], b[name]) {
			t.Errorf("%s differs between two runs", name)
		}
	}
	for _, name := range []string{"data/oct_001.mat", "masks/oct_001.npy"} {
		if bytes.Equal(a[name], c[name]) {
			t.Errorf("%s is the same for another seed", name)
		}
	}
}

func TestCases(t *testing.T) {
	seeds := map[uint64]bool{}
	splits := map[string]int{}
	for _, c := range Cases(200, 7) {
		if c.Params.Seed >= 1<<40 {
			t.Errorf("%s: seed %d belongs to the training set", c.ID, c.Params.Seed)
		}
		seeds[c.Params.Seed] = true
		splits[c.Split+strconv.Itoa(int(c.Params.Grade))]++
	}
	if len(seeds) != 200 {
		t.Errorf("%d different seeds for 200 cases", len(seeds))
	}
	for g := range phantom.Grades {
		for split, want := range map[string]int{"train": 30, "val": 10, "test": 10} {
			if got := splits[split+strconv.Itoa(g)]; got != want {
				t.Errorf("grade %d: %d cases in %s, want %d", g, got, split, want)
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	if _, err := WriteDataset(t.Context(), t.TempDir(), 0, 1); err == nil {
		t.Error("an empty data set: no error")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteDataset(t.Context(), file, 1, 1); err == nil {
		t.Error("a file in the place of the folder: no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := WriteDataset(ctx, t.TempDir(), 1, 1); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

func TestModelIsSmall(t *testing.T) {
	if n := len(Model); n < 1<<14 || n > 2<<20 {
		t.Errorf("the embedded model has %d bytes", n)
	}
}

// What a user has in the folder is not overwritten, and a demo that is written again changes nothing.
func TestWriteDatasetOverwritesNothing(t *testing.T) {
	for _, name := range []string{"config.toml", "labels.csv", "model.onnx", "data/oct_001.mat", "masks/oct_000.npy"} {
		dir := t.TempDir()
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("mine"), 0o644)); err != nil {
			t.Fatal(err)
		}
		if _, err := WriteDataset(t.Context(), dir, 2, 1); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		var files []string
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, path)
			}
			return err
		})
		if text, _ := os.ReadFile(path); err != nil || string(text) != "mine" || len(files) != 1 {
			t.Errorf("%s: it is %q now, beside %v, %v", name, text, files, err)
		}
	}
	dir := t.TempDir()
	s, err := WriteDataset(t.Context(), dir, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(s.Labels)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteDataset(t.Context(), dir, 2, 1); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(s.Labels)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the same file was written again: %v", err)
	}
	if _, err := os.Stat(s.Config); err != nil {
		t.Error(err)
	}
	if _, err := WriteDataset(t.Context(), dir, 3, 1); err == nil || !strings.Contains(err.Error(), "--volumes") {
		t.Errorf("another table of labels: %v", err)
	}
}
