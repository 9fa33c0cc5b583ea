package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/npy"
)

func parseShape(ts *testscript.TestScript, text string) (shape []int, elements int) {
	elements = 1
	for part := range strings.SplitSeq(text, "x") {
		n, err := strconv.Atoi(part)
		ts.Check(err)
		shape, elements = append(shape, n), elements*n
	}
	return shape, elements
}

func writeNpy(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: npy FILE SHAPE [nan]")
	}
	shape, n := parseShape(ts, args[1])
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(math.Sin(float64(i)) + math.Sin(float64(i)/7))
	}
	if len(args) > 2 {
		values[n/2] = float32(math.NaN())
	}
	var b bytes.Buffer
	ts.Check(npy.Write(&b, shape, values))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o666))
}

func checkArray(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: array FILE SHAPE [unit]")
	}
	want, n := parseShape(ts, args[1])
	text := ts.ReadFile(args[0])
	if !strings.Contains(text[:min(len(text), 100)], "'<f4'") {
		ts.Fatalf("%s is not of float32", args[0])
	}
	file, err := npy.NewStack(section(text))
	ts.Check(err)
	if !slices.Equal(file.Shape(), want) {
		ts.Fatalf("%s has the shape %v instead of %v", args[0], file.Shape(), want)
	}
	a, err := npy.Read(section(text), array.Options{})
	ts.Check(err)
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range a.Data {
		low, high = min(low, float64(v)), max(high, float64(v))
	}
	if len(a.Data) != n || math.IsNaN(low) || math.IsInf(high-low, 0) || low == high {
		ts.Fatalf("%s holds %d values from %g to %g", args[0], len(a.Data), low, high)
	}
	if len(args) > 2 && (low != 0 || high < 0.99 || high > 1) {
		ts.Fatalf("%s holds values from %g to %g instead of 0 to 1", args[0], low, high)
	}
}

func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: json FILE PATH REGEXP")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for step := range strings.SplitSeq(args[1], ".") {
		switch at := v.(type) {
		case map[string]any:
			inner, ok := at[step]
			if !ok {
				ts.Fatalf("%s: nothing is at %s of %s", args[0], step, args[1])
			}
			v = inner
		case []any:
			if step == "len" {
				v = len(at)
				continue
			}
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(at) {
				ts.Fatalf("%s: nothing is at %s of %s", args[0], step, args[1])
			}
			v = at[i]
		default:
			ts.Fatalf("%s: nothing is below %s of %s", args[0], step, args[1])
		}
	}
	if text := fmt.Sprint(v); regexp.MustCompile(args[2]).MatchString(text) == neg {
		ts.Fatalf("%s: %s is %s, compared with %s", args[0], args[1], text, args[2])
	}
}

// fleeting are the keys of records that differ from run to run.
var fleeting = regexp.MustCompile(`^(created|finished|.*seconds|.*time|.*timestamp|config_used|budget_bytes|timeline|record_sha256)$`)

// steady is a file without what differs from run to run. Of the records' digests none stays: they name files that are compared
// themselves.
func steady(name string, text []byte) ([]byte, error) {
	switch {
	case strings.HasSuffix(name, ".txt") || strings.Contains(name, "summaries/") || strings.HasSuffix(name, ".lock") || strings.HasSuffix(name, ".jsonl"):
		return nil, nil
	case !strings.HasSuffix(name, ".json"):
		return text, nil
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var clean func(v any)
	clean = func(v any) {
		switch at := v.(type) {
		case map[string]any:
			for k, inner := range at {
				if fleeting.MatchString(k) {
					delete(at, k)
				} else {
					clean(inner)
				}
			}
		case []any:
			for _, inner := range at {
				clean(inner)
			}
		}
	}
	clean(v)
	return json.MarshalIndent(v, "", " ")
}

// tree is the steady content of the files under a path, which may be a file.
func tree(root string) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(path, root))
		files[name], err = steady(filepath.ToSlash(path), text)
		return err
	})
	return files, err
}

func same(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: same A B")
	}
	a, err := tree(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := tree(ts.MkAbs(args[1]))
	ts.Check(err)
	var differ []string
	for name := range a {
		if other, ok := b[name]; !ok || !bytes.Equal(a[name], other) {
			differ = append(differ, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			differ = append(differ, name)
		}
	}
	slices.Sort(differ)
	if len(a) == 0 || neg == (len(differ) == 0) {
		ts.Fatalf("%s has %d files, %s has %d; these differ: %q", args[0], len(a), args[1], len(b), differ)
	}
}

func stamp(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: stamp FILE DIR")
	}
	var b strings.Builder
	ts.Check(filepath.WalkDir(ts.MkAbs(args[1]), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %d %d %x\n", path, info.Size(), info.ModTime().UnixNano(), sha256.Sum256(text))
		return err
	}))
	if b.Len() == 0 {
		ts.Fatalf("%s has no files", args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(b.String()), 0o666))
}
