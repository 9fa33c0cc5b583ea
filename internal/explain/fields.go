package explain

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

// needs is what methods need of a network. That of a model only grows.
type needs struct {
	layer, input bool // gradients
	draws        bool
	moments      int // values
}

// needsOf is what choices need, for volumes of so many voxels.
func needsOf(choices []cam.Choice, voxels, channels int) (n needs) {
	var drawing []cam.Choice
	for _, c := range choices {
		switch kindOf(c) {
		case atLayer:
			n.layer = true
		case atInput:
			n.input = true
		case byDraws:
			n.input, n.draws = true, true
			drawing = append(drawing, c)
		}
	}
	n.moments = int(cam.MomentsBytes(voxels, channels, drawing...) / 4)
	return n
}

// and is what both need.
func (n needs) and(o needs) needs {
	return needs{n.layer || o.layer, n.input || o.input, n.draws || o.draws, max(n.moments, o.moments)}
}

// places say where fields lie.
type places struct {
	volume   backend.Place // and the noisy volume
	gradient backend.Place
	moments  backend.Place
	picture  backend.Place // map and heatmap
	ahead    backend.Place // the next volume, and a second picture
}

// onHost is nothing on the device.
var onHost = places{backend.OnHost, backend.OnHost, backend.OnHost, backend.OnHost, backend.OnHost}

// cheaper are places in the order in which room is made for plans: first goes what is read and written least often.
var cheaper = []places{
	{ahead: backend.OnHost},
	{ahead: backend.OnHost, picture: backend.OnHost},
	{ahead: backend.OnHost, picture: backend.OnHost, moments: backend.OnHost},
	{ahead: backend.OnHost, picture: backend.OnHost, moments: backend.OnHost, gradient: backend.OnHost},
	onHost,
}

// fields outlive a volume: programs are bound to them.
type fields struct {
	volume, noisy backend.Field
	gradient      backend.Field // taken with the first program that wants it outside the arena
	ahead         backend.Field // the next volume; nil where it waits with the caller
	signed        slide         // map of a layer
	pictures      [2]slide      // map at the volume's size, and heatmap; the first may have the field of noisy, the second none
	latest        int           // of pictures
}

// slide is a field for maps and heatmaps, from which they are brought to the host.
type slide struct {
	field  backend.Field
	leaves sync.WaitGroup // what is being brought
	later  bool           // it may be brought while the device goes on
}

// free is the field when it may be written.
func (s *slide) free() backend.Field {
	s.leaves.Wait()
	return s.field
}

// slide is where to make a map at the volume's size, or the heatmap of signed: another one than that if there are two.
func (f *fields) slide(signed *slide) *slide {
	if f.pictures[1].field == nil {
		return &f.pictures[0]
	}
	f.latest = 1 - f.latest
	if &f.pictures[f.latest] == signed {
		f.latest = 1 - f.latest
	}
	return &f.pictures[f.latest]
}

// settle waits for what is being brought from all slides.
func (f *fields) settle() {
	for _, s := range []*slide{&f.signed, &f.pictures[0], &f.pictures[1]} {
		s.leaves.Wait()
	}
}

func (f *fields) close() error {
	return errors.Join(f.closePictures(), closeFields(&f.volume, &f.noisy, &f.gradient, &f.ahead))
}

func (f *fields) closePictures() error {
	var errs []error
	for _, s := range []*slide{&f.signed, &f.pictures[0], &f.pictures[1]} {
		s.leaves.Wait()
		if s.field == f.noisy { // which only lent it
			s.field = nil
		}
		errs = append(errs, closeFields(&s.field))
	}
	return errors.Join(errs...)
}

// lends reports whether the noisy volume's field serves for maps and heatmaps.
func (f *fields) lends() bool { return f.noisy != nil && f.pictures[0].field == f.noisy }

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

func (n *network) voxels() int { return n.shape[1] * n.shape[2] * n.shape[3] }

// values is the number of values of a volume.
func (n *network) values() int { return n.shape[0] * n.voxels() }

// fieldBytes is what fields take of the budget.
func (n *network) fieldBytes(needed needs, at places) int {
	b := n.backend
	if needed == (needs{}) {
		return 0
	}
	total := b.FieldBytes(n.values(), at.volume)
	if !n.lends(needed, at) {
		total += b.FieldBytes(n.voxels(), at.picture)
	}
	if n.wants(needed, false) {
		g := n.target.Grid
		total += b.FieldBytes(g[0]*g[1]*g[2], at.picture)
	}
	if needed.input {
		total += b.FieldBytes(n.values(), at.gradient)
	}
	if needed.draws {
		total += b.FieldBytes(n.values(), at.volume) + b.FieldBytes(needed.moments, at.moments)
	}
	if n.overlaps(at) {
		total += b.FieldBytes(n.values(), at.ahead) + b.FieldBytes(n.voxels(), at.ahead)
	}
	return total
}

// overlaps reports whether there is memory on the device for what overlaps with computing.
func (n *network) overlaps(at places) bool {
	return n.waits(at) && at.ahead == backend.OnDevice && at.picture == backend.OnDevice
}

// lends reports whether maps and heatmaps are made where the noisy volume lies: nothing needs both at a time, unless maps are brought to
// the host while the device goes on.
func (n *network) lends(needed needs, at places) bool {
	return needed.draws && !n.overlaps(at) && at.volume == backend.OnDevice && at.picture == backend.OnDevice &&
		n.values() == n.voxels() && n.backend.FieldBytes(n.values(), at.volume) > 0
}

// waits reports whether the next volume waits in a field of its own.
func (n *network) waits(at places) bool {
	return n.ahead && at.volume == backend.OnDevice && n.backend.FieldBytes(n.values(), at.volume) > 0
}

