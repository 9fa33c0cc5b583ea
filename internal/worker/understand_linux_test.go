package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"
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
		got := new(child).understand(test.ctx, f, nil)
		if got == nil || !errors.Is(got, test.want) && got.Error() != test.want.Error() {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// A region that its file does not hold whole is not copied in part, and nothing stays taken for it.
func TestCopyOfWhatIsNotThere(t *testing.T) {
	from, err := newShared("from")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := newShared("to")
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	at, err := (&arena{file: from}).put(make([]float32, 10))
	if err != nil {
		t.Fatal(err)
	}
	a := &arena{file: to}
	if _, err := a.copy(from, region{at.Offset, at.Length + 4}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	if len(a.used) != 0 {
		t.Errorf("still taken: %v", a.used)
	}
}

// The wait before another child doubles from the second one that ended on, to a limit that no number of them exceeds.
func TestBackOff(t *testing.T) {
	for deaths, want := range map[int]time.Duration{
		0: 0, 1: 0, 2: 200 * time.Millisecond, 3: 400 * time.Millisecond, 6: 3200 * time.Millisecond, 7: 5 * time.Second, 1 << 40: 5 * time.Second,
	} {
		if got := backOff(deaths); got != want {
			t.Errorf("after %d: %v, want %v", deaths, got, want)
		}
	}
}
