package cuda

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/devmem"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/noise"
)

// attributionThreads is the size of the blocks of all kernels of attribution.cu.
const attributionThreads = 256

// layerFormulas are the maps of methods that look at a layer: sums over voxels for each channel, each of which may use the one before,
// and then for each voxel a sum over channels, for which the last sum is the channel's weight.
var layerFormulas = map[string]struct {
	sums  []string
	each  string
	mean  bool // the weights are divided by the number of voxels
	score bool // the map is multiplied by cam.ScoreFactor
}{
	"gradcam/original":             {sums: []string{"gradient"}, each: "weigh", mean: true},
	"gradcam++/original":           {sums: []string{"cubed", "original"}, each: "weigh"},
	"gradcam++/paper":              {sums: []string{"activation", "paper"}, each: "weigh"},
	"gradcam++/pytorch-grad-cam":   {sums: []string{"activation", "pytorch"}, each: "weigh"},
	"gradcam++/monai":              {sums: []string{"cubed", "monai"}, each: "weigh", score: true},
	"hirescam/original":            {each: "product"},
	"gradcam-elementwise/original": {each: "positive_product"},
	"layercam/original":            {each: "positive_gradient"},
	"xgradcam/original":            {sums: []string{"activation", "share"}, each: "weigh"},
}

// voxelFormulas are the maps of the other methods.
var voxelFormulas = map[string]string{
	"saliency/original":           "saliency",
	"input-x-gradient/original":   "input_times_gradient",
	"smoothgrad/original":         "abs_mean",
	"smoothgrad/captum":           "mean_abs",
	"smoothgrad/monai":            "root_square",
	"smoothgrad-squared/original": "mean_square",
	"vargrad/original":            "variance",
	"vargrad/captum":              "variance_all",
}

// stats is Stats of attribution.cu.
type stats struct {
	Peak          uint64
	Bad           uint32
	Low, High     uint32
	UpLow, UpHigh uint32
	_             uint32
}

// float is the number that is kept as an integer of the same order.
func float(u uint32) float32 {
	if u>>31 == 1 {
		return math.Float32frombits(u &^ (1 << 31))
	}
	return math.Float32frombits(^u)
}

// onDevice are the fields as fields on the device, or false if one of them is elsewhere.
func (b *Backend) onDevice(fields ...backend.Field) ([]*field, bool) {
	own := make([]*field, len(fields))
	for i, f := range fields {
		d, ok := f.(*field)
		if !ok || d.memory == nil || d.backend != b {
			return nil, false
		}
		own[i] = d
	}
	return own, true
}

// toHost is a field's values on the host.
func (b *Backend) toHost(f backend.Field) (*hostmem.Field, error) {
	switch f := f.(type) {
	case *hostmem.Field:
		return f, nil
	case *field:
		if err := f.check(f.n); err != nil {
			return nil, err
		}
		if f.host != nil {
			return hostmem.View(f.values()), nil
		}
		values, err := f.Take()
		return hostmem.Wrap(values), err
	}
	return nil, fmt.Errorf("cuda: a field of another backend (%T)", f)
}

// onHost computes a field on the host, with what other fields hold: where there is no room on the device for all of them, or no kernel.
func (b *Backend) onHost(dst backend.Field, with []backend.Field, compute func(dst *hostmem.Field, with []*hostmem.Field) error) error {
	var values []*hostmem.Field
	for _, f := range with {
		v, err := b.toHost(f)
		if err != nil {
			return err
		}
		values = append(values, v)
	}
	if own, ok := dst.(*field); ok && own.memory != nil {
		made, err := hostmem.NewField(own.n)
		if err != nil {
			return err
		}
		if err := compute(made, values); err != nil {
			return err
		}
		return own.Write(made.Values())
	}
	made, err := b.toHost(dst)
	if err != nil {
		return err
	}
	return compute(made, values)
}

// lookup finds a kernel.
func (b *Backend) lookup(name string) (*driver.Function, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kernels.function(name)
}

// start enqueues a kernel of attribution.cu with enough blocks for n threads.
func start[P any](b *Backend, name string, n int, params *P) error {
	return startBlocks(b, name, blocksFor(n), params)
}

func blocksFor(n int) [3]uint32 { return [3]uint32{uint32(ceilDiv(n, attributionThreads)), 1, 1} }

func startBlocks[P any](b *Backend, name string, grid [3]uint32, params *P) error {
	return startOn(b, b.stream, name, grid, params)
}

func startOn[P any](b *Backend, s *driver.Stream, name string, grid [3]uint32, params *P) error {
	f, err := b.lookup(name)
	if err != nil {
		return err
	}
	if err := s.Launch(f, grid, [3]uint32{attributionThreads, 1, 1}, 0, unsafe.Pointer(params), int(unsafe.Sizeof(*params))); err != nil {
		return fmt.Errorf("cuda: %s: %w", name, err)
	}
	if b.options.LaunchBlocking {
		if err := s.Synchronize(); err != nil {
			return fmt.Errorf("cuda: %s: %w", name, err)
		}
	}
	return nil
}