// place decides where fields lie: on the device, unless plans that have their room are so much faster that it pays to fetch them.
func (n *network) place(ctx context.Context) (at places, err error) {
	switch {
	case n.budget.Smallest:
		at = onHost
	case n.budget.Bytes > 0 && n.fieldBytes(n.needs, places{}) > 0:
		if at, err = n.fastestPlaces(ctx); err != nil {
			return at, err
		}
		if generous := (places{}); n.overlaps(generous) {
			whole, err := n.passBytes(ctx, func(p *gradient) (sized, error) { return n.size(plan.Make(p.graph)) })
			if err != nil {
				return at, err
			}
			if n.fieldBytes(n.needs, generous)+whole <= n.budget.Bytes {
				at = generous
			}
		}
	}
	return at, nil
}

// fastestPlaces are those of cheaper with which a pass takes the least time, by the estimates of plans; the most on the device of several.
func (n *network) fastestPlaces(ctx context.Context) (at places, err error) {
	least, err := n.leastBytes(ctx)
	if err != nil {
		return at, err
	}
	fastest := math.Inf(1)
	at = onHost
	for _, p := range cheaper {
		fields := n.fieldBytes(n.needs, p)
		if fields+least > n.budget.Bytes {
			continue
		}
		seconds, err := n.passSeconds(ctx, n.budget.Bytes-fields)
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
func (n *network) hostSeconds(at places) float64 {
	fetched := n.fieldBytes(n.needs, cheaper[0]) - n.fieldBytes(n.needs, at)
	busy := 0.0
	if n.needs.draws && at.volume == backend.OnHost {
		busy += noiseSeconds
	}
	if n.needs.draws && at.moments == backend.OnHost {
		busy += momentSeconds
	}
	return float64(fetched)/busRate + busy*float64(n.values())/float64(runtime.GOMAXPROCS(0))
}

// passSeconds estimates the time of the passes that volumes need, or of a draw where there are some, in so many bytes besides fields.
func (n *network) passSeconds(ctx context.Context, bytes int) (seconds float64, err error) {
	err = n.eachPass(ctx, func(p *gradient, weights int) error {
		if p.input || !n.needs.draws {
			seconds += p.drafts.search.Seconds(bytes - weights)
		}
		return nil
	})
	return seconds, err
}

// wants reports whether there is a pass, to the layer or to the input, for what is needed.
func (n *network) wants(needed needs, input bool) bool {
	if input {
		return needed.input
	}
	return needed.layer && n.noLayer == nil
}

// eachPass calls f with the choices for each pass that volumes need, and the bytes of the weights.
func (n *network) eachPass(ctx context.Context, f func(p *gradient, weights int) error) error {
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
func (n *network) move(to places) (err error) {
	f, from := &n.fields, n.places
	var errs []error
	if from.picture != to.picture || n.overlaps(from) != n.overlaps(to) || f.lends() && !n.lends(n.needs, to) {
		errs = append(errs, f.closePictures())
	}
	if from.volume != to.volume {
		errs = append(errs, closeFields(&f.volume, &f.noisy))
	}
	if from.gradient != to.gradient {
		errs = append(errs, closeFields(&f.gradient))
	}
	if from.ahead != to.ahead || !n.waits(to) {
		errs = append(errs, closeFields(&f.ahead))
	}
	n.places = to
	return errors.Join(errs...)
}

// leastBytes is the least that the passes that are needed take besides fields.
func (n *network) leastBytes(ctx context.Context) (int, error) {
	return n.passBytes(ctx, func(p *gradient) (sized, error) { return n.smallest(ctx, p) })
}

// passBytes is what the passes that are needed take besides fields with the plans that choose makes.
func (n *network) passBytes(ctx context.Context, choose func(*gradient) (sized, error)) (most int, err error) {
	err = n.eachPass(ctx, func(p *gradient, weights int) error {
		made, err := choose(p)
		most = max(most, weights+made.bytes)
		return err
	})
	return most, err
}

// takeFields takes the fields for the volume, its noisy copies, and the next volume.
func (n *network) takeFields() error {
	if err := n.take(&n.fields.volume, n.values(), n.places.volume); err != nil {
		return err
	}
	if n.waits(n.places) {
		if err := n.take(&n.fields.ahead, n.values(), n.places.ahead); err != nil {
			return err
		}
	}
	if !n.needs.draws {
		return nil
	}
	return n.take(&n.fields.noisy, n.values(), n.places.volume)
}

// takePictures takes the fields for maps and heatmaps.
func (n *network) takePictures() error {
	if g := n.target.Grid; n.wants(n.needs, false) {
		if err := n.take(&n.fields.signed.field, g[0]*g[1]*g[2], n.places.picture); err != nil {
			return err
		}
	}
	pictures, later := &n.fields.pictures, n.overlaps(n.places)
	n.fields.signed.later, pictures[0].later, pictures[1].later = later, later, later
	if n.lends(n.needs, n.places) {
		if !n.fields.lends() {
			if err := closeFields(&pictures[0].field); err != nil {
				return err
			}
			pictures[0].field = n.fields.noisy
		}
		return nil
	}
	if later {
		if err := n.take(&pictures[1].field, n.voxels(), n.places.picture); err != nil {
			return err
		}
	}
	return n.take(&pictures[0].field, n.voxels(), n.places.picture)
}

// leavePictures gives the fields for maps and heatmaps back, unless the device has reserved memory for them.
func (n *network) leavePictures() error {
	if n.backend.FieldBytes(n.voxels(), n.places.picture) > 0 {
		return nil
	}
	return n.fields.closePictures()
}

// take takes a field, once.
func (n *network) take(f *backend.Field, values int, where backend.Place) (err error) {
	if *f == nil {
		*f, err = n.backend.NewField(values, where)
	}
	return err
}
