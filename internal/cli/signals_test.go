package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/session"
)

// fakeSession hears orders.
type fakeSession struct {
	orders chan policy.Order
	err    error
}

func (f *fakeSession) Order(_ context.Context, o policy.Order) (policy.Outcome, error) {
	f.orders <- o
	return policy.Outcome{Operation: o.Operation, Before: backend.Usage{Reserved: 3 << 20}, After: backend.Usage{Reserved: 1 << 20}, Note: "so it is"}, f.err
}

// events are those that an observer heard.
type events struct {
	mu   sync.Mutex
	list []session.Notice
	more chan struct{}
}

func (e *events) Notify(event session.Notice) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, event)
	e.more <- struct{}{}
}

// Signals are orders, and what came of them is told.
func TestSignalsAreOrders(t *testing.T) {
	heard := &events{more: make(chan struct{}, 1000)}
	device := &fakeSession{orders: make(chan policy.Order, 1)}
	stop := listen(t.Context(), device, heard, nil)
	order := func(s syscall.Signal) policy.Order {
		t.Helper()
		send(t, s)
		o := <-device.orders
		<-heard.more
		return o
	}
	if o := order(syscall.SIGUSR1); o != (policy.Order{Operation: policy.Release, For: time.Minute}) {
		t.Errorf("%+v", o)
	}
	device.err = errors.New("no")
	if o := order(syscall.SIGUSR2); o.Operation != policy.Resume {
		t.Errorf("%+v", o)
	}
	stop()
	if e := heard.list[0]; e.Kind != session.NoticeNote || e.Reason != "signal user defined signal 1: release: gave back 2 MiB; so it is" {
		t.Errorf("%+v", e)
	}
	if e := heard.list[1]; e.Kind != session.NoticeWarning || !strings.HasSuffix(e.Reason, "resume: no") {
		t.Errorf("%+v", e)
	}
}

// Where they stop a run, the first of them ends its context, and says so.
func TestSignalsThatStop(t *testing.T) {
	heard := &events{more: make(chan struct{}, 1000)}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	end := listen(ctx, nil, heard, cancel) // an order would panic
	send(t, syscall.SIGUSR2)
	<-ctx.Done()
	end()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) || err.Error() != "stopped by the signal user defined signal 2" {
		t.Error(err)
	}
	if e := heard.list[0]; e.Kind != session.NoticeWarning || !strings.Contains(e.Reason, "user defined signal 2: the run stops") {
		t.Errorf("%+v", e)
	}
}

// A program ends with the first signal that asks for it; what nohup has it ignore does not.
func TestInterruptible(t *testing.T) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // so that it is not ignored, as when the test runs under nohup
	signal.Stop(hangup)
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGXCPU} {
		ctx, stop := Interruptible(t.Context())
		send(t, s)
		<-ctx.Done()
		stop()
		if err := context.Cause(ctx); !errors.Is(err, context.Canceled) || err.Error() != fmt.Sprintf("stopped by the signal %v", s) {
			t.Error(err)
		}
	}
	signal.Ignore(syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	ctx, stop := Interruptible(t.Context())
	defer stop()
	send(t, syscall.SIGHUP)
	send(t, syscall.SIGTERM)
	<-ctx.Done()
	if err := context.Cause(ctx); err.Error() != "stopped by the signal terminated" {
		t.Error(err)
	}
}

func send(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		t.Fatal(err)
	}
}

func TestUserSignals(t *testing.T) {
	for _, c := range []struct {
		setting, variable string
		stop              bool
		system            string
	}{
		{"auto", "", false, ""}, {"auto", "HOME", false, ""}, {"auto", "SLURM_JOB_ID", true, "Slurm"}, {"auto", "PBS_JOBID", true, "PBS"},
		{"auto", "LSB_JOBID", true, "LSF"}, {"auto", "SGE_TASK_ID", true, "Grid Engine"},
		{"memory", "SLURM_JOB_ID", false, ""}, {"stop", "", true, ""}, {"stop", "LSB_JOBID", true, ""},
	} {
		getenv := func(name string) string {
			if name == c.variable {
				return "7"
			}
			return ""
		}
		if stop, system := userSignalsStop(c.setting, getenv); stop != c.stop || system != c.system {
			t.Errorf("%s in %s: %v, %q", c.setting, c.variable, stop, system)
		}
	}
}
