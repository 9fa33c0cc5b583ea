package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
)

// What the child refuses stays an error, and a call that was cancelled by its caller ends for the caller's reason.
func TestFaults(t *testing.T) {
	reason, other := errors.New("the user went away"), errors.New("no such layer")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	for name, test := range map[string]struct {
		ctx   context.Context
		fault error
		want  error
	}{
		"cancelled by the caller":                 {ended, context.Canceled, reason},
		"cancelled, and not by the caller":        {t.Context(), context.Canceled, context.Canceled},
		"refused while the caller cancelled":      {ended, other, other},
		"refused":                                 {t.Context(), other, other},
		"too late by a limit that is the child's": {t.Context(), context.DeadlineExceeded, context.DeadlineExceeded},
	} {
		var wire bytes.Buffer
		if err := newPipe(&wire).send(kindFault, 1, faultOf(test.fault)); err != nil {
			t.Fatal(err)
		}
		f, err := readFrame(&wire)
		if err != nil {
			t.Fatal(err)
		}
		got := new(child).decode(test.ctx, f, nil)
		if got == nil || !errors.Is(got, test.want) && got.Error() != test.want.Error() {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// Errors cross the border with what callers tell apart.
func TestErrorsCrossTheBorder(t *testing.T) {
	var skipped *cam.SkippedError
	var short *cam.MemoryError
	err := faultOf(fmt.Errorf("s1: %w", &cam.SkippedError{Err: &cam.MemoryError{Needs: 5, Free: 3, Err: errors.New("refused")}})).error()
	if !errors.As(err, &skipped) || !errors.As(err, &short) || short.Needs != 5 || short.Free != 3 || !strings.HasPrefix(err.Error(), "s1: skipped") {
		t.Errorf("a volume that was skipped: %v", err)
	}
	if f := faultOf(fmt.Errorf("s1: %w", &cam.TransientError{Tries: 3, Err: errors.New("refused")})); f.Kind != "transient" {
		t.Errorf("a device that fails: %+v", f)
	}
	for _, err := range []error{context.Canceled, fmt.Errorf("so: %w", context.DeadlineExceeded), errors.New("plain")} {
		back := faultOf(err).error()
		if back.Error() != err.Error() || errors.Is(err, context.Canceled) != errors.Is(back, context.Canceled) ||
			errors.Is(err, context.DeadlineExceeded) != errors.Is(back, context.DeadlineExceeded) {
			t.Errorf("%v came back as %v", err, back)
		}
	}
}
