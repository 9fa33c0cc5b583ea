package explain

import (
	"context"
	"errors"
	"time"

	"github.com/voxcam/voxcam/internal/network"
)

// layerMethods makes the maps that look at the layer. It goes on from classify, if nothing came between.
func (e *Explanation) layerMethods(ctx context.Context, which []int) error {
	p, err := e.layer(ctx, which)
	if err != nil {
		return err
	}
	grid := e.net.Target.Grid
	for i, n := range e.volume.Dims() {
		e.result.CellSize[i] = float64(n) / float64(grid[i])
	}
	l, err := p.Layer(e.result.Score.Value)
	if err != nil {
		return err
	}
	signed := &e.net.Buffers.Signed
	for _, i := range which {
		if err := e.finish(ctx, i, signed, grid, e.net.Backend.LayerMap(signed.Free(), e.choices[i], l)); err != nil {
			return err
		}
	}
	return nil
}

// inputMethods makes the maps that look at the gradient at the volume itself.
func (e *Explanation) inputMethods(ctx context.Context, which []int) error {
	f := &e.net.Buffers
	g, err := e.inputGradient(ctx, f.Volume)
	if err != nil {
		return err
	}
	for _, i := range which {
		s := f.Output(nil)
		made := e.net.Backend.InputMap(s.Free(), e.choices[i], f.Volume, g, e.volume.Channels)
		if err := e.finish(ctx, i, s, e.volume.Dims(), made); err != nil {
			return err
		}
	}
	return nil
}

// Attempt explains the volume with every unfinished method. The volume lies in the network's buffer for it, and the programs and buffers of
// Needs are ready.
// The methods that look at the layer share one pass, those that look at the input another, and those with the same points the evaluations.
// An error is a fault of the volume, or one that another attempt may mend; the fault of a method becomes its status.
func (e *Explanation) Attempt(ctx context.Context, n *network.Network) (err error) {
	e.net, e.ready = n, nil
	e.result.TargetLayer, e.result.Layer = n.Target.Label, n.Layer
	if err := n.TakeOutputs(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.FreeOutputs()) }()
	start := time.Now()
	if e.seed == nil {
		which := e.unfinished(e.byKind[network.AtLayer])
		if err := e.classify(ctx, len(which) > 0 && n.NoLayer == nil); err != nil {
			return err
		}
		e.spend(time.Since(start), which) // they go on from there
	}
	for _, k := range []struct {
		kind network.Kind
		run  func(context.Context, []int) error
	}{{network.AtLayer, e.layerMethods}, {network.AtInput, e.inputMethods}, {network.AtPoints, e.pointMethods}} {
		which := e.unfinished(e.byKind[k.kind])
		if len(which) == 0 {
			continue
		}
		start = time.Now()
		err := k.run(ctx, which)
		if k.kind != network.AtPoints { // whose methods share the time of their own points
			e.spend(time.Since(start), which)
		}
		if err := e.failMethods(ctx, err, which...); err != nil {
			return err
		}
	}
	return nil
}
