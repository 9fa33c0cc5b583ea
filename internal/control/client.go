package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/voxcam/voxcam/internal/policy"
)

// Client asks a session by its socket. It holds no connection between calls.
type Client struct {
	PID  int
	Path string // of the socket
	http http.Client
}

func newClient(pid int, path string) *Client {
	return &Client{PID: pid, Path: path, http: http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
		DisableKeepAlives: true,
	}}}
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// reachable reports whether a process listens at a socket.
func reachable(ctx context.Context, path string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := dial(ctx, path)
	if err != nil {
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.EAGAIN) // too busy to answer
	}
	c.Close()
	return true
}

// Sessions returns the sessions of this user that can be reached, by process. The error is about folders that cannot be read or trusted;
// sessions in other folders are returned with it.
func Sessions(ctx context.Context) ([]*Client, error) {
	var out []*Client
	var errs []error
	for _, dir := range folders() {
		switch err := checkFolder(dir); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		default:
			found, err := sweep(ctx, dir)
			out, errs = append(out, found...), append(errs, err)
		}
	}
	slices.SortStableFunc(out, func(a, b *Client) int { return a.PID - b.PID })
	return out, errors.Join(errs...)
}

// sweep returns the sessions whose sockets are in a folder, and removes sockets of processes that are gone.
func sweep(ctx context.Context, dir string) (out []*Client, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		pid, ok := socketPID(e.Name())
		if !ok || e.Type() != fs.ModeSocket {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if reachable(ctx, path) {
			out = append(out, newClient(pid, path))
		} else if ctx.Err() == nil && !alive(pid) { // a process that lives may not listen yet
			os.Remove(path)
		}
	}
	return out, err
}

// Dial returns the session of a process.
func Dial(ctx context.Context, pid int) (*Client, error) {
	sessions, err := Sessions(ctx)
	if i := slices.IndexFunc(sessions, func(c *Client) bool { return c.PID == pid }); i >= 0 {
		return sessions[i], nil
	}
	if err := errors.Join(err, ctx.Err()); err != nil {
		return nil, fmt.Errorf("the session of process %d cannot be reached: %w", pid, err)
	}
	return nil, fmt.Errorf("process %d is not a session of yours that can be reached", pid)
}

// Status returns the session's status.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.ask(ctx, http.MethodGet, "/status", nil, &s)
}

// Order has the session carry out an order about its memory, and returns when it is done.
func (c *Client) Order(ctx context.Context, o policy.Order) (out policy.Outcome, err error) {
	return out, c.ask(ctx, http.MethodPost, "/order", o, &out)
}

// Get returns the answer of a handler of Server.Handle.
func (c *Client) Get(ctx context.Context, path string) ([]byte, error) {
	return c.do(ctx, http.MethodGet, path, nil)
}

func (c *Client) ask(ctx context.Context, method, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	text, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("the session of process %d answered %.100q: %w", c.PID, text, err)
	}
	return nil
}

// Bound of an answer, in bytes.
const largest = 16 << 20

func (c *Client) do(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://session"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	answer, err := c.http.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("the session of process %d does not answer: %w", c.PID, errors.Unwrap(err)) // without the address
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, largest+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the session of process %d broke off its answer: %w", c.PID, err)
	case len(text) > largest:
		return nil, fmt.Errorf("the session of process %d answered more than %d bytes", c.PID, largest)
	case answer.StatusCode == http.StatusOK:
		return text, nil
	}
	var f failure
	if json.Unmarshal(text, &f) != nil || f.Error == "" {
		f.Error = fmt.Sprintf("%s: %.200s", answer.Status, bytes.TrimSpace(text))
	}
	return nil, &DeclinedError{PID: c.PID, Code: answer.StatusCode, Reason: f.Error}
}

// DeclinedError is the answer of a session that understood an order and did not carry it out.
type DeclinedError struct {
	PID    int
	Code   int // of HTTP
	Reason string
}

func (e *DeclinedError) Error() string {
	return fmt.Sprintf("the session of process %d: %s", e.PID, e.Reason)
}
