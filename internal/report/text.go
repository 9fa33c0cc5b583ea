package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/printable"
)

// WriteText writes detailed_analysis_report.txt.
func WriteText(w io.Writer, session *Session, o *Overall, samples []*Sample, dir string) error {
	var b strings.Builder
	rule := strings.Repeat("=", 80)
	heading := func(s string) { printable.Fprintf(&b, "\n%s\n%s\n", s, strings.Repeat("-", len(s))) }
	printable.Fprintf(&b, "%s\nvoxcam: detailed analysis report\n%s\n", rule, rule)
	printable.Fprintf(&b, "Generated:        %s\n", o.Timestamp.Format("2006-01-02 15:04:05 MST"))
	printable.Fprintf(&b, "Configuration:    %s\n", orNA(o.Config))
	printable.Fprintf(&b, "Output directory: %s\n", dir)
	printable.Fprintf(&b, "Model:            %s (sha256 %.12s)\n", o.Model.File, o.Model.SHA256)
	printable.Fprintf(&b, "Target layer:     %s\n", orNA(o.Model.TargetLayer))

	for _, warning := range o.Model.Warnings {
		printable.Fprintf(&b, "Warning:          %s\n", warning)
	}

	heading("OVERALL SUMMARY")
	t := o.Overall
	printable.Fprintf(&b, "Samples:          %d (%s)\n", t.Status.All(), t.Status)
	printable.Fprintf(&b, "With prediction:  %d\n", t.Processed)
	printable.Fprintf(&b, "Accuracy:         %s\n", number(t.Accuracy, 4))
	printable.Fprintf(&b, "Classes:          %s\n", strings.Join(o.Model.ClassNames, ", "))
	printable.Fprintf(&b, "Backbone:         %s\n", orNA(o.Model.Backbone))

	for _, name := range splitNames(o) {
		s := o.Splits[name]
		heading(strings.ToUpper(name))
		printable.Fprintf(&b, "Samples:            %d (%s)\n", s.Status.All(), s.Status)
		printable.Fprintf(&b, "With prediction:    %d\n", s.Processed)
		printable.Fprintf(&b, "Accuracy:           %s\n", number(s.Accuracy, 4))
		printable.Fprintf(&b, "Average confidence: %s\n", number(s.Confidence, 4))
		printable.Fprintf(&b, "Average time:       %s s\n", number(s.Seconds, 2))
		printable.Fprintf(&b, "Class distribution:\n")
		total := 0
		for _, n := range s.ClassDistribution {
			total += n
		}
		for _, class := range classOrder(o.Model.ClassNames, s.ClassDistribution) {
			n := s.ClassDistribution[class]
			printable.Fprintf(&b, "  %-24s %5d (%.1f %%)\n", class, n, 100*float64(n)/float64(total))
		}
		printable.Fprintf(&b, "Maps (signed, at the layer's resolution; mean +- standard deviation over samples):\n")
		if len(s.Heatmaps) == 0 {
			printable.Fprintf(&b, "  n/a\n")
		}
		for _, key := range sortedKeys(s.Heatmaps) {
			h := s.Heatmaps[key]
			printable.Fprintf(&b, "  %-24s Avg Max Activation: %.6g +- %.6g   Avg Mean Activation: %.6g +- %.6g   (%d samples)\n",
				key, h.AvgMax, h.StdMax, h.AvgMean, h.StdMean, h.N)
		}
	}

	heading("CONFUSION (rows: true class, columns: predicted class)")
	writeConfusion(&b, o)

	if o.Memory.known() {
		heading("MEMORY")
		o.Memory.write(&b)
	}

	var degraded, failed, skipped, wrong []*Sample
	for _, s := range samples {
		switch s.Status {
		case cam.StatusDegraded:
			degraded = append(degraded, s)
		case cam.StatusFailed:
			failed = append(failed, s)
		case cam.StatusSkipped:
			skipped = append(skipped, s)
		}
		if s.CorrectPrediction != nil && !*s.CorrectPrediction {
			wrong = append(wrong, s)
		}
	}
	list := func(title string, samples []*Sample, say func(*Sample) string) {
		heading(fmt.Sprintf("%s (%d)", title, len(samples)))
		if len(samples) == 0 {
			printable.Fprintln(&b, "none")
		}
		for _, s := range samples {
			printable.Fprintf(&b, "%s/%s: %s\n", s.Split, s.ID, say(s))
		}
	}
	reason := func(s *Sample) string { return s.Reason }
	list("FAILED", failed, reason)
	if len(skipped) > 0 {
		list("SKIPPED FOR LACK OF MEMORY", skipped, reason)
	}
	list("DEGRADED", degraded, reason)
	list("PREDICTED WRONGLY", wrong, func(s *Sample) string {
		return fmt.Sprintf("%s taken for %s (%s)", text(s.TrueClassName), text(s.PredictedClassName), number(s.Confidence, 3))
	})

	heading("RECOMMENDATIONS")
	for _, line := range recommend(session, o, failed, skipped, degraded) {
		printable.Fprintf(&b, "- %s\n", line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// recommend returns advice that follows from this session's numbers alone.
func recommend(session *Session, o *Overall, failed, skipped, degraded []*Sample) (lines []string) {
	if n := len(failed); n > 0 {
		lines = append(lines, fmt.Sprintf("%d samples have no complete result. Mend what their reasons name and run the same command with "+
			"--session %s: finished samples are skipped, failed ones tried again.", n, session.Name))
	}
	if n := len(skipped); n > 0 {
		lines = append(lines, fmt.Sprintf("%d samples have no result because there was too little memory for any plan. Run the same command with "+
			"--session %s when more is free (voxcam check says how much is), or with --cpu-fallback.", n, session.Name))
	}
	if n := len(degraded); n > 0 {
		lines = append(lines, fmt.Sprintf("%d results are degraded: read how before comparing them with others.", n))
	}
	const good, fair = 0.8, 0.6
	switch a := o.Overall.Accuracy; {
	case a == nil:
		lines = append(lines, "There is no prediction with a label, so nothing is known about the model's accuracy here.")
	case *a > good:
		lines = append(lines, fmt.Sprintf("The model is right in %.1f %% of these samples; its maps are worth reading.", 100**a))
	case *a > fair:
		lines = append(lines, fmt.Sprintf("The model is right in %.1f %% of these samples. Read maps of wrong predictions apart: "+
			"they explain a mistake.", 100**a))
	default:
		lines = append(lines, fmt.Sprintf("The model is right in only %.1f %% of these samples. Check scaling, axis order and class order "+
			"before reading any map: a wrong preparation looks just like this.", 100**a))
	}
	return lines
}

func writeConfusion(b *strings.Builder, o *Overall) {
	const most = 20 // classes that fit on a page
	if o.Model.Classes > most {
		printable.Fprintf(b, "(%d classes; see overall_statistics.json)\n", o.Model.Classes)
		return
	}
	width := len("true\\predicted")
	for _, name := range o.Model.ClassNames {
		width = max(width, len(printable.Line(name)))
	}
	printable.Fprintf(b, "%-*s", width, "true\\predicted")
	for i := range o.Overall.Confusion {
		printable.Fprintf(b, " %6d", i)
	}
	printable.Fprintln(b)
	for i, row := range o.Overall.Confusion {
		printable.Fprintf(b, "%-*s", width, o.Model.ClassNames[i])
		for _, n := range row {
			printable.Fprintf(b, " %6d", n)
		}
		printable.Fprintln(b)
	}
}

func splitNames(o *Overall) []string {
	names := sortedKeys(o.Splits)
	slices.SortStableFunc(names, func(a, b string) int { return splitRank(a) - splitRank(b) })
	return names
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// classOrder lists the classes that occur: known ones by index, others (which a table should not have) by name.
func classOrder(names []string, count map[string]int) []string {
	var out []string
	for _, n := range names {
		if count[n] > 0 {
			out = append(out, n)
		}
	}
	for _, n := range sortedKeys(count) {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func number(x *float64, digits int) string {
	if x == nil {
		return "n/a"
	}
	return strconv.FormatFloat(*x, 'f', digits, 64)
}

func text(s *string) string {
	if s == nil {
		return "n/a"
	}
	return *s
}

func orNA(s string) string {
	if s == "" {
		return "n/a"
	}
	return s
}
