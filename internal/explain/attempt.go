package explain

import (
	"context"
	"errors"
	"time"

	"github.com/voxcam/voxcam/internal/network"
)

// Attempt explains the volume with every method that is left. The volume lies in the network's buffer for it, and what Needs names is there.
// The methods that look at the layer share one pass, those that look at the input another, and those with the same points the evaluations.
// An error is one of the volume, or one that another attempt may mend; that of a method is its status.
func (e *Explanation) Attempt(ctx context.Context, n *network.Network) (err error) {
	e.net, e.ready = n, nil
	e.result.TargetLayer, e.result.Layer = n.Target.Label, n.Layer
	if err := n.TakeOutputs(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.LeaveOutputs()) }()
	start := time.Now()
	if e.result.Logits == nil {
		which := e.left(e.byKind[network.AtLayer])
		if err := e.classify(ctx, len(which) > 0 && n.NoLayer == nil); err != nil {
			return err
		}
		e.spend(time.Since(start), which) // they go on from there
	}
	for _, k := range []struct {
		kind network.Kind
		run  func(context.Context, []int) error
	}{{network.AtLayer, e.layerMethods}, {network.AtInput, e.inputMethods}, {network.AtPoints, e.pointMethods}} {
		which := e.left(e.byKind[k.kind])
		if len(which) == 0 {
			continue
		}
		start = time.Now()
		err := k.run(ctx, which)
		e.spend(time.Since(start), which)
		if err := e.settle(ctx, err, which...); err != nil {
			return err
		}
	}
	return nil
}
