package network

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/plan"
)

// Needs lists the programs and device buffers that methods use. A model's needs only grow.
type Needs struct {
	layer, input bool // gradients
	activation   bool // of the layer
	draws        bool // perturbed copies of the volume
	moments      int  // values
}

// NeedsOf returns the needs of choices, for volumes of that many voxels and channels.
func NeedsOf(choices []cam.Choice, voxels, channels int) (n Needs) {
	sharing := map[cam.Sampling][]cam.Choice{} // moments of two samplings never exist at a time
	for _, c := range choices {
		switch KindOf(c) {
		case AtLayer:
			n.layer = n.layer || c.Convention.UsesGradient()
			n.activation = true
		case AtInput:
			n.input = true
		case AtPoints:
			n.input, n.draws = true, true
			sharing[c.Convention.Sampling()] = append(sharing[c.Convention.Sampling()], c)
		}
	}
	for _, together := range sharing {
		n.moments = max(n.moments, int(cam.MomentsBytes(voxels, channels, together...)/4))
	}
	return n
}

// and returns the needs of both.
func (n Needs) and(o Needs) Needs {
	return Needs{n.layer || o.layer, n.input || o.input, n.activation || o.activation, n.draws || o.draws, max(n.moments, o.moments)}
}

// placement is the place of each device buffer.
type placement struct {
	volume   backend.Place // and the noisy volume
	gradient backend.Place
	Moments  backend.Place
	maps     backend.Place // map and heatmap
	ahead    backend.Place // the next volume, and the second one of maps
}

// onHost places nothing on the device.
var onHost = placement{backend.OnHost, backend.OnHost, backend.OnHost, backend.OnHost, backend.OnHost}

// cheaper lists placements in the order in which room is made for plans: buffers that are read and written least often go to the host first.
var cheaper = []placement{
	{ahead: backend.OnHost},
	{ahead: backend.OnHost, maps: backend.OnHost},
	{ahead: backend.OnHost, maps: backend.OnHost, Moments: backend.OnHost},
	{ahead: backend.OnHost, maps: backend.OnHost, Moments: backend.OnHost, gradient: backend.OnHost},
	onHost,
}

// buffers are the device buffers of a network. They outlive a volume, because programs are bound to them.
type buffers struct {
	Volume, Noisy backend.Field
	gradient      backend.Field // taken with the first program whose gradient lies outside the arena
	Ahead         backend.Field // the next volume; nil where it stays with the caller
	Signed        Output        // map of a layer
	maps          [2]Output     // map at the volume's size, and heatmap; the first may use the field of Noisy, the second may have none
	latest        int           // of maps
}

// Output is a device buffer in which maps and heatmaps are made, and from which they are brought to the host.
type Output struct {
	Field     backend.Field
	Transfers sync.WaitGroup // transfers to the host
	Overlaps  bool           // transfers may go on while the device computes
}

// Free waits for transfers, and returns the buffer.
func (s *Output) Free() backend.Field {
	s.Transfers.Wait()
	return s.Field
}

// Output returns the buffer for a map at the volume's size, or for the heatmap of signed: another one than signed if there are two.
func (f *buffers) Output(signed *Output) *Output {
	if f.maps[1].Field == nil {
		return &f.maps[0]
	}
	f.latest = 1 - f.latest
	if &f.maps[f.latest] == signed {
		f.latest = 1 - f.latest
	}
	return &f.maps[f.latest]
}

// WaitOutputs waits for the transfers from all outputs.
func (f *buffers) WaitOutputs() {
	for _, s := range []*Output{&f.Signed, &f.maps[0], &f.maps[1]} {
		s.Transfers.Wait()
	}
}

func (f *buffers) close() error {
	return errors.Join(f.closeOutputs(), closeBuffers(&f.Volume, &f.Noisy, &f.gradient, &f.Ahead))
}

func (f *buffers) closeOutputs() error {
	var errs []error
	for _, s := range []*Output{&f.Signed, &f.maps[0], &f.maps[1]} {
		s.Transfers.Wait()
		if s.Field == f.Noisy { // Noisy owns it
			s.Field = nil
		}
		errs = append(errs, closeBuffers(&s.Field))
	}
	return errors.Join(errs...)
}

// shares reports whether maps and heatmaps are made in the buffer of perturbed volumes.
func (f *buffers) shares() bool { return f.Noisy != nil && f.maps[0].Field == f.Noisy }

func closeBuffers(list ...*backend.Field) error {
	var errs []error
	for _, f := range list {
		if *f != nil {
			errs = append(errs, (*f).Close())
			*f = nil
		}
	}
	return errors.Join(errs...)
}

func (n *Network) Voxels() int { return n.Shape[1] * n.Shape[2] * n.Shape[3] }

