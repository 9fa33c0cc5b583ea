package session

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
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
}

// part is what is known of a sample for one target. Targets are written one by one, so that those of many classes are not
// in memory together.
type part struct {
	job     *job
	work    explain.Work // nil if err says why there is no result; then it is the sample's last part
	err     error
	target  int
	last    bool
	seconds float64 // of explaining
	heard   *heard
}

// heard are the incidents of one part, which are told while it is explained.
type heard struct {
	mu   sync.Mutex
	list []cam.Event
}

func (h *heard) add(i cam.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, i)
}

func (h *heard) all() []cam.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list
}

// readers is how many samples are read at a time: decompression is the work of one processor for each.
const readers = 2

// writersOf is how many samples are written at a time. The files of one are encoded side by side, too; the second one is for the time
// in which the first has few files left.
func writersOf(processors int) int { return min(max(processors/4, 1), 4) }

// pipeline reads, explains and writes the samples, each stage in goroutines of its own. The channels hold nothing: a stage that
// has finished its work keeps it until the next one takes it, which bounds what is in memory: a volume for each reader, one that
// is on its way to the device, one that is explained, and one with maps for each writer. After an interruption a sample that is
// already explained is still written.
func (r *run) pipeline(ctx context.Context, ex explain.Explainer, todo []dataset.Sample, s *Summary) error {
	group, ctx := errgroup.WithContext(ctx)
	read, begun, explained := make(chan *job), make(chan part), make(chan (<-chan part))
	broken := make(chan struct{}) // closed when a writer gives up
	processors := runtime.GOMAXPROCS(0)
	r.encoders = make(chan struct{}, processors)

	volumes, todo := newReading(r, todo)
	defer volumes.close()
	r.read(ctx, group, volumes, todo, read)

	group.Go(func() error {
		defer close(begun)
		for j := range read {
			for i := range r.targets {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				p := r.begin(ctx, ex, j, i)
				if ctx.Err() != nil && p.err != nil {
					return ctx.Err() // the sample did not fail, it was stopped
				}
				select {
				case begun <- p:
				case <-ctx.Done():
					p.drop()
					return ctx.Err()
				}
				if p.last {
					break
				}
			}
		}
		return nil
	})

	group.Go(func() error {
		defer close(explained)
		var parts chan part // of the sample that is being explained
		defer func() {
			if parts != nil {
				close(parts)
			}
		}()
		var failed *job
		for p := range begun {
			if ctx.Err() != nil {
				p.drop()
				return ctx.Err()
			}
			if p.job == failed { // another target of it had been begun
				p.drop()
				continue
			}
			r.compute(ctx, &p)
			if ctx.Err() != nil && p.err != nil {
				return ctx.Err()
			}
			if parts == nil {
				parts = make(chan part)
				select {
				case explained <- parts:
				case <-broken:
					return ctx.Err()
				}
			}
			select {
			case parts <- p:
			case <-broken:
				return ctx.Err()
			}
			if p.last {
				close(parts)
				parts = nil
			}
			if p.err != nil {
				failed = p.job
			}
		}
		return nil
	})

	started := time.Now()
	var mu sync.Mutex
	done := 0
	tell := func(record *report.Sample) {
		mu.Lock()
		defer mu.Unlock()
		s.count(record)
		done++
		e := Event{Kind: EventSample, Sample: record.ID, Split: record.Split, Done: done, Total: len(todo),
			Status: record.Status, Reason: record.Reason, Seconds: record.Seconds,
			Left: time.Since(started).Seconds() / float64(done) * float64(len(todo)-done)}
		if record.PredictedClassName != nil {
			e.Predicted, e.Confidence = *record.PredictedClassName, *record.Confidence
		}
		r.observe.Event(e)
	}
	var once sync.Once
	for range writersOf(processors) {
		group.Go(func() error {
			for parts := range explained {
				record, err := r.write(parts)
				if err != nil {
					once.Do(func() { close(broken) })
					return err
				}
				if record != nil {
					tell(record)
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// read prepares samples, some at a time, and hands them on in their order.
func (r *run) read(ctx context.Context, group *errgroup.Group, volumes *reading, todo []dataset.Sample, read chan<- *job) {
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
				j := &job{sample: sample}
				if j.err = r.checkLabel(sample); j.err == nil {
					j.err = guard(func() (err error) { j.prepared, err = volumes.prepare(ctx, sample); return err })
				}
				turn <- j
				return nil
			})
		}
		return nil
	})
	group.Go(func() error {
		defer close(read)
		for turn := range turns {
			select {
			case read <- <-turn:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
}

// write stores the parts of a sample; nothing, if it was stopped between two targets.
func (r *run) write(parts <-chan part) (*report.Sample, error) {
	var w *writer
	defer func() { w.abort() }()
	for p := range parts {
		if w == nil {
			w = &writer{run: r, job: p.job}
		}
		if err := w.add(p); err != nil {
			return nil, err
		}
		if p.last {
			return w.finish()
		}
	}
	return nil, nil
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

// begin begins target i of a sample.
func (r *run) begin(ctx context.Context, ex explain.Explainer, j *job, i int) part {
	p := part{job: j, err: j.err, target: i, last: j.err != nil || i == len(r.targets)-1, heard: &heard{}}
	if p.err != nil {
		return p
	}
	target := r.targets[i]
	if target.Kind == cam.ClassTrue {
		target.Index = j.sample.Label
	}
	request := r.request
	request.Target.Class, request.SampleID, request.Noise = target, j.sample.ID, r.opt.Noise
	request.Progress = func(done, total int) {
		r.observe.Event(Event{Kind: EventPass, Sample: j.sample.ID, Split: string(j.sample.Split),
			Passes: i*total + done, PassesTotal: len(r.targets) * total})
	}
	request.OnEvent = func(incident cam.Event) {
		p.heard.add(incident)
		r.memory.incident(j.sample, incident)
	}
	if o, ok := ex.(explain.Overlapping); ok {
		p.err = guard(func() (err error) { p.work, err = o.Begin(ctx, j.prepared.Volume, request); return err })
		p.last = p.last || p.err != nil
		return p
	}
	p.work = &plain{Explainer: ex, job: j, request: request}
	return p
}

// drop gives up what was begun.
func (p *part) drop() {
	if p.work != nil {
		p.work.Drop()
	}
}

// compute explains what was begun.
func (r *run) compute(ctx context.Context, p *part) {
	if p.err != nil {
		return
	}
	if p.target == 0 {
		r.memory.begin(p.job.sample)
		r.observe.Event(Event{Kind: EventBegin, Sample: p.job.sample.ID, Split: string(p.job.sample.Split)})
	}
	started := time.Now()
	p.err = guard(func() error { return p.work.Compute(ctx) })
	p.seconds = time.Since(started).Seconds()
	p.last = p.last || p.err != nil
}

// result waits for what a part has, and checks it.
func (r *run) result(p *part) (result *cam.Result, err error) {
	if p.err != nil {
		return nil, p.err
	}
	err = guard(func() (err error) { result, err = p.work.Result(); return err })
	if err == nil {
		err = r.check(result, p.job.prepared.Volume.Dims())
	}
	return result, err
}

// plain is the work of an Explainer that does one volume at a time.
type plain struct {
	explain.Explainer
	job     *job
	request cam.Request
	result  *cam.Result
}

func (w *plain) Compute(ctx context.Context) (err error) {
	w.result, err = w.Explain(ctx, w.job.prepared.Volume, w.request)
	return err
}

func (w *plain) Result() (*cam.Result, error) { return w.result, nil }

func (w *plain) Drop() {}

// guard makes a panic, which is a fault of the program, the failure of one sample instead of the end of the run.
func guard(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("internal error, please report it (VOXCAM_DEBUG=1 in the environment shows where it happened): %v", p)
			if os.Getenv("VOXCAM_DEBUG") != "" {
				err = fmt.Errorf("internal error, please report it: %v\n%s", p, debug.Stack())
			}
		}
	}()
	return do()
}

// check keeps anything that is not a result from being stored as one: it turns the status of such a method to failed.
func (r *run) check(result *cam.Result, dims [3]int) error {
	if result == nil {
		return errors.New("internal error, please report it: no result and no error")
	}
	if len(result.Methods) != len(r.request.Methods) || len(result.Logits) != r.info.Classes || len(result.Probabilities) != r.info.Classes {
		return fmt.Errorf("internal error, please report it: %d methods, %d logits and %d probabilities instead of %d, %d and %d",
			len(result.Methods), len(result.Logits), len(result.Probabilities), len(r.request.Methods), r.info.Classes, r.info.Classes)
	}
	for i := range result.Logits {
		if l, p := float64(result.Logits[i]), result.Probabilities[i]; l-l != 0 || p-p != 0 {
			return fmt.Errorf("the network's output is not finite (class %d: logit %v); check the scaling of the volume", i, result.Logits[i])
		}
	}
	if p := result.Predicted; p < 0 || p >= r.info.Classes {
		return fmt.Errorf("internal error, please report it: predicted class %d", p)
	}
	for i := range result.Methods {
		m := &result.Methods[i]
		if m.Status == cam.StatusFailed {
			m.Map, m.Heatmap = nil, nil
			continue
		}
		fail := func(format string, args ...any) {
			m.Status, m.Reason, m.Map, m.Heatmap = cam.StatusFailed, fmt.Sprintf(format, args...), nil, nil
		}
		switch {
		case m.Status != cam.StatusOK && m.Status != cam.StatusDegraded:
			fail("internal error, please report it: status %q", m.Status)
		case m.HeatDims != dims || len(m.Heatmap) != dims[0]*dims[1]*dims[2] || len(m.Map) == 0 || len(m.Map) != m.Dims[0]*m.Dims[1]*m.Dims[2]:
			fail("internal error, please report it: map of %v with %d values, heatmap of %v with %d values for a volume of %v",
				m.Dims, len(m.Map), m.HeatDims, len(m.Heatmap), dims)
		case !finite(m.Map) || !finite(m.Heatmap):
			fail("the map is not finite")
		case m.Status == cam.StatusOK && !positive(m.Heatmap):
			m.Status, m.Reason = cam.StatusDegraded, "the heatmap is zero everywhere: the map has no positive value, or the same value everywhere"
		}
	}
	return nil
}

func finite(x []float32) bool {
	for _, v := range x {
		if v-v != 0 {
			return false
		}
	}
	return true
}

func positive(x []float32) bool {
	for _, v := range x {
		if v > 0 {
			return true
		}
	}
	return false
}

// duration says a time as people do.
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
