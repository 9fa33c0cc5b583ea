// Package session explains a data set sample by sample and keeps the results: a sample that is done stays done, one that failed has a
// reason, and the same session run again does only the missing ones.
//
// The session's folder is its only state:
//
//	session_NAME/session.json                                      facts about all samples (report.Session)
//	session_NAME/heatmaps/SPLIT/class_I_NAME/SAMPLE/               results of a sample, complete or absent
//	session_NAME/heatmaps/.../SAMPLE/SAMPLE_metadata.json          its record (report.Sample)
//	session_NAME/heatmaps/.../SAMPLE/SAMPLE_KEY_map.nii.gz         signed map at the layer's resolution
//	session_NAME/heatmaps/.../SAMPLE/SAMPLE_KEY_heatmap.nii.gz     heatmap on the prepared volume's grid
//	session_NAME/heatmaps/.../SAMPLE/SAMPLE_KEY_heatmap.tiff       in colours of jet; ..._overlay.tiff over the volume
//	session_NAME/visualizations/SPLIT/SAMPLE_combined.png          six slices of every method
//	session_NAME/visualizations/SPLIT/SAMPLE_full_volume_overlay.tiff  the first method's overlay
//	session_NAME/reports/memory_timeline.jsonl                     memory while the session ran (report.Moment)
//	session_NAME/.reading/HASH.json                                a volume that is being read, or that ended a run
//	session_NAME/reports, session_NAME/summaries                   the rest: made from the records when a run ends
//
// KEY is volume for a single method, METHOD_volume for several, with class_I before volume if all classes are explained.
//
// Reading, explaining and writing overlap. In memory are at most two volumes that were read ahead, one on its way to the device,
// one that is explained, and for every four processors, up to 16, one that is written (at least one); the last two kinds with the maps
// of one target class.
package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/report"
	"github.com/voxcam/voxcam/internal/result"
)

// Exit codes of the program, by the outcome of the session.
const (
	ExitOK          = 0   // every sample and method is ok
	ExitError       = 1   // something unexpected
	ExitRefused     = 2   // nothing was begun: usage, configuration, model, a session that does not fit or is in use
	ExitDegraded    = 3   // every sample has a result, some are degraded
	ExitFailed      = 4   // some samples or methods have no result: they failed, or were skipped for lack of memory
	ExitOutput      = 5   // results cannot be written: full disk, missing permission
	ExitInterrupted = 130 // stopped by a signal, whichever; the same session continues it
	ExitCrashed     = 134 // ended by SIGABRT, as shells say it: the program crashed, which is a fault of it; command voxcam sees to that
)

// ExitCodes explains the codes, for help texts.
var ExitCodes = []struct {
	Code    int
	Meaning string
}{
	{ExitOK, "all samples and methods are ok"},
	{ExitError, "unexpected error"},
	{ExitRefused, "refused before work began: usage, configuration, model, or a session that does not fit or is in use"},
	{ExitDegraded, "all samples have results, some are degraded (their status says how)"},
	{ExitFailed, "some samples or methods failed, or were skipped for lack of memory (their status says why)"},
	{ExitOutput, "results cannot be written: full disk, missing permission"},
	{ExitInterrupted, "interrupted, by whichever signal; run the same session again to continue"},
	{ExitCrashed, "the program crashed (signal SIGABRT): please report it; run the same session again to continue"},
}

// RefusedError is the reason why a run was not begun.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

func refuse(format string, args ...any) error { return &RefusedError{fmt.Errorf(format, args...)} }

// Options of a run. Only Config is required.
type Options struct {
	Config *config.Config

	// Noise replaces the generator; NoiseName identifies it among the session's settings, best by a digest.
	Noise     cam.NoiseDraw
	NoiseName string

	Version  string   // of the program, for the records
	Observer Observer // nil: none
	// Figures returns the present use of memory. It is called once a second, for the session's timeline, until ctx ends; nil: there is no
	// timeline. The session adds time and sample.
	Figures func(ctx context.Context) (report.Figures, error)

	VerifyFiles bool      // compare contents of finished samples with their digests, not only sizes
	PlotDPI     int       // 0: report.DPI
	Now         time.Time // 0: the clock; names a new session
}

// Summary counts the selected samples by their outcome, in this run or an earlier one.
type Summary struct {
	Name     string
	Dir      string
	Moved    bool // the folder has been moved since the run began; Dir is its old place
	Selected int
	Status   report.Counts
	Resumed  int // finished by an earlier run
	Pending  int // not reached
	Problems []Problem
	Seconds  float64
}

