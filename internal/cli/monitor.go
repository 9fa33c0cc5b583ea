package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/printable"
)

// monitorOptions say how often is looked, and how it is told.
type monitorOptions struct {
	interval, history time.Duration
	bands             gpusurvey.Bands
	once, asJSON      bool
	prometheus        string                                          // address; "" serves nothing
	look              func(ctx context.Context) (monitor.Look, error) // nil: this machine
	served            func(address string)                            // hears where metrics are; may be nil
}

// shortest interval between two looks: NVML takes some milliseconds for each GPU.
const shortest = 100 * time.Millisecond

func newMonitor() *cobra.Command {
	o := monitorOptions{bands: gpusurvey.DefaultBands()}
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Watch the memory of the GPUs, who holds it, and how sessions get on",
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
	fl.Var(&o.bands, "thresholds", "bounds of healthy, caution and warning: three sizes that are free, and three shares of fragmentation")
	return cmd
}

// terminal is the file behind a stream, if it is one that can be drawn on: then names must be made printable by who draws.
func terminal(stream any) (*os.File, bool) {
	if w, ok := stream.(*printable.Writer); ok {
		stream = w.To
	}
	file, ok := stream.(*os.File)
	return file, ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb"
}

func (o monitorOptions) run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	if o.look == nil {
		w := newWatcher(o.bands, min(patience, max(o.interval, time.Second)))
		defer func() { err = errors.Join(err, w.Close()) }()
		o.look = w.look
	}
	last := &latest{look: o.look}
	title := fmt.Sprintf("voxcam monitor, each %v, graphs of %v", o.interval, o.history)
	if o.prometheus != "" {
		stop, address, open, err := serveMetrics(o.prometheus, last.get)
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
		return live(ctx, o, title, keys, screen, last.refresh)
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
			return errors.Join(err, printAll(screen, monitor.View{Width: width, Color: colored(), Title: "voxcam monitor"}.Frame(l, nil)))
		}
	}
	if o.once {
		l, err := last.refresh(ctx)
		if err != nil {
			return err
		}
		return show(l)
	}
	return monitor.Watch(ctx, o.interval, last.refresh, show)
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

// live draws on a terminal until a key, a signal or the context ends it. keys is nil where nobody can press one.
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
		return s.Draw(monitor.View{Width: width, Height: height, Color: colored(), Title: title}.Frame(now, history))
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
					_ = draw() // what is wrong with the terminal shows at the next look
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

// latest keeps the last look for those who come between two.
type latest struct {
	look func(context.Context) (monitor.Look, error)
	mu   sync.Mutex
	last monitor.Look
}

func (l *latest) refresh(ctx context.Context) (monitor.Look, error) {
	look, err := l.look(ctx)
	if err == nil {
		l.mu.Lock()
		l.last = look
		l.mu.Unlock()
	}
	return look, err
}

func (l *latest) get(context.Context) (monitor.Look, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.Time.IsZero() {
		return l.last, errors.New("the first look is not done yet")
	}
	return l.last, nil
}

// serveMetrics serves /metrics at an address until stop. An address without a host is that of this machine for itself. Open says that others
// may reach it.
func serveMetrics(address string, look func(context.Context) (monitor.Look, error)) (stop func(), at string, open bool, err error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, "", false, err
	}
	if host == "" {
		host = "localhost"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, "", false, err
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); ok {
		open = !tcp.IP.IsLoopback()
	}
	routes := http.NewServeMux()
	routes.Handle("GET /metrics", monitor.Handler(look))
	server := &http.Server{Handler: routes, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // it ends by Close
	}()
	return func() { server.Close(); <-done }, listener.Addr().String(), open, nil
}

// watcher looks at this machine. It takes one look at a time.
type watcher struct {
	surveyor *gpusurvey.Surveyor
	sessions []monitor.Session // of the look at work
}

// newWatcher returns one that gives each session so much time to answer.
func newWatcher(bands gpusurvey.Bands, patience time.Duration) *watcher {
	w := &watcher{}
	w.surveyor = gpusurvey.Open(gpusurvey.Options{Driver: device.CUDA().Driver, NVML: device.CUDA().NVML, Bands: bands,
		Sessions: func(ctx context.Context) (found []gpusurvey.Session, err error) {
			w.sessions, err = askSessions(ctx, patience)
			for _, s := range w.sessions {
				if s.Problem == "" {
					found = append(found, sessionMemory(s.Status))
				}
			}
			return found, err
		}})
	return w
}

func (w *watcher) Close() error { return w.surveyor.Close() }

func (w *watcher) look(ctx context.Context) (monitor.Look, error) {
	w.sessions = nil
	v, err := w.surveyor.Survey(ctx)
	if err != nil {
		return monitor.Look{}, err
	}
	sessions := w.sessions
	if sessions == nil {
		sessions = []monitor.Session{}
	}
	return monitor.Look{Time: v.Time, GPUs: v.GPUs, Host: v.Host, Sessions: sessions, Notes: v.Notes}, nil
}

// askSessions asks all sessions of this user that can be reached, and gives for each what it says or why it does not. The error is of
// folders that cannot be read.
func askSessions(ctx context.Context, patience time.Duration) ([]monitor.Session, error) {
	clients, err := control.Sessions(ctx)
	all := make([]monitor.Session, len(clients))
	var answers sync.WaitGroup
	for i, c := range clients {
		answers.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			var err error
			if all[i].Status, err = c.Status(ctx); err != nil {
				all[i].PID, all[i].Problem = c.PID, err.Error()
				if errors.Is(err, context.DeadlineExceeded) {
					all[i].Problem = fmt.Sprintf("process %d does not answer within %v", c.PID, patience)
				}
			}
		})
	}
	answers.Wait()
	return all, err
}

// sessionMemory is what a survey is to know of a session.
func sessionMemory(s control.Status) gpusurvey.Session {
	m := gpusurvey.Session{Name: s.Session, PIDs: []int{s.PID}, UUID: s.UUID, Usage: s.Usage, Held: s.Held}
	if s.Worker != 0 {
		m.PIDs = append(m.PIDs, s.Worker)
	}
	return m
}