// work is the field's memory for attribution, behind its statistics.
func (f *field) work() (at driver.Ptr, bytes int) {
	at = f.memory.At() + driver.Ptr(workAt(f.n)+devmem.Align)
	return at, workBytes - devmem.Align
}

// statsAt is the place of the statistics of the values that are made in a field.
func (f *field) statsAt() driver.Ptr { return f.memory.At() + driver.Ptr(workAt(f.n)) }

type clearParams struct{ Stats driver.Ptr }

// clearStats begins anew, readStats waits for what was gathered.
func (f *field) clearStats() error {
	return startBlocks(f.backend, "attribution_clear", [3]uint32{1, 1, 1}, &clearParams{f.statsAt()})
}

func (f *field) readStats() error {
	s := f.backend.stream
	if err := s.CopyToHost(unsafe.Pointer(&f.stats), f.statsAt(), int(unsafe.Sizeof(f.stats))); err != nil {
		return err
	}
	return s.Synchronize()
}

// Field implements backend.Program.
func (p *Program) Field(v *ir.Value) (backend.Field, error) {
	i, err := p.float32s(v, v.Shape().Elements())
	if err != nil {
		return nil, err
	}
	if e := p.external[i]; e != nil {
		if e.field == nil {
			return nil, fmt.Errorf("cuda: the external storage of %v (%q) is not bound", v, v.Name)
		}
		return e.field, nil
	}
	n := v.Shape().Elements()
	if v.Def == nil { // to be written
		p.arena.touch(p.plan.Buffers[i].Offset + 4*n)
	}
	return &field{backend: p.backend, n: n, memory: devmem.View(p.address[i])}, nil
}

type interleaveParams struct {
	Src, Dst driver.Ptr
	Voxels   int32
	Channels Divide
}

// Upload implements backend.Attribution. On the device, channels are interleaved piece by piece.
func (b *Backend) Upload(dst backend.Field, volume []float32, channels int) error {
	own, ok := b.onDevice(dst)
	switch {
	case !ok:
		return b.onHost(dst, nil, func(dst *hostmem.Field, _ []*hostmem.Field) error {
			return hostmem.Attribution{}.Upload(dst, volume, channels)
		})
	case channels == 1:
		return dst.Write(volume)
	}
	d := own[0]
	if err := d.check(len(volume)); err != nil {
		return err
	}
	work, bytes := d.work()
	if channels > bytes/4 {
		return fmt.Errorf("cuda: a volume of %d channels", channels)
	}
	return b.interleave(d.memory.At(), volume, channels, work, bytes, d.used)
}

// Copy implements backend.Attribution.
func (b *Backend) Copy(dst, src backend.Field) error {
	own, ok := b.onDevice(dst, src)
	if !ok {
		return b.copyWithHost(dst, src)
	}
	if err := own[0].check(src.Len()); err != nil {
		return err
	}
	return b.do(func() error {
		return errors.Join(b.stream.Copy(own[0].memory.At(), own[1].memory.At(), 4*src.Len()), b.use(own...))
	})
}

// copyWithHost copies to or from a field in pinned memory in one go, and waits.
func (b *Backend) copyWithHost(dst, src backend.Field) error {
	to, ok := dst.(*field)
	from, also := src.(*field)
	if !ok || !also || to.memory == nil && from.memory == nil {
		return b.onHost(dst, []backend.Field{src}, func(dst *hostmem.Field, with []*hostmem.Field) error {
			return hostmem.Attribution{}.Copy(dst, with[0])
		})
	}
	if err := errors.Join(to.check(from.n), from.check(from.n)); err != nil {
		return err
	}
	return b.do(func() (err error) {
		if to.memory != nil {
			err = b.stream.CopyToDevice(to.memory.At(), from.host.Pointer(), 4*from.n)
		} else {
			err = b.stream.CopyToHost(to.host.Pointer(), from.memory.At(), 4*from.n)
		}
		return errors.Join(err, b.stream.Synchronize())
	})
}

type noiseParams struct {
	Dst, X   driver.Ptr
	Voxels   int64
	Channels int32
	Sigma    float32
	Key      [2]uint32
	Draw     uint32
	Sample   [2]uint32
	_        uint32
}

