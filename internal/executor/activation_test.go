package executor_test

import (
	"slices"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda"
	"github.com/voxcam/voxcam/internal/executor"
)

// Methods that look at the activation alone run no backward pass, also where an earlier request has needed one. Their map is the same with it.
func TestActivationAlone(t *testing.T) {
	limited := newLimited(t, openCPU(t), 1<<30)
	checkActivationAlone(t, limited, func() (runs int) { return limited.said["run"] })
	checkActivationAlone(t, openCUDA(t, cuda.Options{}), nil)
}

// checkActivationAlone compares the maps, and the number of runs of programs if runs counts them.
func checkActivationAlone(t *testing.T, b backend.Backend, runs func() int) {
	t.Helper()
	v := series(t, 1)[0]
	m := openMethods(t, b, executor.Options{})
	var want []float32
	for _, c := range []struct {
		methods []string
		runs    int // forward and backward apart
	}{
		{[]string{"eigencam"}, 1},
		{[]string{"saliency", "eigencam"}, 2}, // of another program
		{[]string{"gradcam", "eigencam"}, 2},
		{[]string{"eigencam"}, 1},
	} {
		before := 0
		if runs != nil {
			before = runs()
		}
		r, err := m.Explain(t.Context(), v, cam.Request{Methods: c.methods})
		if err != nil {
			t.Fatal(err)
		}
		for _, method := range r.Methods {
			if method.Status != cam.StatusOK {
				t.Errorf("%v: %s is %s: %s", c.methods, method.Method, method.Status, method.Reason)
			}
		}
		got := r.Methods[len(r.Methods)-1].Map
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) {
			t.Errorf("%v: another map", c.methods)
		}
		if runs != nil && runs()-before != c.runs {
			t.Errorf("%v: %d runs, want %d", c.methods, runs()-before, c.runs)
		}
	}
}
