package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/voxcam/voxcam/internal/policy"
)

// operations are those that an order may have.
var operations = []policy.Operation{policy.Release, policy.Resume, policy.Trim, policy.Defragment, policy.Restart}

// Server serves a session's socket.
type Server struct {
	Path string // of the socket

	http    *http.Server
	routes  *http.ServeMux
	stop    context.CancelFunc
	stopped chan struct{} // closed when the server has ended
	err     error         // the reason, if not Close
}

// Serve answers for a session on a socket of this process, until Close. Requests see ctx end.
func Serve(ctx context.Context, session Responder) (*Server, error) {
	dir, err := makeFolder()
	if err != nil {
		return nil, fmt.Errorf("there is no place for the socket of this session: %w", err)
	}
	sweep(ctx, dir)
	path := filepath.Join(dir, socketName(os.Getpid()))
	listener, err := listen(ctx, path)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	s := &Server{Path: path, routes: http.NewServeMux(), stop: stop, stopped: make(chan struct{})}
	s.routes.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		status, err := session.Status(r.Context())
		reply(w, status, err)
	})
	s.routes.HandleFunc("POST /order", func(w http.ResponseWriter, r *http.Request) {
		order, err := readOrder(w, r)
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		outcome, err := session.Order(r.Context(), order)
		reply(w, outcome, err)
	})
	s.http = &http.Server{
		Handler:     http.HandlerFunc(s.handle),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, stranger{}, checkPeer(c))
		},
		ReadHeaderTimeout: 5 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0), // only about clients that have gone
	}
	go func() {
		defer close(s.stopped)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.err = err
		}
	}()
	return s, nil
}

// Handle adds a handler for a pattern of http.ServeMux, such as GET /metrics.
func (s *Server) Handle(pattern string, h http.Handler) { s.routes.Handle(pattern, h) }

// Close ends requests, waits for their answers a little, and removes the socket.
func (s *Server) Close() error {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil {
		s.http.Close()
	}
	<-s.stopped
	return s.err
}

// listen makes the socket. A socket of an earlier process of that number is removed.
func listen(ctx context.Context, path string) (net.Listener, error) {
	var c net.ListenConfig
	listener, err := c.Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		if reachable(ctx, path) {
			return nil, fmt.Errorf("%s is in use by a process of the same number, in another container perhaps", path)
		}
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s is no socket: remove it", path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		listener, err = c.Listen(ctx, "unix", path)
	}
	if errors.Is(err, syscall.EINVAL) {
		err = fmt.Errorf("%w: the path is too long for a socket, set XDG_RUNTIME_DIR to a shorter one", err)
	}
	return listener, err
}

// stranger is the context's key for the reason why a client is refused.
type stranger struct{}

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	if err, _ := r.Context().Value(stranger{}).(error); err != nil {
		refuse(w, http.StatusForbidden, err)
		return
	}
	s.routes.ServeHTTP(w, r)
}

func readOrder(w http.ResponseWriter, r *http.Request) (policy.Order, error) {
	var o policy.Order
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16))
	d.DisallowUnknownFields() // an order is carried out as it stands, or not at all
	if err := d.Decode(&o); err != nil {
		return o, fmt.Errorf("the order cannot be read: %w", err)
	}
	switch {
	case !slices.Contains(operations, o.Operation):
		return o, fmt.Errorf("operation %q is not known: choose from %q", o.Operation, operations)
	case o.Keep < 0:
		return o, fmt.Errorf("%d bytes cannot be kept", o.Keep)
	case o.For < 0:
		return o, fmt.Errorf("memory cannot be released for %v", o.For)
	}
	return o, nil
}

// failure is the body of an answer with an error.
type failure struct {
	Error string `json:"error"`
}

func reply(w http.ResponseWriter, value any, err error) {
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	text, err := json.Marshal(value)
	if err != nil {
		refuse(w, http.StatusInternalServerError, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(text) // a client that is gone needs no answer
}

func refuse(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(failure{err.Error()})
}
