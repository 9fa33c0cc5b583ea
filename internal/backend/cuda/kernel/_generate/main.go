// Command _generate compiles the kernels of package kernel with NVRTC, NVIDIA's compiler as a library. It is a module of its own, so that
// the program never depends on it. No GPU and no CUDA install is needed: the library comes from a Python package.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// targets are what is compiled. A cubin is machine code for the GPUs of its major version from its minor one on; 90a is for 9.0 only, with
// all of its instructions. PTX is compiled by the driver, for all GPUs from its version on.
var targets = []string{"sm_70", "sm_80", "sm_90a", "compute_90"}

// options of the compiler for every kernel: strict arithmetic is its default.
var options = []string{"--std=c++17", "--device-as-default-execution-space", "--dopt=on"}

// sums is the file that says from which sources the modules were made.
const sums = "kernels.sha256"

func archive(target string) string { return "kernels_" + target + ".tar.gz" }

func main() {
	log.SetFlags(0)
	log.SetPrefix("generate: ")
	nvrtc := flag.String("nvrtc", "", "folder that NVRTC is in; without it, the pinned Python package is downloaded to the user's cache")
	out := flag.String("out", ".", "folder of the sources, to which the modules are written")
	all := flag.Bool("all", false, "compile also what the user's cache has")
	flag.Parse()
	if err := run(*nvrtc, *out, *all); err != nil {
		log.Fatal(err)
	}
}

func run(nvrtc, dir string, all bool) error {
	if nvrtc == "" {
		var err error
		if nvrtc, err = download(); err != nil {
			return err
		}
	}
	compiler, err := openCompiler(nvrtc)
	if err != nil {
		return err
	}
	hashes, err := hashSources(dir)
	if err != nil {
		return err
	}
	setup := fmt.Sprintf("%s %q", compiler.version, options)
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache = filepath.Join(cache, "voxcam", "modules")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}

	type job struct {
		source, target string
		kept           string // path in the cache
		module         []byte
		err            error
	}
	var jobs []*job
	for _, name := range slices.Sorted(maps.Keys(hashes)) {
		if filepath.Ext(name) != ".cu" {
			continue
		}
		source, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		wanted, err := wantedTargets(string(source))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		read := map[string]bool{name: true}
		if err := included(dir, string(source), read); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, target := range wanted {
			sum := sha256.New()
			fmt.Fprintln(sum, setup, target, name)
			for _, file := range slices.Sorted(maps.Keys(read)) {
				fmt.Fprintln(sum, file, hashes[file])
			}
			j := &job{source: name, target: target, kept: filepath.Join(cache, hex.EncodeToString(sum.Sum(nil)))}
			jobs = append(jobs, j)
			if !all {
				j.module, _ = os.ReadFile(j.kept) // compiled if it is not there
			}
		}
	}
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	for _, j := range jobs {
		if j.module != nil {
			continue
		}
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			log.Printf("%s for %s", j.source, j.target)
			if j.module, j.err = compiler.compile(filepath.Join(dir, j.source), j.target); j.err == nil {
				j.err = keep(j.kept, j.module)
			}
		})
	}
	group.Wait()
	var failed []error
	for _, j := range jobs {
		if j.err != nil {
			failed = append(failed, fmt.Errorf("%s for %s: %w", j.source, j.target, j.err))
		}
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}

	for _, target := range targets {
		var file bytes.Buffer
		zip, err := gzip.NewWriterLevel(&file, gzip.BestCompression)
		if err != nil {
			return err
		}
		w := tar.NewWriter(zip)
		for _, j := range jobs {
			if j.target != target {
				continue
			}
			// Without times and owners the same modules make the same bytes.
			if err := w.WriteHeader(&tar.Header{Name: j.source, Mode: 0o644, Size: int64(len(j.module)), Format: tar.FormatUSTAR}); err != nil {
				return err
			}
			if _, err := w.Write(j.module); err != nil {
				return err
			}
		}
		if err := errors.Join(w.Close(), zip.Close()); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, archive(target)), file.Bytes(), 0o644); err != nil {
			return err
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# Written by go generate from these sources with %s\n", setup)
	for _, name := range slices.Sorted(maps.Keys(hashes)) {
		fmt.Fprintf(&text, "%s  %s\n", hashes[name], name)
	}
	return os.WriteFile(filepath.Join(dir, sums), []byte(text.String()), 0o644)
}

// wantedTargets reads the line "// arch: sm_90a" among the first lines of a source; without it all targets are wanted.
func wantedTargets(source string) ([]string, error) {
	for i, line := range strings.SplitN(source, "\n", 11) {
		list, ok := strings.CutPrefix(strings.TrimSpace(line), "// arch:")
		if !ok || i == 10 {
			continue
		}
		wanted := strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r == ',' })
		for _, w := range wanted {
			if !slices.Contains(targets, w) {
				return nil, fmt.Errorf("its arch line names %s; there are %s", w, strings.Join(targets, ", "))
			}
		}
		return wanted, nil
	}
	return targets, nil
}

// hashSources gives the hash of each source by its name.
func hashSources(dir string) (map[string]string, error) {
	hashes := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".cu" && ext != ".cuh" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(data)
		hashes[e.Name()] = hex.EncodeToString(sum[:])
	}
	return hashes, nil
}

// keep writes a file of the cache, complete or not at all.
func keep(path string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// included adds the headers that a source includes to those that were read, with what they include themselves. The header of the simulator
// is not one of them: NVRTC never sees it.
func included(dir, source string, read map[string]bool) error {
	for line := range strings.Lines(source) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), `#include "`)
		name = strings.TrimSuffix(name, `"`)
		if !ok || read[name] || name == "simulator.h" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		read[name] = true
		if err := included(dir, string(text), read); err != nil {
			return err
		}
	}
	return nil
}
