package report

import (
	"io"
	"time"

	"github.com/voxcam/voxcam/internal/durable"
)

// Write makes all reports of a session from the records in its folder. It returns the statistics and the records that
// could not be read. dpi is the resolution of the plots, and pending the number of selected samples that the run did not reach.
func Write(folder *durable.Folder, session *Session, now time.Time, dpi, pending int) (o *Overall, problems []error, err error) {
	samples, problems, err := Collect(folder.FS(), session)
	if err != nil {
		return nil, nil, err
	}
	o = Aggregate(session, samples, now)
	o.Overall.Pending = pending
	moments, err := ReadTimeline(folder.FS())
	if err != nil {
		problems = append(problems, err)
	}
	o.Memory.Timeline = extremes(moments)
	type output struct {
		name  string
		write func(io.Writer) error
	}
	files := []output{
		{"reports/overall_statistics.json", func(w io.Writer) error { return WriteJSON(w, o) }},
		{"reports/detailed_analysis_report.txt", func(w io.Writer) error { return WriteText(w, session, o, samples, folder.Root()) }},
		{"summaries/analysis_summary.png", func(w io.Writer) error { return WriteSummaryPlot(w, o, dpi) }},
		{"summaries/heatmap_detailed_analysis.png", func(w io.Writer) error { return WriteDetailPlot(w, o, samples, dpi) }},
	}
	if o.Memory.Timeline != nil {
		files = append(files, output{timelinePlot, func(w io.Writer) error { return WriteTimelinePlot(w, moments, dpi) }})
	}
	for _, file := range files {
		if _, err := folder.WriteFile(file.name, func(f *durable.File) error { return file.write(f) }); err != nil {
			return nil, nil, err
		}
	}
	return o, problems, nil
}
