// Package cli is the command line: one file a command. Flags fill option structs of the library and of the packages below it, which do the work;
// this package has the output of commands, exit codes, the flags that stand for the options which messages name (advice.go), and the meaning
// of signals (signals.go). Results go to standard output, talk to standard error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/runner"
	"github.com/voxcam/voxcam/internal/session"
)

// exitError carries an exit code with an error. Its message has been printed when quiet is set.
type exitError struct {
	code  int
	quiet bool
	err   error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// ended returns the error that ends the program with a code, nil for 0, when all that there is to say has been printed.
func ended(code int, why string) error {
	if code == session.ExitOK {
		return nil
	}
	return &exitError{code: code, quiet: true, err: errors.New(why)}
}

// usage marks an error as one of how the program was called.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: session.ExitRefused, err: err}
}

// flagged marks an error of options as one of usage, with the names of flags for those of options.
func flagged(err error) error {
	if err == nil {
		return nil
	}
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	for i, err := range list {
		if o := (*cam.OptionError)(nil); errors.As(err, &o) {
			flag, ok := flagOf(o.Option)
			if !ok {
				flag = "--" + strings.ReplaceAll(o.Option, "_", "-")
			}
			list[i] = fmt.Errorf("%s %w", flag, o.Err)
		}
	}
	return usage(errors.Join(list...))
}

// Run runs the program with arguments (without its name) and returns the exit code.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	stdout, stderr = &printable.Writer{To: stdout}, &printable.Writer{To: stderr} // names come from files, and files from any source
	defer func() {
		if r := recover(); r != nil {
			fmt.Fprintf(stderr, "voxcam: internal error: %v\nPlease report it with the command that led here: %s\n", r, issues)
			if os.Getenv("VOXCAM_DEBUG") != "" {
				fmt.Fprintf(stderr, "%s", debug.Stack())
			} else {
				fmt.Fprintln(stderr, "VOXCAM_DEBUG=1 in the environment shows where it happened.")
			}
			code = session.ExitError
		}
	}()
	begun, stop := false, func() error { return nil }
	root := newRoot(&begun, &stop)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if perr := stop(); perr != nil { // the profile ends however the command ends
		err = errors.Join(err, perr)
	}
	var exit *exitError
	stopped := ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx)))
	switch {
	case err == nil:
		return session.ExitOK
	case errors.As(err, &exit) && !(stopped && exit.code == session.ExitRefused): // a run that was stopped was not refused
		switch {
		case exit.code == session.ExitInterrupted && err.Error() == context.Canceled.Error():
			fmt.Fprintln(stderr, "voxcam: interrupted before work began")
		case !exit.quiet:
			complain(stderr, err)
		}
		return exit.code
	case !begun: // the library's own complaints
		fmt.Fprintf(stderr, "voxcam: %s\nSee voxcam --help.\n", strings.TrimSpace(err.Error()))
		return session.ExitRefused
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "voxcam: interrupted")
		return session.ExitInterrupted
	}
	complain(stderr, err)
	return session.ExitCode(session.Summary{}, err)
}

// complain prints why the program ends.
func complain(stderr io.Writer, err error) {
	fmt.Fprintln(stderr, "voxcam:", printable.Lines(inFlags(err.Error())))
}

// issues is the address for reports of defects.
const issues = "https://github.com/voxcam/voxcam/issues"

// newRoot returns the command of all commands. When the arguments were understood and work begins, it sets begun, and stop to a
// function that must be called at the end.
func newRoot(begun *bool, stop *func() error) *cobra.Command {
	root := &cobra.Command{
		Use:           "voxcam",
		Short:         "Explain the decisions of 3D image classifiers",
		Long:          "voxcam shows which voxels of a volume speak for a class: Grad-CAM, Grad-CAM++, SmoothGrad, VarGrad and more,\nfor models exported to ONNX, without Python.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       runner.Version(),
	}
	// The original system writes its flags with underscores.
	root.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(flagError(cmd, err)) })
	profile := root.PersistentFlags().String("cpuprofile", "", "write a CPU profile for go tool pprof to this file")
	root.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		*begun = true
		*stop, err = startProfile(*profile)
		return usage(err)
	}
	root.AddCommand(newRun(), newExplain(), newPlan(), newInspect(), newDoctor(), newCheck(), newMonitor(), newRecover(), newDemo(), newExitCodes(), newWorker())
	return root
}

// wanted describes the values of a flag in words, by the type's name in the library.
var wanted = map[string]string{
	"int": "a whole number", "uint64": "a whole number from 0 up", "float64": "a number", "intSlice": "whole numbers separated by commas",
	"bool": "true or false",
}

// flagError describes the fault of a flag in words.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	var unknown *pflag.NotExistError
	switch {
	case errors.As(err, &invalid) && wanted[invalid.GetFlag().Value.Type()] != "":
		return fmt.Errorf("--%s %s: %s expected", invalid.GetFlag().Name, invalid.GetValue(), wanted[invalid.GetFlag().Value.Type()])
	case errors.As(err, &unknown):
		name := unknown.GetSpecifiedName()
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		hint := ""
		if best := option.Nearest(name, names, 1+len(name)/2); best != "" {
			hint = "; did you mean --" + best + "?"
		}
		return fmt.Errorf("%w%s (%s --help lists all)", err, hint, cmd.CommandPath())
	}
	return fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())
}

// startProfile profiles the processor until the function that it returns is called; an empty path does nothing.
func startProfile(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	file, err := os.Create(path)
	if err != nil {
		return func() error { return nil }, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return func() error { return nil }, errors.Join(err, file.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return file.Close()
	}, nil
}

// exactArgs is cobra.ExactArgs with a message that names the missing arguments, and the right exit code.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			want := "no argument"
			if len(names) > 0 {
				want = "the argument " + strings.Join(names, " ")
			}
			return usage(fmt.Errorf("%s takes %s, %d given %q; see voxcam %s --help", cmd.Name(), want, len(args), args, cmd.Name()))
		}
		return nil
	}
}
