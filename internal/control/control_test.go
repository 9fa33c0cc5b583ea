package control

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/policy"
)

// session is a fake.
type session struct {
	status Status
	order  func(ctx context.Context, o policy.Order) (policy.Outcome, error)
}

func (s *session) Status(context.Context) (Status, error) { return s.status, nil }

func (s *session) Order(ctx context.Context, o policy.Order) (policy.Outcome, error) {
	return s.order(ctx, o)
}

// place makes the folders of sockets empty ones. Sockets have short paths: t.TempDir has the test's name in it.
func place(t *testing.T) (runtime, temporary string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	runtime, temporary = filepath.Join(dir, "r"), filepath.Join(dir, "t")
	for _, d := range []string{runtime, temporary} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDG_RUNTIME_DIR", runtime)
	t.Setenv("TMPDIR", temporary)
	return runtime, temporary
}

func serve(t *testing.T, s Responder) *Server {
	t.Helper()
	server, err := Serve(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server
}

func TestAsk(t *testing.T) {
	runtime, _ := place(t)
	started := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := &session{status: Status{PID: os.Getpid(), Session: "s", Started: started, Level: cam.LevelStreamed,
		Events: []cam.Event{{Time: started, Kind: cam.EventSmaller, Text: "less"}}}}
	s.order = func(_ context.Context, o policy.Order) (policy.Outcome, error) {
		if o.Operation == policy.Restart {
			return policy.Outcome{}, errors.New("not now")
		}
		return policy.Outcome{Operation: o.Operation, Seconds: o.For.Seconds()}, nil
	}
	server := serve(t, s)
	server.Handle("GET /metrics", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("voxcam_up 1\n")) }))
	if want := filepath.Join(runtime, "voxcam", socketName(os.Getpid())); server.Path != want {
		t.Errorf("the socket is %s instead of %s", server.Path, want)
	}
	all, err := Sessions(t.Context())
	if err != nil || len(all) != 1 || all[0].PID != os.Getpid() {
		t.Fatalf("sessions %v, %v", all, err)
	}
	c, err := Dial(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	status, err := c.Status(t.Context())
	if err != nil || status.Session != "s" || !status.Started.Equal(started) || len(status.Events) != 1 || status.Level != cam.LevelStreamed {
		t.Errorf("status %+v, %v", status, err)
	}
	out, err := c.Order(t.Context(), policy.Order{Operation: policy.Release, For: 3 * time.Second})
	if err != nil || out.Operation != policy.Release || out.Seconds != 3 {
		t.Errorf("outcome %+v, %v", out, err)
	}
	for _, bad := range []struct {
		order policy.Order
		want  string
	}{
		{policy.Order{Operation: policy.Restart}, "not now"},
		{policy.Order{Operation: "burn"}, `"burn" is not known`},
		{policy.Order{Operation: policy.Trim, Keep: -1}, "cannot be kept"},
		{policy.Order{Operation: policy.Release, For: -1}, "cannot be released for"},
	} {
		var refused *DeclinedError
		if _, err := c.Order(t.Context(), bad.order); !errors.As(err, &refused) || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("order %+v: %v", bad.order, err)
		}
	}
	if text, err := c.Get(t.Context(), "/metrics"); err != nil || string(text) != "voxcam_up 1\n" {
		t.Errorf("metrics %q, %v", text, err)
	}
	if _, err := c.Get(t.Context(), "/nothing"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := c.do(t.Context(), http.MethodPost, "/order", []byte(`{"operation":"trim","colour":1}`)); err == nil {
		t.Error("an order with a field that is not known was carried out")
	}
}

// A request in progress ends with the server, and with its client.
func TestEnds(t *testing.T) {
	place(t)
	in := make(chan struct{})
	s := &session{order: func(ctx context.Context, o policy.Order) (policy.Outcome, error) {
		in <- struct{}{}
		<-ctx.Done()
		return policy.Outcome{}, errors.New("the session ends")
	}}
	server := serve(t, s)
	c, err := Dial(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _, err := c.Order(ctx, policy.Order{Operation: policy.Release}); done <- err }()
	<-in
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("who gave up got %v", err)
	}
	go func() { _, err := c.Order(t.Context(), policy.Order{Operation: policy.Release}); done <- err }()
	<-in
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "the session ends") {
		t.Errorf("who waited got %v", err)
	}
	if _, err := os.Lstat(server.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	if _, err := c.Status(t.Context()); err == nil {
		t.Error("a session that ended answers")
	}
	if _, err := Dial(t.Context(), os.Getpid()); err == nil || !strings.Contains(err.Error(), "not a session of yours") {
		t.Errorf("reached a session that ended: %v", err)
	}
}

// What a killed session left is removed, by others and by the next process of that number; what is not a session's stays.
func TestStale(t *testing.T) {
	runtime, _ := place(t)
	gone := exec.Command(os.Args[0], "-test.run=^$")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(runtime, "voxcam")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	leave := func(name string) string {
		path := filepath.Join(dir, name)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		l.Close()
		return path
	}
	dead, own, begun, other := leave(socketName(gone.Process.Pid)), leave(socketName(os.Getpid())), leave(socketName(os.Getppid())), leave("x.sock")
	if all, err := Sessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("sessions %v, %v", all, err)
	}
	for path, stays := range map[string]bool{dead: false, own: true, begun: true, other: true} {
		if _, err := os.Lstat(path); (err == nil) != stays {
			t.Errorf("%s: %v", path, err)
		}
	}
	serve(t, &session{})
	if _, err := Dial(t.Context(), os.Getpid()); err != nil {
		t.Error(err)
	}
	if _, err := Serve(t.Context(), &session{}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second server of the same process: %v", err)
	}
}

// A folder that others could put sockets in is not used, and sessions in the next one are found.
func TestFolders(t *testing.T) {
	runtime, temporary := place(t)
	dir := filepath.Join(runtime, "voxcam")
	for name, spoil := range map[string]func() error{
		"is open to other users": func() error { return os.Mkdir(dir, 0o750) },
		"not a folder":           func() error { return os.Symlink(t.TempDir(), dir) },
		"":                       func() error { return os.Remove(runtime) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		server := serve(t, &session{})
		if filepath.Dir(filepath.Dir(server.Path)) != temporary {
			t.Errorf("%s: the socket is %s", name, server.Path)
		}
		all, err := Sessions(t.Context())
		if len(all) != 1 || name != "" && (err == nil || !strings.Contains(err.Error(), name)) || name == "" && err != nil {
			t.Errorf("%s: sessions %v, %v", name, all, err)
		}
		server.Close()
		os.Remove(dir)
		os.Mkdir(runtime, 0o700)
	}
	t.Setenv("TMPDIR", filepath.Join(temporary, strings.Repeat("long/", 30)))
	t.Setenv("XDG_RUNTIME_DIR", "relative")
	if err := os.MkdirAll(os.Getenv("TMPDIR"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Serve(t.Context(), &session{}); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a path that is too long: %v", err)
	}
}
