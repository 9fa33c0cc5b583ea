package explain

import (
	"context"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
)

// Explanation is the state of explaining one volume. It is computed in attempts; each goes on from the ones before. The zero Explanation has
// no volume, and holds nothing.
type Explanation struct {
	executor  Executor
	req       cam.Request
	volume    *volume.Volume
	low, high float32 // of the volume
	choices   []cam.Choice
	byKind    map[network.Kind][]int // indices of choices
	net       *network.Network       // of the latest attempt
	result    cam.Result
	target    cam.Target  // with its class settled
	seed      []float32   // gradient of the score at the volume with respect to the output's raw values; nil before the first pass
	others    [][]float32 // data of the inputs besides the one that is explained
	doubt     string      // that goes for all maps; "" for none
	done      int         // passes through the network
	total     int
	samplings []*sampling       // of methods that have points of their own
	ready     *network.Gradient // the program that has gone forward on the volume, and no further
	back      returns
	atOnce    bool // maps and heatmaps are brought before anything else is done
}

// New returns the explanation of a volume. An error is a fault of the request or of the volume.
func New(v *volume.Volume, req cam.Request, executor Executor) (*Explanation, error) {
	req, err := req.Filled()
	if err != nil {
		return nil, err
	}
	choices, err := cam.Choose(req.Methods, req.Convention)
	if err != nil {
		return nil, err
	}
	if err := v.CheckSize(); err != nil {
		return nil, err
	}
	if err := v.CheckFinite(); err != nil {
		return nil, err
	}
	e := &Explanation{executor: executor, req: req, volume: v, choices: choices, byKind: map[network.Kind][]int{}}
	e.low, e.high = extent(v.Data)
	e.result.Methods = make([]cam.MethodResult, len(choices))
	for i, c := range choices {
		e.result.Methods[i] = cam.MethodResult{Method: c.Name, HeatDims: v.Dims(), Parameters: map[string]any{"convention": c.Convention.Name}}
		e.byKind[network.KindOf(c)] = append(e.byKind[network.KindOf(c)], i)
	}
	e.total = 1 + min(len(e.byKind[network.AtInput]), 1)
	return e, e.sharePoints()
}

func extent(x []float32) (low, high float32) {
	low, high = x[0], x[0]
	for _, v := range x {
		if v < low {
			low = v
		}
		if v > high {
			high = v
		}
	}
	return low, high
}

// sharePoints groups methods by their points.
func (e *Explanation) sharePoints() error {
	sharing := map[string]*sampling{}
	for _, i := range e.byKind[network.AtPoints] {
		points, err := e.choices[i].Points(e.req, e.low, e.high)
		if err != nil {
			return err
		}
		s := sharing[points.Key]
		if s == nil {
			s = &sampling{points: points, scores: make([]float32, points.Scores)}
			sharing[points.Key], e.samplings = s, append(e.samplings, s)
			e.total += points.Len
		}
		s.which, s.choices = append(s.which, i), append(s.choices, e.choices[i])
	}
	return nil
}

// Needs returns the programs and device buffers that the methods use.
func (e *Explanation) Needs() network.Needs {
	return network.NeedsOf(e.choices, e.volume.Voxels(), e.volume.Channels)
}

// Finished returns the number of methods and points that are done. Points still count when their methods have their maps and the sums are
// given back.
func (e *Explanation) Finished() (n int) {
	if e.seed != nil {
		n++
	}
	n += len(e.result.Methods)
	for _, which := range e.byKind {
		n -= len(e.unfinished(which))
	}
	for _, s := range e.samplings {
		if len(e.unfinished(s.which)) > 0 {
			n += s.done
		} else {
			n += s.points.Len
		}
	}
	return n
}

// unfinished returns those of methods that have no status yet.
func (e *Explanation) unfinished(methods []int) (which []int) {
	for _, i := range methods {
		if e.result.Methods[i].Status == "" {
			which = append(which, i)
		}
	}
	return which
}

// failMethods makes an error the status of methods, unless it is a fault of the volume or one that another attempt may mend: it returns those.
func (e *Explanation) failMethods(ctx context.Context, err error, which ...int) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil || e.executor.Retryable(err):
		return err
	}
	for _, i := range e.unfinished(which) {
		e.result.Methods[i].Status, e.result.Methods[i].Reason = cam.StatusFailed, err.Error()
	}
	return nil
}

// spend shares time among the methods that used it.
func (e *Explanation) spend(t time.Duration, which []int) {
	for _, i := range which {
		e.result.Methods[i].Seconds += t.Seconds() / float64(len(which))
	}
}

func (e *Explanation) countPass() {
	e.done = min(e.done+1, e.total) // repeated passes count once
	if e.req.Progress != nil {
		e.req.Progress(e.done, e.total)
	}
}
