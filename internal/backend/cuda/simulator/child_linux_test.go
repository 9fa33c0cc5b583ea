package simulator_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

func TestMain(m *testing.M) {
	if os.Getenv("SIMULATOR_TEST_CHILD") != "" {
		if err := serve(); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is another process that uses the devices.
type child struct {
	*testing.T
	cmd    *exec.Cmd
	to     io.WriteCloser
	from   *bufio.Scanner
	errors *strings.Builder
	ended  bool
}

// start begins one, with more variables of the environment.
func start(t *testing.T, env ...string) *child {
	t.Helper()
	c := &child{T: t, cmd: exec.Command(os.Args[0]), errors: &strings.Builder{}}
	c.cmd.Env = append(os.Environ(), append(env, "SIMULATOR_TEST_CHILD=1")...)
	c.cmd.Stderr = c.errors
	var err error
	if c.to, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.from = bufio.NewScanner(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !c.ended {
			c.kill()
		}
	})
	return c
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// tell lets it do something, and gives the answer.
func (c *child) tell(format string, args ...any) string {
	c.Helper()
	if _, err := fmt.Fprintf(c.to, format+"\n", args...); err != nil {
		c.Fatal(err)
	}
	if !c.from.Scan() {
		c.Fatalf("%s: it has ended: %s", fmt.Sprintf(format, args...), c.errors)
	}
	return c.from.Text()
}

// want is tell with the answer that is right.
func (c *child) want(answer, format string, args ...any) {
	c.Helper()
	if got := c.tell(format, args...); got != answer {
		c.Errorf("%s: %q, not %q", fmt.Sprintf(format, args...), got, answer)
	}
}

// kill ends it as nothing can be told of in advance. It is a zombie for as long as it is not waited for.
func (c *child) kill() {
	c.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.Error(err)
	}
	c.zombie()
	c.wait()
}

// zombie waits until it has ended, and leaves it as it is.
func (c *child) zombie() {
	c.Helper()
	const byPID, exited, leave = 1, 4, 0x1000000
	var info [128]byte
	for {
		_, _, code := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(c.pid()), uintptr(unsafe.Pointer(&info)), exited|leave, 0, 0)
		if code == 0 {
			return
		}
		if code != syscall.EINTR {
			c.Fatal(code)
		}
	}
}

func (c *child) wait() {
	c.ended = true
	_ = c.cmd.Wait() // it was killed, or its end is the test's matter
}

// serve is the work of a child: it reads commands and answers each.
func serve() error {
	d, err := driver.Open(os.Getenv("VOXCAM_CUDA_DRIVER"))
	if err != nil {
		return err
	}
	s := &server{driver: d}
	commands := map[string]func(n int) (string, error){
		"context": s.open, "close": s.close, "create": s.create, "release": s.release, "free": s.free, "things": s.things, "hang": s.hang,
		"busy": s.busy,
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.Atoi(text)
		command, ok := commands[name]
		if !ok {
			return fmt.Errorf("no command %s", name)
		}
		answer, err := command(n)
		if e, ok := errors.AsType[*driver.Error](err); ok {
			fmt.Println("refused", e.Code)
		} else if err != nil {
			return err
		} else {
			fmt.Println(answer)
		}
	}
	return lines.Err()
}

// server is the state of a child: its driver, context and memory.
type server struct {
	driver  *driver.Driver
	context *driver.Context
	pieces  []driver.Physical
}

func (s *server) open(int) (answer string, err error) {
	s.context, err = s.driver.Context(0)
	return "ok", err
}

func (s *server) close(int) (string, error) { return "ok", s.context.Close() }

// create takes bytes.
func (s *server) create(bytes int) (string, error) {
	return "ok", s.context.Do(func() error {
		h, err := s.context.CreatePhysical(bytes)
		if err == nil {
			s.pieces = append(s.pieces, h)
		}
		return err
	})
}

// release gives the oldest piece back.
func (s *server) release(int) (string, error) {
	h := s.pieces[0]
	s.pieces = slices.Delete(s.pieces, 0, 1)
	return "ok", s.context.Do(func() error { return s.context.Release(h) })
}

// free asks n times how much is free.
func (s *server) free(n int) (answer string, err error) {
	for range max(n, 1) {
		err = errors.Join(err, s.context.Do(func() error {
			free, _, err := s.context.MemInfo()
			answer = strconv.Itoa(free)
			return err
		}))
	}
	return answer, err
}

// things makes one of each.
func (s *server) things(int) (string, error) {
	return "ok", s.context.Do(func() error {
		at, err := s.context.ReserveAddress(piece, 0)
		if err != nil {
			return err
		}
		h, err := s.context.CreatePhysical(piece)
		if err != nil {
			return err
		}
		_, stream := s.context.NewStream()
		_, event := s.context.NewEvent(true)
		_, module := s.context.LoadModule([]byte("any"))
		_, host := s.context.AllocHost(1000)
		return errors.Join(stream, event, module, host, s.context.Map(at, piece, h))
	})
}

// hang asks in one thread what does not return, and then in another what does.
func (s *server) hang(int) (string, error) {
	go func() {
		_, err := s.free(1)
		fmt.Println("it returned", err)
	}()
	_, err := s.driver.Devices()
	return "ok", err
}

// busy asks how much is free until the process ends.
func (s *server) busy(int) (string, error) {
	go func() {
		for {
			if _, err := s.free(1); err != nil {
				fmt.Println(err)
			}
		}
	}()
	return "ok", nil
}