// Values returns the number of values of a volume.
func (n *Network) Values() int { return n.Shape[0] * n.Voxels() }

// bufferBytes returns the bytes that device buffers take of the budget.
func (n *Network) bufferBytes(needed Needs, at placement) int {
	b := n.Backend
	if needed == (Needs{}) {
		return 0
	}
	total := b.FieldBytes(n.Values(), at.volume)
	if !n.shares(needed, at) {
		total += b.FieldBytes(n.Voxels(), at.maps)
	}
	if n.wants(needed, false) {
		g := n.Target.Grid
		total += b.FieldBytes(g[0]*g[1]*g[2], at.maps)
	}
	if needed.input {
		total += b.FieldBytes(n.Values(), at.gradient)
	}
	if needed.draws {
		total += b.FieldBytes(n.Values(), at.volume) + b.FieldBytes(needed.moments, at.Moments)
	}
	if n.overlaps(at) {
		total += b.FieldBytes(n.Values(), at.ahead) + b.FieldBytes(n.Voxels(), at.ahead)
	}
	return total
}

// overlaps reports whether the device has the buffers for transfers that overlap with computing.
func (n *Network) overlaps(at placement) bool {
	return n.waits(at) && at.ahead == backend.OnDevice && at.maps == backend.OnDevice
}

// shares reports whether a placement lets maps and heatmaps be made in the buffer of perturbed volumes: nothing needs both at a time, unless
// maps are brought to the host while the device goes on.
func (n *Network) shares(needed Needs, at placement) bool {
	return needed.draws && !n.overlaps(at) && at.volume == backend.OnDevice && at.maps == backend.OnDevice &&
		n.Values() == n.Voxels() && n.Backend.FieldBytes(n.Values(), at.volume) > 0
}

// waits reports whether the next volume waits in a buffer of its own.
func (n *Network) waits(at placement) bool {
	return n.ahead && at.volume == backend.OnDevice && n.Backend.FieldBytes(n.Values(), at.volume) > 0
}

// place chooses the placement: all on the device, unless plans that get the room of buffers are so much faster that transfers pay.
func (n *Network) place(ctx context.Context) (at placement, err error) {
	switch {
	case n.Budget.Smallest:
		at = onHost
	case n.Budget.Bytes > 0 && n.bufferBytes(n.needs, placement{}) > 0:
		if at, err = n.fastestPlacement(ctx); err != nil {
			return at, err
		}
		if generous := (placement{}); n.overlaps(generous) {
			whole, err := n.passBytes(ctx, func(p *Gradient) (sized, error) { return n.size(plan.Make(p.graph)) })
			if err != nil {
				return at, err
			}
			if n.bufferBytes(n.needs, generous)+whole <= n.Budget.Bytes {
				at = generous
			}
		}
	}
	return at, nil
}

// fastestPlacement returns the placement of cheaper with the shortest estimated time of a pass; of several, the one with the most on the
// device.
func (n *Network) fastestPlacement(ctx context.Context) (at placement, err error) {
	least, err := n.LeastBytes(ctx)
	if err != nil {
		return at, err
	}
	fastest := math.Inf(1)
	at = onHost
	for _, p := range cheaper {
		fields := n.bufferBytes(n.needs, p)
		if fields+least > n.Budget.Bytes {
			continue
		}
		seconds, err := n.passSeconds(ctx, n.Budget.Bytes-fields)
		if err != nil {
			return at, err
		}
		if seconds += n.hostSeconds(p); seconds < fastest {
			at, fastest = p, seconds
		}
	}
	return at, nil
}

// Costs of buffers on the host for a pass. Beside an H200 with 16 processors a draw at 256^3 takes 40 ms longer with all of them there.
const (
	busRate       = 12e9   // bytes a second to or from the device
	noiseSeconds  = 18e-9  // of one processor, for a value of noise
	momentSeconds = 2.4e-9 // of one processor, for a value of a gradient that is added to moments
)

// hostSeconds estimates how much longer a pass takes with a placement than with all on the device.
func (n *Network) hostSeconds(at placement) float64 {
	fetched := n.bufferBytes(n.needs, cheaper[0]) - n.bufferBytes(n.needs, at)
	busy := 0.0
	if n.needs.draws && at.volume == backend.OnHost {
		busy += noiseSeconds
	}
	if n.needs.draws && at.Moments == backend.OnHost {
		busy += momentSeconds
	}
	return float64(fetched)/busRate + busy*float64(n.Values())/float64(runtime.GOMAXPROCS(0))
}

