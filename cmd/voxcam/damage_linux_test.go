package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/npy"
)

// Whole commands get damaged files, each in a process of its own in a folder of its own: models, volumes, tables, configurations and session
// folders, damaged in ways that know their structure. Trial i of a seed is the same each time.
//
// In the environment: VOXCAM_FUZZ_COMMANDS is the number of trials, VOXCAM_FUZZ_SEED the seed, VOXCAM_FUZZ_TRIAL runs a single one, and
// VOXCAM_FUZZ_KEEP names a folder where the files of trials that failed are kept.
const (
	trialsVariable = "VOXCAM_FUZZ_COMMANDS"
	seedVariable   = "VOXCAM_FUZZ_SEED"
	oneVariable    = "VOXCAM_FUZZ_TRIAL"
	keepVariable   = "VOXCAM_FUZZ_KEEP"
)

const (
	fewTrials    = 40               // of an ordinary run of the tests
	spareBytes   = 256 << 20        // that a process may have resident beyond its budget
	addressBytes = 6 << 30          // of its address space
	hangSeconds  = 10               // of processor time
	idleTime     = 20 * time.Second // without any processor time
	stopTime     = 20 * time.Second // from a signal to the end
)

// damage makes the files of a trial, and what the program is asked to do with them.
type damage struct {
	name   string
	weight int
	make   func(t *trial)
}

var damages = []damage{
	{"model", 10, damagedModel},
	{"volume", 6, damagedVolume},
	{"session", 2, damagedSession},
	{"configuration", 1, damagedConfiguration},
	{"table", 1, damagedTable},
}

// trial is one run of the program. Below dir are home, with the files; out, the only folder that may change; other, which belongs to others.
type trial struct {
	*rand.Rand
	samples *samples
	dir     string
	args    []string
	budget  int   // bytes; 0: not a size
	may     []int // exit codes that are documented for this
	what    []string
	err     error // of making the files
}

func (t *trial) path(name string) string { return filepath.Join(t.dir, filepath.FromSlash(name)) }

func (t *trial) write(name string, data []byte) {
	p := t.path(name)
	t.err = errors.Join(t.err, os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, data, 0o644))
}

func (t *trial) told(format string, args ...any) {
	t.what = append(t.what, fmt.Sprintf(format, args...))
}

// budgets are those that trials have, as the flag says them.
var budgets = map[string]int{"auto": 0, "min": 0, "16MiB": 16 << 20, "64MiB": 64 << 20}

