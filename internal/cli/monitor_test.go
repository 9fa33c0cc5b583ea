package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/monitor"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/session"
)

// looked is a machine with a GPU and a session.
func looked() monitor.Look {
	return monitor.Look{Time: time.Now(), GPUs: []gpusurvey.GPU{{UUID: "GPU-1", Name: "Card", Health: gpusurvey.Healthy,
		Figures: gpusurvey.Figures{Total: 8 * bytesize.GiB, Used: bytesize.GiB, TrulyFree: 7 * bytesize.GiB}}},
		Sessions: []monitor.Answer{{Status: control.Status{PID: 300, Session: "night", State: "computing", Done: 1, Total: 2}}}}
}

func watching(interval time.Duration) monitorOptions {
	return monitorOptions{interval: interval, history: time.Minute, look: func(context.Context) (monitor.Look, error) { return looked(), nil }}
}

func TestMonitorLines(t *testing.T) {
	o := watching(time.Hour)
	o.once = true
	var out bytes.Buffer
	if err := o.run(t.Context(), nil, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := regexp.MustCompile(`^[0-9:]{8} cuda:0 Card: 1 GiB used of 8 GiB, 7 GiB truly free, .*healthy\n[0-9:]{8} session night: computing.*1 of 2 samples.*\n$`); !want.MatchString(out.String()) {
		t.Errorf("%q", out.String())
	}
	out.Reset()
	o.asJSON = true
	if err := o.run(t.Context(), nil, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	var got struct {
		GPUs []struct {
			Free int     `json:"truly_free_bytes"`
			GB   float64 `json:"truly_free_gb"`
		} `json:"gpus"`
		Sessions []struct {
			Session string `json:"session"`
			Done    int    `json:"done"`
		} `json:"sessions"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || strings.Count(out.String(), "\n") != 1 || len(got.GPUs) != 1 || got.GPUs[0].Free != 7*bytesize.GiB ||
		got.GPUs[0].GB != 7 || len(got.Sessions) != 1 || got.Sessions[0].Session != "night" || got.Sessions[0].Done != 1 {
		t.Errorf("%v: %s", err, out.String())
	}
}

// Metrics are served while lines are printed, and no longer.
func TestMonitorServesMetrics(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := watching(time.Millisecond)
	o.prometheus = "127.0.0.1:0"
	address := make(chan string, 1)
	o.served = func(at string) { address <- at }
	ended := make(chan error, 1)
	first, looks := make(chan struct{}), 0
	go func() {
		ended <- o.run(ctx, nil, writer(func([]byte) {
			if looks++; looks == 1 {
				close(first)
			}
		}), io.Discard)
	}()
	at := <-address
	<-first
	answer, err := http.Get("http://" + at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || !strings.Contains(string(text), `voxcam_gpu_memory_free_bytes{gpu="cuda:0",uuid="GPU-1",name="Card"} 7516192768`) {
		t.Errorf("%v: %s", err, text)
	}
	second := o
	second.prometheus, second.served = at, nil
	var exit *exitError
	if err := second.run(ctx, nil, io.Discard, io.Discard); !errors.As(err, &exit) || exit.code != session.ExitRefused || !strings.Contains(err.Error(), "in use") {
		t.Errorf("an address that is in use: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if answer, err := http.Get("http://" + at + "/metrics"); err == nil {
		answer.Body.Close()
		t.Error("metrics are served after the end")
	}
}

// Only who says so opens metrics to others.
func TestMetricsForWhom(t *testing.T) {
	for address, open := range map[string]bool{":0": false, "localhost:0": false, "127.0.0.1:0": false, "0.0.0.0:0": true} {
		var talk strings.Builder
		ctx, cancel := context.WithCancel(t.Context())
		o := watching(time.Millisecond)
		o.prometheus, o.served = address, func(string) { cancel() }
		if err := o.run(ctx, nil, io.Discard, &talk); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		said := strings.Contains(talk.String(), "for everybody who reaches this machine")
		if !strings.Contains(talk.String(), "note: metrics at http://") || said != open || !open && !strings.Contains(talk.String(), "http://127.0.0.1:") {
			t.Errorf("%s: %q", address, talk.String())
		}
		cancel()
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestMonitorFlags(t *testing.T) {
	for args, says := range map[string]string{
		"--interval 1ms": "at least 100ms", "--interval 10m": "--history 5m0s", "--prometheus nowhere --once": "--prometheus", "extra": "no argument",
	} {
		_, messages := runCommand(t, session.ExitRefused, append([]string{"monitor"}, strings.Fields(args)...)...)
		if !strings.Contains(messages, says) {
			t.Errorf("%s: %s", args, messages)
		}
	}
}

// The whole way: NVML of a shared GPU, and a session that answers on its socket.
func TestMonitorAndRecoverThisMachine(t *testing.T) {
	s := simulator.Share(t)
	noSessions(t)
	s.SetCapacity(8 * bytesize.GiB)
	s.SetContext(100 * bytesize.MiB) // which would show
	s.TakeAs(os.Getpid(), "voxcam", 0, 3*bytesize.GiB)
	b := &resident{s: s}
	server, err := control.Serve(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	text, _ := runCommand(t, session.ExitOK, "monitor", "--once")
	for _, pattern := range []string{`cuda:0 Simulator: 3 GiB used of 8 GiB, 5 GiB truly free, ours 3 GiB, 1 process`, `session night: computing`} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("monitor does not say %s:\n%s", pattern, text)
		}
	}
	text, _ = runCommand(t, session.ExitOK, "recover", "--for", "30s")
	for _, pattern := range []string{`release +session night \(process \d+\) +2 GiB freed; it holds little for 30s`, `trim .* 0 B: nothing was unused`,
		`truly free on cuda:0 +5 GiB +7 GiB +\+2 GiB`, `memory of cuda:0 is healthy; 2 GiB came back`} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("recover does not say %s:\n%s", pattern, text)
		}
	}
}

// resident is a session of this process, which has 3 GiB and can do with 1.
type resident struct{ s *simulator.Shared }

func (r *resident) Status(context.Context) (control.Status, error) {
	return control.Status{PID: os.Getpid(), Session: "night", State: "computing", Usage: r.usage()}, nil
}

func (r *resident) usage() backend.Usage { return backend.Usage{Reserved: r.s.Used(os.Getpid())} }

func (r *resident) Order(_ context.Context, o policy.Order) (policy.Outcome, error) {
	before := r.usage()
	if o.Operation == policy.Release {
		r.s.TakeAs(os.Getpid(), "voxcam", 0, bytesize.GiB)
	}
	return policy.Outcome{Operation: o.Operation, Before: before, After: r.usage()}, nil
}
