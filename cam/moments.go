package cam

import (
	"fmt"
	"math"
	"slices"

	"github.com/voxcam/voxcam/internal/parallel"
)

// keep is a set of running quantities, one float32 for each value of the gradient.
type keep uint

const (
	keepMean   keep = 1 << iota
	keepM2          // sum of squared distances from the mean; needs the mean
	keepAbs         // mean of absolute values
	keepSquare      // mean of squares; not stored where mean and M2 give it
)

// Moments gathers the gradients at many points, such as noisy draws, in place, by Welford's recurrence: its memory does not depend on their
// number. Its state is float32, the arithmetic of each step float64.
//
// The gradients are channels-last, [voxels, channels]. They come whole (Add, AddShare) or in slabs (AddSlab), and moments of different
// draws can be merged. A Moments belongs to one goroutine at a time.
type Moments struct {
	n        int // complete draws
	size     int // values of a gradient
	channels int
	mean     []float32
	m2       []float32
	abs      []float32
	square   []float32
	partial  []span // slabs of draw n so far, ascending and disjoint
}

// span is the values [from, to) of a gradient.
type span struct{ from, to int }

// MomentsBytes is the memory that NewMoments takes.
func MomentsBytes(voxels, channels int, choices ...Choice) int64 {
	return 4 * int64(voxels) * int64(channels) * int64(len(arrays(keepOf(choices))))
}

// Kept reports which sums moments keep for choices: the mean of the gradients, the sum of squared distances from it, the means of their
// absolute values and of their squares.
func Kept(choices ...Choice) (mean, m2, abs, square bool) {
	k := keepOf(choices)
	return k&(keepMean|keepM2) != 0, k&keepM2 != 0, k&keepAbs != 0, k&keepSquare != 0 && k&keepM2 == 0
}

// NewMoments returns moments of no draws, for gradients of voxels*channels values. They keep only what the choices need.
func NewMoments(voxels, channels int, choices ...Choice) (*Moments, error) {
	if voxels <= 0 || channels <= 0 || voxels > math.MaxInt/8/channels {
		return nil, fmt.Errorf("cam: no moments of %d voxels of %d channels", voxels, channels)
	}
	for _, c := range choices {
		if _, _, ok := c.Convention.gathers(); !ok {
			return nil, fmt.Errorf("cam: %s has no points of its own", c.Name)
		}
	}
	m := &Moments{size: voxels * channels, channels: channels}
	for _, a := range arrays(keepOf(choices)) {
		*a(m) = make([]float32, m.size)
	}
	return m, nil
}

// MomentsOf returns moments that were gathered elsewhere, of the given number of draws; slices that were not kept are nil. The slices are
// used, not copied.
func MomentsOf(draws, channels int, mean, m2, abs, square []float32) (*Moments, error) {
	m := &Moments{n: draws, channels: channels, mean: mean, m2: m2, abs: abs, square: square}
	for _, a := range [][]float32{mean, m2, abs, square} {
		if a == nil {
			continue
		}
		if m.size == 0 {
			m.size = len(a)
		}
		if len(a) != m.size || channels < 1 || m.size%channels != 0 {
			return nil, fmt.Errorf("cam: moments of %d and %d values of %d channels", m.size, len(a), channels)
		}
	}
	return m, nil
}

func keepOf(choices []Choice) (k keep) {
	for _, c := range choices {
		kept, _, _ := c.Convention.gathers()
		k |= kept
	}
	return k
}

// arrays lists the arrays of the kept values.
func arrays(k keep) (list []func(*Moments) *[]float32) {
	if k&(keepMean|keepM2) != 0 {
		list = append(list, func(m *Moments) *[]float32 { return &m.mean })
	}
	if k&keepM2 != 0 {
		list = append(list, func(m *Moments) *[]float32 { return &m.m2 })
	}
	if k&keepAbs != 0 {
		list = append(list, func(m *Moments) *[]float32 { return &m.abs })
	}
	if k&keepSquare != 0 && k&keepM2 == 0 {
		list = append(list, func(m *Moments) *[]float32 { return &m.square })
	}
	return list
}

// has reports whether the moments hold all that k asks for.
func (m *Moments) has(k keep) bool {
	return (k&keepMean == 0 || m.mean != nil) && (k&keepM2 == 0 || m.m2 != nil) && (k&keepAbs == 0 || m.abs != nil) &&
		(k&keepSquare == 0 || m.square != nil || m.m2 != nil)
}

// Draws is the number of complete draws.
func (m *Moments) Draws() int { return m.n }

