package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/session"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"voxcam": main})
}

// TestScripts runs the scripts in testdata/script, each of which is a story of one user: the whole program, in processes of its own.
// Besides the commands of testscript there are
//
//	exits CODE ARGS...               run voxcam and compare its exit code; its messages must be fit for people
//	signal NAME COUNT GLOB CODE ARGS... start voxcam, send the signal (a name of signals) once COUNT files match, and compare the exit code
//	waitfor GLOB                     wait until a file matches, that a voxcam in the background writes
//	npy FILE SHAPE [nan]             write waves of that shape, [..., H, W], as float32, with one NaN
//	text FILE TEXT                   write a text with the escapes of Go, such as \\x1b
//	cut FILE BYTES                   keep the first bytes of a file
//	onnx FILE KIND                   write a small model, see onnxKinds
//	array FILE SHAPE [unit]          check a .npy file of finite float32, with values in [0, 1] that reach 1
//	json FILE PATH REGEXP            check a value (a.b.0.c; len is the number of elements), or with ! that it does not match
//	entries DIR NAMES...             check that a folder holds these entries and no other
//	same A B                         check that two sessions or files hold the same results, or with ! that they do not
//	stamp FILE DIR                   write name, size, time and digest of all files of a folder
func TestScripts(t *testing.T) {
	cases, err := filepath.Abs("../../testdata/cases")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("CASES", cases)
			env.Setenv("M", filepath.Join(cases, "methods", "model.torchscript.onnx"))
			env.Setenv("V", filepath.Join(cases, "methods", "volume.npy"))
			env.Setenv("VOXCAM_CUDA_DRIVER", "/absent/libcuda.so.1") // the same on machines with a GPU
			env.Setenv(cpu.Kernels, os.Getenv(cpu.Kernels))
			env.Values[environment{}] = env.Vars
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "signal": signalled, "waitfor": waitFor, "npy": writeNpy, "cut": cut, "onnx": writeONNX,
			"array": checkArray, "json": checkJSON, "entries": entries, "same": same, "stamp": stamp, "text": writeText,
		},
	})
}

// environment is the key of the variables that a script begins with.
type environment struct{}

// unfit is what no message for people may hold.
var unfit = []*regexp.Regexp{
	regexp.MustCompile(`goroutine \d|panic:|runtime error|\.go:\d`),
	regexp.MustCompile(`strconv\.|%!|<nil>|0x[0-9a-f]{6}|context canceled`),
}

// doubled finds a prefix that two callers have both put before a message.
func doubled(text string) string {
	for line := range strings.Lines(text) {
		parts := strings.Split(line, ": ")
		for i := range len(parts) - 1 {
			if parts[i] == parts[i+1] {
				return parts[i]
			}
		}
	}
	return ""
}

func checkMessages(ts *testscript.TestScript, text string) {
	for _, re := range unfit {
		if m := re.FindString(text); m != "" {
			ts.Fatalf("a message for people holds %q:\n%s", m, text)
		}
	}
	if d := doubled(text); d != "" {
		ts.Fatalf("a message says %q twice:\n%s", d, text)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	if err := ts.Exec("voxcam", args[1:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	text := ts.ReadFile("stderr")
	if code != want {
		ts.Fatalf("exit code %d instead of %d:\n%s", code, want, text)
	}
	if code != 0 && strings.TrimSpace(text) == "" {
		ts.Fatalf("exit code %d without a word", code)
	}
	checkMessages(ts, text+ts.ReadFile("stdout"))
}

// patience is how long a child is waited for; far more than it needs.
const patience = 30 * time.Second

// appear waits until count files match a pattern.
func appear(ts *testscript.TestScript, count int, glob string) bool {
	for start := time.Now(); time.Since(start) < patience; time.Sleep(time.Millisecond) {
		if found, _ := filepath.Glob(ts.MkAbs(glob)); len(found) >= count {
			return true
		}
	}
	return false
}

func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || !appear(ts, 1, args[0]) {
		ts.Fatalf("waitfor %q: it did not come", args)
	}
}

// signals by name.
var signals = map[string]os.Signal{"INT": os.Interrupt, "TERM": syscall.SIGTERM, "KILL": os.Kill, "HUP": syscall.SIGHUP, "USR1": syscall.SIGUSR1,
	"USR2": syscall.SIGUSR2, "QUIT": syscall.SIGQUIT}

func signalled(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 5 {
		ts.Fatalf("usage: signal NAME COUNT GLOB CODE ARGS...")
	}
	sent := signals[args[0]]
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	code, err := strconv.Atoi(args[3])
	ts.Check(err)
	self, err := os.Executable()
	ts.Check(err)
	var out bytes.Buffer
	cmd := &exec.Cmd{Path: self, Args: append([]string{"voxcam"}, args[4:]...), Dir: ts.MkAbs("."), Stdout: &out, Stderr: &out}
	cmd.Env = append(slices.Clone(ts.Value(environment{}).([]string)), "SLURM_JOB_ID="+ts.Getenv("SLURM_JOB_ID"))
	// A test that runs under nohup ignores SIGHUP, and so would what it starts; what is caught is the default again there.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	ts.Check(cmd.Start())
	if !appear(ts, count, args[2]) {
		cmd.Process.Kill() //nolint:errcheck // the test fails anyway
		cmd.Wait()         //nolint:errcheck // as above
		ts.Fatalf("%s did not come:\n%s", args[2], out.String())
	}
	ts.Check(cmd.Process.Signal(sent))
	cmd.Wait() //nolint:errcheck // the state says more
	got := cmd.ProcessState.ExitCode()
	crashed := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGABRT
	if crashed {
		got = session.ExitCrashed // as a shell has it
	}
	if got != code {
		ts.Fatalf("exit code %d instead of %d (-1 is a kill):\n%s", got, code, out.String())
	}
	fmt.Fprint(ts.Stderr(), out.String())
	if crashed {
		return // it shows what its goroutines did
	}
	checkMessages(ts, out.String())
}

func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut FILE BYTES")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

func writeText(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: text FILE TEXT")
	}
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(args[1], `"`, `\"`) + `"`)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
}

func entries(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: entries DIR NAMES...")
	}
	list, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	var have []string
	for _, e := range list {
		have = append(have, e.Name())
	}
	want := slices.Sorted(slices.Values(args[1:]))
	slices.Sort(have)
	if !slices.Equal(have, want) {
		ts.Fatalf("%s holds %q instead of %q", args[0], have, want)
	}
}
