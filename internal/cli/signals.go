package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/session"
)

// stopped is the cause of a context that a signal has ended. It is a context.Canceled.
type stopped struct{ signal os.Signal }

func (e *stopped) Error() string        { return fmt.Sprintf("stopped by the signal %v", e.signal) }
func (e *stopped) Is(target error) bool { return target == context.Canceled }

// Interruptible returns a context that ends with the first signal that asks a program to end: ctrl-C, SIGTERM, a terminal that goes away
// (SIGHUP), time of the processor that is used up (SIGXCPU). stop ends listening. A SIGHUP that was ignored when the program was started
// stays so, as nohup wants it.
func Interruptible(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	asked := make(chan os.Signal, 1)
	for _, s := range stopping {
		if s == os.Interrupt || !signal.Ignored(s) {
			signal.Notify(asked, s)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case s := <-asked:
			cancel(&stopped{s})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(asked)
		cancel(nil)
		<-done
	}
}

// batchSystems set these variables in the environment of their jobs. They, or their users, choose SIGUSR1 or SIGUSR2 as the
// warning that it is about to be killed.
var batchSystems = []struct{ name, variable string }{
	{"Slurm", "SLURM_JOB_ID"},
	{"PBS", "PBS_JOBID"},
	{"LSF", "LSB_JOBID"},
	{"Grid Engine", "SGE_TASK_ID"},
	{"Flux", "FLUX_JOB_ID"},
	{"OAR", "OAR_JOB_ID"},
}

// userSignalsStop reports whether SIGUSR1 and SIGUSR2 stop a run, given memory.user_signals, and names the batch system of the job, if that
// decided it.
func userSignalsStop(setting string, getenv func(string) string) (stop bool, system string) {
	if setting != config.UserSignalsAuto {
		return setting == config.UserSignalsStop, ""
	}
	for _, b := range batchSystems {
		if getenv(b.variable) != "" {
			return true, b.name
		}
	}
	return false, ""
}

// orders takes requests to a session's memory.
type orders interface {
	Order(ctx context.Context, o policy.Order) (policy.Outcome, error)
}

// stopOn ends a run because of a signal, and says so.
func stopOn(s os.Signal, observer session.Observer, cancel context.CancelCauseFunc) {
	observer.Notify(session.Notice{Kind: session.NoticeWarning, Reason: fmt.Sprintf("signal %v: the run stops here (memory.user_signals, --user-signals)", s)})
	cancel(&stopped{s})
}

// yieldFor is the time for which a signal makes a session give its memory to other programs.
const yieldFor = time.Minute

// obey carries out one order that came by a signal, and reports its outcome.
func obey(ctx context.Context, to orders, observer session.Observer, o policy.Order, signal os.Signal) {
	outcome, err := to.Order(ctx, o)
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case err != nil:
		observer.Notify(session.Notice{Kind: session.NoticeWarning, Reason: fmt.Sprintf("signal %v: %s: %v", signal, o.Operation, err)})
		return
	}
	text := fmt.Sprintf("signal %v: %s: gave back %s", signal, o.Operation, bytesize.Format(max(outcome.Freed(), 0)))
	if outcome.Note != "" {
		text += "; " + outcome.Note
	}
	observer.Notify(session.Notice{Kind: session.NoticeNote, Reason: text})
}

// heed obeys SIGUSR1 and SIGUSR2 as the setting of memory.user_signals says, until the function that it returns is called.
func heed(ctx context.Context, live *runner.Live, to session.Observer, stop context.CancelCauseFunc, setting string, stderr io.Writer) (end func()) {
	stops, system := userSignalsStop(setting, os.Getenv)
	if system != "" {
		fmt.Fprintf(stderr, "voxcam: note: in this job of %s, SIGUSR1 and SIGUSR2 stop the run, which can be continued (--user-signals)\n", system)
	}
	if !stops {
		stop = nil
	}
	return listen(ctx, live, to, stop)
}
