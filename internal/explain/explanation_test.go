package explain_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cpu"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// scripted is an explain.Executor that does what a test says, and by default nothing.
type scripted struct {
	passes int
	pass   func(pass int) error // counted from 1
	maps   int
	take   func(taken int) error // counted from 1
	events []string
}

var errAgain = errors.New("again")

func (x *scripted) BeforePass(context.Context) error {
	x.passes++
	if x.pass == nil {
		return nil
	}
	return x.pass(x.passes)
}

func (x *scripted) VolumeRead() {}

func (x *scripted) Take(f backend.Field, _ bool) ([]float32, error) {
	x.maps++
	if x.take != nil {
		if err := x.take(x.maps); err != nil {
			return nil, err
		}
	}
	return f.Take()
}

func (x *scripted) Retryable(err error) bool { return errors.Is(err, errAgain) }

func (x *scripted) Record(kind cam.EventKind, format string, args ...any) {
	x.events = append(x.events, fmt.Sprintf("%s: ", kind)+fmt.Sprintf(format, args...))
}

// bind binds a model to the shape of a volume.
func bind(t *testing.T, b backend.Backend, path string, opt network.ModelOptions, v *volume.Volume) *network.Network {
	t.Helper()
	file, err := network.OpenFile(t.Context(), path, opt, network.OpeningBytes(cam.Budget{}, b))
	if err != nil {
		t.Fatal(err)
	}
	n, err := file.Bind(t.Context(), network.Binding{Shape: [4]int{v.Channels, v.Depth, v.Height, v.Width}, Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(n.Close(), file.Close()); err != nil {
			t.Error(err)
		}
	})
	return n
}

// begin makes a network ready for a request.
func begin(t *testing.T, n *network.Network, v *volume.Volume, req cam.Request, x *scripted) *explain.Explanation {
	t.Helper()
	e, err := explain.New(v, req, x)
	if err == nil {
		err = explain.Place(t.Context(), n, v, e)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// explainOn explains a volume in one attempt.
func explainOn(t *testing.T, n *network.Network, v *volume.Volume, req cam.Request) *cam.Result {
	t.Helper()
	e := begin(t, n, v, req, &scripted{})
	if err := e.Attempt(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if err := e.Complete(); err != nil {
		t.Fatal(err)
	}
	return e.Result()
}

// openCase opens the case of the methods, with a request for each kind of them.
func openCase(t *testing.T) (*network.Network, *volume.Volume, cam.Request) {
	t.Helper()
	const folder = "../../testdata/cases/methods"
	v, err := format.Read(folder+"/volume.npy", format.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := cpu.New(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return bind(t, b, folder+"/model.torchscript.onnx", network.ModelOptions{}, v), v, cam.Request{
		Methods:  []string{"gradcam", "hirescam", "saliency", "smoothgrad", "vargrad", "integrated-gradients"},
		NSamples: 3, NoiseLevel: 0.1, SampleID: "x", Steps: 4,
	}
}

// untimed returns the methods of a result without the time that they took.
func untimed(r *cam.Result) []cam.MethodResult {
	methods := slices.Clone(r.Methods)
	for i := range methods {
		methods[i].Seconds = 0
	}
	return methods
}

// An attempt that ends before any pass is followed by one that goes on there, whatever becomes of what was gathered in between, and the
// result is that of a single attempt.
func TestAttemptsGoOn(t *testing.T) {
	n, v, req := openCase(t)
	undisturbed := &scripted{}
	e := begin(t, n, v, req, undisturbed)
	if err := e.Attempt(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	want, all := e.Result(), e.Finished()
	var events []string
	for name, between := range map[string]func(*explain.Explanation) error{
		"left alone":          func(*explain.Explanation) error { return nil },
		"kept":                func(e *explain.Explanation) error { return e.Rescue(false) },
		"brought to the host": func(e *explain.Explanation) error { return e.Rescue(true) },
		"moved":               func(e *explain.Explanation) error { return e.Relocate(n.Placement.Moments + 1) },
	} {
		for last := 1; last <= undisturbed.passes; last++ {
			x := &scripted{pass: func(pass int) error {
				if pass == last {
					return fmt.Errorf("before pass %d: %w", pass, errAgain)
				}
				return nil
			}}
			e := begin(t, n, v, req, x)
			if err := e.Attempt(t.Context(), n); !errors.Is(err, errAgain) {
				t.Fatalf("%s, before pass %d: %v", name, last, err)
			}
			finished := e.Finished()
			if finished >= all || last > 1 && finished == 0 {
				t.Errorf("%s, before pass %d: %d of %d were finished", name, last, finished, all)
			}
			if err := between(e); err != nil || e.Finished() != finished {
				t.Fatalf("%s: %v, and %d are finished, not %d", name, err, e.Finished(), finished)
			}
			if err := e.Attempt(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			got := e.Result()
			if !reflect.DeepEqual(untimed(got), untimed(want)) || !slices.Equal(got.Logits, want.Logits) || got.TargetClass != want.TargetClass {
				t.Errorf("%s, before pass %d: the result is another one", name, last)
			}
			if x.passes > undisturbed.passes+2 { // the one that did not come, and the pass that the volume's logits are from
				t.Errorf("%s, before pass %d: %d passes instead of %d", name, last, x.passes, undisturbed.passes)
			}
			if e.Finished() != all {
				t.Errorf("%s: %d of %d are finished", name, e.Finished(), all)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			events = append(events, x.events...)
		}
	}
	for _, event := range []string{"resumed: went on from draw 2 of 3", "resumed: went on from point 1 of 5"} {
		if !slices.Contains(events, event) {
			t.Errorf("%q is not among the events: %q", event, events)
		}
	}
}

// An error that no other attempt mends is the status of its method alone; any other one ends the attempt, and is mended by the next.
func TestErrorsOfMethods(t *testing.T) {
	n, v, req := openCase(t)
	want := untimed(explainOn(t, n, v, req))
	for call := 1; call <= 2*len(req.Methods); call++ { // a map and a heatmap each
		method := (call - 1) / 2
		for _, err := range []error{errors.New("fault"), errAgain} {
			x := &scripted{take: func(taken int) error {
				if taken == call {
					return err
				}
				return nil
			}}
			e := begin(t, n, v, req, x)
			if got := e.Attempt(t.Context(), n); x.Retryable(err) {
				if !errors.Is(got, err) {
					t.Fatalf("map %d: %v", call, got)
				}
				got = e.Attempt(t.Context(), n)
				if got != nil || !reflect.DeepEqual(untimed(e.Result()), want) {
					t.Errorf("map %d, again: %v, or another result", call, got)
				}
				continue
			} else if got != nil {
				t.Fatalf("map %d: %v", call, got)
			}
			for i, m := range untimed(e.Result()) {
				switch {
				case i != method && !reflect.DeepEqual(m, want[i]):
					t.Errorf("map %d: %s is another one", call, m.Method)
				case i == method && (m.Status != cam.StatusFailed || m.Reason != "fault" || m.Map != nil || m.Heatmap != nil):
					t.Errorf("map %d: %s %s, %d values", call, m.Status, m.Reason, len(m.Map))
				}
			}
		}
	}
}

// An explanation of no volume holds nothing and has nothing to give back.
func TestNoVolume(t *testing.T) {
	e := new(explain.Explanation)
	if err := errors.Join(e.Collect(), e.Relocate(backend.OnHost), e.Rescue(true), e.Close()); err != nil || e.Finished() != 0 {
		t.Errorf("%v, and %d finished", err, e.Finished())
	}
}
