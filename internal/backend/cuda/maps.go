package cuda

import (
	"errors"
	"fmt"
	"math"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/hostmem"
)

// layerFormulas are the maps of methods that look at a layer: sums over voxels for each channel, each of which may use the one before,
// and then for each voxel a sum over channels, for which the last sum is the channel's weight.
var layerFormulas = map[string]struct {
	sums  []string
	each  string
	mean  bool // the weights are divided by the number of voxels
	score bool // the map is multiplied by cam.ScoreFactor
	// The weights are the first principal component of the activation, from its sums and those of its squares.
	principal bool
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
	"eigencam/original":            {sums: []string{"activation", "squared"}, each: "project", principal: true},
}

// voxelFormulas are the maps of the other methods.
var voxelFormulas = map[string]string{
	"saliency/original":             "saliency",
	"input-x-gradient/original":     "input_times_gradient",
	"smoothgrad/original":           "abs_mean",
	"smoothgrad/captum":             "mean_abs",
	"smoothgrad/monai":              "root_square",
	"smoothgrad-squared/original":   "mean_square",
	"vargrad/original":              "variance",
	"vargrad/captum":                "variance_all",
	"integrated-gradients/original": "path",
}

type voxelParams struct {
	Fields   [4]driver.Ptr
	Out      driver.Ptr
	Stats    driver.Ptr
	X        driver.Ptr
	Voxels   int64
	Channels int32
	Baseline float32
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
	Sum, Mean     driver.Ptr
	Total         driver.Ptr
	Out, Stats    driver.Ptr
	Scale, Factor float64
}

// LayerMap implements backend.Attribution.
func (b *Backend) LayerMap(dst backend.Field, c cam.Choice, l backend.Layer) error {
	if l.Gradient == nil { // it is read and not used
		l.Gradient = l.Activation
	}
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
		if formula.principal {
			if found, err := f.principal(&p, sums); !found || err != nil {
				return err
			}
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
