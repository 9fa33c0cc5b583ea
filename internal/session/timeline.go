package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/report"
)

const (
	// interval is the time between two figures; a long run writes fewer of them.
	interval = time.Second
	// figuresTimeout bounds the wait for figures.
	figuresTimeout = 10 * time.Second
	// mostMoments bounds the lines of a timeline, some megabytes: beyond, half of them are left out.
	mostMoments = 20000
	// mostTimeline bounds the bytes that are read of a timeline.
	mostTimeline = 256 << 20
)

// recorder passes events and figures of memory on: to the observer and, if there are figures, to the session's timeline. Figures that cannot
// be read or written end the timeline with a warning, not the run: the timeline is no result.
type recorder struct {
	folder  *durable.Folder
	figures func(context.Context) (report.Figures, error) // nil: no timeline
	observe Observer
	clock   func() time.Time
	most    int

	stop, done chan struct{}

	mu     sync.Mutex
	file   durable.Log // nil: no timeline, or none any more
	lines  int
	ticks  int
	every  int    // ticks for a line
	sample string // the sample that is explained now
	failed bool   // the last figures could not be read, and the observer was warned
}

// record starts a recorder, which close ends.
func record(ctx context.Context, folder *durable.Folder, figures func(context.Context) (report.Figures, error), observe Observer) *recorder {
	r := &recorder{folder: folder, figures: figures, observe: observe, clock: time.Now, most: mostMoments, every: 1,
		stop: make(chan struct{}), done: make(chan struct{})}
	if figures == nil {
		close(r.done)
		return r
	}
	r.begun()
	go func() {
		defer close(r.done)
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			r.tick(ctx, false)
			select {
			case <-ticker.C:
			case <-r.stop:
				r.tick(ctx, true)
				return
			}
		}
	}()
	return r
}

// close records the last figures, and ends the timeline.
func (r *recorder) close() {
	close(r.stop)
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	r.add(report.Moment{Time: r.clock(), Run: report.Ended})
	if r.file != nil {
		r.end(r.file.Close())
	}
}

// begin sets the sample that is explained from now on.
func (r *recorder) begin(s dataset.Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sample = s.ID
}

// event records an event during the explanation of a sample.
func (r *recorder) event(s dataset.Sample, e cam.Event) {
	r.observe.Notify(Notice{Kind: NoticeDevice, Sample: s.ID, Split: string(s.Split), Device: e})
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = r.clock()
	}
	r.add(report.Moment{Time: e.Time, Sample: s.ID, Event: e.Kind, Text: e.Text})
}

// begun opens the timeline; a crash may have cut its last line.
func (r *recorder) begun() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(r.open())
	r.add(report.Moment{Time: r.clock(), Run: report.Begun})
}

func (r *recorder) open() error {
	lines, whole, err := countLines(r.folder.FS())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, info, err := r.folder.Append(report.TimelineFile)
	if err != nil {
		return err
	}
	r.file, r.lines = file, lines
	if whole < info.Size() {
		return r.file.Truncate(whole)
	}
	return nil
}

// countLines counts the lines of a timeline, and the bytes up to the end of the last one.
func countLines(folder fs.FS) (lines int, whole int64, err error) {
	f, err := folder.Open(report.TimelineFile)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	buffer := make([]byte, 1<<16)
	for at := int64(0); ; {
		n, err := f.Read(buffer)
		lines += bytes.Count(buffer[:n], []byte("\n"))
		if end := bytes.LastIndexByte(buffer[:n], '\n'); end >= 0 {
			whole = at + int64(end) + 1
		}
		at += int64(n)
		switch {
		case errors.Is(err, io.EOF):
			return lines, whole, nil
		case err != nil:
			return 0, 0, err
		case at > mostTimeline:
			return 0, 0, fmt.Errorf("%s has more than %d bytes, which no run writes: remove it", report.TimelineFile, mostTimeline)
		}
	}
}

// end stops the timeline with a warning, if err is not nil.
func (r *recorder) end(err error) {
	if err == nil {
		return
	}
	if r.file != nil {
		r.file.Close() //nolint:errcheck // an earlier error is told
		r.file = nil
	}
	r.observe.Notify(Notice{Kind: NoticeWarning, Reason: fmt.Sprintf("the timeline of memory is not continued: %v", err)})
}

// tick records figures, if they are due or the last ones.
func (r *recorder) tick(ctx context.Context, last bool) {
	r.mu.Lock()
	due := (last || r.ticks%r.every == 0) && r.file != nil
	r.ticks++
	r.mu.Unlock()
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, figuresTimeout)
	defer cancel()
	figures, err := r.figures(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // the run was interrupted
		return
	case err != nil:
		if !r.failed { // the next may be there again, and this would be said each second
			r.failed = true
			r.observe.Notify(Notice{Kind: NoticeWarning, Reason: fmt.Sprintf("figures of memory are missing: %v", err)})
		}
		return
	}
	r.failed = false
	r.add(report.Moment{Time: r.clock(), Sample: r.sample, Figures: &figures})
	r.observe.Notify(Notice{Kind: NoticeMemory, Sample: r.sample, Figures: figures})
}

// add appends a line. A timeline that is full is thinned out first.
func (r *recorder) add(m report.Moment) {
	if r.file == nil {
		return
	}
	if r.lines >= r.most {
		if err := r.thin(); err != nil {
			r.end(err)
			return
		}
	}
	line, err := json.Marshal(m)
	if err == nil {
		_, err = r.file.Write(append(line, '\n'))
	}
	r.lines++
	r.end(err)
}

// thin leaves out half of the timeline, and halves the rate of figures.
func (r *recorder) thin() error {
	moments, err := report.ReadTimeline(r.folder.FS())
	if err != nil {
		return err
	}
	moments = report.Thin(moments, r.most)
	_, err = r.folder.WriteFile(report.TimelineFile, func(w *durable.File) error {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		for _, m := range moments {
			if err := e.Encode(m); err != nil {
				return err
			}
		}
		_, err := w.Write(b.Bytes())
		return err
	})
	if err != nil {
		return err
	}
	err = r.file.Close()
	r.file = nil
	r.every *= 2
	return errors.Join(err, r.open())
}
