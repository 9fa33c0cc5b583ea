package session

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/report"
)

// job is a sample on its way through the pipeline.
type job struct {
	sample   dataset.Sample
	prepared *dataset.Prepared // nil if it could not be read
	err      error             // why
	parts    chan part         // to the writer of the sample; closed after its last part, or when the run stops
}

// part is the state of a sample for one target. Targets are written one by one, so that those of many classes are not in memory
// together.
type part struct {
	job     *job
	target  int
	last    bool         // of the sample: after an error no other part counts
	work    explain.Work // nil if there was an error before
	err     error        // the reason why there is no result
	seconds float64      // of explaining
	events  *events
}

// events collects the events of memory and device while one part is explained.
type events struct {
	mu   sync.Mutex
	list []cam.Event
}

func (e *events) add(event cam.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
}

func (e *events) all() []cam.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.list
}

// readers is the number of samples that are read at a time: decompression is the work of one processor for each.
const readers = 2

// writersOf returns the number of samples that are written at a time. The files of one sample are encoded side by side, too; a second sample
// fills the time in which the first has few files left.
func writersOf(processors int) int { return min(max(processors/4, 1), 4) }

// pipeline reads, explains and writes samples, each stage in goroutines of its own. The channels hold nothing: a stage that has finished
// its work keeps it until the next one takes it, which bounds the volumes in memory: one for each reader, one on its way to the
// device, one that is explained, and one with maps for each writer. After an interruption a sample that is already explained is
// still written.
type pipeline struct {
	*run
	explainer explain.Overlapping
	tally     *tally

	read    chan *job     // samples whose volume was read, or could not be
	begun   chan part     // parts whose volume is on the device, or waits for it
	written chan *job     // samples with a part that was explained
	broken  chan struct{} // closed when a writer gives up
	once    sync.Once     // of closing broken
}

// explainAll sends samples through a pipeline, and counts them in the summary.
func (r *run) explainAll(ctx context.Context, ex explain.Overlapping, todo []dataset.Sample, s *Summary) error {
	processors := runtime.GOMAXPROCS(0)
	r.encoders = make(chan struct{}, processors)
	volumes, todo := newReading(r, todo)
	defer volumes.close()
	p := &pipeline{run: r, explainer: ex, tally: &tally{observe: r.observe, summary: s, total: len(todo), started: time.Now()},
		read: make(chan *job), begun: make(chan part), written: make(chan *job), broken: make(chan struct{})}
	group, ctx := errgroup.WithContext(ctx)
	p.readAll(ctx, group, volumes, todo)
	group.Go(func() error { return p.beginAll(ctx) })
	group.Go(func() error { return p.computeAll(ctx) })
	for range writersOf(processors) {
		group.Go(p.writeAll)
	}
	return group.Wait()
}