// Perturb implements backend.Attribution.
func (b *Backend) Perturb(dst, x backend.Field, channels int, perturbation cam.Perturbation, z noise.Stream) error {
	own, ok := b.onDevice(dst, x)
	if !ok || perturbation.Fraction != 1 {
		return b.onHost(dst, []backend.Field{x}, func(dst *hostmem.Field, with []*hostmem.Field) error {
			return hostmem.Attribution{}.Perturb(dst, with[0], channels, perturbation, z)
		})
	}
	if err := own[0].check(x.Len()); err != nil {
		return err
	}
	key, counter := z.Counter(0)
	p := noiseParams{
		Dst: own[0].memory.At(), X: own[1].memory.At(), Voxels: int64(x.Len() / channels), Channels: int32(channels), Sigma: perturbation.Sigma,
		Key: key, Draw: counter[1], Sample: [2]uint32{counter[2], counter[3]},
	}
	return b.do(func() error {
		return errors.Join(start(b, "noise_add", ceilDiv(x.Len()/channels, 4), &p), b.use(own...))
	})
}

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

// check refuses what was lost; the memory is there.
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
	own, ok := m.backend.onDevice(dst)
	if !ok {
		return m.onHost(dst, c, x, baseline)
	}
	if least := c.Convention.MinDraws(); m.draws < least {
		return fmt.Errorf("cuda: %s (%s) needs at least %d draws, got %d", c.Name, c.Convention.Name, least, m.draws)
	}
	p := voxelParams{Fields: m.arrays, Channels: int32(m.channels), Draws: float64(m.draws)}
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

type voxelParams struct {
	Fields   [4]driver.Ptr
	Out      driver.Ptr
	Stats    driver.Ptr
	Voxels   int64
	Channels int32
	_        int32
	Draws    float64
}

// voxelMap makes a map that looks at each voxel for itself; false if there is no kernel for it, or something is not finite: then the
// host has the words for it.
func (f *field) voxelMap(c cam.Choice, p *voxelParams) (made bool, err error) {
	name := voxelFormulas[c.Key()]
	if name == "" {
		return false, nil
	}
	p.Out, p.Stats, p.Voxels = f.memory.At(), f.statsAt(), int64(f.n)
	err = f.backend.do(func() error {
		if err := f.clearStats(); err != nil {
			return err
		}
		if err := start(f.backend, "voxel_"+name, f.n, p); err != nil {
			return err
		}
		return f.readStats()
	})
	return f.stats.Bad == 0, err
}

// InputMap implements backend.Attribution.
func (b *Backend) InputMap(dst backend.Field, c cam.Choice, x, gradient backend.Field, channels int) error {
	if own, ok := b.onDevice(dst, x, gradient); ok {
		if x.Len() != gradient.Len() || dst.Len()*channels != x.Len() {
			return fmt.Errorf("cuda: a map of %d voxels of %d channels from %d and %d values", dst.Len(), channels, x.Len(), gradient.Len())
		}
		p := voxelParams{Fields: [4]driver.Ptr{own[2].memory.At(), own[1].memory.At()}, Channels: int32(channels)}
		if made, err := own[0].voxelMap(c, &p); made || err != nil {
			return err
		}
	}
	return b.onHost(dst, []backend.Field{x, gradient}, func(dst *hostmem.Field, with []*hostmem.Field) error {
		return hostmem.Attribution{}.InputMap(dst, c, with[0], with[1], channels)
	})
}

type layerMapParams struct {
	A, G          driver.Ptr
	Stride        [3]int64
	ChannelStride int64
	Size1, Size2  int32
	Voxels        int32
	Channels      int32
	Chunk, Chunks int32
	Partial       driver.Ptr
	Sum, Total    driver.Ptr
	Out, Stats    driver.Ptr
	Scale, Factor float64
}

// LayerMap implements backend.Attribution.
func (b *Backend) LayerMap(dst backend.Field, c cam.Choice, l backend.Layer) error {
	if own, ok := b.onDevice(dst, l.Activation, l.Gradient); ok {
		if err := own[0].check(l.Layout.Voxels); err != nil {
			return err
		}
		if made, err := own[0].layerMap(c, own[1], own[2], &l); made || err != nil {
			return err
		}
	}
	return b.onHost(dst, []backend.Field{l.Activation, l.Gradient}, func(dst *hostmem.Field, with []*hostmem.Field) error {
		l := l
		l.Activation, l.Gradient = with[0], with[1]
		return hostmem.Attribution{}.LayerMap(dst, c, l)
	})
}

