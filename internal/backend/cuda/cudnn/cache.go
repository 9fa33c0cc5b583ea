package cudnn

import (
	"cmp"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// CacheKey names the problem that an engine was chosen for: engines mean something for one version of the library, times for one device.
type CacheKey struct {
	Device  string // name and compute capability
	Library int    // Library.Version
	Driver  int    // driver.Driver.Version
	Problem Convolution
	Limit   int // the workspace that was allowed, in bytes
}

// Choice is the fastest of the engines that were tried.
type Choice struct {
	Engine    string // Plan.Engine
	Workspace int    // Plan.Workspace
	Seconds   float64
}

// Own is the prefix of choices that are not engines of cuDNN but faster kernels of the caller.
const Own = "own:"

// Cache remembers choices on disk, so that engines are timed once on a machine. It is a help only: a folder that cannot be read or written
// makes it empty, or forgetful, and is never an error of the caller. It may be used by several goroutines and several processes; choices that
// two processes write at the same moment can be lost.
type Cache struct {
	mu      sync.Mutex
	path    string
	entries map[string][]cacheLine // by CacheKey without the limit
	dirty   bool
}

// cacheLine is a line of the cache's file.
type cacheLine struct {
	Problem   string    `json:"problem"` // CacheKey without the limit, as text
	Limit     int       `json:"limit"`
	Engine    string    `json:"engine"`
	Workspace int       `json:"workspace"`
	Seconds   float64   `json:"seconds"`
	Time      time.Time `json:"time"`
}

const (
	cacheFile    = "engines.jsonl" // JSON lines
	cacheEntries = 4096            // some models on some devices; the oldest ones go
	cacheBytes   = 8 << 20         // a longer file is not ours
)

// CacheDir returns the folder of a user's choices, or "" if the system does not say where caches belong.
func CacheDir() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "voxcam", "cudnn")
}

// OpenCache reads the choices in a folder (CacheDir). With "" it keeps them in memory only.
func OpenCache(dir string) *Cache {
	c := &Cache{entries: map[string][]cacheLine{}}
	if dir == "" {
		return c
	}
	c.path = filepath.Join(dir, cacheFile)
	for _, e := range readCache(c.path) {
		c.insert(e)
	}
	return c
}

// readCache reads the valid entries; lines of another version, or cut off, are skipped.
func readCache(path string) []cacheLine {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > cacheBytes {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var all []cacheLine
	for line := range strings.Lines(string(text)) {
		var e cacheLine
		if json.Unmarshal([]byte(line), &e) != nil || e.Problem == "" || e.Workspace < 0 || e.Seconds < 0 {
			continue
		}
		if _, err := parseEngine(e.Engine); err == nil || strings.HasPrefix(e.Engine, Own) {
			all = append(all, e)
		}
	}
	return all
}

// insert replaces the entry of the same problem and limit.
func (c *Cache) insert(e cacheLine) {
	known := slices.DeleteFunc(c.entries[e.Problem], func(o cacheLine) bool { return o.Limit == e.Limit })
	c.entries[e.Problem] = append(known, e)
}

func (k CacheKey) text() string {
	text, err := json.Marshal(struct {
		Device          string
		Library, Driver int
		Problem         string
	}{k.Device, k.Library, k.Driver, k.Problem.String()})
	if err != nil {
		return "" // strings and integers always have a text
	}
	return string(text)
}

// Lookup finds a choice that still is the best for the key: one that was made under the same limit, or one that was made under a larger
// limit and fits this one.
func (c *Cache) Lookup(k CacheKey) (Choice, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries[k.text()] {
		if e.Workspace <= k.Limit && k.Limit <= e.Limit {
			return Choice{e.Engine, e.Workspace, e.Seconds}, true
		}
	}
	return Choice{}, false
}

// Store remembers a choice. Save writes it to disk.
func (c *Cache) Store(k CacheKey, choice Choice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.insert(cacheLine{k.text(), k.Limit, choice.Engine, choice.Workspace, choice.Seconds, time.Now().UTC().Truncate(time.Second)})
	c.dirty = true
}

// Forget removes the choices for a problem, because the library did not build one of them any more.
func (c *Cache) Forget(k CacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, k.text())
	c.dirty = true
}

// Save writes the choices to disk if there are new ones, together with those that other processes have written since. The file is replaced
// in one step, so that readers never see half of it.
func (c *Cache) Save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.path == "" || !c.dirty {
		return nil
	}
	for _, e := range readCache(c.path) {
		if !slices.ContainsFunc(c.entries[e.Problem], func(o cacheLine) bool { return o.Limit == e.Limit }) {
			c.insert(e)
		}
	}
	var all []cacheLine
	for problem := range maps.Keys(c.entries) {
		all = append(all, c.entries[problem]...)
	}
	slices.SortFunc(all, func(a, b cacheLine) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.Problem, b.Problem), cmp.Compare(a.Limit, b.Limit))
	})
	all = all[:min(len(all), cacheEntries)]
	var text strings.Builder
	for _, e := range all {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		text.Write(line)
		text.WriteByte('\n')
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o755); err != nil {
		return err
	}
	if err := renameio.WriteFile(c.path, []byte(text.String()), 0o644); err != nil {
		return err
	}
	c.dirty = false
	return nil
}