// readAll prepares samples, some at a time, and hands them on in their order.
func (p *pipeline) readAll(ctx context.Context, group *errgroup.Group, volumes *reading, todo []dataset.Sample) {
	turns := make(chan chan *job, readers-1) // of the samples that are being read
	group.Go(func() error {
		defer close(turns)
		for _, sample := range todo {
			turn := make(chan *job, 1)
			select {
			case turns <- turn:
			case <-ctx.Done():
				return ctx.Err()
			}
			group.Go(func() error {
				j := &job{sample: sample, parts: make(chan part)}
				if j.err = p.checkLabel(sample); j.err == nil {
					j.err = guard(func() (err error) { j.prepared, err = volumes.prepare(ctx, sample); return err })
				}
				turn <- j
				return nil
			})
		}
		return nil
	})
	group.Go(func() error {
		defer close(p.read)
		for turn := range turns {
			select {
			case p.read <- <-turn:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
}

func (r *run) checkLabel(s dataset.Sample) error {
	if s.Err != nil {
		return s.Err
	}
	if s.Label >= r.info.Classes {
		return fmt.Errorf("labels line %d: the label is %d, but the model has only the classes 0 to %d", s.Line, s.Label, r.info.Classes-1)
	}
	return nil
}

// beginAll begins every target of every sample.
func (p *pipeline) beginAll(ctx context.Context) error {
	defer close(p.begun)
	for j := range p.read {
		for last, i := false, 0; !last; i++ {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			part := p.begin(ctx, j, i)
			if ctx.Err() != nil && part.err != nil {
				return ctx.Err() // the sample did not fail, it was stopped
			}
			select {
			case p.begun <- part:
			case <-ctx.Done():
				part.drop()
				return ctx.Err()
			}
			last = part.last
		}
	}
	return nil
}

// begin begins target i of a sample.
func (p *pipeline) begin(ctx context.Context, j *job, i int) part {
	out := part{job: j, err: j.err, target: i, events: &events{}}
	if out.err == nil {
		request := p.requestFor(j.sample, i, out.events)
		out.err = guard(func() (err error) { out.work, err = p.explainer.Begin(ctx, j.prepared.Volume, request); return err })
	}
	out.last = out.err != nil || i == len(p.targets)-1
	return out
}

// requestFor returns the request for target i of a sample. Events during the explanation are collected in events.
func (p *pipeline) requestFor(s dataset.Sample, i int, events *events) cam.Request {
	request := p.request
	request.Target.Class, request.SampleID, request.Noise = p.targets[i], s.ID, p.opt.Noise
	if request.Target.Class.Kind == cam.ClassTrue {
		request.Target.Class.Index = s.Label
	}
	request.Progress = func(done, total int) {
		p.observe.Notify(Notice{Kind: NoticePass, Sample: s.ID, Split: string(s.Split),
			Passes: i*total + done, PassesTotal: len(p.targets) * total})
	}
	request.OnEvent = func(event cam.Event) {
		events.add(event)
		p.memory.event(s, event)
	}
	return request
}

// drop gives up a part that was begun.
func (p *part) drop() {
	if p.work != nil {
		p.work.Drop()
	}
}

// computeAll explains the parts that were begun, and hands them to the writers.
func (p *pipeline) computeAll(ctx context.Context) error {
	defer close(p.written)
	var open *job // with parts that are being written
	defer func() {
		if open != nil {
			close(open.parts)
		}
	}()
	var failed *job
	for part := range p.begun {
		if ctx.Err() != nil || part.job == failed { // stopped, or another target of it had been begun
			part.drop()
			continue
		}
		p.compute(ctx, &part)
		if ctx.Err() != nil && part.err != nil {
			continue // the sample did not fail, it was stopped
		}
		if open == nil {
			select {
			case p.written <- part.job:
				open = part.job
			case <-p.broken:
				return ctx.Err()
			}
		}
		select {
		case open.parts <- part:
		case <-p.broken:
			return ctx.Err()
		}
		if part.last {
			close(open.parts)
			open = nil
		}
		if part.err != nil {
			failed = part.job
		}
	}
	return ctx.Err()
}

// compute explains a part that was begun.
func (p *pipeline) compute(ctx context.Context, part *part) {
	if part.err != nil {
		return
	}
	if s := part.job.sample; part.target == 0 {
		p.memory.begin(s)
		p.observe.Notify(Notice{Kind: NoticeBegin, Sample: s.ID, Split: string(s.Split)})
	}
	started := time.Now()
	part.err = guard(func() error { return part.work.Compute(ctx) })
	part.seconds = time.Since(started).Seconds()
	part.last = part.last || part.err != nil
}

// writeAll writes samples until there are no more.
func (p *pipeline) writeAll() error {
	for j := range p.written {
		record, err := p.write(j)
		if err != nil {
			p.once.Do(func() { close(p.broken) })
			return err
		}
		if record != nil {
			p.tally.add(record)
		}
	}
	return nil
}

// write stores the parts of a sample; nothing, if it was stopped between two targets.
func (r *run) write(j *job) (*report.Sample, error) {
	w := &writer{run: r, job: j}
	defer w.abort()
	for part := range j.parts {
		if err := w.add(part); err != nil {
			return nil, err
		}
		if part.last {
			return w.finish()
		}
	}
	return nil, nil
}

// tally counts the samples that are done.
type tally struct {
	observe Observer
	total   int
	started time.Time

	mu      sync.Mutex // guards summary and done, and keeps events in their order
	summary *Summary
	done    int
}

// add counts a sample, and says so.
func (t *tally) add(record *report.Sample) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.summary.count(record)
	t.done++
	e := Notice{Kind: NoticeSample, Sample: record.ID, Split: record.Split, Done: t.done, Total: t.total,
		Status: record.Status, Reason: record.Reason, Seconds: record.Seconds,
		Left: time.Since(t.started).Seconds() / float64(t.done) * float64(t.total-t.done)}
	if record.PredictedClassName != nil {
		e.Predicted, e.Confidence = *record.PredictedClassName, *record.Confidence
	}
	t.observe.Notify(e)
}
