package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/printable"
)

// WriteText writes detailed_analysis_report.txt.
func WriteText(w io.Writer, session *Session, o *Overall, samples []*Sample, dir string) error {
	t := &textReport{}
	rule := strings.Repeat("=", 80)
	printable.Fprintf(t, "%s\nvoxcam: detailed analysis report\n%s\n", rule, rule)
	printable.Fprintf(t, "Generated:        %s\n", o.Timestamp.Format("2006-01-02 15:04:05 MST"))
	printable.Fprintf(t, "Configuration:    %s\n", orNA(o.Config))
	printable.Fprintf(t, "Output directory: %s\n", dir)
	printable.Fprintf(t, "Model:            %s (sha256 %.12s)\n", o.Model.File, o.Model.SHA256)
	printable.Fprintf(t, "Target layer:     %s\n", orNA(o.Model.TargetLayer))
	for _, warning := range o.Model.Warnings {
		printable.Fprintf(t, "Warning:          %s\n", warning)
	}

	t.heading("OVERALL SUMMARY")
	printable.Fprintf(t, "Samples:          %d (%s)\n", o.Overall.Status.All(), o.Overall.Status)
	if n := o.Overall.Pending; n > 0 {
		printable.Fprintf(t, "Not done:         %d of %d selected samples; the numbers below are of the others\n", n, n+o.Overall.Status.All())
	}
	printable.Fprintf(t, "With prediction:  %d\n", o.Overall.Processed)
	printable.Fprintf(t, "Accuracy:         %s\n", number(o.Overall.Accuracy, 4))
	printable.Fprintf(t, "Classes:          %s\n", strings.Join(o.Model.ClassNames, ", "))
	printable.Fprintf(t, "Backbone:         %s\n", orNA(o.Model.Backbone))
	for _, name := range splitNames(o) {
		t.heading(strings.ToUpper(name))
		t.split(o.Splits[name], o.Model.ClassNames)
	}

	t.heading("CONFUSION (rows: true class, columns: predicted class)")
	t.confusion(o)
	if o.Memory.known() {
		t.heading("MEMORY")
		o.Memory.write(t)
	}

	byStatus := map[cam.Status][]*Sample{}
	var wrong []*Sample
	for _, s := range samples {
		byStatus[s.Status] = append(byStatus[s.Status], s)
		if s.CorrectPrediction != nil && !*s.CorrectPrediction {
			wrong = append(wrong, s)
		}
	}
	reason := func(s *Sample) string { return s.Reason }
	t.samples("FAILED", byStatus[cam.StatusFailed], reason)
	if skipped := byStatus[cam.StatusSkipped]; len(skipped) > 0 {
		t.samples("SKIPPED FOR LACK OF MEMORY", skipped, reason)
	}
	t.samples("DEGRADED", byStatus[cam.StatusDegraded], reason)
	t.samples("PREDICTED WRONGLY", wrong, func(s *Sample) string {
		return fmt.Sprintf("%s taken for %s (%s)", *s.TrueClassName, *s.PredictedClassName, number(s.Confidence, 3))
	})

	t.heading("RECOMMENDATIONS")
	for _, line := range recommend(session, o) {
		printable.Fprintf(t, "- %s\n", line)
	}
	_, err := io.WriteString(w, t.String())
	return err
}

// textReport is the text of a report. Names in it are made printable.
type textReport struct{ strings.Builder }

func (t *textReport) heading(s string) {
	printable.Fprintf(t, "\n%s\n%s\n", s, strings.Repeat("-", len(s)))
}

