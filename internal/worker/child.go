package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// child is the process and the connection to it.
type child struct {
	cmd    *exec.Cmd
	conn   *os.File
	pipe   *pipe
	out    *os.File // shared memory that it manages
	stderr *tail
	handle func(frame) error // handles its messages, one at a time
	grace  time.Duration     // of Options; calls whose context has ended have twice as long to return
	kills  int               // kills of the system for want of memory, when it was started

	mu    sync.Mutex
	calls map[uint64]chan frame
	last  uint64

	signs       atomic.Int64  // number of signs of progress
	reason      atomic.Value  // string: the reason why this process ended it
	gone        chan struct{} // closed when it sends nothing any more, and all its messages were handled
	ended       chan struct{} // closed when the process has ended
	interrupted chan struct{} // closed when calls must return
	interrupt   func()        // closes interrupted
	tasks       sync.WaitGroup
}

// abandonedError is the reason why a call returns without an answer. The child may still be at it.
type abandonedError struct{ error }

// Unwrap returns the reason.
func (e abandonedError) Unwrap() error { return e.error }

// errDied says that a child has ended.
var errDied = errors.New("the worker process has ended")

// killGrace is the time that the system has to end a process that was killed.
const killGrace = 10 * time.Second

// inside is the variable of the environment that workers have. A program that does not know the argument worker, such as the binary of
// some tests, would otherwise begin what it always does, and start workers itself, without end.
const inside = "VOXCAM_WORKER"

// spawn starts a process that has not opened anything yet. in is the memory that this process manages.
func spawn(set *Options, in *os.File, handle func(frame) error) (*child, error) {
	if os.Getenv(inside) != "" {
		return nil, errors.New("internal error, please report it: a worker would start a worker")
	}
	ours, theirs, err := newPair()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoProcess, err)
	}
	defer theirs.Close()
	out, err := newShared("voxcam-worker")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrNoProcess, err), ours.Close())
	}
	c := &child{conn: ours, pipe: newPipe(ours), out: out, grace: set.Grace, handle: handle, kills: set.OOMKills(), stderr: &tail{}, calls: map[uint64]chan frame{},
		gone: make(chan struct{}), ended: make(chan struct{}), interrupted: make(chan struct{})}
	c.interrupt = sync.OnceFunc(func() { close(c.interrupted) })
	command := set.Command
	if len(command) == 0 {
		path, err := program()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrNoProcess, err), ours.Close(), out.Close())
		}
		command = []string{path, "worker"}
	}
	c.cmd = exec.Command(command[0], command[1:]...)
	c.cmd.Args[0] = os.Args[0]
	c.cmd.Env = append(os.Environ(), inside+"=1")
	c.cmd.ExtraFiles = []*os.File{theirs, in, out}
	c.cmd.Stderr = c.stderr
	if os.Getenv("VOXCAM_DEBUG") != "" {
		c.cmd.Stderr = io.MultiWriter(c.stderr, os.Stderr)
	}
	c.cmd.WaitDelay = time.Second // for processes that it may have started
	if err := c.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrNoProcess, err), ours.Close(), out.Close())
	}
	c.tasks.Go(c.read)
	go func() { // not waited for: a process in a call to a driver may stay for ever
		c.cmd.Wait()
		close(c.ended)
	}()
	if set.PassTimeout > 0 {
		c.tasks.Go(func() { c.watch(set.PassTimeout) })
	}
	return c, nil
}

// read handles the child's messages until the connection ends.
func (c *child) read() {
	defer close(c.gone)
	for {
		f, err := c.pipe.receive()
		if err != nil {
			if !ended(err) {
				c.kill("it sent " + err.Error())
			}
			return
		}
		if f.kind != tellState {
			c.progressed()
		}
		if f.kind != kindReply && f.kind != kindFault {
			if err := c.handle(f); err != nil {
				c.kill("it sent " + err.Error())
			}
			continue
		}
		c.mu.Lock()
		answer := c.calls[f.call]
		delete(c.calls, f.call)
		c.mu.Unlock()
		if answer != nil {
			answer <- f
		}
	}
}

// ended reports whether an error of reading says that the other side has closed the connection.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, syscall.ECONNRESET)
}

func (c *child) progressed() { c.signs.Add(1) }

