package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/report"
)

// child, if set, makes this test binary a run over the world in that folder, to be killed or limited by a test.
const child = "SESSION_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(child); dir != "" {
		os.Exit(runChild(dir))
	}
	os.Exit(m.Run())
}

func runChild(dir string) int {
	w := &world{dir: dir}
	w.configure()
	w.config.Output.Formats = []string{"npy", "png"}
	if os.Getenv(child+"_LIMIT") != "" {
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: 8192, Max: 8192} // enough for arrays and records, not for pictures
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return ExitError
		}
	}
	calls, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return ExitError
	}
	f := &fake{classes: 3, delay: 5 * time.Millisecond, hook: func(_ context.Context, req cam.Request, _ *cam.Result) error {
		_, err := fmt.Fprintln(calls, req.SampleID)
		return err
	}}
	s, err := Run(context.Background(), w.opt, f)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return ExitCode(s, err)
}

func (w *world) child(env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), child+"="+w.dir), env...)
	return cmd
}

// sound checks that everything under a final name is complete, and returns the finished samples.
func (w *world) sound() []string {
	w.t.Helper()
	records, problems, err := report.Collect(w.files(), w.record())
	if err != nil || len(problems) > 0 {
		w.t.Fatal(err, problems)
	}
	var ids []string
	known := map[string]bool{"session.json": true}
	for _, r := range records {
		ids = append(ids, r.ID)
		for _, f := range r.Files {
			known[f.Path] = true
			path := w.session(f.Path)
			if !complete(w.files(), f, true) {
				w.t.Fatalf("%s of a finished sample is not complete", path)
			}
		}
	}
	folders, err := filepath.Glob(w.session("heatmaps/*/*/*"))
	if err != nil || len(folders) != len(records) {
		w.t.Fatalf("%d sample folders, %d records: %v", len(folders), len(records), err)
	}
	slices.Sort(ids)
	return ids
}

func TestKilledAnywhere(t *testing.T) {
	const samples, kills = 24, 6
	w := newWorld(t, samples)
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano()))) // the moments differ from run to run anyway
	finished := 0
	for range kills {
		cmd := w.child()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(30+rng.IntN(120)) * time.Millisecond)
		cmd.Process.Kill() //nolint:errcheck // it may have ended
		cmd.Wait()         //nolint:errcheck // by the kill
		if _, err := os.Stat(w.session("session.json")); errors.Is(err, os.ErrNotExist) {
			continue // killed before it began
		}
		ids := w.sound()
		if len(ids) < finished {
			t.Fatalf("%d samples were finished, %d are left", finished, len(ids))
		}
		finished = len(ids)
	}
	if out, err := w.child().CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if ids := w.sound(); len(ids) != samples {
		t.Fatalf("finished %v", ids)
	}
	text, err := os.ReadFile(filepath.Join(w.dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	// At each kill one sample is being explained and one written.
	if calls := strings.Count(string(text), "\n"); calls < samples || calls > samples+2*kills {
		t.Errorf("%d samples were explained %d times in spite of only %d kills", samples, calls, kills)
	}
	for name := range w.tree() {
		if strings.Contains(name, ".partial") || strings.HasPrefix(filepath.Base(name), ".") {
			t.Errorf("%s was left behind", name)
		}
	}

	// The result is that of a run without kills, but for times.
	calm := newWorld(t, samples)
	if out, err := calm.child().CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	calmTree := calm.tree()
	for name, text := range w.tree() {
		if !strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".txt") && !strings.HasPrefix(name, "summaries/") && calmTree[name] != text {
			t.Errorf("%s differs from that of a run without kills", name)
		}
		delete(calmTree, name)
	}
	if len(calmTree) > 0 {
		t.Errorf("missing: %v", calmTree)
	}
}

func TestFullDisk(t *testing.T) {
	w := newWorld(t, 3)
	out, err := w.child(child + "_LIMIT=1").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != ExitOutput {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "_combined.png: file too large; the file system or a limit") {
		t.Errorf("not one clear error: %s", out)
	}
	if ids := w.sound(); len(ids) != 0 {
		t.Errorf("counted as finished: %v", ids)
	}
	if out, err := w.child().CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if ids := w.sound(); len(ids) != 3 {
		t.Errorf("finished: %v", ids)
	}
}

// An interruption loses only the sample that is being explained, does not call it failed, and leaves a report.
func TestInterrupted(t *testing.T) {
	for stop := range 4 {
		w := newWorld(t, 6)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := &fake{classes: 3}
		f.hook = func(ctx context.Context, req cam.Request, _ *cam.Result) error {
			if len(f.called()) == stop+1 {
				cancel()
				return ctx.Err()
			}
			return nil
		}
		s, err := Run(ctx, w.opt, f)
		if ExitCode(s, err) != ExitInterrupted || s.Status.OK != stop || s.Pending != 6-stop || s.Status.Failed != 0 ||
			!strings.Contains(err.Error(), fmt.Sprintf("interrupted with %d of 6 samples done; the same command with the option session s", stop)) {
			t.Fatalf("stop %d: %+v, %v", stop, s, err)
		}
		if ids := w.sound(); len(ids) != stop {
			t.Errorf("stop %d: finished %v", stop, ids)
		}
		if text, err := os.ReadFile(w.session("reports/overall_statistics.json")); err != nil || !strings.Contains(string(text), fmt.Sprintf(`"samples_not_done": %d`, 6-stop)) {
			t.Errorf("stop %d: the statistics do not count the samples that are not done: %v", stop, err)
		}
		f = &fake{}
		s = w.must(f, ExitOK)
		if s.Resumed != stop || len(f.called()) != 6-stop {
			t.Errorf("stop %d: %+v", stop, s)
		}
	}
}

func TestInterruptedBeforeItBegan(t *testing.T) {
	w := newWorld(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &fake{classes: 3}
	s, err := Run(ctx, w.opt, f)
	if ExitCode(s, err) != ExitInterrupted || len(f.called()) != 0 || s.Pending != 2 {
		t.Errorf("%+v, %v", s, err)
	}
}

// No more samples are begun than one and those that are written, however fast reading is.
func TestReadAheadIsBounded(t *testing.T) {
	w := newWorld(t, 8)
	var begun []string
	most := writersOf(runtime.GOMAXPROCS(0))
	w.opt.Observer = ObserverFunc(func(e Notice) {
		switch e.Kind {
		case NoticeBegin:
			begun = append(begun, e.Sample)
		case NoticeSample:
			if ahead := len(begun) - e.Done; ahead > most {
				t.Errorf("%d samples were begun before %s was written", ahead, e.Sample)
			}
		}
	})
	w.must(&fake{delay: time.Millisecond}, ExitOK)
	want := []string{"case0", "case1", "case2", "case3", "case4", "case5", "case6", "case7"}
	if !reflect.DeepEqual(begun, want) {
		t.Errorf("begun %v", begun)
	}
}
