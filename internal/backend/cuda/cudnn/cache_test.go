package cudnn

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func key(problem Convolution, limit int) CacheKey {
	return CacheKey{Device: "NVIDIA H200 9.0", Library: 91900, Driver: 13000, Problem: problem, Limit: limit}
}

func TestCache(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "voxcam", "cudnn")
	c := OpenCache(dir)
	p := same(8, 8, 3, [3]int{4, 5, 6}, TF32)
	c.Store(key(p, 1000), Choice{"67,2=1,13=0", 131, 0.5})
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}

	c = OpenCache(dir)
	for limit, want := range map[int]bool{1000: true, 131: true, 130: false, 1001: false} {
		got, ok := c.Lookup(key(p, limit))
		if ok != want || ok && got != (Choice{"67,2=1,13=0", 131, 0.5}) {
			t.Errorf("limit %d: %v %v, want %v", limit, got, ok, want)
		}
	}
	other := p
	other.Bias = true
	if _, ok := c.Lookup(key(other, 1000)); ok {
		t.Error("another problem was found")
	}
	newer := key(p, 1000)
	newer.Library++
	if _, ok := c.Lookup(newer); ok {
		t.Error("a choice of another version of the library was found")
	}

	// A second process writes meanwhile; nothing is lost.
	second := OpenCache(dir)
	second.Store(key(other, 7), Choice{"0", 0, 1})
	if err := second.Save(); err != nil {
		t.Fatal(err)
	}
	c.Store(key(p, 5000), Choice{"3", 2000, 0.25})
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	c = OpenCache(dir)
	for _, k := range []CacheKey{key(p, 1000), key(p, 5000), key(other, 7)} {
		if _, ok := c.Lookup(k); !ok {
			t.Errorf("lost %v", k)
		}
	}
}

func TestCacheSurvivesDamage(t *testing.T) {
	dir := t.TempDir()
	c := OpenCache(dir)
	p := same(8, 8, 3, [3]int{4, 5, 6}, Float32)
	c.Store(key(p, 1), Choice{"1", 0, 1})
	c.Store(key(p, 2), Choice{"2", 2, 1})
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, cacheFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Cut the last line, and put rubbish before the first.
	damaged := "{\"problem\":1}\n\x00\xff\n{\"problem\":\"p\",\"engine\":\"no engine\"}\n" + string(text[:len(text)-5])
	if err := os.WriteFile(path, []byte(damaged), 0o644); err != nil {
		t.Fatal(err)
	}
	c = OpenCache(dir)
	n := 0
	for _, e := range c.entries {
		n += len(e)
	}
	if n != 1 {
		t.Errorf("%d entries of a damaged file, want the one that is whole", n)
	}

	// A folder where the file belongs, a folder that cannot be made, no folder at all.
	if err := os.MkdirAll(filepath.Join(dir, "x", cacheFile), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{filepath.Join(dir, "x"), filepath.Join(path, "below a file"), ""} {
		c := OpenCache(bad)
		c.Store(key(p, 1), Choice{"1", 0, 1})
		err := c.Save()
		if (err == nil) != (bad == "") {
			t.Errorf("saving in %q: %v", bad, err)
		}
		if _, ok := c.Lookup(key(p, 1)); !ok {
			t.Errorf("%q: the choice is not even in memory", bad)
		}
	}
}

func TestCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	c := OpenCache(dir)
	for i := range cacheEntries + 10 {
		c.Store(key(same(8, 8, 3, [3]int{4, 5, 6 + i}, Float32), 1), Choice{"1", 0, 1})
	}
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, cacheFile))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n != cacheEntries || len(text) > cacheBytes {
		t.Errorf("%d lines, %d bytes", n, len(text))
	}
}
