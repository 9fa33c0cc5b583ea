package explain

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/network"
)

// finish turns the map of method i, of size dims, into its result, unless there is none: the failure of a method is its status. The
// map may be where the heatmap is made. An error is one to recover from.
func (e *Explanation) finish(ctx context.Context, i int, signed *network.Output, dims [3]int, err error) error {
	r, picture := &e.result.Methods[i], e.net.Buffers.Output(signed)
	if err == nil {
		err = e.bringBack(i, signed, &r.Map)
	}
	var finding cam.Finding
	if err == nil {
		finding, err = e.net.Backend.Heatmap(picture.Free(), signed.Field, e.choices[i], dims, e.volume.Dims())
	}
	if err == nil {
		err = e.bringBack(i, picture, &r.Heatmap)
	}
	if err != nil {
		return e.failMethods(ctx, err, i)
	}
	r.Dims, r.Status = dims, cam.StatusOK
	if finding != "" {
		r.Degrade(string(finding))
	}
	if e.doubt != "" {
		r.Degrade(e.doubt)
	}
	if e.low == e.high {
		r.Degrade(fmt.Sprintf("every voxel of the volume has the value %g, so that there is nothing in it to see", e.low))
	}
	if l := e.result.Layer; l != nil && l.AnotherTensor != "" && e.choices[i].Convention.Kind() == cam.AtLayer {
		r.Degrade(l.AnotherTensor)
	}
	return nil
}

// bringBack brings the content of an output buffer to the result of method i.
func (e *Explanation) bringBack(i int, s *network.Output, to *[]float32) (err error) {
	field := s.Field
	if !s.Overlaps || e.atOnce {
		*to, err = e.executor.Take(field, false)
		return err
	}
	s.Transfers.Add(1)
	e.back.Go(func() {
		defer s.Transfers.Done()
		values, err := e.executor.Take(field, true)
		if err != nil {
			e.back.fail(i, err)
			return
		}
		*to = values
	})
	return nil
}

// Collect waits for transfers to the host. A fault becomes the status of its method. After an error that another attempt may mend the method
// has no status any more, and the error is returned.
func (e *Explanation) Collect() error {
	var late []error
	for i, err := range e.back.wait() {
		m := &e.result.Methods[i]
		if !e.executor.Retryable(err) {
			m.Status, m.Reason = cam.StatusFailed, err.Error()
			continue
		}
		m.Status, m.Reason, m.Map, m.Heatmap = "", "", nil, nil
		late = append(late, err)
	}
	return errors.Join(late...)
}

// Complete is Collect at the end. The next attempts bring maps to the host at once.
func (e *Explanation) Complete() error {
	late := e.Collect()
	e.atOnce = e.atOnce || late != nil
	return late
}

// Result returns the result, without Execution. It is called once, after Complete.
func (e *Explanation) Result() *cam.Result {
	e.verify()
	for i := range e.result.Methods {
		if m := &e.result.Methods[i]; m.Status == cam.StatusFailed {
			m.Map, m.Heatmap = nil, nil
		}
	}
	return &e.result
}

// verify compares maps with the properties that their theory gives them.
func (e *Explanation) verify() {
	for _, s := range e.samplings {
		for _, i := range s.which {
			m := &e.result.Methods[i]
			if m.Map == nil || m.Status == cam.StatusFailed {
				continue
			}
			figures, reason := e.choices[i].Verify(m.Map, float32(e.result.Score.Value), s.scores)
			maps.Copy(m.Parameters, figures)
			if reason != "" {
				m.Degrade(reason)
			}
		}
	}
}
