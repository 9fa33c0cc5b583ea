package plan

import (
	"context"
	"errors"
	"reflect"
	"sync/atomic"
	"testing"

	"github.com/voxcam/voxcam/internal/ir"
)

// countdown is a context that is done when it has been asked so many times.
type countdown struct {
	context.Context
	left atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// A search that is stopped, wherever, gives an error, or what it gives undisturbed; never a plan that it had not looked for to the end.
func TestSearchStops(t *testing.T) {
	g := gated(t, true)
	opt := Options{External: []*ir.Value{g.Inputs[0]}}
	all := func(ctx context.Context) (least, fast *Plan, err error) {
		s, err := NewSearch(ctx, g, opt)
		if err != nil {
			return nil, nil, err
		}
		if least, err = s.Smallest(ctx); err != nil {
			return nil, nil, err
		}
		fast, err = s.Plan(ctx, least.Peak+least.Peak/3)
		return least, fast, err
	}
	wantLeast, wantFast, err := all(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stopped := 0
	for asked := int64(0); ; asked += 1 + asked/8 {
		ctx := &countdown{Context: context.Background()}
		ctx.left.Store(asked)
		least, fast, err := all(ctx)
		if err == nil {
			if !reflect.DeepEqual(least.Steps, wantLeast.Steps) || !reflect.DeepEqual(fast.Steps, wantFast.Steps) {
				t.Errorf("asked %d times: other plans", asked)
			}
			break
		}
		if stopped++; !errors.Is(err, context.Canceled) || fast != nil {
			t.Errorf("asked %d times: %v, %v", asked, fast, err)
		}
	}
	if stopped < 20 {
		t.Errorf("the search was stopped at %d places", stopped)
	}
}
