package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/printable"
)

func newInspect() *cobra.Command {
	var shape []int
	var opt voxcam.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect MODEL",
		Short: "List a model's layers, and which of them can be explained",
		Args:  exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := volumeShape(shape)
			if err != nil {
				return err
			}
			opt.Shape = s
			summary, err := voxcam.Inspect(cmd.Context(), args[0], opt)
			if err != nil {
				return flagged(err)
			}
			for i, text := range summary.Warnings {
				summary.Warnings[i] = inFlags(text)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), summary)
			}
			return printSummary(cmd.OutOrStdout(), summary)
		},
	}
	addShape(cmd, &shape)
	fl := cmd.Flags()
	fl.StringVar(&opt.InputAxes, "input-axes", "", inputAxesHelp)
	fl.StringVar(&opt.Input, "input", "", inputHelp)
	fl.StringVar(&opt.Output, "output", "", outputHelp)
	fl.StringVar(&opt.Task, "task", "", taskHelp())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// inputHelp describes the flag that chooses one of several inputs.
const inputHelp = "input of a model with several, by its name in the file"

func printSummary(w io.Writer, s *cam.Summary) error {
	printable.Fprintf(w, "%s: %s, opset %d, volume %s, %d classes, %d parameters\n\n", s.Path, s.Producer, s.Opset, join(s.Volume[:], "x"), s.Classes, s.Parameters)
	t := newTable(w)
	fmt.Fprintln(t, "layer\toperation\toutput shape\tparameters\tcells\tcell size (voxels)\t")
	for _, r := range s.Layers {
		cells, size, mark := "", "", ""
		if r.Candidate {
			cells = join(r.Cells[:], "x")
			parts := make([]string, 3)
			for i, c := range r.CellSize {
				parts[i] = fmt.Sprintf("%.4g", c)
			}
			size = strings.Join(parts, "x")
		}
		if r.Value == s.DefaultValue {
			mark = "default target"
		}
		parameters := ""
		if r.Parameters > 0 {
			parameters = fmt.Sprint(r.Parameters)
		}
		printable.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.Operation, join(r.Shape, "x"), parameters, cells, size, mark)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if s.Head != nil {
		printable.Fprintf(w, "\n%s\n", s.Head)
		for _, note := range s.Head.Notes() {
			printable.Fprintf(w, "note: %s\n", inFlags(note))
		}
	}
	for _, note := range s.Warnings {
		printable.Fprintln(w, "note:", note)
	}
	return nil
}

func join(sizes []int, sep string) string {
	parts := make([]string, len(sizes))
	for i, d := range sizes {
		parts[i] = fmt.Sprint(d)
	}
	return strings.Join(parts, sep)
}