// layerMap is like voxelMap.
func (f *field) layerMap(c cam.Choice, activation, gradient *field, l *backend.Layer) (made bool, err error) {
	const (
		rows      = 64  // least voxels of a partial sum
		mostParts = 512 // partial sums of a channel
	)
	formula, known := layerFormulas[c.Key()]
	at := &l.Layout
	work, bytes := f.work()
	parts := min(ceilDiv(at.Voxels, rows), mostParts, bytes/8/at.Channels-2)
	if !known || parts < 1 || at.Voxels > math.MaxInt32/2 {
		return false, nil
	}
	p := layerMapParams{
		A: activation.memory.At() + driver.Ptr(4*at.Start), G: gradient.memory.At() + driver.Ptr(4*at.Start),
		Stride: [3]int64{int64(at.Stride[0]), int64(at.Stride[1]), int64(at.Stride[2])}, ChannelStride: int64(at.ChannelStride),
		Size1: int32(at.Size[1]), Size2: int32(at.Size[2]), Voxels: int32(at.Voxels), Channels: int32(at.Channels),
		Chunk: int32(ceilDiv(at.Voxels, parts)), Stats: f.statsAt(), Scale: 1, Factor: 1,
	}
	p.Chunks = int32(ceilDiv(at.Voxels, int(p.Chunk)))
	if formula.mean {
		p.Scale = float64(at.Channels) / float64(at.Voxels*at.Channels)
	}
	sums := [2]driver.Ptr{work, work + driver.Ptr(8*at.Channels)}
	p.Partial = work + driver.Ptr(16*at.Channels)
	voxels := [3]uint32{uint32(ceilDiv(at.Voxels, attributionThreads/32)), 1, 1}
	err = f.backend.do(func() error {
		if err := f.clearStats(); err != nil {
			return err
		}
		for i, name := range formula.sums {
			p.Total = sums[i%2]
			if err := startBlocks(f.backend, "layer_sum_"+name, [3]uint32{uint32(ceilDiv(at.Channels, 32)), uint32(p.Chunks), 1}, &p); err != nil {
				return err
			}
			if err := start(f.backend, "layer_total", at.Channels, &p); err != nil {
				return err
			}
			p.Sum = p.Total
		}
		if formula.score { // its factor depends on the largest value
			if err := startBlocks(f.backend, "layer_map_"+formula.each, voxels, &p); err != nil {
				return err
			}
			if err := f.readStats(); err != nil {
				return err
			}
			p.Factor = cam.ScoreFactor(math.Float64frombits(f.stats.Peak), l.Score)
		}
		p.Out = f.memory.At()
		if err := startBlocks(f.backend, "layer_map_"+formula.each, voxels, &p); err != nil {
			return err
		}
		return f.readStats()
	})
	return f.stats.Bad == 0, err
}

type heatParams struct {
	Src, Dst, Stats driver.Ptr
	From, To        [3]int32
	Positive, Same  int32
}

// heatBlocks is the number of blocks that look for the range of values.
const heatBlocks = 1024

// Heatmap implements backend.Attribution.
func (b *Backend) Heatmap(dst, signed backend.Field, c cam.Choice, from, to [3]int) (finding cam.Finding, err error) {
	own, ok := b.onDevice(dst, signed)
	if n := to[0] * to[1] * to[2]; ok && n <= math.MaxInt32 {
		if err := errors.Join(own[0].check(n), own[1].check(from[0]*from[1]*from[2])); err != nil {
			return "", err
		}
		d := own[0]
		if err := d.heatmap(own[1], c, from, to); err != nil {
			return "", err
		}
		if s := &d.stats; s.Bad == 0 {
			low, high := float(s.Low), float(s.High)
			if from == to {
				return c.Finding(low, high, low, high), nil
			}
			return c.Finding(low, high, float(s.UpLow), float(s.UpHigh)), nil
		}
		if dst == signed {
			return "", fmt.Errorf("cuda: %s: values of the map are %w", c.Name, cam.ErrNotFinite)
		}
	}
	err = b.onHost(dst, []backend.Field{signed}, func(dst *hostmem.Field, with []*hostmem.Field) error {
		finding, err = hostmem.Attribution{}.Heatmap(dst, with[0], c, from, to)
		return err
	})
	return finding, err
}

func (f *field) heatmap(signed *field, c cam.Choice, from, to [3]int) error {
	p := heatParams{Src: signed.memory.At(), Dst: f.memory.At(), Stats: f.statsAt()}
	for i := range from {
		p.From[i], p.To[i] = int32(from[i]), int32(to[i])
	}
	if c.Positive {
		p.Positive = 1
	}
	if from == to {
		p.Same = 1
	}
	quads := to[0] * to[1] * ceilDiv(to[2], 4)
	return f.backend.do(func() error {
		if err := f.clearStats(); err != nil {
			return err
		}
		blocks := min(ceilDiv(signed.n, attributionThreads), heatBlocks)
		if err := startBlocks(f.backend, "map_range", [3]uint32{uint32(blocks), 1, 1}, &p); err != nil {
			return err
		}
		if from != to {
			blocks = min(ceilDiv(quads, attributionThreads), heatBlocks)
			if err := startBlocks(f.backend, "heat_range", [3]uint32{uint32(blocks), 1, 1}, &p); err != nil {
				return err
			}
		}
		if err := start(f.backend, "heat_write", quads, &p); err != nil {
			return err
		}
		return f.readStats()
	})
}
