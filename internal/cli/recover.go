package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/reclaim"
	"github.com/voxcam/voxcam/internal/session"
)

// recoverOptions are the flags of recover; functions that are nil are those of this machine.
type recoverOptions struct {
	reclaim.Options                                    // but for Survey, Operations and End
	resume, kill, restart, full, trim, asJSON, forever bool
	bands                                              gpusurvey.Bands

	survey func(context.Context) (*gpusurvey.Survey, error)
	answer func(context.Context) (string, error) // reads a line of the user; nil: from the terminal, if there is one
}

func newRecover() *cobra.Command {
	o := recoverOptions{}
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Get memory of the GPUs back, and say what really came back",
		Long: `Recover asks each session of yours that runs to give back all memory but the least that works, to keep nothing unused, and to make one
block of what is left, and verifies that by the driver's figures before and after. The sessions go on, slower, and follow their
budgets again after --for. Other programs are left alone: their memory can only come back when they give it or end.

--kill-processes lists the processes that hold memory of GPUs. It ends those of yours that you confirm, each by itself, or that --pid
names; --yes instead ends workers of this program whose session is gone. It never ends another user's process, itself, or what it was
started from, and as root only what --pid names. A process is asked to end (SIGTERM), and made to (SIGKILL) after --grace.
--restart-cuda makes the context of each session anew, which the sessions survive; no device is reset. --full-recovery does all:
kill, restart, release, trim, defragment. --resume lets sessions take memory again. --clear-cache only trims.

Exit codes: 0 memory came back, or was healthy; 3 nothing came back and memory is scarce (warning), 4 memory is critical, as voxcam check
says; 1 a step failed, or it cannot be told what is free; 2 for wrong usage.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.validate(cmd.Flags().Changed); err != nil {
				return usage(err)
			}
			return o.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.DurationVar(&o.For, "for", time.Minute, "time for which sessions hold little after they released memory")
	fl.BoolVar(&o.forever, "until-resumed", false, "sessions hold little until --resume")
	fl.BoolVar(&o.resume, "resume", false, "let sessions take what their budgets allow again")
	fl.BoolVar(&o.trim, "clear-cache", false, "only have sessions give back what nothing is in")
	fl.BoolVar(&o.restart, "restart-cuda", false, "have sessions make their contexts anew")
	fl.BoolVar(&o.kill, "kill-processes", false, "list the processes that hold memory of GPUs, and end those of yours that you confirm or name")
	fl.IntSliceVar(&o.Consent.Named, "pid", nil, "end this process, which must be in the list; may be given several times")
	fl.BoolVar(&o.Consent.Yes, "yes", false, "end workers of this program whose session is gone, without asking")
	fl.DurationVar(&o.Grace, "grace", 10*time.Second, "time to end that a process is given before it is killed")
	fl.BoolVar(&o.full, "full-recovery", false, "--kill-processes, --restart-cuda and the steps without flags, in this order")
	fl.DurationVar(&o.Timeout, "timeout", 2*time.Minute, "time that a session is given for each step, which it takes between two passes; 0: no limit")
	fl.BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	fl.BoolVar(&o.asJSON, "json", false, "print JSON")
	addThresholds(cmd, &o.bands)
	return cmd
}

// validate refuses flags that would do nothing beside the others.
func (o *recoverOptions) validate(given func(flag string) bool) error {
	ends := o.kill || o.full
	releases := o.full || !(o.kill || o.restart || o.trim || o.resume)
	for _, f := range []struct {
		flags []string
		works bool
		needs string
	}{
		{[]string{"pid", "yes", "grace"}, ends, "--kill-processes or --full-recovery"},
		{[]string{"for", "until-resumed"}, releases, "that memory is released: no other step, or --full-recovery"},
		{[]string{"resume"}, !(o.kill || o.restart || o.trim || o.full), "to be alone: it undoes the other steps"},
	} {
		for _, name := range f.flags {
			if given(name) && !f.works {
				return fmt.Errorf("--%s needs %s", name, f.needs)
			}
		}
	}
	switch {
	case given("for") && o.forever:
		return errors.New("--for and --until-resumed contradict each other")
	case o.For <= 0:
		return fmt.Errorf("--for %v: a time expected, such as 60s; --until-resumed has no end", o.For)
	case o.Consent.Yes && len(o.Consent.Named) > 0:
		return errors.New("--yes is for workers whose session is gone; with --pid it has no effect")
	case o.Grace < 0 || o.Timeout < 0:
		return errors.New("--grace and --timeout are times from 0 up")
	}
	for _, pid := range o.Consent.Named {
		if pid <= 0 {
			return fmt.Errorf("--pid %d is no process", pid)
		}
	}
	return nil
}

// operations returns the operations that sessions are asked for, in order.
func (o *recoverOptions) operations() (list []policy.Operation) {
	if o.resume {
		return []policy.Operation{policy.Resume}
	}
	if o.restart || o.full {
		list = append(list, policy.Restart)
	}
	switch {
	case o.full || !o.restart && !o.kill && !o.trim:
		list = append(list, policy.Release, policy.Trim, policy.Defragment)
	case o.trim:
		list = append(list, policy.Trim)
	}
	return list
}

// recovered has the findings of recover, as it prints them as JSON. Keys are stable.
type recovered struct {
	*reclaim.Report
	gpusurvey.Verdict     // of the GPUs or, where there is none, the processor
	ExitCode          int `json:"exit_code"`
}

func (o recoverOptions) run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	if o.survey == nil {
		w := monitor.NewWatcher(libraries(o.bands), patience)
		defer func() { err = errors.Join(err, w.Close()) }()
		o.survey = w.Survey
	}
	if o.Sessions == nil {
		o.Sessions = reclaim.Sessions
	}
	if o.System == nil {
		o.System = reclaim.Machine(device.CUDA().Driver)
	}
	if in, ok := terminal(stdin); o.answer == nil && ok {
		if _, ok := terminal(stderr); ok {
			o.answer = func(ctx context.Context) (string, error) { return readAnswer(ctx, in) }
		}
	}
	var last *gpusurvey.Survey
	o.Survey = func(ctx context.Context) ([]gpusurvey.GPU, error) {
		v, err := o.survey(ctx)
		if err != nil {
			return nil, err
		}
		last = v
		return v.GPUs, nil
	}
	o.Operations, o.End = o.operations(), o.kill || o.full
	if o.forever {
		o.For = 0
	}
	if o.answer != nil {
		o.Consent.Ask = func(c reclaim.Candidate) (bool, error) {
			printable.Fprintf(stderr, "End %s? [y/N] ", printable.Short(c.Described(), 200))
			text, err := o.answer(ctx)
			text = strings.ToLower(strings.TrimSpace(text))
			return text == "y" || text == "yes", err
		}
	}
	if !o.asJSON {
		o.Listed = func(list []reclaim.Candidate) { printCandidates(stdout, list) }
	}
	report, err := reclaim.Run(ctx, o.Options)
	r := &recovered{Report: report}
	if last != nil {
		r.Verdict, _ = last.Judge("all") // all cannot name a missing GPU
	}
	r.ExitCode = o.exitCode(r)
	if o.asJSON {
		err = errors.Join(err, printJSON(stdout, r))
	} else {
		err = errors.Join(err, o.print(stdout, r, last))
	}
	for _, p := range report.Problems {
		printable.Fprintln(stderr, "voxcam: warning:", printable.Short(p, 500))
	}
	if last != nil {
		printNotes(stderr, nil, last.Notes)
	}
	if err != nil {
		return err
	}
	return ended(r.ExitCode, "memory is "+r.Health.String())
}

// exitCode returns the code of voxcam check, with two exceptions: memory that came back is a success unless memory is critical still, and a step
// that failed is an error.
func (o *recoverOptions) exitCode(r *recovered) int {
	switch {
	case o.DryRun:
		return session.ExitOK
	case o.resume && !r.Failed():
		return session.ExitOK
	case r.Health == gpusurvey.Critical:
		return checkCodes[gpusurvey.Critical]
	case r.Failed():
		return session.ExitError
	case r.Gained() > 0:
		return session.ExitOK
	}
	return checkCodes[r.Health]
}

// print prints the steps and their effects.
func (o *recoverOptions) print(w io.Writer, r *recovered, now *gpusurvey.Survey) error {
	t := newTable(w)
	if len(r.Steps) > 0 {
		printable.Fprintf(t, "step\twhat\tfreed really\n")
	}
	for _, s := range r.Steps {
		printable.Fprintf(t, "%s\t%s\t%s\n", s.Step, printable.Short(s.Target, 60), printable.Short(inFlags(s.Text), 300))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(r.Sessions) == 0 && len(o.operations()) > 0 {
		fmt.Fprintln(w, noSession(now))
	}
	if o.DryRun {
		_, err := printable.Fprintln(w, "nothing was done: this was a dry run")
		return err
	}
	if len(r.Steps) > 0 {
		printBeforeAfter(w, r)
	}
	health := "what is free is not known"
	if len(r.Counted) > 0 {
		health = fmt.Sprintf("memory of %s is %s", strings.Join(r.Counted, ", "), r.Health)
	}
	_, err := printable.Fprintf(w, "%s; %s\n", health, gained(r))
	return err
}

// gained returns the memory that all steps together got back, in words.
func gained(r *recovered) string {
	switch n := r.Gained(); {
	case n > 0:
		return bytesize.Format(n) + " came back"
	case len(r.Steps) == 0:
		return "nothing was done"
	}
	return "0 B came back"
}

// noSession returns the text for the case without a session to ask; it names processes of this program that hold memory all the same.
func noSession(now *gpusurvey.Survey) string {
	var others []string
	if now != nil {
		for _, g := range now.GPUs {
			for _, p := range g.Processes {
				if p.Program {
					others = append(others, fmt.Sprint(p.PID))
				}
			}
		}
	}
	if len(others) > 0 {
		slices.Sort(others)
		return "no session of yours can be asked, but processes of this program hold memory: " + strings.Join(slices.Compact(others), ", ") +
			"; voxcam recover --kill-processes lists them"
	}
	return "no session of yours is running: nothing of this program holds memory of a GPU. What other programs hold is theirs, and is never taken;" +
		"\nvoxcam recover --kill-processes lists them"
}

// printBeforeAfter prints the figures of the driver and of sessions, before and after.
func printBeforeAfter(w io.Writer, r *recovered) {
	t := newTable(w)
	printable.Fprintf(t, "\n\tbefore\tafter\t\n")
	for _, b := range r.Before {
		for _, a := range r.After {
			if a.UUID == b.UUID && a.TrulyFree >= 0 && b.TrulyFree >= 0 {
				printable.Fprintf(t, "truly free on %s\t%s\t%s\t%s\n", a.Label(), bytesize.Format(b.TrulyFree), bytesize.Format(a.TrulyFree), signed(a.TrulyFree-b.TrulyFree))
			}
		}
	}
	for _, s := range r.Sessions {
		held, after, change := s.Before.Reserved+s.Before.Overhead, "ended", ""
		if s.After != nil {
			n := s.After.Reserved + s.After.Overhead
			after, change = bytesize.Format(n), signed(n-held)
		}
		printable.Fprintf(t, "held by session %s\t%s\t%s\t%s\n", printable.Short(s.Session, 60), bytesize.Format(held), after, change)
	}
	_ = t.Flush() // w keeps its error for the next write
	printable.Fprintln(w)
}

func signed(n int) string {
	if n > 0 {
		return "+" + bytesize.Format(n)
	}
	return bytesize.Format(n)
}

// printCandidates lists the processes that hold memory, with the verdict on each.
func printCandidates(w io.Writer, list []reclaim.Candidate) {
	if len(list) == 0 {
		printable.Fprintln(w, "no process is listed that holds memory of a GPU")
		return
	}
	t := newTable(w)
	printable.Fprintf(t, "pid\tuser\tname\tmemory\tage\twhose\tended?\n")
	for _, c := range list {
		bytes, age, whose := "not told", "", "another program"
		if c.Bytes >= 0 {
			bytes = bytesize.Format(c.Bytes)
		}
		if c.Age > 0 {
			age = (time.Duration(c.Age) * time.Second).String()
		}
		switch {
		case c.Session != "":
			whose = "session " + c.Session
		case c.Orphan:
			whose = "orphaned worker"
		case c.Ours:
			whose = "this program"
		}
		ended := map[reclaim.Ruling]string{reclaim.End: "yes: ", reclaim.Ask: "", reclaim.Leave: "no: "}[c.Ruling] + inFlags(c.Why)
		printable.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\n", c.PID, printable.Short(c.User, 20), printable.Short(c.Name, 20), bytes, age, printable.Short(whose, 60), ended)
	}
	_ = t.Flush() // w keeps its error for the next write
	printable.Fprintln(w)
}

// readAnswer reads a line from a terminal.
func readAnswer(ctx context.Context, in *os.File) (string, error) {
	if canWait {
		if err := readable(ctx, in); err != nil {
			return "", err
		}
	}
	buffer := make([]byte, 1<<10) // a terminal hands out a line at a time
	n, err := in.Read(buffer)
	if errors.Is(err, io.EOF) {
		err = nil // ctrl-D is no yes
	}
	return string(buffer[:n]), err
}