// Problem is a sample that is not ok.
type Problem struct {
	Sample, Split string
	Status        cam.Status
	Reason        string
}

// isA reports whether an error is an E, or wraps one.
func isA[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// ExitCode returns the program's exit code for the results of Run.
func ExitCode(s Summary, err error) int {
	switch {
	case isA[*durable.Error](err):
		return ExitOutput
	case isA[*RefusedError](err), isA[*config.Error](err):
		return ExitRefused
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return ExitInterrupted
	case err != nil:
		return ExitError
	case s.Status.Failed+s.Status.Skipped > 0:
		return ExitFailed
	case s.Status.Degraded > 0:
		return ExitDegraded
	}
	return ExitOK
}

// Print writes the summary for people.
func (s Summary) Print(w io.Writer) error {
	var b strings.Builder
	printable.Fprintf(&b, "session %s: %s, %s", s.Name, printable.Count(s.Selected, "sample"), s.Status)
	if s.Pending > 0 {
		printable.Fprintf(&b, ", %d not done", s.Pending)
	}
	if s.Resumed > 0 {
		printable.Fprintf(&b, " (%d of them by earlier runs)", s.Resumed)
	}
	printable.Fprintf(&b, ", %s\n", duration(s.Seconds))
	const most = 20
	for i, p := range s.Problems {
		if i == most {
			printable.Fprintf(&b, "  and %d more: see reports/detailed_analysis_report.txt\n", len(s.Problems)-most)
			break
		}
		printable.Fprintf(&b, "  %s: %s/%s: %s\n", p.Status, p.Split, p.Sample, p.Reason)
	}
	if s.Moved {
		printable.Fprintf(&b, "results: in the folder that was %s when the run began, and was moved since\n", s.Dir)
	} else {
		printable.Fprintf(&b, "results: %s\n", s.Dir)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// run is the state of one Run.
type run struct {
	opt     Options
	config  *config.Config
	set     *dataset.Set
	info    cam.Info
	request cam.Request // for each volume, without target and sample
	targets []cam.Class // one, or one for each class
	all     bool        // the targets are all classes
	names   []string    // of the classes
	formats []result.Format
	record  *report.Session
	folder  *durable.Folder
	stale   map[string][]string // ID to folders with a record of it
	observe Observer
	memory  *recorder

	encoders chan struct{} // an element for each file that is being encoded
}

// Run explains the selected samples of the configured data set. The failure of a sample is in its record and in the summary;
// an error means that the session as a whole could not be begun (*RefusedError, *config.Error), stored
// (*durable.Error) or ended (the context's error), and the summary counts the samples that were done before.
func Run(ctx context.Context, opt Options, ex explain.Overlapping) (Summary, error) {
	started := time.Now()
	r, samples, err := prepare(opt, ex)
	if err != nil {
		return Summary{}, err
	}
	if err := r.open(); err != nil {
		return Summary{}, err
	}
	s := Summary{Name: r.record.Name, Dir: r.folder.Root(), Selected: len(samples)}
	todo, done, err := r.sort(ctx, samples)
	if err == nil {
		s.Resumed = len(done)
		for _, record := range done {
			s.count(record)
		}
		r.observe.Notify(Notice{Kind: NoticeStart, Session: s.Name, Dir: s.Dir, Total: len(todo), Resumed: s.Resumed})
		r.memory = record(ctx, r.folder, opt.Figures, r.observe)
		err = r.explainAll(ctx, ex, todo, &s)
		r.memory.close()
	}
	s.Pending = s.Selected - s.Status.All()
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = &interrupted{fmt.Sprintf("interrupted with %d of %s done; the same command with the option session %s continues",
			s.Status.All(), printable.Count(s.Selected, "sample"), s.Name), err}
	}
	err = r.report(err, s.Pending)
	s.Moved = r.folder.Moved()
	if cerr := r.folder.Close(); cerr != nil && err == nil {
		err = &durable.Error{Path: s.Dir, Err: cerr}
	}
	s.Seconds = time.Since(started).Seconds()
	r.observe.Notify(Notice{Kind: NoticeEnd, Session: s.Name, Dir: s.Dir, Total: s.Selected, Seconds: s.Seconds, Counts: s.Status})
	return s, err
}

// report writes the reports after a run that ended with an error, or nil, also after an interruption: there should be a report of the
// samples that are done. Where nothing can be written, it does not try.
func (r *run) report(ended error, pending int) error {
	if isA[*durable.Error](ended) || isA[*RefusedError](ended) {
		return ended
	}
	_, problems, err := report.Write(r.folder, r.record, r.now(), r.opt.PlotDPI, pending)
	if err != nil {
		return errors.Join(ended, err)
	}
	for _, p := range problems {
		r.observe.Notify(Notice{Kind: NoticeWarning, Reason: p.Error()})
	}
	return ended
}

// interrupted returns an error with the number of finished samples; the cause is the context's error.
type interrupted struct {
	text  string
	cause error
}

func (e *interrupted) Error() string { return e.text }
func (e *interrupted) Unwrap() error { return e.cause }

func (s *Summary) count(record *report.Sample) {
	s.Status.Add(record.Status)
	if record.Status == cam.StatusOK {
		return
	}
	s.Problems = append(s.Problems, Problem{record.ID, record.Split, record.Status, record.Reason})
}

func (r *run) now() time.Time {
	if !r.opt.Now.IsZero() {
		return r.opt.Now
	}
	return time.Now()
}

// prepare checks everything that can be known before the output folder is touched.
func prepare(opt Options, ex explain.Overlapping) (*run, []dataset.Sample, error) {
	c := opt.Config
	if err := c.Validate(); err != nil {
		return nil, nil, err
	}
	r := &run{opt: opt, config: c, info: ex.Info(), request: c.Request(), stale: map[string][]string{}, observe: &serial{to: opt.Observer}}
	if r.opt.PlotDPI == 0 {
		r.opt.PlotDPI = report.DPI
	}
	n := r.info.Classes
	if n < 1 {
		return nil, nil, refuse("%s: the number of classes is not known before the volume's size is; bind the model to one", r.info.Path)
	}
	if task := r.info.Head.Task; task != cam.TaskClassification && task != "" {
		return nil, nil, refuse("the output %q of %s is a %s, and labels are classes of which each sample has one: a run takes classifications only so far; "+
			"single volumes can be explained", r.info.Head.Output, r.info.Path, task)
	}
	if want := max(c.Model.NumClasses, len(c.Model.Classes)); want > 0 && want != n {
		return nil, nil, refuse("the configuration has %d classes, but %s has %d", want, r.info.Path, n)
	}
	target, all, err := c.Target(n)
	if err != nil {
		return nil, nil, refuse("model.target_class: %v", err)
	}
	r.targets, r.all = []cam.Class{target}, all
	if all {
		r.targets = nil
		for i := range n {
			r.targets = append(r.targets, cam.Class{Kind: cam.ClassIndex, Index: i})
		}
	}
	for i := range n {
		r.names = append(r.names, c.ClassName(i))
	}
	if r.formats, err = result.Choose(c.Output.Formats); err != nil {
		return nil, nil, refuse("output.formats: %v", err)
	}
	if r.set, err = dataset.Open(c.Data); err != nil {
		return nil, nil, &RefusedError{err}
	}
	samples, err := r.set.Select()
	if err != nil {
		return nil, nil, &RefusedError{err}
	}
	return r, samples, nil
}

const prefix = "session_"

// open makes or reopens the session's folder. A session given by name continues if it exists.
func (r *run) open() error {
	base, name := r.config.Output.Dir, strings.TrimPrefix(r.config.Output.Session, prefix)
	if name == "" {
		var err error
		if name, err = freshName(base, r.now()); err != nil {
			return err
		}
	}
	dir := filepath.Join(base, prefix+name)
	if err := checkOurs(dir, name); err != nil {
		return err
	}
	folder, err := durable.Open(dir)
	if errors.Is(err, durable.ErrLocked) {
		return &RefusedError{fmt.Errorf("session %s: %w", name, err)}
	}
	if err != nil {
		return err
	}
	r.folder = folder
	if err := r.identify(name); err != nil {
		folder.Close()
		return err
	}
	return nil
}

// freshName names a new session by the time, and by a number if another run had the same idea in the same second. Its
// folder is made here, so that no two runs get the same.
func freshName(base string, now time.Time) (string, error) {
	if err := durable.MkdirAll(base); err != nil {
		return "", err
	}
	stamp := now.Format("20060102_150405")
	name := stamp
	for n := 2; ; n++ {
		dir := filepath.Join(base, prefix+name)
		err := os.Mkdir(dir, 0o777)
		if err == nil {
			return name, durable.SyncDir(base)
		}
		if !errors.Is(err, os.ErrExist) {
			return "", &durable.Error{Path: dir, Err: err}
		}
		name = fmt.Sprintf("%s_%d", stamp, n)
	}
}
