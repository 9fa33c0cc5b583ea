package devmem

import (
	"slices"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// physical is a piece of physical memory of the driver, of one unit of the granularity or of largeUnits.
type physical struct {
	handle driver.Physical
	units  int
}

const largeUnits = 16

// spare returns the number of units in spare pieces.
func (a *Allocator) spare() int { return len(a.small) + largeUnits*len(a.large) }

// put makes pieces spare.
func (a *Allocator) put(pieces ...physical) {
	for _, p := range pieces {
		list := a.list(p.units)
		*list = append(*list, p)
	}
}

func (a *Allocator) list(units int) *[]physical {
	if units == 1 {
		return &a.small
	}
	return &a.large
}

// pop takes n spare pieces of the given units each.
func (a *Allocator) pop(n, units int) []physical {
	list := a.list(units)
	rest := len(*list) - n
	taken := slices.Clone((*list)[rest:])
	*list = (*list)[:rest]
	return taken
}

// create asks the driver for n more spare pieces of the given units each.
func (a *Allocator) create(n, units int) error {
	for range n {
		h, err := a.context.CreatePhysical(units * a.granularity)
		if err != nil {
			return err
		}
		a.put(physical{h, units})
		a.reserved.Add(int64(units * a.granularity))
	}
	return nil
}

// exchange makes small pieces of a large spare one, by way of the driver. Another program may take some of the memory at that moment.
func (a *Allocator) exchange() error {
	p := a.pop(1, largeUnits)[0]
	if err := a.context.Release(p.handle); err != nil {
		a.put(p)
		return err
	}
	a.reserved.Add(-int64(largeUnits * a.granularity))
	return a.create(largeUnits, 1)
}

// pieces returns pieces for consecutive places, whose sizes are given in units: spare ones, and new ones from the driver only for the
// rest. A place for a large piece may get small ones. Where the driver refuses, the pieces that it gave before stay spare, so that a smaller
// allocation can be made of them. It must run with the context current.
func (a *Allocator) pieces(places []int) (taken []physical, err error) {
	small, large := 0, 0
	for _, units := range places {
		if units == 1 {
			small++
		} else {
			large++
		}
	}
	for len(a.small) < small && len(a.large) > large {
		if err := a.exchange(); err != nil {
			return nil, err
		}
	}
	// Places without a large piece take the remaining small ones, and then new ones.
	if lacking := large - len(a.large); lacking > 0 {
		missing := small + lacking*largeUnits - len(a.small)
		if a.create(min(lacking, missing/largeUnits), largeUnits) != nil { // then there may be room for small ones
			lacking = large - len(a.large)
		} else {
			lacking -= min(lacking, max(missing, 0)/largeUnits)
		}
		small += lacking * largeUnits
	}
	if err := a.create(small-len(a.small), 1); err != nil {
		return nil, err
	}
	for _, units := range places {
		switch {
		case units == 1:
			taken = append(taken, a.pop(1, 1)...)
		case len(a.large) > 0:
			taken = append(taken, a.pop(1, largeUnits)...)
		default:
			taken = append(taken, a.pop(largeUnits, 1)...)
		}
	}
	return taken, nil
}

// giveBack releases spare pieces to the driver, small ones first, until keep units are left. Those that it refuses to take stay spare. It
// must run where the context is current.
func (a *Allocator) giveBack(keep int) (freed int, err error) {
	before := a.reserved.Load()
	var refused []physical
	release := func(units int) {
		p := a.pop(1, units)[0]
		if e := a.context.Release(p.handle); e != nil {
			refused = append(refused, p)
			err = e // it is the same for all
			return
		}
		a.reserved.Add(-int64(units * a.granularity))
	}
	for a.spare() > keep && len(a.small) > 0 {
		release(1)
	}
	for a.spare() > keep && len(a.large) > 0 {
		release(largeUnits)
	}
	if missing := keep - a.spare(); missing > 0 && a.reserved.Load() < before { // of a large one that was kept in part
		_ = a.create(missing, 1) // or another program has it now
	}
	a.put(refused...)
	return int(before - a.reserved.Load()), err
}
