package kernel

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestGenerated holds the modules to the sources: without the compiler it cannot make them, but the comment of an archive has the digests
// of what it was made from.
func TestGenerated(t *testing.T) {
	sources, err := filepath.Glob("*.cu")
	if err != nil {
		t.Fatal(err)
	}
	archives, err := filepath.Glob("*.zip")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		archive := strings.TrimSuffix(source, ".cu") + ".zip"
		i := slices.Index(archives, archive)
		if i < 0 {
			t.Errorf("%s was not compiled: run go generate ./internal/backend/cuda/kernel", source)
			continue
		}
		archives = slices.Delete(archives, i, i+1)
		checkOrigin(t, source, archive)
	}
	if len(archives) > 0 {
		t.Errorf("the sources of %v are gone: run go generate ./internal/backend/cuda/kernel", archives)
	}
}

func checkOrigin(t *testing.T, source, archive string) {
	t.Helper()
	r, err := zip.OpenReader(archive)
	if err != nil {
		t.Error(err)
		return
	}
	defer r.Close()
	compiler, rest, _ := strings.Cut(r.Comment, "\n")
	targets, digests, _ := strings.Cut(rest, "\n")
	if !strings.HasPrefix(compiler, "NVRTC ") {
		t.Errorf("%s does not say which compiler made it", archive)
	}
	var entries []string
	for _, f := range r.File {
		entries = append(entries, f.Name)
	}
	if targets != "for "+strings.Join(entries, " ") {
		t.Errorf("%s has modules for %v, and says: %s", archive, entries, targets)
	}
	if !strings.Contains(digests, "  "+source+"\n") {
		t.Errorf("%s was not made from %s", archive, source)
	}
	for line := range strings.Lines(digests) {
		digest, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		data, err := os.ReadFile(name)
		if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != digest {
			t.Errorf("%s changed after %s was compiled: run go generate ./internal/backend/cuda/kernel", name, source)
		}
	}
}

func TestModules(t *testing.T) {
	sources, err := filepath.Glob("*.cu")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Modules(6, 1); err == nil || !strings.Contains(err.Error(), "6.1") {
		t.Errorf("a GPU that is too old: %v", err)
	}
	for _, c := range []struct {
		major, minor int
		ptx          bool
	}{{7, 0, false}, {7, 5, false}, {8, 0, false}, {8, 9, false}, {9, 0, false}, {10, 0, true}, {12, 0, true}} {
		modules, err := Modules(c.major, c.minor)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range modules {
			if !slices.Contains(sources, m.Source) {
				t.Errorf("%d.%d: there is no source %s", c.major, c.minor, m.Source)
			}
			if elf := bytes.HasPrefix(m.Image, []byte("\x7fELF")); elf == c.ptx {
				t.Errorf("%d.%d: %s is machine code %v", c.major, c.minor, m.Source, elf)
			}
		}
		var got []string
		for _, m := range modules {
			got = append(got, m.Source)
		}
		want := slices.DeleteFunc(slices.Clone(sources), func(s string) bool { return s == "tensor90.cu" && (c.major != 9 || c.minor != 0) })
		if !slices.Equal(got, want) {
			t.Errorf("%d.%d: modules of %v, not of %v", c.major, c.minor, got, want)
		}
	}
}

// TestOpen reads archives from a folder: as the program's own, one that is cut off, one whose bytes changed, and none.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir, 9, 0); err == nil || !strings.Contains(err.Error(), "no kernels for sm_90a in "+dir) {
		t.Errorf("an empty folder: %v", err)
	}
	archive, err := os.ReadFile("precise.zip")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "precise.zip")
	write := func(data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(archive)
	if modules, err := Open(dir, 9, 0); err != nil || len(modules) != 1 || modules[0].Source != "precise.cu" {
		t.Errorf("one archive: %v, %v", modules, err)
	}
	changed := slices.Clone(archive)
	for i := 100; i < 4000; i += 100 { // in the first module
		changed[i] ^= 1
	}
	for name, data := range map[string][]byte{"half an archive": archive[:len(archive)/2], "changed bytes": changed} {
		write(data)
		if _, err := Open(dir, 7, 0); err == nil || !strings.Contains(err.Error(), "are damaged: precise.zip") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkModules(b *testing.B) {
	for b.Loop() {
		if _, err := Modules(9, 0); err != nil {
			b.Fatal(err)
		}
	}
}
