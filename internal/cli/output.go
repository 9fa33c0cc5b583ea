package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"text/tabwriter"
	"time"

	"github.com/voxcam/voxcam/internal/printable"
)

// printNotes prints the warnings and notes about a model, device or volume.
func printNotes(w io.Writer, warnings, notes []string) {
	for _, text := range warnings {
		printable.Fprintln(w, "voxcam: warning:", inFlags(text))
	}
	for _, text := range notes {
		printable.Fprintln(w, "voxcam: note:", inFlags(text))
	}
}

// printJSON prints a value as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// newTable returns a writer that aligns cells, each ended by a tab, in columns. Flush writes them to w.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }

// tableColumn is a column of a table whose rows are values of type T.
type tableColumn[T any] struct {
	head string
	cell func(T) string
}

// printTable prints a table with its heads; nothing without rows.
func printTable[T any](w io.Writer, columns []tableColumn[T], rows []T) error {
	if len(rows) == 0 {
		return nil
	}
	t := newTable(w)
	for _, c := range columns {
		printable.Fprintf(t, "%s\t", c.head)
	}
	for _, row := range rows {
		fmt.Fprintln(t)
		for _, c := range columns {
			printable.Fprintf(t, "%s\t", c.cell(row))
		}
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// percent is a share for people.
func percent(x float64) string { return fmt.Sprintf("%.0f%%", 100*x) }

// seconds is a time for people, to two digits.
func seconds(s float64) string {
	if s >= 100 {
		return (time.Duration(math.Round(s)) * time.Second).String()
	}
	return fmt.Sprintf("%.2g s", s)
}
