// Command _generate compiles the kernels of package kernel with NVRTC, NVIDIA's compiler as a library. It is a module of its own, so that
// the program never depends on it. No GPU and no CUDA install is needed: the library comes from a Python package.
package main

import (
	"crypto/sha256"
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

func main() {
	log.SetFlags(0)
	log.SetPrefix("generate: ")
	nvrtc := flag.String("nvrtc", "", "folder that NVRTC is in; without it, the pinned Python package is downloaded to the user's cache")
	out := flag.String("out", ".", "folder of the sources, to which the archives are written")
	all := flag.Bool("all", false, "compile also sources whose archives are up to date")
	flag.Parse()
	if err := run(*nvrtc, *out, *all); err != nil {
		log.Fatal(err)
	}
}

// source is a file of kernels, and how it is to be compiled.
type source struct {
	dir, name string
	targets   []string
	origin    string // compiler, options, targets and digests of all that is read: the comment of the archive
}

func (s source) archive() string {
	return filepath.Join(s.dir, strings.TrimSuffix(s.name, ".cu")+".zip")
}

func run(nvrtc, dir string, all bool) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.cu"))
	if err != nil {
		return err
	}
	var outdated []source
	current := map[string]bool{}
	for _, path := range paths {
		s, err := readSource(dir, filepath.Base(path))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		current[s.archive()] = true
		if all || origin(s.archive()) != s.origin {
			outdated = append(outdated, s)
		}
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.zip"))
	if err != nil {
		return err
	}
	for _, path := range archives {
		if !current[path] { // its source is gone
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	if len(outdated) == 0 {
		return nil
	}
	return compileAll(nvrtc, outdated)
}

// compileAll compiles sources and writes the archive of each as soon as it is complete, so that what fails costs no other.
func compileAll(nvrtc string, sources []source) error {
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
	var group sync.WaitGroup
	slots := make(chan struct{}, runtime.NumCPU())
	failed := make([]error, len(sources))
	for i, s := range sources {
		group.Go(func() {
			modules, err := s.compile(compiler, slots)
			if err == nil {
				err = writeArchive(s.archive(), s.origin, modules)
			}
			if err != nil {
				failed[i] = fmt.Errorf("%s: %w", s.name, err)
			}
		})
	}
	group.Wait()
	return errors.Join(failed...)
}

// compile makes the modules of a source. Each takes a slot while it is compiled.
func (s source) compile(c *compiler, slots chan struct{}) ([]module, error) {
	var group sync.WaitGroup
	modules, failed := make([]module, len(s.targets)), make([]error, len(s.targets))
	for i, target := range s.targets {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			log.Printf("%s for %s", s.name, target)
			image, err := c.compile(filepath.Join(s.dir, s.name), target)
			if err != nil {
				failed[i] = fmt.Errorf("for %s: %w", target, err)
			}
			modules[i] = module{target, image}
		})
	}
	group.Wait()
	return modules, errors.Join(failed...)
}

func readSource(dir, name string) (source, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return source{}, err
	}
	wanted, err := wantedTargets(string(text))
	if err != nil {
		return source{}, err
	}
	files := map[string][]byte{name: text}
	if err := addIncluded(dir, string(text), files); err != nil {
		return source{}, err
	}
	var origin strings.Builder
	fmt.Fprintf(&origin, "NVRTC %s %s\nfor %s\n", release, strings.Join(options, " "), strings.Join(wanted, " "))
	for _, file := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&origin, "%x  %s\n", sha256.Sum256(files[file]), file)
	}
	return source{dir: dir, name: name, targets: wanted, origin: origin.String()}, nil
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

// addIncluded adds the headers that a source includes, and those that they include, to files. The header of the simulator is not one of
// them: NVRTC never sees it.
func addIncluded(dir, source string, files map[string][]byte) error {
	for line := range strings.Lines(source) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), `#include "`)
		name = strings.TrimSuffix(name, `"`)
		if !ok || files[name] != nil || name == "simulator.h" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		files[name] = text
		if err := addIncluded(dir, string(text), files); err != nil {
			return err
		}
	}
	return nil
}