// StateLen is the number of values of the state.
func (m *Moments) StateLen() int {
	total := 0
	for _, a := range m.kept() {
		total += len(a)
	}
	return total
}

func (m *Moments) kept() (list [][]float32) {
	for _, a := range [][]float32{m.mean, m.m2, m.abs, m.square} {
		if a != nil {
			list = append(list, a)
		}
	}
	return list
}

// Save copies the state out; Load sets it to a saved state after that number of complete draws. Parts of an incomplete draw are lost.
func (m *Moments) Save(dst []float32) error {
	if len(dst) != m.StateLen() {
		return fmt.Errorf("cam: %d values for a state of %d", len(dst), m.StateLen())
	}
	if len(m.partial) > 0 {
		return fmt.Errorf("cam: draw %d is not complete", m.n)
	}
	for _, a := range m.kept() {
		dst = dst[copy(dst, a):]
	}
	return nil
}

// Load is the opposite of Save.
func (m *Moments) Load(src []float32, draws int) error {
	if len(src) != m.StateLen() || draws < 0 {
		return fmt.Errorf("cam: %d values of %d draws for a state of %d", len(src), draws, m.StateLen())
	}
	for _, a := range m.kept() {
		src = src[copy(a, src):]
	}
	m.n, m.partial = draws, m.partial[:0]
	return nil
}

// Add takes in the gradient of one draw, with the weight of those before it. On an error the moments are as before.
func (m *Moments) Add(gradient []float32) error { return m.AddShare(gradient, m.equal()) }

// AddShare adds a gradient whose weight is the given share of the weight of all gradients up to it. Only means are defined unless all weights are
// equal. On an error the moments are as before.
func (m *Moments) AddShare(gradient []float32, share float64) error {
	if len(gradient) != m.size {
		return fmt.Errorf("cam: draw %d: the gradient has %d values, want %d", m.n, len(gradient), m.size)
	}
	return m.addSlab(0, gradient, share)
}

// equal is the share of a draw with the weight of those before it.
func (m *Moments) equal() float64 { return 1 / float64(m.n+1) }

// AddSlab takes in a part of the gradient of one draw, values [first, first+len(gradient)) of the whole. The slabs of a draw come
// in any order and cover each value once; the draw counts when they cover all. On an error the moments are as before.
func (m *Moments) AddSlab(first int, gradient []float32) error {
	return m.addSlab(first, gradient, m.equal())
}

func (m *Moments) addSlab(first int, gradient []float32, share float64) error {
	if first < 0 || len(gradient) > m.size-first {
		return fmt.Errorf("cam: draw %d: slab [%d, %d) is outside of the %d values of the gradient", m.n, first, first+len(gradient),
			m.size)
	}
	if len(gradient) == 0 {
		return nil
	}
	s := span{first, first + len(gradient)}
	at, overlaps := slices.BinarySearchFunc(m.partial, s, func(have, s span) int {
		switch {
		case have.to <= s.from:
			return -1
		case have.from >= s.to:
			return 1
		}
		return 0
	})
	if overlaps {
		return fmt.Errorf("cam: draw %d: values [%d, %d) were added before", m.n, max(s.from, m.partial[at].from),
			min(s.to, m.partial[at].to))
	}
	if bad, where := countNotFinite(gradient); bad > 0 {
		return fmt.Errorf("cam: draw %d: %d values of the gradient are %w, the first is value %d", m.n, bad, ErrNotFinite, first+where)
	}
	if len(gradient) <= parallel.Values { // without allocating
		m.update(s, gradient, share)
	} else {
		parallel.Parts(len(gradient), parallel.Values, func(_, from, to int) {
			m.update(span{s.from + from, s.from + to}, gradient[from:to], share)
		})
	}
	m.cover(at, s)
	return nil
}

// cover notes a slab, joining it with its neighbours so that slabs in order stay one span.
func (m *Moments) cover(at int, s span) {
	from, to := at, at
	if at > 0 && m.partial[at-1].to == s.from {
		from--
		s.from = m.partial[from].from
	}
	if at < len(m.partial) && m.partial[at].from == s.to {
		s.to = m.partial[at].to
		to++
	}
	m.partial = slices.Replace(m.partial, from, to, s)
	if s.from == 0 && s.to == m.size {
		m.n++
		m.partial = m.partial[:0]
	}
}