// split writes the summary of one split.
func (t *textReport) split(s *Split, classes []string) {
	printable.Fprintf(t, "Samples:            %d (%s)\n", s.Status.All(), s.Status)
	printable.Fprintf(t, "With prediction:    %d\n", s.Processed)
	printable.Fprintf(t, "Accuracy:           %s\n", number(s.Accuracy, 4))
	printable.Fprintf(t, "Average confidence: %s\n", number(s.Confidence, 4))
	printable.Fprintf(t, "Average time:       %s s\n", number(s.Seconds, 2))
	printable.Fprintf(t, "Class distribution:\n")
	total := 0
	for _, n := range s.ClassDistribution {
		total += n
	}
	for _, class := range classOrder(classes, s.ClassDistribution) {
		n := s.ClassDistribution[class]
		printable.Fprintf(t, "  %-24s %5d (%.1f %%)\n", class, n, 100*float64(n)/float64(total))
	}
	printable.Fprintf(t, "Maps (signed, at the layer's resolution; mean +- standard deviation over samples):\n")
	if len(s.Heatmaps) == 0 {
		printable.Fprintf(t, "  n/a\n")
	}
	for _, key := range slices.Sorted(maps.Keys(s.Heatmaps)) {
		h := s.Heatmaps[key]
		printable.Fprintf(t, "  %-24s Avg Max Activation: %.6g +- %.6g   Avg Mean Activation: %.6g +- %.6g   (%s)\n",
			key, h.AvgMax, h.StdMax, h.AvgMean, h.StdMean, printable.Count(h.N, "sample"))
	}
}

// samples lists samples, with a text about each.
func (t *textReport) samples(title string, samples []*Sample, about func(*Sample) string) {
	t.heading(fmt.Sprintf("%s (%d)", title, len(samples)))
	if len(samples) == 0 {
		printable.Fprintln(t, "none")
	}
	for _, s := range samples {
		printable.Fprintf(t, "%s/%s: %s\n", s.Split, s.ID, about(s))
	}
}

// recommend returns advice that follows from this session's numbers alone.
func recommend(session *Session, o *Overall) (lines []string) {
	status := o.Overall.Status
	if n := o.Overall.Pending; n > 0 {
		lines = append(lines, fmt.Sprintf("%d selected samples are not done: the run was stopped. Run the same command with --session %s to go on.", n, session.Name))
	}
	if n := status.Failed; n > 0 {
		lines = append(lines, fmt.Sprintf("%s without a complete result. Mend what the reasons name and run the same command with "+
			"--session %s: finished samples are skipped, failed ones tried again.", printable.Count(n, "sample"), session.Name))
	}
	if n := status.Skipped; n > 0 {
		lines = append(lines, fmt.Sprintf("%s without a result, because there was too little memory for any plan. Run the same command with "+
			"--session %s when more is free (voxcam check says how much is), or with --cpu-fallback.", printable.Count(n, "sample"), session.Name))
	}
	if n := status.Degraded; n > 0 {
		lines = append(lines, fmt.Sprintf("%s degraded: read how before comparing with others.", printable.Count(n, "result")))
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

// confusion writes the matrix of true and predicted classes.
func (t *textReport) confusion(o *Overall) {
	const most = 20 // classes that fit on a page
	if o.Model.Classes > most {
		printable.Fprintf(t, "(%d classes; see overall_statistics.json)\n", o.Model.Classes)
		return
	}
	width := len("true\\predicted")
	for _, name := range o.Model.ClassNames {
		width = max(width, len(printable.Line(name)))
	}
	printable.Fprintf(t, "%-*s", width, "true\\predicted")
	for i := range o.Overall.Confusion {
		printable.Fprintf(t, " %6d", i)
	}
	printable.Fprintln(t)
	for i, row := range o.Overall.Confusion {
		printable.Fprintf(t, "%-*s", width, o.Model.ClassNames[i])
		for _, n := range row {
			printable.Fprintf(t, " %6d", n)
		}
		printable.Fprintln(t)
	}
}

func splitNames(o *Overall) []string {
	names := slices.Sorted(maps.Keys(o.Splits))
	slices.SortStableFunc(names, func(a, b string) int { return splitRank(a) - splitRank(b) })
	return names
}

// classOrder lists the classes that occur: known ones by index, then others, which a table should not have, by name.
func classOrder(names []string, count map[string]int) []string {
	var out []string
	for _, n := range names {
		if count[n] > 0 {
			out = append(out, n)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(count)) {
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

func orNA(s string) string {
	if s == "" {
		return "n/a"
	}
	return s
}
