package monitor

import (
	"fmt"
	"strings"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/printable"
)

// Lines writes a look in plain lines, for files and pipes: one for each GPU, then one for each session.
func Lines(l Look) []string {
	at := l.Time.Format("15:04:05 ")
	var out []string
	for _, g := range l.GPUs {
		t := at + label(g) + " " + printable.Line(g.Name) + ": "
		if g.TrulyFree < 0 {
			t += "what is free is not known"
		} else {
			t += fmt.Sprintf("%s used of %s, %s truly free, ours %s, %s",
				bytesize.Format(g.Used), bytesize.Format(g.Total), bytesize.Format(g.TrulyFree), bytesize.Format(g.Reserved), printable.Count(len(g.Processes), "process"))
		}
		if g.Utilization >= 0 {
			t += fmt.Sprintf(", busy %.0f %%", 100*g.Utilization)
		}
		t += ", " + g.Health.String()
		if g.Problem != "" {
			t += ": " + printable.Line(g.Problem)
		}
		out = append(out, t)
	}
	for _, s := range l.Sessions {
		if s.Problem != "" {
			out = append(out, at+"session: "+printable.Line(s.Problem))
			continue
		}
		var counts []string
		for _, c := range tallies(s) {
			counts = append(counts, fmt.Sprintf("%d %s", c.n, c.name))
		}
		out = append(out, printable.Line(fmt.Sprintf("%ssession %s: %s on %s%s; %s; %s; %s", at, s.Session, s.State, s.Device, holdings(s), planText(s), progress(s), strings.Join(counts, ", "))))
	}
	if len(out) == 0 {
		out = append(out, at+"no GPU is seen, and no session of yours is running")
	}
	return out
}