func (t *trial) withBudget() {
	name := pick(t.Rand, slices.Sorted(maps.Keys(budgets)))
	t.budget = budgets[name]
	t.args = append(t.args, "--memory-budget", name)
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func number(t *testing.T, variable string, missing int) int {
	text := os.Getenv(variable)
	if text == "" {
		return missing
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// Nothing that a file holds may crash the program, make it hang, take memory beyond the budget, or change anything outside of the results.
func TestDamagedFiles(t *testing.T) {
	if testing.Short() && os.Getenv(trialsVariable) == "" {
		t.Skip("not in short runs")
	}
	n, seed := number(t, trialsVariable, fewTrials), number(t, seedVariable, 1)
	first := 0
	if one := number(t, oneVariable, -1); one >= 0 {
		first, n = one, one+1
	}
	program := filepath.Join(t.TempDir(), "voxcam")
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, program)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSamples(program, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var next atomic.Int64
	next.Store(int64(first))
	var all sync.WaitGroup
	var mu sync.Mutex
	codes, failures := map[string]int{}, 0
	for range runtime.GOMAXPROCS(0) {
		base := t.TempDir()
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				kind, code, why := runTrial(program, s, filepath.Join(base, strconv.Itoa(i)), uint64(seed), i)
				mu.Lock()
				codes[fmt.Sprintf("%s %d", kind, code)]++
				if why != "" {
					failures++
					t.Errorf("trial %d of seed %d: %s", i, seed, why)
				}
				if done := i + 1; done%500 == 0 {
					fmt.Fprintf(os.Stderr, "%d trials, %d failed\n", done, failures)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	for _, key := range slices.Sorted(maps.Keys(codes)) {
		t.Logf("%-20s %6d", key, codes[key])
	}
}

// runTrial makes the files of a trial, runs the program on them, and says what was wrong; "" if nothing was.
func runTrial(program string, s *samples, dir string, seed uint64, i int) (kind string, code int, why string) {
	t := &trial{Rand: rand.New(rand.NewPCG(seed, uint64(i))), samples: s, dir: dir,
		may: []int{session.ExitOK, session.ExitRefused, session.ExitDegraded, session.ExitFailed}}
	defer os.RemoveAll(dir)
	total := 0
	for _, d := range damages {
		total += d.weight
	}
	at := t.IntN(total)
	for _, d := range damages {
		if at -= d.weight; at < 0 {
			kind = d.name
			t.write("other/keep", []byte("somebody's"))
			t.write("other/folder/keep", []byte("somebody's"))
			for _, name := range []string{"home", "out", "tmp", "run"} {
				t.err = errors.Join(t.err, os.MkdirAll(t.path(name), 0o755))
			}
			d.make(t)
			break
		}
	}
	if t.err != nil {
		return kind, -1, fmt.Sprintf("its files: %v", t.err)
	}
	before, err := listing(t.dir)
	if err != nil {
		return kind, -1, err.Error()
	}
	end, err := t.run(program)
	if err != nil {
		return kind, -1, err.Error()
	}
	var wrong []string
	after, err := listing(t.dir)
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	for name := range maps.Keys(union(before, after)) {
		if before[name] != after[name] {
			wrong = append(wrong, fmt.Sprintf("%s: was %q, is %q", name, before[name], after[name]))
		}
	}
	wrong = append(wrong, end.wrong(t)...)
	if end.code == session.ExitOK || end.code == session.ExitDegraded {
		wrong = append(wrong, checkResults(t.path("out"))...)
	}
	if len(wrong) == 0 {
		return kind, end.code, ""
	}
	if keep := os.Getenv(keepVariable); keep != "" {
		if err := os.CopyFS(filepath.Join(keep, fmt.Sprintf("%d_%05d", seed, i)), os.DirFS(t.path("home"))); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	return kind, end.code, fmt.Sprintf("%s\n  %s of %s\n  voxcam %s\n  exit code %d, %.1f s of processor time, %d MiB\n  %s", strings.Join(wrong, "\n  "),
		kind, strings.Join(t.what, "; "), strings.Join(t.args, " "), end.code, end.cpu, end.resident>>20, clip(end.stderr, 1500))
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func clip(s string, n int) string { return s[:min(len(s), n)] }

// listing describes everything below a folder, but for what the program is free to write: kind, size, and digest or target of each entry.
func listing(dir string) (map[string]string, error) {
	list := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if name == "out" || name == "run" {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		list[name] = info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			list[name] += fmt.Sprintf(" %d %x", len(text), sha256.Sum256(text))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			list[name] += " to " + target
		}
		return nil
	})
	return list, err
}

// ending has exit code, output and measures of a run of the program.
type ending struct {
	code     int
	signal   string // that ended it
	hung     bool
	deaf     bool // also to a signal
	cpu      float64
	resident int
	stdout   string
	stderr   string
}

// run runs the program with the trial's arguments.
func (t *trial) run(program string) (*ending, error) {
	var out, errs bytes.Buffer
	cmd := &exec.Cmd{Path: program, Args: append([]string{"voxcam"}, t.args...), Dir: t.path("home"), Stdout: &out, Stderr: &errs,
		Env: append(os.Environ(), "HOME="+t.path("home"), "TMPDIR="+t.path("tmp"), "XDG_RUNTIME_DIR="+t.path("run"), "GOMAXPROCS=1",
			"VOXCAM_CUDA_DRIVER=/absent/libcuda.so.1"),
		WaitDelay: stopTime}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	limit := unix.Rlimit{Cur: addressBytes, Max: addressBytes}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_AS, &limit, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, err
	}
	ended, done := context.WithCancel(context.Background())
	var waited error
	go func() {
		waited = cmd.Wait()
		done()
	}()
	e := &ending{}
	last, moved := 0.0, time.Now()
	for ended.Err() == nil {
		select {
		case <-ended.Done():
		case <-time.After(20 * time.Millisecond):
			e.resident = max(e.resident, residentBytes(cmd.Process.Pid))
			if now := processorSeconds(cmd.Process.Pid); now > last {
				last, moved = now, time.Now()
			}
			if last < hangSeconds && time.Since(moved) < idleTime {
				continue
			}
			e.hung = true
			cmd.Process.Signal(os.Interrupt)
			select {
			case <-ended.Done():
			case <-time.After(stopTime):
				e.deaf = true
				cmd.Process.Signal(syscall.SIGQUIT)
				select {
				case <-ended.Done():
				case <-time.After(stopTime):
					cmd.Process.Kill()
					<-ended.Done()
				}
			}
		}
	}
	if exit := (*exec.ExitError)(nil); waited != nil && !errors.As(waited, &exit) {
		return nil, waited
	}
	state := cmd.ProcessState
	e.code, e.cpu = state.ExitCode(), (state.UserTime() + state.SystemTime()).Seconds()
	// A process begins with the peak of the one that started it.
	if most := int(state.SysUsage().(*syscall.Rusage).Maxrss) << 10; most > residentBytes(os.Getpid()) {
		e.resident = most
	}
	if w := state.Sys().(syscall.WaitStatus); w.Signaled() {
		e.signal = w.Signal().String()
	}
	e.stdout, e.stderr = out.String(), errs.String()
	return e, nil
}

// residentBytes is the most memory that a process had resident so far; 0 if it has ended.
func residentBytes(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, text, _ = bytes.Cut(text, []byte("VmHWM:"))
	words := bytes.Fields(text)
	if len(words) == 0 {
		return 0
	}
	n, err := strconv.Atoi(string(words[0]))
	if err != nil {
		return 0
	}
	return n << 10
}

// processorSeconds is the time that a process has computed; 0 if it has ended.
func processorSeconds(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	words := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(words) < 13 {
		return 0
	}
	sum := 0
	for _, w := range words[11:13] { // user and system time, in ticks of a hundredth
		n, err := strconv.Atoi(w)
		if err != nil {
			return 0
		}
		sum += n
	}
	return float64(sum) / 100
}

// crashes are words of messages that no user may see.
var crashes = []string{"internal error", "panic", "goroutine ", "fatal error", "runtime error", "SIGSEGV", "SIGBUS", "unexpected signal"}

// wrong says what is wrong with how a run ended.
func (e *ending) wrong(t *trial) (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	switch {
	case e.deaf:
		add("it hangs, and does not listen to signals")
	case e.hung:
		add("it takes longer than %d s", hangSeconds)
	case e.signal != "":
		add("it ended by %s", e.signal)
	case !slices.Contains(t.may, e.code):
		add("exit code %d", e.code)
	}
	for _, word := range crashes {
		if strings.Contains(e.stderr, word) {
			add("it says %q", word)
			break
		}
	}
	if e.code == session.ExitRefused && strings.TrimSpace(e.stderr) == "" {
		add("it refuses without a word")
	}
	for _, r := range e.stderr + e.stdout {
		if r < ' ' && r != '\n' && r != '\t' && r != '\r' || r == 0x7f {
			add("it writes %q to the terminal", r)
			break
		}
	}
	if t.budget > 0 && e.resident > t.budget+spareBytes {
		add("%d MiB are resident, with a budget of %d MiB", e.resident>>20, t.budget>>20)
	}
	return list
}

// checkResults checks that numbers in the results are numbers.
func checkResults(dir string) (list []string) {
	add := func(name, format string, args ...any) { list = append(list, name+": "+fmt.Sprintf(format, args...)) }
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name := d.Name()
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		switch {
		case name == "result.json" || strings.HasSuffix(name, "_metadata.json"):
			var r struct {
				Logits, Probabilities []float64
			}
			if err := json.Unmarshal(text, &r); err != nil {
				add(name, "%v", err)
			}
			sum := 0.0
			for _, v := range r.Probabilities {
				sum += v
			}
			if len(r.Probabilities) > 0 && !(math.Abs(sum-1) < 1e-3) {
				add(name, "probabilities %v", r.Probabilities)
			}
		case strings.HasSuffix(name, ".npy"):
			a, err := npy.Read(section(string(text)), array.Options{})
			if err != nil {
				add(name, "%v", err)
				return nil
			}
			heat := strings.Contains(name, "heatmap")
			for _, v := range a.Data {
				if x := float64(v); math.IsNaN(x) || math.IsInf(x, 0) || heat && (x < 0 || x > 1) {
					add(name, "holds %g", x)
					break
				}
			}
		}
		return nil
	})
	if err != nil {
		list = append(list, err.Error())
	}
	return list
}
