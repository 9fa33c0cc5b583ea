// Package dataset reads the table of labels, deals samples to splits, and prepares a volume the way the network saw its like in
// training: cropped or padded, then scaled. The only random step, the shuffle of the splits, is seeded, and nothing is guessed from
// a size.
//
//	set, err := dataset.Open(options)             // labels and splits; a bad row is a bad sample, not an error
//	samples, err := set.Select()                  // those of options.Dataset, at most options.MaxSamples a split
//	prepared, err := set.Prepare(ctx, samples[0]) // the network's input
package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/sysmem"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// Set is a data set: samples with labels and splits, and the way from a sample to the network's input.
type Set struct {
	Options Options
	Samples []Sample
	Split   string // column or shuffle: where the splits come from

	read func(ctx context.Context, path string) (*volume.Volume, format.File, error)
}

// Open reads the labels and deals the splits. Faults of the options are reported first.
func Open(o Options) (*Set, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if info, err := os.Stat(o.Folder); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("data.folder: %s is no folder", o.Folder)
	}
	samples, hasColumn, err := readLabels(o.Labels)
	if err != nil {
		return nil, err
	}
	refuseAliases(samples, o.Extension)
	s := &Set{Options: o, Samples: samples, Split: o.Split}
	switch {
	case s.Split == SplitColumn && !hasColumn:
		return nil, fmt.Errorf("labels %s: data.split is column, but there is no column split", o.Labels)
	case s.Split == SplitAuto && hasColumn:
		s.Split = SplitColumn
	case s.Split == SplitAuto:
		s.Split = SplitShuffle
	}
	if s.Split == SplitShuffle {
		s.Samples = deal(samples, o.SplitRatio, o.SplitSeed)
	}
	s.read = func(ctx context.Context, path string) (*volume.Volume, format.File, error) {
		return format.ReadFile(ctx, path, format.Options{Variable: o.Variable, Axes: o.Axes, Allow: room})
	}
	return s, nil
}

// room refuses a volume that takes more than half of the free memory: another one is read at the same time, and computing takes memory,
// too.
func room(bytes int) error { return sysmem.Room(bytes, 2) }

// bytesOf returns the bytes of a volume's voxels.
func bytesOf(sizes ...int) int {
	bytes := 4
	for _, n := range sizes {
		if n > math.MaxInt/bytes {
			return math.MaxInt
		}
		bytes *= n
	}
	return bytes
}

// Select returns the samples of the chosen splits, split after split, at most MaxSamples of each. Samples whose split
// cannot be read always belong to them, so that a fault of the table is never passed over. It is an error if there are none.
func (s *Set) Select() ([]Sample, error) {
	want := append([]Split{}, Splits...)
	if d := s.Options.Dataset; d != AllSplits {
		want = []Split{Split(d)}
	}
	var out []Sample
	for _, split := range append(want, Unassigned) {
		n := 0
		for _, sample := range s.Samples {
			if sample.Split == split && (s.Options.MaxSamples == 0 || n < s.Options.MaxSamples) {
				out = append(out, sample)
				n++
			}
		}
	}
	if len(out) == 0 {
		have := map[Split]int{}
		for _, sample := range s.Samples {
			have[sample.Split]++
		}
		return nil, fmt.Errorf("labels %s: no sample is in %q (train has %d, val %d, test %d)",
			s.Options.Labels, s.Options.Dataset, have[Train], have[Val], have[Test])
	}
	return out, nil
}

// Deal is a digest of the assignment of samples to splits, for telling whether two shuffles agree. It is empty where the
// splits come from the table.
func (s *Set) Deal() string {
	if s.Split != SplitShuffle {
		return ""
	}
	h := sha256.New()
	for _, sample := range s.Samples {
		fmt.Fprintf(h, "%s\x00%s\n", sample.Split, sample.ID)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Input is the file of a sample as it was found, or as it was read.
type Input struct {
	Path     string    `json:"path"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
	SHA256   string    `json:"sha256,omitempty"` // of the bytes that were read
}

// Same reports whether another file has the size and the time of this one.
func (in Input) Same(other Input) bool {
	return in.Bytes == other.Bytes && in.Modified.Equal(other.Modified)
}

// Locate finds the sample's file.
func (s *Set) Locate(sample Sample) (Input, error) {
	extensions := format.Extensions()
	if s.Options.Extension != "" {
		extensions = []string{s.Options.Extension}
	}
	base := filepath.Join(s.Options.Folder, filepath.FromSlash(sample.ID))
	candidates := make([]string, 0, len(extensions))
	for _, ext := range extensions {
		if strings.HasSuffix(strings.ToLower(sample.ID), ext) {
			candidates = []string{base} // the table names files, not cases
			break
		}
		candidates = append(candidates, base+ext)
	}
	var found []Input
	for _, path := range candidates {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Input{}, err
		}
		if err := input.Regular(path, info); err != nil {
			return Input{}, err
		}
		found = append(found, Input{Path: path, Bytes: info.Size(), Modified: info.ModTime().UTC()})
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if len(candidates) == 1 {
			return Input{}, fmt.Errorf("%s does not exist", candidates[0])
		}
		return Input{}, fmt.Errorf("no file %s with any of the extensions %s", base, strings.Join(extensions, ", "))
	}
	return Input{}, fmt.Errorf("both %s and %s exist; set data.extension", found[0].Path, found[1].Path)
}

// Prepared is the network's input with the way it was made.
type Prepared struct {
	Volume     *volume.Volume // [C, D, H, W]
	Input      Input
	InputShape [4]int // of the file: [C, D, H, W]
	CropOffset [3]int // voxel of the file's volume that is voxel (0, 0, 0) of Volume; negative where zeros were added
	Scaling    volume.Scaling
}

// Prepare reads a sample, crops or pads it and scales it, in this order. Voxels that are not
// finite are an error.
func (s *Set) Prepare(ctx context.Context, sample Sample) (*Prepared, error) {
	if sample.Err != nil {
		return nil, sample.Err
	}
	in, err := s.Locate(sample)
	if err != nil {
		return nil, err
	}
	v, file, err := s.read(ctx, in.Path)
	if err != nil {
		return nil, err
	}
	in = Input(file)
	p := &Prepared{Volume: v, Input: in, InputShape: [4]int{v.Channels, v.Depth, v.Height, v.Width}}
	if shape := s.Options.ImageShape; shape != nil {
		if err := room(bytesOf(v.Channels, shape[0], shape[1], shape[2])); err != nil {
			return nil, fmt.Errorf("%s: data.image_shape is %v: %w", in.Path, shape, err)
		}
		if p.Volume, p.CropOffset, err = volume.CropPad(v, [3]int(shape)); err != nil {
			return nil, err
		}
	}
	if p.Scaling, err = volume.Scale(p.Volume, s.Options.Scale); err != nil {
		return nil, fmt.Errorf("%s: %w", in.Path, err)
	}
	return p, nil
}
