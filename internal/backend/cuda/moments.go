package cuda

import (
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
)

// moments are running moments on the device, one array after the other in a field.
type moments struct {
	backend  *Backend
	field    backend.Field
	arrays   [4]driver.Ptr // mean, m2, abs, square; 0 for those that are not kept
	n        int           // values of a gradient
	channels int
	draws    int
}

// NewMoments implements backend.Attribution.
func (b *Backend) NewMoments(values, channels int, where backend.Place, choices ...cam.Choice) (backend.Moments, error) {
	if where == backend.OnHost {
		m, err := hostmem.Attribution{}.NewMoments(values, channels, where, choices...)
		if err != nil {
			return nil, err
		}
		return &hostMoments{Moments: m, backend: b}, nil
	}
	m := &moments{backend: b, n: values, channels: channels}
	mean, m2, abs, square := cam.Kept(choices...)
	length, arrays := ceilDiv(values, 4)*4, 0
	kept := []bool{mean, m2, abs, square}
	for _, k := range kept {
		if k {
			arrays++
		}
	}
	var err error
	if m.field, err = b.NewField(arrays*length, where); err != nil {
		return nil, err
	}
	at := m.field.(*field).memory.At()
	for i, k := range kept {
		if k {
			m.arrays[i] = at
			at += driver.Ptr(4 * length)
		}
	}
	err = b.do(func() error { return b.stream.Fill32(m.field.(*field).memory.At(), 0, arrays*length) })
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

type momentsParams struct {
	G      driver.Ptr
	Arrays [4]driver.Ptr
	N      int64
	Step   float64
}

func (m *moments) Add(gradient backend.Field, share float64) error {
	own, ok := m.backend.onDevice(gradient)
	if !ok || gradient.Len() != m.n {
		return fmt.Errorf("cuda: moments on the device of gradients of %d values cannot take in %d values of a %T", m.n, gradient.Len(), gradient)
	}
	p := momentsParams{G: own[0].memory.At(), Arrays: m.arrays, N: int64(m.n), Step: share}
	return m.backend.do(func() error {
		if err := m.check(); err != nil {
			return err
		}
		if err := start(m.backend, "moments_add", ceilDiv(m.n, 4), &p); err != nil {
			return err
		}
		m.draws++
		return m.backend.use(own...)
	})
}

// check refuses moments whose values were lost.
func (m *moments) check() error {
	if m.field.(*field).memory.Lost() {
		return errors.New("cuda: the moments were lost when the memory was vacated; Load makes them anew")
	}
	return nil
}

func (m *moments) Map(dst backend.Field, c cam.Choice, x backend.Field, baseline float32) error {
	if err := m.backend.do(m.check); err != nil {
		return err
	}
	path := c.Convention.Sampling() == cam.Path
	read := []backend.Field{dst}
	if path {
		read = append(read, x)
	}
	own, ok := m.backend.onDevice(read...)
	if !ok {
		return m.onHost(dst, c, x, baseline)
	}
	if least := c.Convention.MinDraws(); m.draws < least {
		return fmt.Errorf("cuda: %s (%s) needs at least %d draws, got %d", c.Name, c.Convention.Name, least, m.draws)
	}
	p := voxelParams{Fields: m.arrays, Channels: int32(m.channels), Draws: float64(m.draws), Baseline: baseline}
	if path {
		if err := own[1].check(m.n); err != nil {
			return err
		}
		p.X = own[1].memory.At()
	}
	if made, err := own[0].voxelMap(c, &p); made || err != nil {
		return err
	}
	return m.onHost(dst, c, x, baseline)
}

// onHost brings the moments to the host, to make a map there.
func (m *moments) onHost(dst backend.Field, c cam.Choice, x backend.Field, baseline float32) error {
	var arrays [4][]float32
	for i, at := range m.arrays {
		if at != 0 {
			arrays[i] = make([]float32, m.n)
			if err := m.backend.memory.CopyToHost(arrays[i], at); err != nil {
				return err
			}
		}
	}
	values, err := cam.MomentsOf(m.draws, m.channels, arrays[0], arrays[1], arrays[2], arrays[3])
	if err != nil {
		return err
	}
	gathered := cam.Gathered{Moments: values, Baseline: baseline}
	if c.Convention.Sampling() == cam.Path {
		volume, err := m.backend.toHost(x)
		if err != nil {
			return err
		}
		gathered.Volume = volume.Values()
	}
	made, err := c.PointsMap(gathered)
	if err != nil {
		return err
	}
	return dst.Write(made)
}

func (m *moments) Draws() int { return m.draws }

func (m *moments) Len() int { return m.kept() * m.n }

func (m *moments) kept() (arrays int) {
	for _, at := range m.arrays {
		if at != 0 {
			arrays++
		}
	}
	return arrays
}

// move copies the arrays, which are apart on the device, one behind the other in values, or back.
func (m *moments) move(values []float32, copyOne func(at driver.Ptr, values []float32) error) error {
	if len(values) != m.Len() {
		return fmt.Errorf("cuda: %d values for moments of %d", len(values), m.Len())
	}
	for _, at := range m.arrays {
		if at == 0 {
			continue
		}
		if err := copyOne(at, values[:m.n]); err != nil {
			return err
		}
		values = values[m.n:]
	}
	return nil
}

func (m *moments) Save(dst []float32) error {
	used := m.field.(*field).used
	err := m.backend.do(func() error {
		if err := m.check(); err != nil {
			return err
		}
		return m.backend.use(m.field.(*field))
	})
	if err != nil {
		return err
	}
	return m.move(dst, func(at driver.Ptr, values []float32) error { return m.backend.down.ToHost(values, at, used) })
}

func (m *moments) Load(src []float32, draws int) error {
	used := m.field.(*field).used
	err := m.move(src, func(at driver.Ptr, values []float32) error { return m.backend.up.ToDevice(at, values, used) })
	if err != nil {
		return err
	}
	m.draws = draws
	return m.backend.do(func() error {
		m.field.(*field).memory.Refilled()
		return nil
	})
}

func (m *moments) Close() error { return m.field.Close() }

// hostMoments are moments on the host of gradients that may be on the device.
type hostMoments struct {
	backend.Moments
	backend *Backend
	values  []float32 // of a gradient on the device
}

func (m *hostMoments) Add(gradient backend.Field, share float64) error {
	own, ok := m.backend.onDevice(gradient)
	if !ok {
		g, err := m.backend.toHost(gradient)
		if err != nil {
			return err
		}
		return m.Moments.Add(g, share)
	}
	if len(m.values) != own[0].n {
		m.values = make([]float32, own[0].n)
	}
	if err := own[0].Read(m.values); err != nil {
		return err
	}
	return m.Moments.Add(hostmem.View(m.values), share)
}

func (m *hostMoments) Map(dst backend.Field, c cam.Choice, x backend.Field, baseline float32) error {
	if c.Convention.Sampling() == cam.Path {
		volume, err := m.backend.toHost(x)
		if err != nil {
			return err
		}
		x = volume
	}
	return m.backend.onHost(dst, nil, func(dst *hostmem.Field, _ []*hostmem.Field) error { return m.Moments.Map(dst, c, x, baseline) })
}
