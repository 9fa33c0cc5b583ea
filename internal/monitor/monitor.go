// Package monitor shows the memory of GPUs and the progress of sessions over time: as a live view for a terminal (Renderer, Screen), as plain
// lines (Lines), and as metrics in the text format of Prometheus (Metrics, Handler, Serve). A Look shows one moment; a Watcher
// takes looks at this machine.
package monitor

import (
	"context"
	"fmt"
	"time"

	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// Look shows GPUs and sessions at one moment.
type Look struct {
	Time     time.Time       `json:"time"`
	GPUs     []gpusurvey.GPU `json:"gpus"`
	Host     gpusurvey.Host  `json:"host"`
	Sessions []Answer        `json:"sessions"`
	Notes    []string        `json:"notes,omitempty"`
}

// Answer is the status that a session answered with, or its PID and the reason why it did not answer.
type Answer struct {
	control.Status
	Problem string `json:"problem,omitempty"` // a sentence that names the process
}

// label names a GPU in few letters: cuda:N as for --device, or nvml:N where CUDA does not show it to this process.
func label(g gpusurvey.GPU) string {
	switch {
	case g.Number >= 0:
		return fmt.Sprintf("cuda:%d", g.Number)
	case g.Index >= 0:
		return fmt.Sprintf("nvml:%d", g.Index)
	}
	return g.UUID
}

// Watch looks at once and then each interval, until the context ends or show fails. A look that takes longer than the interval delays the
// next one. The error is that of show; the end of the context is no error.
func Watch(ctx context.Context, interval time.Duration, look func(context.Context) (Look, error), show func(Look) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		l, err := look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = show(l)
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
