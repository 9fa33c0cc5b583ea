package hostmem

import (
	"fmt"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/noise"
	"github.com/voxcam/voxcam/internal/parallel"
)

// Attribution is backend.Attribution on fields of this package.
type Attribution struct{}

var _ backend.Attribution = Attribution{}

// of is a field of this package of the wanted length; any length will do for 0.
func of(f backend.Field, n int) (*Field, error) {
	own, ok := f.(*Field)
	if !ok {
		return nil, fmt.Errorf("a field of another backend (%T)", f)
	}
	if n == 0 {
		n = own.n
	}
	return own, own.check(n)
}

// pair is two fields of one length.
func pair(a, b backend.Field) (x, y *Field, err error) {
	if x, err = of(a, 0); err != nil {
		return nil, nil, err
	}
	y, err = of(b, x.n)
	return x, y, err
}

// Upload implements backend.Attribution. A volume of one channel is used where it is.
func (Attribution) Upload(dst backend.Field, volume []float32, channels int) error {
	d, err := of(dst, len(volume))
	if err != nil {
		return err
	}
	if channels == 1 {
		d.put(volume, true)
		return nil
	}
	Interleave(d.Fresh(), volume, channels)
	return nil
}

// Interleave writes a volume, [C, D, H, W], as [D, H, W, C].
func Interleave(dst, volume []float32, channels int) {
	n := len(volume) / channels
	parallel.Parts(n, parallel.Values/channels+1, func(_, from, to int) {
		for c := range channels {
			for i, x := range volume[c*n+from : c*n+to] {
				dst[(from+i)*channels+c] = x
			}
		}
	})
}

// Copy implements backend.Attribution.
func (Attribution) Copy(dst, src backend.Field) error {
	d, s, err := pair(dst, src)
	if err != nil {
		return err
	}
	copyAll(d.Fresh(), s.Values())
	return nil
}

// noisePiece is the number of voxels of noise that a processor makes at a time. Four values are made at once.
const noisePiece = parallel.Values / 4

// Perturb implements backend.Attribution.
func (Attribution) Perturb(dst, x backend.Field, channels int, p cam.Perturbation, z noise.Stream) error {
	d, s, err := pair(dst, x)
	if err != nil {
		return err
	}
	from, to, voxels := s.Values(), d.Fresh(), s.n/channels
	parallel.Parts(voxels, noisePiece, func(_, first, end int) {
		x, point := from[first*channels:end*channels], to[first*channels:end*channels]
		if p.Fraction != 1 {
			blend(point, x, p.Baseline, p.Fraction)
			x = point
		}
		switch {
		case p.Sigma != 0:
			z.AddToSlab(point, x, p.Sigma, noise.Slab{Channels: channels, Voxels: voxels, First: first})
		case p.Fraction == 1:
			copy(point, x)
		}
	})
	return nil
}

// blend sets dst to baseline + fraction*(x - baseline), each operation rounded for itself.
func blend(dst, x []float32, baseline, fraction float32) {
	dst = dst[:len(x)]
	for i, v := range x {
		dst[i] = baseline + float32(fraction*(v-baseline))
	}
}

// LayerMap implements backend.Attribution.
func (Attribution) LayerMap(dst backend.Field, c cam.Choice, l backend.Layer) error {
	d, err := of(dst, l.Layout.Voxels)
	if err != nil {
		return err
	}
	a, err := of(l.Activation, 0)
	if err != nil {
		return err
	}
	p := cam.LayerPoint{Activation: channelsLast(a.Values(), &l.Layout), Channels: l.Layout.Channels, Score: l.Score}
	if l.Gradient != nil {
		g, err := of(l.Gradient, a.n)
		if err != nil {
			return err
		}
		p.Gradient = channelsLast(g.Values(), &l.Layout)
	}
	m, err := c.LayerMap(p)
	if err == nil {
		d.put(m, false)
	}
	return err
}

// channelsLast is x as [voxels, C].
func channelsLast(x []float32, l *backend.Layout) []float32 {
	if (l.ChannelStride == 1 || l.Channels == 1) && packed(l) {
		return x[l.Start:][:l.Voxels*l.Channels]
	}
	out := make([]float32, l.Voxels*l.Channels)
	for v := range l.Voxels {
		at := l.At(v)
		for c := range l.Channels {
			out[v*l.Channels+c] = x[at+c*l.ChannelStride]
		}
	}
	return out
}

// packed reports whether voxels follow one another without gaps.
func packed(l *backend.Layout) bool {
	next := l.Channels
	for k := len(l.Size) - 1; k >= 0; k-- {
		if l.Size[k] > 1 && l.Stride[k] != next {
			return false
		}
		next *= l.Size[k]
	}
	return true
}

// InputMap implements backend.Attribution.
func (Attribution) InputMap(dst backend.Field, c cam.Choice, x, gradient backend.Field, channels int) error {
	a, g, err := pair(x, gradient)
	if err != nil {
		return err
	}
	d, err := of(dst, g.n/channels)
	if err != nil {
		return err
	}
	m, err := c.InputMap(cam.InputPoint{Input: a.Values(), Gradient: g.Values(), Channels: channels})
	if err == nil {
		d.put(m, false)
	}
	return err
}

// Heatmap implements backend.Attribution.
func (Attribution) Heatmap(dst, signed backend.Field, c cam.Choice, from, to [3]int) (cam.Finding, error) {
	d, err := of(dst, to[0]*to[1]*to[2])
	if err != nil {
		return "", err
	}
	s, err := of(signed, 0)
	if err != nil {
		return "", err
	}
	heat, finding, err := c.Heatmap(s.Values(), from, to)
	if err == nil {
		d.put(heat, false)
	}
	return finding, err
}

// moments are cam.Moments.
type moments struct{ m *cam.Moments }

// NewMoments implements backend.Attribution.
func (Attribution) NewMoments(values, channels int, _ backend.Place, choices ...cam.Choice) (backend.Moments, error) {
	m, err := cam.NewMoments(values/channels, channels, choices...)
	if err != nil {
		return nil, err
	}
	return &moments{m}, nil
}

func (m *moments) Add(gradient backend.Field, share float64) error {
	g, err := of(gradient, 0)
	if err != nil {
		return err
	}
	return m.m.AddShare(g.Values(), share)
}

func (m *moments) Map(dst backend.Field, c cam.Choice, x backend.Field, baseline float32) error {
	d, err := of(dst, 0)
	if err != nil {
		return err
	}
	gathered := cam.Gathered{Moments: m.m, Baseline: baseline}
	if c.Convention.Sampling() == cam.Path {
		v, err := of(x, 0)
		if err != nil {
			return err
		}
		gathered.Volume = v.Values()
	}
	values, err := c.PointsMap(gathered)
	if err != nil {
		return err
	}
	if err := d.check(len(values)); err != nil {
		return err
	}
	d.put(values, false)
	return nil
}

func (m *moments) Draws() int { return m.m.Draws() }

func (m *moments) Len() int { return m.m.StateLen() }

func (m *moments) Save(dst []float32) error { return m.m.Save(dst) }

func (m *moments) Load(src []float32, draws int) error { return m.m.Load(src, draws) }

func (m *moments) Close() error { return nil }
