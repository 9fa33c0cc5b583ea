package reclaim

import (
	"context"
	"errors"
	"time"

	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/policy"
)

// Sessions returns the sessions of this user. The error is about folders that cannot be read.
func Sessions(ctx context.Context) (found []Session, err error) {
	clients, err := control.Sessions(ctx)
	for _, c := range clients {
		found = append(found, Session{PID: c.PID, Responder: c})
	}
	return found, err
}

// Trim asks sessions for the memory of GPUs that they do not use, waiting at most timeout for each, and returns the bytes that came back. The
// error names sessions that do not answer.
func Trim(ctx context.Context, sessions []Session, timeout time.Duration) (freed int, err error) {
	for _, s := range sessions {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		outcome, failed := s.Order(ctx, policy.Order{Operation: policy.Trim})
		cancel()
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		freed += max(outcome.Freed(), 0)
	}
	return freed, err
}