func (m *Moments) update(s span, gradient []float32, step float64) {
	switch {
	case m.m2 != nil:
		mean, m2 := m.mean[s.from:s.to][:len(gradient)], m.m2[s.from:s.to][:len(gradient)]
		for i, g := range gradient {
			d := float64(g) - float64(mean[i])
			next := float64(mean[i]) + d*step
			mean[i] = float32(next)
			m2[i] = float32(float64(m2[i]) + d*(float64(g)-next))
		}
	case m.mean != nil:
		mean := m.mean[s.from:s.to][:len(gradient)]
		for i, g := range gradient {
			mean[i] = float32(float64(mean[i]) + (float64(g)-float64(mean[i]))*step)
		}
	}
	if m.abs != nil {
		abs := m.abs[s.from:s.to][:len(gradient)]
		for i, g := range gradient {
			abs[i] = float32(float64(abs[i]) + (math.Abs(float64(g))-float64(abs[i]))*step)
		}
	}
	if m.square != nil {
		square := m.square[s.from:s.to][:len(gradient)]
		for i, g := range gradient {
			square[i] = float32(float64(square[i]) + (float64(g)*float64(g)-float64(square[i]))*step)
		}
	}
}

// Merge takes in the draws of other, which were made for the same gradients and choices (Chan, Golub, LeVeque 1979). other stays
// as it is.
func (m *Moments) Merge(other *Moments) error {
	switch {
	case m.size != other.size || m.channels != other.channels:
		return fmt.Errorf("cam: moments of %d values of %d channels cannot take in those of %d of %d", m.size, m.channels, other.size,
			other.channels)
	case (m.mean == nil) != (other.mean == nil) || (m.m2 == nil) != (other.m2 == nil) || (m.abs == nil) != (other.abs == nil) ||
		(m.square == nil) != (other.square == nil):
		return fmt.Errorf("cam: moments that were made for different methods cannot be merged")
	case len(m.partial) > 0 || len(other.partial) > 0:
		return fmt.Errorf("cam: moments with an incomplete draw cannot be merged: add its other slabs first")
	case other.n == 0:
		return nil
	}
	n := float64(m.n + other.n)
	share := float64(other.n) / n
	if m.m2 != nil {
		for i, v := range other.m2 {
			d := float64(other.mean[i]) - float64(m.mean[i])
			m.m2[i] = float32(float64(m.m2[i]) + float64(v) + d*d*float64(m.n)*share)
		}
	}
	for _, p := range [][2][]float32{{m.mean, other.mean}, {m.abs, other.abs}, {m.square, other.square}} {
		for i, v := range p[1] {
			p[0][i] = float32(float64(p[0][i]) + (float64(v)-float64(p[0][i]))*share)
		}
	}
	m.n += other.n
	return nil
}

// voxels are the moments of some of the voxels, sharing memory with m.
func (m *Moments) voxels(from, to int) *Moments {
	part := &Moments{n: m.n, channels: m.channels, size: (to - from) * m.channels}
	for _, a := range [][2]*[]float32{{&part.mean, &m.mean}, {&part.m2, &m.m2}, {&part.abs, &m.abs}, {&part.square, &m.square}} {
		if *a[1] != nil {
			*a[0] = (*a[1])[from*m.channels : to*m.channels]
		}
	}
	return part
}

// meanSquare is the mean over draws of the square of value i.
func (m *Moments) meanSquare(i int) float64 {
	if m.square != nil {
		return float64(m.square[i])
	}
	mean := float64(m.mean[i])
	return mean*mean + float64(m.m2[i])/float64(m.n)
}

func smoothGrad(m *Moments) []float64 {
	return sumChannels(m.size, m.channels, func(i int) float64 { return math.Abs(float64(m.mean[i])) })
}

func smoothGradCaptum(m *Moments) []float64 {
	return sumChannels(m.size, m.channels, func(i int) float64 { return float64(m.abs[i]) })
}

func smoothGradMonai(m *Moments) []float64 {
	root := math.Sqrt(float64(m.n)) // sqrt(n mean) / n = sqrt(mean) / sqrt(n)
	return sumChannels(m.size, m.channels, func(i int) float64 { return math.Sqrt(m.meanSquare(i)) / root })
}

func smoothGradSquared(m *Moments) []float64 {
	return sumChannels(m.size, m.channels, m.meanSquare)
}

func varGrad(m *Moments) []float64 {
	return sumChannels(m.size, m.channels, func(i int) float64 { return float64(m.m2[i]) / float64(m.n-1) })
}

func varGradCaptum(m *Moments) []float64 {
	return sumChannels(m.size, m.channels, func(i int) float64 { return float64(m.m2[i]) / float64(m.n) })
}
