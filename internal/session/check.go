package session

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/voxcam/voxcam/cam"
)

// result waits for the result of a part, and checks it.
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

// guard turns a panic, a fault of the program, into an error: it fails one sample instead of ending the run.
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

// check returns why something is no result of the volume. A single method that has none gets the status failed.
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
