package reclaim

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/simulator"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/gpusurvey"
)

// held is what a holder takes of the simulated GPU, besides its context.
const held = 256 * bytesize.MiB

// takeMemory takes memory of the simulated GPU, if there is one.
func takeMemory() error {
	file := os.Getenv("VOXCAM_CUDA_DRIVER")
	if file == "" {
		return nil
	}
	d, err := driver.Open(file)
	if err != nil {
		return err
	}
	c, err := d.Context(0)
	if err != nil {
		return err
	}
	return c.Do(func() error {
		_, err := c.CreatePhysical(held)
		return err
	})
}

// Processes with memory of a GPU that the driver and NVML show end as they should, and their memory is free again.
func TestMemoryComesBack(t *testing.T) {
	s := simulator.Share(t)
	const capacity, context = 2 * bytesize.GiB, 64 * bytesize.MiB
	s.SetCapacity(capacity)
	s.SetContext(context)
	surveyor := gpusurvey.Open(gpusurvey.Options{Driver: s.Path, NVML: s.Path})
	defer surveyor.Close()

	_, polite, _ := child(t, "holder", "hold")
	_, deaf, _ := child(t, "deaf", "hold")
	_, orphan, end := child(t, "session", "run")
	end()
	others := s.Take(100 * bytesize.MiB) // nobody sees whose they are

	o := Options{System: user{Machine(s.Path)}, Survey: survey(surveyor), Sessions: nobody, End: true, Grace: 100 * time.Millisecond}
	for _, c := range []struct {
		pid     int
		consent Consent
		how     string
	}{
		{orphan, Consent{Yes: true}, EndedTerm},
		{deaf, Consent{Named: []int{deaf}}, EndedKill},
		{polite, Consent{Ask: func(c Candidate) (bool, error) { return c.PID == polite, nil }}, EndedTerm},
	} {
		if c.how == EndedTerm {
			o.Grace = 20 * time.Second
		}
		o.Consent = c.consent
		r, err := Run(t.Context(), o)
		if err != nil || len(r.Steps) != 1 {
			t.Fatalf("%+v, %+v, %v", r.Steps, r.Processes, err)
		}
		if got := find(t, r, "end", c.pid); got.Freed != held+context || got.Device != held+context || !strings.HasPrefix(got.Text, c.how) || !got.Done {
			t.Errorf("%+v", got)
		}
		if s.Used(c.pid) != 0 || r.Freed != held+context {
			t.Errorf("process %d still has %d, %d were freed", c.pid, s.Used(c.pid), r.Freed)
		}
		o.Grace = 100 * time.Millisecond
	}
	if got, want := s.Free(), capacity-others; got != want {
		t.Errorf("%d are free instead of %d", got, want)
	}
}

// A process that the driver lists but that has no GPU open here is one of another container: its number means somebody else.
func TestNumberOfAnotherContainer(t *testing.T) {
	s := simulator.Share(t)
	t.Setenv("VOXCAM_CUDA_DRIVER", "") // the child takes nothing
	_, pid, _ := child(t, "holder", "hold")
	s.TakeAs(pid, "other", 0, held)
	surveyor := gpusurvey.Open(gpusurvey.Options{Driver: s.Path, NVML: s.Path})
	defer surveyor.Close()
	o := Options{System: user{Machine(s.Path)}, Survey: survey(surveyor), Sessions: nobody, End: true, Consent: Consent{Named: []int{pid}}}
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := find(t, r, "end", pid); got.Done || !strings.Contains(got.Error, "another container") || s.Used(pid) != held {
		t.Errorf("%+v", got)
	}
}

func survey(s *gpusurvey.Surveyor) func(context.Context) ([]gpusurvey.GPU, error) {
	return func(ctx context.Context) ([]gpusurvey.GPU, error) {
		v, err := s.Survey(ctx)
		if err != nil {
			return nil, fmt.Errorf("survey: %w", err)
		}
		return v.GPUs, nil
	}
}

func nobody(context.Context) ([]Session, error) { return nil, nil }
