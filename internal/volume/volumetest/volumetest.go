// Package volumetest is the conformance suite of the readers of volume formats: every reader must read the fixtures as the
// reference libraries do, refuse every file that is cut off, and survive any bytes.
package volumetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

// Expected has the values that a reference library read from a fixture.
type Expected struct {
	Variable string
	Shape    []int
	Data     []float32 // row-major
	Affine   *[3][4]float64
}

// Dir returns the folder of the fixtures, internal/volume/testdata, seen from any package of the module.
func Dir() string {
	for above := "."; ; above = filepath.Join(above, "..") {
		if _, err := os.Stat(filepath.Join(above, "go.mod")); err == nil {
			return filepath.Join(above, "internal", "volume", "testdata")
		}
		if len(above) > 64 {
			panic("the tests run outside of the module")
		}
	}
}

// Expectations returns the expectations by file name, from the table that testdata/make.py wrote.
func Expectations(t testing.TB) map[string][]Expected {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(Dir(), "expect.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string][]Expected
	if err := json.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// Open returns the content of a fixture.
func Open(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(Dir(), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Section is the input of a reader that reads b.
func Section(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

// Fixtures reads every fixture that matches one of the patterns and has an expectation, and demands the same numbers. It
// then cuts each off at every length and demands an error, and that every error has one of the two types of errors.
func Fixtures(t *testing.T, read array.Reader, patterns ...string) {
	all := Expectations(t)
	for _, name := range files(t, patterns) {
		if len(all[name]) == 0 {
			continue
		}
		t.Run(name, func(t *testing.T) {
			b := Open(t, name)
			for _, want := range all[name] {
				got, err := read(Section(b), array.Options{Variable: want.Variable})
				if err != nil {
					t.Errorf("variable %q: %v", want.Variable, err)
					continue
				}
				if !slices.Equal(got.Shape, want.Shape) {
					t.Errorf("variable %q: shape %v, want %v", want.Variable, got.Shape, want.Shape)
				} else if !slices.Equal(got.Values(), want.Data) {
					t.Errorf("variable %q: read %v, want %v", want.Variable, got.Values(), want.Data)
				}
				var affine *[3][4]float64
				if got.Geometry != nil {
					affine = (*[3][4]float64)(&got.Geometry.Affine)
				}
				checkAffine(t, affine, want.Affine)
			}
			last := all[name][len(all[name])-1].Variable
			for n := range b {
				_, err := read(Section(b[:n]), array.Options{Variable: last})
				if !typed(err) {
					t.Fatalf("cut off after %d of %d bytes: error %v", n, len(b), err)
				}
			}
		})
	}
}

func checkAffine(t *testing.T, got, want *[3][4]float64) {
	t.Helper()
	if (got == nil) != (want == nil) {
		t.Errorf("affine %v, want %v", got, want)
		return
	}
	if want == nil {
		return
	}
	for r := range want {
		for c := range want[r] {
			if d := got[r][c] - want[r][c]; d > 1e-9 || d < -1e-9 {
				t.Errorf("affine %v, want %v", *got, *want)
				return
			}
		}
	}
}

// typed reports whether err is a failure of one of the types of package volume.
func typed(err error) bool {
	var malformed *volume.MalformedError
	var unsupported *volume.UnsupportedError
	return errors.As(err, &malformed) || errors.As(err, &unsupported)
}

// Fuzz seeds the corpus with the fixtures that match the patterns and demands of any bytes: an error of the two types, or
// an array that agrees with its own shape; and no more memory than the input justifies.
func Fuzz(f *testing.F, read array.Reader, variable string, patterns ...string) {
	for _, name := range files(f, patterns) {
		f.Add(Open(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const maxVoxels = 1 << 22
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a, err := read(Section(b), array.Options{Variable: variable, MaxVoxels: maxVoxels})
		runtime.ReadMemStats(&after)
		// Deflate expands at most 1032 times; four bytes a voxel, and the growth of slices, may come on top.
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+len(b)*1032*4*4); got > most {
			t.Errorf("%d bytes of input allocated %d bytes", len(b), got)
		}
		if err != nil {
			if !typed(err) {
				t.Errorf("error %v has none of the types of package volume", err)
			}
			return
		}
		n := 1
		for _, size := range a.Shape {
			n *= size
		}
		if len(a.Values()) != n || n > maxVoxels {
			t.Errorf("shape %v with %d values", a.Shape, len(a.Data))
		}
	})
}

// files lists the fixtures that match a pattern; each pattern must match one.
func files(t testing.TB, patterns []string) []string {
	t.Helper()
	var names []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(Dir(), p))
		if err != nil || len(found) == 0 {
			t.Fatalf("no fixture matches %s: %v", p, err)
		}
		for _, path := range found {
			names = append(names, filepath.Base(path))
		}
	}
	return names
}
