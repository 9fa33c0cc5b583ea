package session

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/printable"
)

// Progress shows how a run is going, to people or programs. Close ends the line of a bar.
type Progress interface {
	Observer
	Close()
}

// NewProgress returns the progress for a stream: a line of JSON an event if format is json, a bar with rate and remaining
// time if it is text and the stream is a terminal, plain lines otherwise. format is text or json.
func NewProgress(w io.Writer, format string, terminal bool) (Progress, error) {
	switch {
	case format == "json":
		return &jsonLog{slog.New(slog.NewJSONHandler(w, nil))}, nil
	case format != "text":
		return nil, fmt.Errorf("log format %q; choose text or json", format)
	case terminal:
		return &bar{w: w}, nil
	}
	return &lines{w: w, clock: time.Now}, nil
}

// lines writes one plain line a sample, and one now and then while a sample takes long.
type lines struct {
	w     io.Writer
	clock func() time.Time
	mu    sync.Mutex
	last  time.Time // of the last line
}

// silence is the longest time without a line while a sample is explained.
const silence = 30 * time.Second

func (l *lines) Notify(e Notice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := line(e)
	if e.Kind == NoticePass && l.clock().Sub(l.last) >= silence && e.Passes < e.PassesTotal {
		text = printable.Sprintf("%s/%s: pass %d of %d", e.Split, e.Sample, e.Passes, e.PassesTotal)
	}
	if text != "" {
		l.last = l.clock()
		fmt.Fprintln(l.w, text)
	}
	if e.Kind == NoticeStart {
		l.last = l.clock()
	}
}

func (l *lines) Close() {}

// line returns an event in words, empty for those that are not worth a line.
func line(e Notice) string {
	switch e.Kind {
	case NoticeStart:
		done := ""
		if e.Resumed > 0 {
			done = printable.Sprintf(", %d already done", e.Resumed)
		}
		return printable.Sprintf("session %s in %s: %s to do%s", e.Session, e.Dir, printable.Count(e.Total, "sample"), done)
	case NoticeSample:
		var b strings.Builder
		printable.Fprintf(&b, "[%d/%d] %s/%s: %s", e.Done, e.Total, e.Split, e.Sample, e.Status)
		if e.Predicted != "" {
			printable.Fprintf(&b, ", %s (%.3f)", e.Predicted, e.Confidence)
		}
		if e.Seconds > 0 {
			printable.Fprintf(&b, ", %s", duration(e.Seconds))
		}
		if e.Done < e.Total {
			printable.Fprintf(&b, ", %s left", duration(e.Left))
		}
		if e.Reason != "" {
			printable.Fprintf(&b, ": %s", e.Reason)
		}
		return b.String()
	case NoticeDevice:
		return printable.Sprintf("%s/%s: %s: %s", e.Split, e.Sample, e.Device.Kind, e.Device.Text)
	case NoticeNote:
		return "note: " + printable.Line(e.Reason)
	case NoticeWarning:
		return "warning: " + printable.Line(e.Reason)
	}
	return ""
}

// bar draws a progress bar. Only notices that need attention get a line of their own above it.
type bar struct {
	w   io.Writer
	mu  sync.Mutex
	bar *progressbar.ProgressBar
}

func (b *bar) Notify(e Notice) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e.Kind {
	case NoticeStart:
		b.say(line(e))
		if e.Total == 0 {
			return
		}
		b.bar = progressbar.NewOptions(e.Total,
			progressbar.OptionSetWriter(b.w), progressbar.OptionFullWidth(), progressbar.OptionShowCount(), progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("sample"), progressbar.OptionSetPredictTime(true),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetRenderBlankState(true))
	case NoticeBegin:
		b.describe("%s/%s", e.Split, e.Sample)
	case NoticePass:
		if e.PassesTotal > 1 {
			b.describe("%s/%s pass %d/%d", e.Split, e.Sample, e.Passes, e.PassesTotal)
		}
	case NoticeSample:
		if e.Status != cam.StatusOK {
			b.say(line(e))
		}
		if b.bar != nil {
			b.bar.Add(1) //nolint:errcheck // a terminal that is gone is no reason to stop
		}
	case NoticeDevice, NoticeNote, NoticeWarning:
		b.say(line(e))
	}
}

func (b *bar) describe(format string, args ...any) {
	if b.bar != nil {
		b.bar.Describe(printable.Sprintf(format, args...))
	}
}

// say writes a line above the bar.
func (b *bar) say(text string) {
	if b.bar != nil {
		b.bar.Clear() //nolint:errcheck // as above
	}
	fmt.Fprintln(b.w, text)
}

func (b *bar) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bar != nil {
		b.bar.Exit() //nolint:errcheck // as above
		fmt.Fprintln(b.w)
	}
}

// jsonLog writes each event as a line of JSON.
type jsonLog struct{ log *slog.Logger }

func (j *jsonLog) Notify(e Notice) {
	switch e.Kind {
	case NoticeStart:
		j.log.Info("start", "session", e.Session, "dir", e.Dir, "to_do", e.Total, "resumed", e.Resumed)
	case NoticeBegin:
		j.log.Info("begin", "sample", e.Sample, "split", e.Split)
	case NoticePass:
		j.log.Info("pass", "sample", e.Sample, "split", e.Split, "passes", e.Passes, "of", e.PassesTotal)
	case NoticeSample:
		level := slog.LevelInfo
		switch e.Status {
		case cam.StatusDegraded:
			level = slog.LevelWarn
		case cam.StatusFailed, cam.StatusSkipped:
			level = slog.LevelError
		}
		j.log.Log(context.Background(), level, "sample", "sample", e.Sample, "split", e.Split, "status", e.Status, "reason", e.Reason,
			"predicted", e.Predicted, "confidence", e.Confidence, "seconds", e.Seconds, "done", e.Done, "total", e.Total, "left_seconds", e.Left)
	case NoticeDevice:
		level := slog.LevelWarn
		if harmless(e.Device.Kind) {
			level = slog.LevelInfo
		}
		j.log.Log(context.Background(), level, "incident", "sample", e.Sample, "split", e.Split, "incident", e.Device.Kind,
			"at", e.Device.Time, "text", e.Device.Text)
	case NoticeMemory:
		j.log.Info("memory", "sample", e.Sample, "figures", e.Figures)
	case NoticeNote:
		j.log.Info("note", "reason", e.Reason)
	case NoticeWarning:
		j.log.Warn("warning", "reason", e.Reason)
	case NoticeEnd:
		j.log.Info("end", "session", e.Session, "dir", e.Dir, "ok", e.Counts.OK, "degraded", e.Counts.Degraded,
			"failed", e.Counts.Failed, "skipped", e.Counts.Skipped, "seconds", e.Seconds)
	}
}

// harmless reports whether an event needs no attention: there was memory, or it was given back on request.
func harmless(k cam.EventKind) bool {
	switch k {
	case cam.EventLarger, cam.EventResumed, cam.EventReleased, cam.EventRepeated, cam.EventReloaded:
		return true
	}
	return false
}

func (j *jsonLog) Close() {}

// duration formats a time for people, in the unit that suits it.
func duration(seconds float64) string {
	switch {
	case math.IsNaN(seconds) || seconds < 0:
		return "?"
	case seconds < 10:
		return fmt.Sprintf("%.1f s", seconds)
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	case seconds < 7200:
		return fmt.Sprintf("%.0f min", seconds/60)
	}
	return fmt.Sprintf("%.1f h", seconds/3600)
}