// passSeconds estimates the time of the passes that a volume needs, or of one draw if there are draws, with plans of at most bytes.
func (n *Network) passSeconds(ctx context.Context, bytes int) (seconds float64, err error) {
	err = n.eachPass(ctx, func(p *Gradient, weights int) error {
		if p.Input || !n.needs.draws {
			seconds += p.candidates.search.Seconds(bytes - weights)
		}
		return nil
	})
	return seconds, err
}

// wants reports whether the program for the layer, or for the input, is needed.
func (n *Network) wants(needed Needs, input bool) bool {
	if input {
		return needed.input
	}
	return (needed.layer || needed.activation) && n.NoLayer == nil
}

// activationOnly reports whether the program at the layer stops at the scores: no method looks at the gradient there.
func (n *Network) activationOnly() bool { return n.needs.activation && !n.needs.layer }

// eachPass calls f with each needed program, its candidates, and the bytes of the weights.
func (n *Network) eachPass(ctx context.Context, f func(p *Gradient, weights int) error) error {
	for _, input := range []bool{false, true} {
		if !n.wants(n.needs, input) {
			continue
		}
		p, err := n.candidate(ctx, input)
		if err != nil {
			return err
		}
		weights, err := n.weightBytes(p)
		if err != nil {
			return err
		}
		if err := f(p, weights); err != nil {
			return err
		}
	}
	return nil
}

// move changes the placement. It gives back the buffers whose place changes; they are taken again when they are needed.
func (n *Network) move(to placement) (err error) {
	f, from := &n.Buffers, n.Placement
	var errs []error
	if from.maps != to.maps || n.overlaps(from) != n.overlaps(to) || f.shares() && !n.shares(n.needs, to) {
		errs = append(errs, f.closeOutputs())
	}
	if from.volume != to.volume {
		errs = append(errs, closeBuffers(&f.Volume, &f.Noisy))
	}
	if from.gradient != to.gradient {
		errs = append(errs, closeBuffers(&f.gradient))
	}
	if from.ahead != to.ahead || !n.waits(to) {
		errs = append(errs, closeBuffers(&f.Ahead))
	}
	n.Placement = to
	return errors.Join(errs...)
}

// LeastBytes returns the bytes of the needed programs with their smallest plans, without the buffers.
func (n *Network) LeastBytes(ctx context.Context) (int, error) {
	return n.passBytes(ctx, func(p *Gradient) (sized, error) { return n.smallest(ctx, p) })
}

// passBytes returns the bytes of the needed programs with the plans that choose returns, without the buffers.
func (n *Network) passBytes(ctx context.Context, choose func(*Gradient) (sized, error)) (most int, err error) {
	err = n.eachPass(ctx, func(p *Gradient, weights int) error {
		made, err := choose(p)
		most = max(most, weights+made.bytes)
		return err
	})
	return most, err
}

// TakeBuffers takes the buffers for the volume, its perturbed copies, and the next volume.
func (n *Network) TakeBuffers() error {
	if err := n.take(&n.Buffers.Volume, n.Values(), n.Placement.volume); err != nil {
		return err
	}
	if n.waits(n.Placement) {
		if err := n.take(&n.Buffers.Ahead, n.Values(), n.Placement.ahead); err != nil {
			return err
		}
	}
	if !n.needs.draws {
		return nil
	}
	return n.take(&n.Buffers.Noisy, n.Values(), n.Placement.volume)
}

// TakeOutputs takes the buffers for maps and heatmaps.
func (n *Network) TakeOutputs() error {
	if g := n.Target.Grid; n.wants(n.needs, false) {
		if err := n.take(&n.Buffers.Signed.Field, g[0]*g[1]*g[2], n.Placement.maps); err != nil {
			return err
		}
	}
	maps, later := &n.Buffers.maps, n.overlaps(n.Placement)
	n.Buffers.Signed.Overlaps, maps[0].Overlaps, maps[1].Overlaps = later, later, later
	if n.shares(n.needs, n.Placement) {
		if !n.Buffers.shares() {
			if err := closeBuffers(&maps[0].Field); err != nil {
				return err
			}
			maps[0].Field = n.Buffers.Noisy
		}
		return nil
	}
	if later {
		if err := n.take(&maps[1].Field, n.Voxels(), n.Placement.maps); err != nil {
			return err
		}
	}
	return n.take(&maps[0].Field, n.Voxels(), n.Placement.maps)
}

// FreeOutputs gives the buffers for maps and heatmaps back, unless the device has reserved memory for them.
func (n *Network) FreeOutputs() error {
	if n.Backend.FieldBytes(n.Voxels(), n.Placement.maps) > 0 {
		return nil
	}
	return n.Buffers.closeOutputs()
}

// take takes a buffer, if it was not taken yet.
func (n *Network) take(f *backend.Field, values int, where backend.Place) (err error) {
	if *f == nil {
		*f, err = n.Backend.NewField(values, where)
	}
	return err
}
