package layer

import (
	"math"
	"slices"
)

// line places the positions of a letter along that axis of the volume.
type line struct {
	n        int        // positions
	voxels   int        // of the volume along the letter
	first    float64    // voxel where the first one in the volume begins
	step     float64    // voxels from one to the next
	cut      [2]float64 // voxels that the network cut off in front and behind, less those that it had padded there
	reversed bool       // position 0 is the last one in the volume
	order    []segment  // runs of positions, in the tensor's order, where that is not the volume's (a roll); else nil
}

// segment is count positions from one on.
type segment struct{ from, count int }

// rest returns the voxels along a letter that are left.
type rest struct {
	from, to float64
	voxels   int // of the volume
}

// like reports whether two lines show the same voxels at the same positions, but for the borders that convolutions without padding lose.
func (l *line) like(m *line) bool {
	if l == m {
		return true
	}
	step := max(l.step, m.step)
	return l.n == m.n && l.reversed == m.reversed && slices.Equal(l.order, m.order) && step < 1.5*min(l.step, m.step) &&
		math.Abs(l.first-m.first) <= max(2*step, float64(l.n)*step/4)
}

// resampling describes an operation along an axis: out positions from windows of a span, a stride apart, before padded in front. A
// stride of 0 is a resize.
type resampling struct{ out, span, stride, before int }

// resampled returns the line behind windows: of the same voxels, with other positions.
func (l line) resampled(r resampling) line {
	if r.out == l.n && r.stride == 1 {
		return l
	}
	if r.stride == 0 {
		l.step *= float64(l.n) / float64(r.out)
		l.n = r.out
		return l
	}
	inside := (float64(r.span)-float64(r.stride))/2 - float64(r.before) // positions in front of the first window's middle stride
	shift := inside
	if l.reversed {
		shift = float64(l.n-r.out*r.stride) - inside
	}
	for k := range l.cut { // padding that is used up
		if l.cut[k] < 0 && inside > 0 {
			l.cut[k] = min(0, l.cut[k]+inside*l.step)
		}
	}
	l.first += shift * l.step
	l.step *= float64(r.stride)
	l.n = r.out
	return l
}

// part returns count positions of the line, each step after the one before, from start on. ok is false where their order is not simple.
func (l line) part(start, step, count int) (line, bool) {
	low, high := min(start, start+(count-1)*step), max(start, start+(count-1)*step)
	if l.order != nil {
		for _, s := range l.order {
			if low < s.count && high < s.count {
				low, high = s.from+low, s.from+high
				l.order = nil
				break
			}
			low, high = low-s.count, high-s.count
			if low < 0 {
				return l, false
			}
		}
		if l.order != nil {
			return l, false
		}
	}
	if l.reversed {
		low, high = l.n-1-high, l.n-1-low
	}
	l.reversed = l.reversed != (step < 0)
	between := max(step, -step) - 1 // positions left out by the step are not cut off
	if count == 1 {
		between = 0
	}
	l.cut[0] += float64(max(low-between, 0)) * l.step
	l.cut[1] += float64(max(l.n-1-high-between, 0)) * l.step
	l.first += float64(low) * l.step
	if count > 1 {
		l.step *= math.Abs(float64(step))
	}
	l.n = count
	return l, true
}

// cropped returns the remaining part of a line, and whether more than half a position was cut off.
func (l *line) cropped() (left rest, cropped bool) {
	return rest{max(l.cut[0], 0), float64(l.voxels) - max(l.cut[1], 0), l.voxels}, max(l.cut[0], l.cut[1]) > l.step/2
}

// line returns the line of n even positions in the remaining part.
func (r rest) line(n int) line {
	return line{n: n, voxels: r.voxels, first: r.from, step: (r.to - r.from) / float64(n), cut: [2]float64{r.from, float64(r.voxels) - r.to}}
}

// chained joins lines of one letter end to end. They must lie beside each other in the volume; in another order than there, the result
// is a roll.
func chained(lines []*line) (line, bool) {
	sorted := slices.Clone(lines)
	slices.SortFunc(sorted, func(a, b *line) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	l := *sorted[0]
	at := map[*line]int{sorted[0]: 0}
	for _, m := range sorted[1:] {
		if m.reversed || l.reversed || m.order != nil || l.order != nil || math.Abs(m.step-l.step) > l.step/100 ||
			math.Abs(l.first+float64(l.n)*l.step-m.first) > l.step/2 {
			return l, false
		}
		at[m] = l.n
		l.n += m.n
		l.cut[1] = m.cut[1]
	}
	for _, m := range lines {
		if k := len(l.order) - 1; k >= 0 && l.order[k].from+l.order[k].count == at[m] {
			l.order[k].count += m.n
		} else {
			l.order = append(l.order, segment{at[m], m.n})
		}
	}
	if len(l.order) == 1 {
		l.order = nil
	}
	return l, true
}
