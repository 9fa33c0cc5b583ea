package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/reclaim"
)

// pseudo opens a terminal of a size: what is written to user is typed, and what is read from it is on the screen.
func pseudo(t *testing.T, width, height int) (user, tty *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("TERMINAL NOT CHECKED: %v", err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Skipf("TERMINAL NOT CHECKED: %v", err)
	}
	t.Cleanup(func() { tty.Close() })
	resize(t, user, width, height)
	return user, tty
}

func resize(t *testing.T, user *os.File, width, height int) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(user.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}); err != nil {
		t.Fatal(err)
	}
}

// shown collects what a terminal shows, and tells waiters of it.
type shown struct {
	mu   sync.Mutex
	more *sync.Cond
	text strings.Builder
	end  bool
}

func show(r io.Reader) *shown {
	s := &shown{}
	s.more = sync.NewCond(&s.mu)
	go func() { // ends when the terminal is closed
		buffer := make([]byte, 1<<12)
		for {
			n, err := r.Read(buffer)
			s.mu.Lock()
			s.text.Write(buffer[:n])
			s.end = err != nil
			s.more.Broadcast()
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

// wait waits until something is shown behind the first so many bytes, and returns how many were shown then.
func (s *shown) wait(t *testing.T, from int, what string) int {
	t.Helper()
	give := time.AfterFunc(20*time.Second, func() {
		s.mu.Lock()
		s.end = true
		s.more.Broadcast()
		s.mu.Unlock()
	})
	defer give.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !strings.Contains(s.text.String()[from:], what) {
		if s.end {
			t.Fatalf("%q is not shown: %q", what, s.text.String()[from:])
		}
		s.more.Wait()
	}
	return s.text.Len()
}

// The live view takes the terminal over, follows its size, and gives it back as it was, whatever ends it.
func TestMonitorOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for name, end := range map[string]func(user *os.File, cancel func()){
		"q":      func(user *os.File, _ func()) { user.Write([]byte("xq")) },
		"ctrl-C": func(user *os.File, _ func()) { user.Write([]byte{3}) },
		"signal": func(_ *os.File, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			user, tty := pseudo(t, 100, 30)
			before, err := term.GetState(int(tty.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			screen := show(user)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- watching(time.Hour).run(ctx, tty, tty, io.Discard) }()
			n := screen.wait(t, 0, "1 of 2 samples")
			screen.wait(t, 0, "\x1b[?1049h\x1b[?25l")
			screen.wait(t, 0, "q quits")
			resize(t, user, 30, 30)
			if err := syscall.Kill(os.Getpid(), syscall.SIGWINCH); err != nil {
				t.Fatal(err)
			}
			screen.wait(t, n, "…") // lines are cut now
			end(user, cancel)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			screen.wait(t, n, "\x1b[?25h\x1b[?1049l")
			after, err := term.GetState(int(tty.Fd()))
			if err != nil || *after != *before {
				t.Errorf("the terminal is not as it was: %+v instead of %+v, %v", after, before, err)
			}
		})
	}
}

// Once on a terminal is a frame that stays, without colours where they are not wanted.
func TestMonitorOnceOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "1")
	user, tty := pseudo(t, 100, 30)
	screen := show(user)
	o := watching(time.Hour)
	o.once = true
	if err := o.run(t.Context(), tty, tty, io.Discard); err != nil {
		t.Fatal(err)
	}
	screen.wait(t, 0, "1 of 2 samples")
	screen.wait(t, 0, "0 skipped")
	screen.mu.Lock()
	defer screen.mu.Unlock()
	if strings.Contains(screen.text.String(), "\x1b") {
		t.Errorf("%q", screen.text.String())
	}
}

// A question is asked on the terminal, and only a yes is one.
func TestRecoverAsksOnATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	for answer, ends := range map[string]bool{"y\n": true, "Yes\n": true, "n\n": false, "\n": false, "\x04": false} {
		user, tty := pseudo(t, 100, 30)
		screen := show(user)
		b := newBench()
		b.holds[200] = bytesize.GiB
		o := recoverOptions{Options: reclaim.Options{Sessions: b.sessions, System: b}, survey: b.survey, kill: true}
		ended := make(chan error, 1)
		go func() { ended <- o.run(t.Context(), tty, io.Discard, tty) }()
		screen.wait(t, 0, "[y/N]")
		if _, err := user.Write([]byte(answer)); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, stays := b.holds[200]; stays == ends {
			t.Errorf("after %q the process stays: %t", answer, stays)
		}
	}
	// Nobody waits for an answer when the context ends.
	user, tty := pseudo(t, 100, 30)
	screen := show(user)
	b := newBench()
	b.holds[200] = bytesize.GiB
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	o := recoverOptions{Options: reclaim.Options{Sessions: b.sessions, System: b}, survey: b.survey, kill: true}
	go func() { ended <- o.run(ctx, tty, io.Discard, tty) }()
	screen.wait(t, 0, "[y/N]")
	cancel()
	if err := <-ended; err == nil || b.holds[200] == 0 {
		t.Errorf("interrupted: %v, %v", err, b.holds)
	}
}
