package worker_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/worker"
)

// A volume that leaves a process that lives goes on from the draws that were kept there: in the next process after an order to restart, and
// on the processor.
func TestDrawsAreHandedOver(t *testing.T) {
	const draws = 6
	for _, c := range []struct {
		name  string
		harm  []harm
		order bool
	}{
		{name: "restart", order: true},
		{name: "processor", harm: []harm{{At: "pass", Pass: 5, How: "short"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			w := start(t, script{Dir: dir, Harm: c.harm, OnDevice: true, Pass: 5 * time.Millisecond}, worker.Options{},
				func(o *engine.Options) { o.Policy.Wait = time.Millisecond })
			var ordered sync.WaitGroup
			order := sync.OnceFunc(func() {
				ordered.Go(func() {
					if _, err := w.Order(t.Context(), policy.Order{Operation: policy.Restart}); err != nil {
						t.Error(err)
					}
				})
			})
			req := request(1, draws)
			req.Progress = func(done, _ int) {
				if c.order && done == 4 {
					order()
				}
			}
			r, err := w.Explain(t.Context(), newVolume(1), req)
			if err != nil {
				t.Fatal(err)
			}
			ordered.Wait()
			same(t, r, truth(t, 1, draws))
			said := strings.Join(notes(t, dir), "\n")
			last := said[strings.LastIndex(said, "compute"):]
			if strings.Count(said, "compute") < 2 || strings.HasPrefix(last, "compute s1 from 0") {
				t.Errorf("children did\n%s", said)
			}
		})
	}
}

// That processes end while they open the model on the processor fails the volume in the end.
func TestProcessorDoesNotOpen(t *testing.T) {
	dir := t.TempDir()
	w := start(t, script{Dir: dir, OnDevice: true, Harm: []harm{{At: "pass", Pass: 2, How: "exit", Times: 1}, {At: "open", How: "kill", CPU: true, After: 1, Times: 6}}},
		worker.Options{})
	_, err := w.Explain(t.Context(), newVolume(1), request(1, 2))
	if err == nil || !strings.Contains(err.Error(), "the processor cannot take the device's place: the worker process has ended while it opened the model: signal killed") {
		t.Errorf("error %v", err)
	}
	r, err := w.Explain(t.Context(), newVolume(2), request(2, 2))
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, truth(t, 2, 2))
	if got := r.Execution.Level; got == cam.LevelCPU {
		t.Errorf("level %s", got)
	}
}
