package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/fit"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/session"
)

// askFit asks whether a run would fit on a device, and prints notes for the user.
func askFit(ctx context.Context, q fit.Question, device string, stderr io.Writer) (*cam.Fit, error) {
	q.Engine.Device = device
	q.Notes = func(warnings, notes []string) { printNotes(stderr, cam.Info{Warnings: warnings, Notes: notes}) }
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
var passColumns = []struct {
	head string
	cell func(cam.Pass) string
}{
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
	if len(a.Passes) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, c := range passColumns {
			printable.Fprintf(t, "%s\t", c.head)
		}
		for _, p := range a.Passes {
			printable.Fprintln(t)
			for _, c := range passColumns {
				printable.Fprintf(t, "%s\t", c.cell(p))
			}
		}
		printable.Fprintln(t)
		if err := t.Flush(); err != nil {
			return err
		}
	}
	if !a.Fits {
		return nil
	}
	if a.Draws > 0 {
		printable.Fprintf(w, "%d draws of noise a volume\n", a.Draws)
	}
	_, err := printable.Fprintf(w, "about %s a volume (estimate: %s)\n", seconds(a.Seconds), a.Basis)
	return err
}
