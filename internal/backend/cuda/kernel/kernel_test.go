package kernel

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestGenerated holds the modules to the sources: without the compiler it cannot make them, but it can tell that they are of others.
func TestGenerated(t *testing.T) {
	text, err := os.ReadFile("kernels.sha256")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			want = append(want, strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{"*.cu", "*.cuh"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(data)
			got = append(got, hex.EncodeToString(sum[:])+"  "+name)
		}
	}
	byName := func(a, b string) int { return strings.Compare(a[64:], b[64:]) }
	slices.SortFunc(got, byName)
	slices.SortFunc(want, byName)
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("%s changed after the kernels were compiled: run go generate ./internal/backend/cuda/kernel", line[66:])
		}
	}
	if len(want) > len(got) {
		t.Error("sources are gone from which kernels were compiled: run go generate ./internal/backend/cuda/kernel")
	}
}

func TestImages(t *testing.T) {
	if _, _, err := Images(6, 1); err == nil || !strings.Contains(err.Error(), "6.1") {
		t.Errorf("a GPU that is too old: %v", err)
	}
	for _, c := range []struct {
		major, minor int
		ptx          bool
	}{{7, 0, false}, {7, 5, false}, {8, 0, false}, {8, 9, false}, {9, 0, false}, {10, 0, true}, {12, 0, true}} {
		names, images, err := Images(c.major, c.minor)
		if err != nil {
			t.Fatal(err)
		}
		sources, err := filepath.Glob("*.cu")
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			if !slices.Contains(sources, name) {
				t.Errorf("%d.%d: there is no source %s", c.major, c.minor, name)
			}
			if elf := bytes.HasPrefix(images[i], []byte("\x7fELF")); elf == c.ptx {
				t.Errorf("%d.%d: %s is machine code %v", c.major, c.minor, name, elf)
			}
		}
	}
	if _, _, err := unpack(sm70[:len(sm70)/2]); err == nil {
		t.Error("half of an archive passes")
	}
}
