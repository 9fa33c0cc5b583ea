package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/planview"
)

type planFlags struct {
	modelFlags
	methodFlags
	shape     []int
	asJSON    bool
	svg, html string
	passes    string
}

func newPlan() *cobra.Command {
	f := &planFlags{}
	cmd := &cobra.Command{
		Use:   "plan MODEL",
		Short: "Show what methods need of memory and time, without running them",
		Long: `Plan makes the plans that explain and run would follow, for each pass through the network that the methods need, and prints
peak, smallest feasible budget and estimated time, what is kept, streamed or computed again in each unit of work and why,
and what other budgets would cost. A budget pays for the arena and for the copies of the weights that computing makes. The
volume and the gradient with respect to it are counted apart; on a GPU, all of them that lies in its memory is counted too.`,
		Args: exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.addOptions(cmd)
	f.addDevice(cmd)
	takeFlags(cmd, f.methodFlags.add, "method")
	fl := cmd.Flags()
	addShape(cmd, &f.shape)
	fl.StringVar(&f.Input, "input", "", inputHelp)
	fl.BoolVar(&f.asJSON, "json", false, "print JSON, with every buffer and step")
	fl.StringVar(&f.svg, "svg", "", "draw the plans, bytes over steps, to this file")
	fl.StringVar(&f.html, "html", "", "write a page with the drawing and the tables to this file")
	fl.StringVar(&f.passes, "dump-passes", "", "write the graph as imported and after each pass, as text without weights, to this new or empty folder")
	return cmd
}

// dumpPasses returns an observer that writes graphs to files of a folder, numbered in the order of the passes. The folder is made, or is
// empty: files of another model would be taken for those of this one.
func dumpPasses(folder string) (afterPass func(pass, graph string) error, err error) {
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		return nil, usage(fmt.Errorf("--dump-passes %s: the folder is not empty; name a new one", folder))
	}
	written := 0
	return func(pass, graph string) error {
		path := filepath.Join(folder, fmt.Sprintf("%02d-%s.txt", written, pass))
		written++
		_, err := durable.WriteFile(path, func(w *durable.File) error {
			_, err := io.WriteString(w, graph)
			return err
		})
		return err
	}, nil
}

func (f *planFlags) run(cmd *cobra.Command, path string) (err error) {
	shape, err := volumeShape(f.shape)
	if err != nil {
		return err
	}
	methods, err := cam.Expand(f.methods)
	if err != nil {
		return usage(err)
	}
	choices, err := cam.Choose(methods, nil)
	if err != nil {
		return usage(err)
	}
	d, err := device.Open(f.Device, f.Precision)
	if err != nil {
		return usage(err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	printNotes(cmd.ErrOrStderr(), d.Warnings, d.Notes)
	options, err := f.options(shape)
	if err != nil {
		return err
	}
	binding := network.Binding{Backend: d.Backend}
	if binding.Budget, err = instance.BudgetOf(f.budget, d.FreeMemory); err != nil {
		return usage(err)
	}
	if f.passes != "" {
		if binding.AfterPass, err = dumpPasses(f.passes); err != nil {
			return err
		}
	}
	planned, err := network.Plans(cmd.Context(), path, options.ModelOptions, binding, choices)
	if err != nil {
		return usage(err)
	}
	passes, err := drawable(planned, binding.Budget)
	if err != nil {
		return usage(err)
	}
	for _, file := range []struct {
		path  string
		write func(io.Writer, []planview.PassPlan) error
	}{{f.svg, planview.WriteSVG}, {f.html, planview.WriteHTML}} {
		if file.path == "" {
			continue
		}
		if _, err := durable.WriteFile(file.path, func(w *durable.File) error { return file.write(w, passes) }); err != nil {
			return err
		}
	}
	if f.asJSON {
		return planview.WriteJSON(cmd.OutOrStdout(), passes)
	}
	return planview.WriteText(cmd.OutOrStdout(), passes)
}

// drawable hands planned passes on to be shown. Passes that do not fit are refused, with the budget that each would need, and the
// methods that could do without them.
func drawable(planned []network.PlannedPass, budget cam.Budget) (passes []planview.PassPlan, err error) {
	var refusals []error
	var fitting []string
	for _, p := range planned {
		if p.Err != nil {
			refusal := fmt.Errorf("%s (%s): %w", p.Name, strings.Join(p.Methods, ", "), p.Err)
			if least := (*cam.BudgetError)(nil); errors.As(p.Err, &least) {
				refusal = fmt.Errorf("%w; --memory-budget %s would do", refusal, bytesize.FormatUp(least.Smallest))
			}
			refusals = append(refusals, refusal)
			continue
		}
		fitting = append(fitting, p.Methods...)
		passes = append(passes, planview.PassPlan{
			Name: p.Name, Methods: p.Methods, Plan: p.Plan, Curve: p.Curve, Budget: budget.Bytes,
			Smallest: p.Smallest + p.Weights, Whole: p.Whole, Weights: p.Weights, Fields: p.Fields, Volume: p.Volume,
		})
	}
	if len(refusals) > 0 && len(fitting) > 0 {
		refusals = append(refusals, fmt.Errorf("within this budget fits --method %s", strings.Join(fitting, ",")))
	}
	return passes, errors.Join(refusals...)
}
