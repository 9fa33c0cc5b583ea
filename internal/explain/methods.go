package explain

import (
	"context"
)

// layerMethods goes on from classify, if nothing came between.
func (e *Explanation) layerMethods(ctx context.Context, which []int) error {
	p, err := e.layer(ctx, which)
	if err != nil {
		return err
	}
	grid := e.net.Target.Grid
	for i, n := range e.volume.Dims() {
		e.result.CellSize[i] = float64(n) / float64(grid[i])
	}
	l, err := p.Layer(float64(e.result.Logits[e.result.TargetClass]))
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
