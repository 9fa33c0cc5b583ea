package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/session"
)

// checkOptions are the flags of check.
type checkOptions struct {
	device         string // devices whose health counts: all, auto, cpu, cuda or cuda:N
	bands          gpusurvey.Bands
	context, probe bool // as in memory.Options
	asJSON         bool
	sessions       func(context.Context) ([]gpusurvey.SessionUsage, error) // nil: those whose control sockets answer
	run            *fit.Question                                           // nil: nothing is asked about a run
}

func newCheck() *cobra.Command {
	o, may := checkOptions{}, policy.DefaultPolicy()
	var model modelFlags
	var methods methodFlags
	var shape []int
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Show the memory of the GPUs, the processes that hold it, and whether a run would fit",
		Long: `Check says for each GPU how much memory it has, how much of that the driver would give to anybody now, how much this program's
sessions hold, how fragmented it is, and which processes hold it; and how much the host has. It asks NVML, and takes no memory of
a GPU unless --driver, --probe or --model say so. --device says whose health counts.

Health is the worse of two: healthy (more than 5 GB free, and less than 10% fragmented), caution (1 to 5, 10 to 25%), warning (0.5
to 1, 25 to 50%), critical. GB are 2^30 bytes here, and so they are in the keys of --json that end in _gb.
Fragmentation is the part of what is free, or kept by sessions with nothing in it, that no process could get as one block. Slack is
the part of what sessions have for computing with nothing in it, which the original system calls fragmentation.

With --model it opens the device as a run would, plans, and says whether the run would fit, in which way, and how long a volume
would take.

Exit codes: 0 healthy, or caution (which is noted); 3 warning, or a run that only the processor could do; 4 critical, or a run that
would not fit; 1 if it cannot be told what is free; 2 for wrong usage.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if model.Model != "" {
				s, err := volumeShape(shape)
				if err != nil {
					return err
				}
				request, err := methods.request()
				if err != nil {
					return err
				}
				opt, err := model.options(s)
				if err != nil {
					return err
				}
				o.run = &fit.Question{Engine: engine.Options{Options: opt, Policy: may}, Request: request}
			} else if cmd.Flags().Changed("volume-shape") {
				return usage(errors.New("--volume-shape needs --model: the ONNX file of the classifier"))
			}
			return check(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.device, "device", "all", "whose health counts, and where a run is planned: all (the worst of them; planned is on auto), auto, cpu, cuda, or cuda:N")
	takeFlags(cmd, model.add, "model", "precision")
	model.addOptions(cmd)
	takeFlags(cmd, methods.add, "method", "convention", "n-samples", "steps")
	addShape(cmd, &shape)
	fl.Var(&may, "policy", "what a run may give up: exact (the processor goes on where a GPU cannot), or original (fewer draws by the original's thresholds)")
	addThresholds(cmd, &o.bands)
	fl.BoolVar(&o.context, "driver", false, "ask the driver too, through a context that takes some hundred MiB of each GPU for a moment")
	fl.BoolVar(&o.probe, "probe", false, "take all free memory of each GPU for a moment to see whether it is one block; programs that ask then are refused")
	fl.BoolVar(&o.asJSON, "json", false, "print JSON")
	return cmd
}

// checkCodes are the exit codes of states of health.
var checkCodes = map[gpusurvey.Health]int{
	gpusurvey.Unknown: session.ExitError, gpusurvey.Healthy: session.ExitOK, gpusurvey.Caution: session.ExitOK,
	gpusurvey.Warning: session.ExitDegraded, gpusurvey.Critical: session.ExitFailed,
}

// checked has the findings of check. Keys are stable: programs read them.
type checked struct {
	Version string `json:"version"`
	*gpusurvey.Survey
	Device string `json:"device"` // as it was asked for
	gpusurvey.Verdict
	Thresholds gpusurvey.Bands `json:"thresholds"`
	Run        *cam.Fit        `json:"run,omitempty"`
	ExitCode   int             `json:"exit_code"`
}

// check surveys the machine, prints its findings, and returns an error that has the exit code, nil for 0. run --check-only calls it, too.
func check(ctx context.Context, o checkOptions, stdout, stderr io.Writer) error {
	number, err := gpusurvey.NumberOf(o.device)
	if err != nil {
		return usage(fmt.Errorf("--device %w", err))
	}
	if o.sessions == nil {
		o.sessions = reachSessions
	}
	opt := libraries(o.bands)
	opt.Sessions, opt.Context, opt.Probe = o.sessions, o.context || o.probe, o.probe
	if number != gpusurvey.AllGPUs {
		opt.Only = []int{number}
	}
	survey, err := gpusurvey.Look(ctx, opt)
	if err != nil {
		return err
	}
	c := &checked{Version: runner.Version(), Survey: survey, Device: o.device, Thresholds: o.bands}
	if c.Verdict, err = survey.Judge(o.device); err != nil {
		return usage(fmt.Errorf("--device %w; voxcam doctor says what was found", err))
	}
	c.ExitCode = checkCodes[c.Health]
	if o.run != nil {
		if c.Run, err = askFit(ctx, *o.run, c.runDevice(), stderr); err != nil {
			return err
		}
		c.ExitCode = max(c.ExitCode, fitCode(c.Run)) // the larger the worse
	}
	if o.asJSON {
		err = printJSON(stdout, c)
	} else {
		err = c.print(stdout)
	}
	if err != nil {
		return err
	}
	printNotes(stderr, nil, c.notes())
	return ended(c.ExitCode, "memory is "+c.Health.String())
}

// runDevice returns the name of the device that a run would compute on. Auto becomes the first GPU if there is one, so that an unusable GPU
// is reported with the reason.
func (c *checked) runDevice() string {
	if n, err := gpusurvey.NumberOf(c.Device); err != nil || n == gpusurvey.NoGPU {
		return c.Device
	}
	if n := c.Counted[0]; n != "cpu" {
		return n
	}
	return "auto"
}

func (c *checked) notes() []string {
	notes := slices.Clone(c.Notes)
	for _, g := range c.GPUs {
		if g.Problem != "" {
			notes = append(notes, g.Label()+": "+g.Problem)
		}
	}
	if c.Host.Problem != "" {
		notes = append(notes, c.Host.Problem)
	}
	if c.Health == gpusurvey.Caution {
		notes = append(notes, "the memory of "+strings.Join(c.Counted, ", ")+" calls for caution: large volumes will be computed by smaller plans, which take longer")
	}
	return notes
}

// checkColumns are the columns of the table.
var checkColumns = []tableColumn[gpusurvey.GPU]{
	{"device", gpusurvey.GPU.Label},
	{"name", func(g gpusurvey.GPU) string { return printable.Short(g.Name, 40) }},
	{"total", func(g gpusurvey.GPU) string { return bytesize.Format(g.Total) }},
	{"used", known(func(g gpusurvey.GPU) string { return bytesize.Format(g.Used) })},
	{"truly free", known(func(g gpusurvey.GPU) string { return bytesize.Format(g.TrulyFree) })},
	{"ours", func(g gpusurvey.GPU) string { return bytesize.Format(g.Reserved) }},
	{"fragmentation", known(func(g gpusurvey.GPU) string { return percent(g.Fragmentation) })},
	{"slack", func(g gpusurvey.GPU) string { return percent(g.Slack) }},
	{"works", func(g gpusurvey.GPU) string {
		if g.Utilization < 0 {
			return "?"
		}
		return percent(g.Utilization)
	}},
	{"health", func(g gpusurvey.GPU) string { return g.Health.String() }},
}

// known returns a cell of the table, "?" where the free memory is not known.
func known(cell func(gpusurvey.GPU) string) func(gpusurvey.GPU) string {
	return func(g gpusurvey.GPU) string {
		if g.TrulyFree < 0 {
			return "?"
		}
		return cell(g)
	}
}

func (c *checked) print(w io.Writer) error {
	if err := printTable(w, checkColumns, c.GPUs); err != nil {
		return err
	}
	for _, g := range c.GPUs {
		printHolders(w, g)
	}
	for _, s := range c.Sessions {
		printSession(w, s)
	}
	if len(c.GPUs)+len(c.Sessions) > 0 {
		printable.Fprintln(w)
	}
	if c.Host.Free >= 0 {
		printable.Fprintf(w, "host: %s free for this process, of %s: %s\n", bytesize.Format(c.Host.Free), bytesize.Format(c.Host.Total), c.Host.Health)
	}
	printable.Fprintf(w, "memory of %s: %s\n", strings.Join(c.Counted, ", "), c.Health)
	if c.Run == nil {
		return nil
	}
	printable.Fprintln(w)
	return printFit(w, c.Run)
}

// printHolders lists the processes that hold a GPU's memory.
func printHolders(w io.Writer, g gpusurvey.GPU) {
	var rows [][4]string
	for _, p := range g.Processes {
		size := "?"
		if p.Bytes >= 0 {
			size = bytesize.Format(p.Bytes)
		}
		what := printable.Short(p.Command, 80)
		if what == "" {
			what = printable.Short(p.Name, 80)
		}
		pid := fmt.Sprint(p.PID)
		switch {
		case p.Elsewhere:
			pid += "?"
		case p.Ours:
			what = fmt.Sprintf("session %s: %s", printable.Short(p.Session, 40), what)
		case p.Orphan:
			what = "orphan of a session that is gone: " + what
		case what == "":
			what = "(gone)"
		}
		rows = append(rows, [4]string{pid, printable.Short(p.User, 20), size, what})
	}
	if g.Unattributed >= bytesize.MiB {
		rows = append(rows, [4]string{"", "", bytesize.Format(g.Unattributed), "not attributed"})
	}
	if g.System > 0 {
		rows = append(rows, [4]string{"", "", bytesize.Format(g.System), "driver and firmware, besides the memory in use"})
	}
	if len(rows) > 0 {
		printable.Fprintf(w, "\n%s is held by\n", g.Label())
		t := newTable(w)
		for _, r := range rows {
			printable.Fprintf(t, "  %s\t%s\t%s\t%s\n", r[0], r[1], r[2], r[3])
		}
		_ = t.Flush() // w keeps its error for the next write
	}
	if c := g.Context; c != nil {
		printable.Fprintf(w, "the driver says of %s: %s free besides this program's context", g.Label(), bytesize.Format(c.Free))
		if c.Bytes >= 0 {
			printable.Fprintf(w, ", which took %s for that", bytesize.Format(c.Bytes))
		}
		if printable.Fprintln(w); c.Asked > 0 {
			printable.Fprintf(w, "of %s that were asked for as one block it gave %s\n", bytesize.Format(c.Asked), bytesize.Format(c.Got))
		}
	}
}

func printSession(w io.Writer, s gpusurvey.SessionUsage) {
	state := ""
	if s.Held {
		state = "; it was asked to release memory"
	}
	printable.Fprintf(w, "\nsession %s (processes %s): ", printable.Short(s.Name, 60), strings.Trim(fmt.Sprint(s.PIDs), "[]"))
	if s.UUID == "" {
		printable.Fprintf(w, "on no GPU%s\n", state)
		return
	}
	u := s.Usage
	printable.Fprintf(w, "%s allocated of %s that it has, %s besides, fragmentation %s%s\n",
		bytesize.Format(u.Allocated), bytesize.Format(u.Reserved), bytesize.Format(u.Overhead), percent(s.Fragmentation()), state)
}

// patience bounds the time of a session's answer: it answers between two steps.
const patience = 3 * time.Second

// reachSessions asks the sessions of this user that run.
func reachSessions(ctx context.Context) (found []gpusurvey.SessionUsage, err error) {
	sessions, err := monitor.AskSessions(ctx, patience)
	for _, s := range sessions {
		if s.Problem != "" {
			err = errors.Join(err, errors.New(s.Problem))
			continue
		}
		found = append(found, s.Memory())
	}
	return found, err
}

// askFit asks whether a run would fit on a device, and prints notes for the user.
func askFit(ctx context.Context, q fit.Question, device string, stderr io.Writer) (*cam.Fit, error) {
	q.Engine.Device = device
	q.Notes = func(warnings, notes []string) { printNotes(stderr, warnings, notes) }
	a, err := fit.Ask(ctx, q)
	if err != nil {
		return nil, flagged(err)
	}
	a.Reason = inFlags(a.Reason)
	return a, nil
}

// fitCode returns the exit code: 0 if the run fits on its device, 3 if the processor takes its place, 4 if nothing fits.
func fitCode(a *cam.Fit) int {
	switch {
	case !a.Fits:
		return session.ExitFailed
	case a.Level == cam.LevelCPU:
		return session.ExitDegraded
	}
	return session.ExitOK
}

// levelTexts explain levels in words.
var levelTexts = map[cam.Level]string{
	cam.LevelWhole: "with whole tensors", cam.LevelStreamed: "by streamed plans", cam.LevelSmallest: "by the smallest plans",
	cam.LevelHost: "by streamed plans, with volumes in the host's memory", cam.LevelCPU: "only on the processor",
}

// passColumns are the columns of the table of passes.
var passColumns = []tableColumn[cam.Pass]{
	{"pass", func(p cam.Pass) string { return p.Name }},
	{"methods", func(p cam.Pass) string { return strings.Join(p.Methods, ", ") }},
	{"level", func(p cam.Pass) string {
		if p.Level == "" {
			return "does not fit"
		}
		return string(p.Level)
	}},
	{"needs", func(p cam.Pass) string { return bytesize.Format(p.Needs) }},
	{"arena", func(p cam.Pass) string { return bytesize.Format(p.Arena) }},
	{"weights", func(p cam.Pass) string { return bytesize.Format(p.Weights) }},
	{"volumes", func(p cam.Pass) string { return bytesize.Format(p.Fields) }},
	{"whole tensors", func(p cam.Pass) string { return bytesize.Format(p.Whole) }},
	{"time", func(p cam.Pass) string { return fmt.Sprintf("%d x %s", p.Runs, seconds(p.Seconds)) }},
}

// printFit prints how a run would go.
func printFit(w io.Writer, a *cam.Fit) error {
	budget := "the least that works"
	if a.Budget > 0 {
		budget = "a budget of " + bytesize.Format(a.Budget)
	}
	if a.Free > 0 {
		budget += ", " + bytesize.Format(a.Free) + " are free"
	}
	if a.Fits {
		printable.Fprintf(w, "a run of %s fits on %s %s (%s)\n", a.Model, a.Device, levelTexts[a.Level], budget)
	} else {
		printable.Fprintf(w, "a run of %s does not fit on %s (%s)\n", a.Model, a.Device, budget)
	}
	if a.Reason != "" {
		fmt.Fprintln(w, printable.Lines(a.Reason))
	}
	if err := printTable(w, passColumns, a.Passes); err != nil {
		return err
	}
	if !a.Fits {
		return nil
	}
	if a.Draws > 0 {
		printable.Fprintf(w, "%s of noise a volume\n", printable.Count(a.Draws, "draw"))
	}
	_, err := printable.Fprintf(w, "about %s a volume (estimate: %s)\n", seconds(a.Seconds), a.Basis)
	return err
}
