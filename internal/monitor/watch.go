package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// Latest keeps the last look, for callers between two looks.
type Latest struct {
	Take func(context.Context) (Look, error)
	mu   sync.Mutex
	last Look
}

// Refresh takes a look and keeps it.
func (l *Latest) Refresh(ctx context.Context) (Look, error) {
	look, err := l.Take(ctx)
	if err == nil {
		l.mu.Lock()
		l.last = look
		l.mu.Unlock()
	}
	return look, err
}

// Get returns the last look.
func (l *Latest) Get(context.Context) (Look, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.Time.IsZero() {
		return l.last, errors.New("the first look is not done yet")
	}
	return l.last, nil
}

// Serve serves /metrics at an address until stop. An address without a host can be reached from this machine only. open reports whether
// other machines may reach it.
func Serve(address string, look func(context.Context) (Look, error)) (stop func(), at string, open bool, err error) {
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
	routes.Handle("GET /metrics", Handler(look))
	server := &http.Server{Handler: routes, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // it ends by Close
	}()
	return func() { server.Close(); <-done }, listener.Addr().String(), open, nil
}

// Watcher looks at this machine. It takes one look at a time.
type Watcher struct {
	*gpusurvey.Surveyor
	sessions []Answer // of the look that is being taken
}

// NewWatcher returns a watcher with the libraries and bounds of o, which waits at most patience for each session to answer. Close ends it.
func NewWatcher(o gpusurvey.Options, patience time.Duration) *Watcher {
	w := &Watcher{}
	o.Sessions = func(ctx context.Context) (found []gpusurvey.SessionUsage, err error) {
		w.sessions, err = AskSessions(ctx, patience)
		for _, s := range w.sessions {
			if s.Problem == "" {
				found = append(found, s.Memory())
			}
		}
		return found, err
	}
	w.Surveyor = gpusurvey.Open(o)
	return w
}

// Look looks at the GPUs and asks the sessions.
func (w *Watcher) Look(ctx context.Context) (Look, error) {
	v, err := w.Survey(ctx)
	if err != nil {
		return Look{}, err
	}
	return Look{Time: v.Time, GPUs: v.GPUs, Host: v.Host, Sessions: w.sessions, Notes: v.Notes}, nil
}

// AskSessions asks all sessions of this user that can be reached, and returns the answer of each, or the reason why it has none. The error is
// about folders that cannot be read.
func AskSessions(ctx context.Context, patience time.Duration) ([]Answer, error) {
	clients, err := control.Sessions(ctx)
	all := make([]Answer, len(clients))
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

// Memory returns the session's memory and processes in the form of a survey.
func (s Answer) Memory() gpusurvey.SessionUsage {
	m := gpusurvey.SessionUsage{Name: s.Session, PIDs: []int{s.PID}, UUID: s.UUID, Usage: s.Usage, Held: s.Held}
	if s.Worker != 0 {
		m.PIDs = append(m.PIDs, s.Worker)
	}
	return m
}
