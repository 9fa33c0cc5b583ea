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

// Needs is what methods need of a network. That of a model only grows.
type Needs struct {
	layer, input bool // gradients
	draws        bool // perturbed copies of the volume
	moments      int  // values
}

// NeedsOf returns what choices need, for volumes of so many voxels.
func NeedsOf(choices []cam.Choice, voxels, channels int) (n Needs) {
	sharing := map[cam.Sampling][]cam.Choice{} // moments are never those of two samplings at a time
	for _, c := range choices {
		switch KindOf(c) {
		case AtLayer:
			n.layer = true
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

// and is what both need.
func (n Needs) and(o Needs) Needs {
	return Needs{n.layer || o.layer, n.input || o.input, n.draws || o.draws, max(n.moments, o.moments)}
}

// places say where fields lie.
type places struct {
	volume   backend.Place // and the noisy volume
	gradient backend.Place
	Moments  backend.Place
	picture  backend.Place // map and heatmap
	ahead    backend.Place // the next volume, and a second picture
}

// onHost is nothing on the device.
var onHost = places{backend.OnHost, backend.OnHost, backend.OnHost, backend.OnHost, backend.OnHost}

// cheaper are places in the order in which room is made for plans: first goes what is read and written least often.
var cheaper = []places{
	{ahead: backend.OnHost},
	{ahead: backend.OnHost, picture: backend.OnHost},
	{ahead: backend.OnHost, picture: backend.OnHost, Moments: backend.OnHost},
	{ahead: backend.OnHost, picture: backend.OnHost, Moments: backend.OnHost, gradient: backend.OnHost},
	onHost,
}

// fields outlive a volume: programs are bound to them.
type fields struct {
	Volume, Noisy backend.Field
	gradient      backend.Field // taken with the first program that wants it outside the arena
	Ahead         backend.Field // the next volume; nil where it waits with the caller
	Signed        Slide         // map of a layer
	pictures      [2]Slide      // map at the volume's size, and heatmap; the first may have the field of noisy, the second none
	latest        int           // of pictures
}

// Slide is a field for maps and heatmaps, from which they are brought to the host.
type Slide struct {
	Field  backend.Field
	Leaves sync.WaitGroup // what is being brought
	Later  bool           // it may be brought while the device goes on
}

// Free is the field when it may be written.
func (s *Slide) Free() backend.Field {
	s.Leaves.Wait()
	return s.Field
}

// Slide is where to make a map at the volume's size, or the heatmap of signed: another one than that if there are two.
func (f *fields) Slide(signed *Slide) *Slide {
	if f.pictures[1].Field == nil {
		return &f.pictures[0]
	}
	f.latest = 1 - f.latest
	if &f.pictures[f.latest] == signed {
		f.latest = 1 - f.latest
	}
	return &f.pictures[f.latest]
}

// Settle waits for what is being brought from all slides.
func (f *fields) Settle() {
	for _, s := range []*Slide{&f.Signed, &f.pictures[0], &f.pictures[1]} {
		s.Leaves.Wait()
	}
}

func (f *fields) close() error {
	return errors.Join(f.closePictures(), closeFields(&f.Volume, &f.Noisy, &f.gradient, &f.Ahead))
}

func (f *fields) closePictures() error {
	var errs []error
	for _, s := range []*Slide{&f.Signed, &f.pictures[0], &f.pictures[1]} {
		s.Leaves.Wait()
		if s.Field == f.Noisy { // which only lent it
			s.Field = nil
		}
		errs = append(errs, closeFields(&s.Field))
	}
	return errors.Join(errs...)
}

// lends reports whether the noisy volume's field serves for maps and heatmaps.
func (f *fields) lends() bool { return f.Noisy != nil && f.pictures[0].Field == f.Noisy }

func closeFields(list ...*backend.Field) error {
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

// Values is the number of values of a volume.
func (n *Network) Values() int { return n.Shape[0] * n.Voxels() }

// fieldBytes is what fields take of the budget.
func (n *Network) fieldBytes(needed Needs, at places) int {
	b := n.Backend
	if needed == (Needs{}) {
		return 0
	}
	total := b.FieldBytes(n.Values(), at.volume)
	if !n.lends(needed, at) {
		total += b.FieldBytes(n.Voxels(), at.picture)
	}
	if n.wants(needed, false) {
		g := n.Target.Grid
		total += b.FieldBytes(g[0]*g[1]*g[2], at.picture)
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

// overlaps reports whether there is memory on the device for what overlaps with computing.
func (n *Network) overlaps(at places) bool {
	return n.waits(at) && at.ahead == backend.OnDevice && at.picture == backend.OnDevice
}

// lends reports whether maps and heatmaps are made where the noisy volume lies: nothing needs both at a time, unless maps are brought to
// the host while the device goes on.
func (n *Network) lends(needed Needs, at places) bool {
	return needed.draws && !n.overlaps(at) && at.volume == backend.OnDevice && at.picture == backend.OnDevice &&
		n.Values() == n.Voxels() && n.Backend.FieldBytes(n.Values(), at.volume) > 0
}

// waits reports whether the next volume waits in a field of its own.
func (n *Network) waits(at places) bool {
	return n.ahead && at.volume == backend.OnDevice && n.Backend.FieldBytes(n.Values(), at.volume) > 0
}

// place decides where fields lie: on the device, unless plans that have their room are so much faster that it pays to fetch them.
func (n *Network) place(ctx context.Context) (at places, err error) {
	switch {
	case n.Budget.Smallest:
		at = onHost
	case n.Budget.Bytes > 0 && n.fieldBytes(n.needs, places{}) > 0:
		if at, err = n.fastestPlaces(ctx); err != nil {
			return at, err
		}
		if generous := (places{}); n.overlaps(generous) {
			whole, err := n.passBytes(ctx, func(p *Gradient) (sized, error) { return n.size(plan.Make(p.graph)) })
			if err != nil {
				return at, err
			}
			if n.fieldBytes(n.needs, generous)+whole <= n.Budget.Bytes {
				at = generous
			}
		}
	}
	return at, nil
}

// fastestPlaces are those of cheaper with which a pass takes the least time, by the estimates of plans; the most on the device of several.
func (n *Network) fastestPlaces(ctx context.Context) (at places, err error) {
	least, err := n.LeastBytes(ctx)
	if err != nil {
		return at, err
	}
	fastest := math.Inf(1)
	at = onHost
	for _, p := range cheaper {
		fields := n.fieldBytes(n.needs, p)
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

// What fields on the host cost a pass. Beside an H200 with 16 processors a draw at 256^3 takes 40 ms longer with all fields there.
const (
	busRate       = 12e9   // bytes a second to or from the device
	noiseSeconds  = 18e-9  // of one processor, for a value of noise
	momentSeconds = 2.4e-9 // of one processor, for a value of a gradient that moments take in
)

// hostSeconds estimates how much longer a pass takes with fields that lie so than with all on the device.
func (n *Network) hostSeconds(at places) float64 {
	fetched := n.fieldBytes(n.needs, cheaper[0]) - n.fieldBytes(n.needs, at)
	busy := 0.0
	if n.needs.draws && at.volume == backend.OnHost {
		busy += noiseSeconds
	}
	if n.needs.draws && at.Moments == backend.OnHost {
		busy += momentSeconds
	}
	return float64(fetched)/busRate + busy*float64(n.Values())/float64(runtime.GOMAXPROCS(0))
}

// passSeconds estimates the time of the passes that volumes need, or of a draw where there are some, in so many bytes besides fields.
func (n *Network) passSeconds(ctx context.Context, bytes int) (seconds float64, err error) {
	err = n.eachPass(ctx, func(p *Gradient, weights int) error {
		if p.Input || !n.needs.draws {
			seconds += p.drafts.search.Seconds(bytes - weights)
		}
		return nil
	})
	return seconds, err
}

// wants reports whether there is a pass, to the layer or to the input, for what is needed.
func (n *Network) wants(needed Needs, input bool) bool {
	if input {
		return needed.input
	}
	return needed.layer && n.NoLayer == nil
}

// eachPass calls f with the choices for each pass that volumes need, and the bytes of the weights.
func (n *Network) eachPass(ctx context.Context, f func(p *Gradient, weights int) error) error {
	for _, input := range []bool{false, true} {
		if !n.wants(n.needs, input) {
			continue
		}
		p, err := n.draft(ctx, input)
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

// move gives back the fields that are not to lie where they do, and makes new ones lie there.
func (n *Network) move(to places) (err error) {
	f, from := &n.Fields, n.Places
	var errs []error
	if from.picture != to.picture || n.overlaps(from) != n.overlaps(to) || f.lends() && !n.lends(n.needs, to) {
		errs = append(errs, f.closePictures())
	}
	if from.volume != to.volume {
		errs = append(errs, closeFields(&f.Volume, &f.Noisy))
	}
	if from.gradient != to.gradient {
		errs = append(errs, closeFields(&f.gradient))
	}
	if from.ahead != to.ahead || !n.waits(to) {
		errs = append(errs, closeFields(&f.Ahead))
	}
	n.Places = to
	return errors.Join(errs...)
}

// LeastBytes is the least that the passes that are needed take besides fields.
func (n *Network) LeastBytes(ctx context.Context) (int, error) {
	return n.passBytes(ctx, func(p *Gradient) (sized, error) { return n.smallest(ctx, p) })
}

// passBytes is what the passes that are needed take besides fields with the plans that choose makes.
func (n *Network) passBytes(ctx context.Context, choose func(*Gradient) (sized, error)) (most int, err error) {
	err = n.eachPass(ctx, func(p *Gradient, weights int) error {
		made, err := choose(p)
		most = max(most, weights+made.bytes)
		return err
	})
	return most, err
}

// TakeFields takes the fields for the volume, its noisy copies, and the next volume.
func (n *Network) TakeFields() error {
	if err := n.take(&n.Fields.Volume, n.Values(), n.Places.volume); err != nil {
		return err
	}
	if n.waits(n.Places) {
		if err := n.take(&n.Fields.Ahead, n.Values(), n.Places.ahead); err != nil {
			return err
		}
	}
	if !n.needs.draws {
		return nil
	}
	return n.take(&n.Fields.Noisy, n.Values(), n.Places.volume)
}

// TakePictures takes the fields for maps and heatmaps.
func (n *Network) TakePictures() error {
	if g := n.Target.Grid; n.wants(n.needs, false) {
		if err := n.take(&n.Fields.Signed.Field, g[0]*g[1]*g[2], n.Places.picture); err != nil {
			return err
		}
	}
	pictures, later := &n.Fields.pictures, n.overlaps(n.Places)
	n.Fields.Signed.Later, pictures[0].Later, pictures[1].Later = later, later, later
	if n.lends(n.needs, n.Places) {
		if !n.Fields.lends() {
			if err := closeFields(&pictures[0].Field); err != nil {
				return err
			}
			pictures[0].Field = n.Fields.Noisy
		}
		return nil
	}
	if later {
		if err := n.take(&pictures[1].Field, n.Voxels(), n.Places.picture); err != nil {
			return err
		}
	}
	return n.take(&pictures[0].Field, n.Voxels(), n.Places.picture)
}

// LeavePictures gives the fields for maps and heatmaps back, unless the device has reserved memory for them.
func (n *Network) LeavePictures() error {
	if n.Backend.FieldBytes(n.Voxels(), n.Places.picture) > 0 {
		return nil
	}
	return n.Fields.closePictures()
}

// take takes a field, once.
func (n *Network) take(f *backend.Field, values int, where backend.Place) (err error) {
	if *f == nil {
		*f, err = n.Backend.NewField(values, where)
	}
	return err
}
