package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/printable"
)

// monitorOptions are the flags of monitor.
type monitorOptions struct {
	interval, history time.Duration
	bands             gpusurvey.Bands
	once, asJSON      bool
	prometheus        string                                          // address; "" serves nothing
	look              func(ctx context.Context) (monitor.Look, error) // nil: this machine
	served            func(address string)                            // is called with the address of the metrics; may be nil
}

// shortest interval between two looks: NVML takes some milliseconds for each GPU.
const shortest = 100 * time.Millisecond

func newMonitor() *cobra.Command {
	o := monitorOptions{}
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Watch the memory of the GPUs, the processes that hold it, and the progress of sessions",
		Long: `Monitor shows, each second, for each GPU what is used and truly free, how busy it is, which processes hold its memory and what was
free and held by this program in the last minutes; and for each session of yours that runs its plan, budget, progress and latest
incidents. It asks NVML and the sessions, and takes no memory of a GPU. q or ctrl-C ends it.

Where the output is no terminal it prints a line for each GPU and session; --json prints a line of JSON instead. --prometheus serves the
same figures as metrics besides, at http://ADDRESS/metrics. NO_COLOR in the environment keeps colours out.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.interval < shortest {
				return usage(fmt.Errorf("--interval %v: at least %v expected", o.interval, shortest))
			}
			if o.history < o.interval {
				return usage(fmt.Errorf("--history %v: at least the interval expected, %v", o.history, o.interval))
			}
			return o.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.DurationVar(&o.interval, "interval", time.Second, "time between two looks")
	fl.DurationVar(&o.history, "history", 5*time.Minute, "time that the graphs show")
	fl.BoolVar(&o.once, "once", false, "look once")
	fl.BoolVar(&o.asJSON, "json", false, "print a line of JSON for each look")
	fl.StringVar(&o.prometheus, "prometheus", "", "serve metrics for Prometheus at this address: :9400 for this machine alone, 0.0.0.0:9400 for all that reach it")
	addThresholds(cmd, &o.bands)
	return cmd
}

// terminal returns the file behind a stream, if it is a terminal that can be drawn on: then the caller makes names printable.
func terminal(stream any) (*os.File, bool) {
	if w, ok := stream.(*printable.Writer); ok {
		stream = w.To
	}
	file, ok := stream.(*os.File)
	return file, ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb"
}

func (o monitorOptions) run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	if o.look == nil {
		w := monitor.NewWatcher(libraries(o.bands), min(patience, max(o.interval, time.Second)))
		defer func() { err = errors.Join(err, w.Close()) }()
		o.look = w.Look
	}
	last := &monitor.Latest{Take: o.look}
	title := fmt.Sprintf("voxcam monitor, each %v, graphs of %v", o.interval, o.history)
	if o.prometheus != "" {
		stop, address, open, err := monitor.Serve(o.prometheus, last.Get)
		if err != nil {
			return usage(fmt.Errorf("--prometheus: %w", err))
		}
		defer stop()
		where := "metrics at http://" + address + "/metrics"
		if open {
			where += ", for everybody who reaches this machine"
		}
		fmt.Fprintln(stderr, "voxcam: note:", where)
		title += ", " + where
		if o.served != nil {
			o.served(address)
		}
	}
	screen, drawn := terminal(stdout)
	drawn = drawn && !o.asJSON
	if drawn && !o.once {
		keys, _ := terminal(stdin)
		return live(ctx, o, title, keys, screen, last.Refresh)
	}
	noted := false
	show := func(l monitor.Look) error {
		for i := 0; i < len(l.Notes) && !noted; i++ {
			fmt.Fprintln(stderr, "voxcam: note:", l.Notes[i])
		}
		noted = true
		return printAll(stdout, monitor.Lines(l))
	}
	switch {
	case o.asJSON:
		e := json.NewEncoder(stdout)
		show = func(l monitor.Look) error { return e.Encode(l) }
	case drawn:
		show = func(l monitor.Look) error {
			width, _, err := term.GetSize(int(screen.Fd()))
			return errors.Join(err, printAll(screen, monitor.Renderer{Width: width, Color: colored(), Title: "voxcam monitor"}.Frame(l, nil)))
		}
	}
	if o.once {
		l, err := last.Refresh(ctx)
		if err != nil {
			return err
		}
		return show(l)
	}
	return monitor.Watch(ctx, o.interval, last.Refresh, show)
}

func printAll(w io.Writer, lines []string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// colored follows https://no-color.org.
func colored() bool { return os.Getenv("NO_COLOR") == "" }

// live draws on a terminal until a key, a signal or the context ends it. keys is nil where there is no keyboard.
func live(ctx context.Context, o monitorOptions, title string, keys, screen *os.File, look func(context.Context) (monitor.Look, error)) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	var owned sync.WaitGroup
	defer owned.Wait()
	defer cancel()
	if keys != nil && canWait {
		state, err := term.MakeRaw(int(keys.Fd()))
		if err != nil {
			return fmt.Errorf("reading keys from the terminal: %w", err)
		}
		defer func() { err = errors.Join(err, term.Restore(int(keys.Fd()), state)) }()
		title += "; q quits"
		owned.Go(func() { quitOnKey(ctx, keys, cancel) })
	}
	s, err := monitor.NewScreen(screen)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err != nil {
		return err
	}
	history := monitor.NewHistory(o.history)
	var mu sync.Mutex
	var now monitor.Look
	draw := func() error { // mu is held
		width, height, err := term.GetSize(int(screen.Fd()))
		if err != nil {
			return fmt.Errorf("the size of the terminal: %w", err)
		}
		return s.Draw(monitor.Renderer{Width: width, Height: height, Color: colored(), Title: title}.Frame(now, history))
	}
	sizes := make(chan os.Signal, 1)
	signal.Notify(sizes, resized...)
	defer signal.Stop(sizes)
	owned.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-sizes:
				mu.Lock()
				if !now.Time.IsZero() {
					_ = draw() // an error of the terminal comes back at the next look
				}
				mu.Unlock()
			}
		}
	})
	err = monitor.Watch(ctx, o.interval, look, func(l monitor.Look) error {
		mu.Lock()
		defer mu.Unlock()
		now = l
		history.Add(l)
		return draw()
	})
	cancel()
	owned.Wait() // nothing draws when the terminal is given back
	return err
}

// quitOnKey calls quit when q, ctrl-C or ctrl-D is pressed. The terminal is in raw mode, in which it makes no signals of keys.
func quitOnKey(ctx context.Context, keys *os.File, quit func()) {
	buffer := make([]byte, 64)
	for {
		if err := readable(ctx, keys); err != nil {
			return
		}
		n, err := keys.Read(buffer)
		for _, key := range buffer[:max(n, 0)] {
			if key == 'q' || key == 'Q' || key == 3 || key == 4 {
				quit()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// libraries are the survey's, with bounds of health.
func libraries(bands gpusurvey.Bands) gpusurvey.Options {
	of := device.CUDA()
	return gpusurvey.Options{Driver: of.Driver, NVML: of.NVML, Bands: bands}
}