// watch ends a child that has a call to answer and shows no progress for limit: a call that hangs in a driver cannot be cancelled.
func (c *child) watch(limit time.Duration) {
	tick := time.NewTicker(max(limit/watchTicks, time.Millisecond))
	defer tick.Stop()
	var s stall
	for {
		select {
		case <-c.gone:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		busy := len(c.calls) > 0
		c.mu.Unlock()
		if s.tick(busy, c.signs.Load()) {
			c.kill(fmt.Sprintf("no progress for %v", limit))
			return
		}
	}
}

// watchTicks is the number of checks of a child within the limit.
const watchTicks = 20

// stall counts the ticks of a watch without a sign of progress. It reads no clock, so that steps of the clock, and times in which the machine
// sleeps or this process is stopped, end no child. A ticker does not make up for missed ticks.
type stall struct {
	signs int64
	quiet int // ticks
}

// tick reports whether a busy child has given no sign for longer than the limit. signs is the number of signs that it has given so far.
func (s *stall) tick(busy bool, signs int64) bool {
	if !busy || signs != s.signs {
		s.signs, s.quiet = signs, 0
		return false
	}
	s.quiet++
	return s.quiet > watchTicks
}

// kill ends the process for a reason; only the first reason counts. Messages that it has sent are still handled, unless the system cannot end
// the process because a driver does not return.
func (c *child) kill(reason string) {
	first := c.reason.CompareAndSwap(nil, reason)
	c.cmd.Process.Kill() // an error says that it has ended
	if first {
		c.tasks.Go(func() {
			select {
			case <-c.gone:
			case <-time.After(killGrace):
				c.conn.Close()
			}
		})
	}
}

// call asks the child, and waits for the answer, which it stores in out unless that is nil. When ctx ends, the child is notified, and has a
// while to answer. The error is errDied when no answer will come.
func (c *child) call(ctx context.Context, kind kind, in, out any) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	answer := make(chan frame, 1)
	c.mu.Lock()
	if len(c.calls) == 0 {
		c.progressed()
	}
	c.last++
	number := c.last
	c.calls[number] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, number)
		c.mu.Unlock()
	}()
	if err := c.pipe.send(kind, number, in); err != nil && !broken(err) {
		return err
	}
	done, interrupted := ctx.Done(), c.interrupted
	if kind == callClose {
		interrupted = nil
	}
	var late <-chan time.Time
	for {
		select {
		case <-interrupted:
			c.notify(sayCancel, number, nil)
			return abandonedError{errClosed}
		case f := <-answer:
			return c.decode(ctx, f, out)
		case <-c.gone:
			select {
			case f := <-answer:
				return c.decode(ctx, f, out)
			default:
				return errDied
			}
		case <-done:
			done = nil
			c.notify(sayCancel, number, nil)
			timer := time.NewTimer(2 * c.grace)
			defer timer.Stop()
			late = timer.C
		case <-late:
			return abandonedError{context.Cause(ctx)}
		}
	}
}

// broken reports whether an error of writing says that the other side is gone, which reading reports, too.
func broken(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrClosed)
}

func (c *child) decode(ctx context.Context, f frame, out any) error {
	if f.kind == kindFault {
		text, err := unpack[fault](f.body)
		if err != nil {
			c.kill("it sent " + err.Error())
			return errDied
		}
		if err = text.error(); errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if out == nil {
		return nil
	}
	if err := unpackInto(f.body, out); err != nil {
		c.kill("it sent " + err.Error())
		return errDied
	}
	return nil
}

// notify sends the child a message without an answer. Errors do not matter: they mean that the child is gone.
func (c *child) notify(kind kind, call uint64, body any) { _ = c.pipe.send(kind, call, body) }

// close asks the child to end, and ends it if it does not.
func (c *child) close(grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	answered := make(chan error, 1)
	c.tasks.Go(func() { answered <- c.call(context.WithoutCancel(ctx), callClose, nil, nil) })
	var err error
	select {
	case err = <-answered:
	case <-ctx.Done():
	}
	if errors.Is(err, errDied) {
		err = nil // it has nothing left to close
	}
	c.conn.Close() // it ends, if it can
	select {
	case <-c.ended:
	case <-ctx.Done():
		c.kill("it did not end when it was asked to")
	}
	c.reap()
	return err
}

// reap waits until the process has ended and all that belongs to it, except the shared memory. It may be called again.
func (c *child) reap() {
	<-c.gone
	c.conn.Close()
	select {
	case <-c.ended:
	case <-time.After(time.Second): // it closed the connection and stays
		c.kill("it closed the connection")
		select {
		case <-c.ended:
		case <-time.After(time.Second):
		}
	}
	c.tasks.Wait()
}

// killed reports whether the process, which has ended, was killed by another process than this one.
func (c *child) killed() bool {
	s, known := c.status()
	return known && c.reason.Load() == nil && s.Signaled() && s.Signal() == syscall.SIGKILL
}

func (c *child) status() (syscall.WaitStatus, bool) {
	select {
	case <-c.ended:
	default:
		return 0, false
	}
	s, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return s, ok
}

// exitReason returns the reason why a reaped process ended, in words.
func (c *child) exitReason() string {
	text := "it does not end"
	s, known := c.status()
	reason, _ := c.reason.Load().(string)
	switch {
	case reason != "":
		text = reason
	case known && s.Signaled():
		text = fmt.Sprintf("signal %v", s.Signal())
	case known:
		text = fmt.Sprintf("exit code %d", s.ExitStatus())
	}
	if said := c.stderr.summary(); said != "" {
		text += "; it said: " + said
	}
	return text
}

// tail keeps the end of the text that is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailLength = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 2*tailLength {
		t.text = append(t.text[:0], t.text[len(t.text)-tailLength:]...)
	}
	return len(p), nil
}

// summary returns a few lines of the text: the reason of a Go program's panic, or else the last lines.
func (t *tail) summary() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 5
	lines := strings.Split(strings.TrimSpace(string(bytes.ToValidUTF8(t.text, []byte("?")))), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") {
			lines = lines[i : i+1]
			break
		}
	}
	lines = lines[max(0, len(lines)-most):]
	text := strings.Join(lines, " | ")
	if len(text) > 600 {
		text = strings.ToValidUTF8(text[:600], "") + " ..."
	}
	return text
}
