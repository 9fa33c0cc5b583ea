package runner

import (
	"context"
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/config"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
)

// data are the samples that a configuration selects.
type data struct {
	set     *dataset.Set
	samples []dataset.Sample
}

func openData(c *config.Config) (d data, err error) {
	if d.set, err = dataset.Open(c.Data); err == nil {
		d.samples, err = d.set.Select()
	}
	return d, err
}

// each tries the first volumes until one will do. The error is that of the first.
func (d data) each(ctx context.Context, try func(*volume.Volume) error) (first error) {
	const most = 16 // volumes to try
	for _, sample := range d.samples[:min(most, len(d.samples))] {
		p, err := d.set.Prepare(ctx, sample)
		if err == nil {
			err = try(p.Volume)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if first == nil {
			first = fmt.Errorf("sample %s: %w", sample.ID, err)
		}
	}
	return first
}

// ShapeOf returns the shape of the volumes of a run, [C, D, H, W], by the first that can be read.
func ShapeOf(ctx context.Context, c *config.Config) (shape [4]int, err error) {
	data, err := openData(c)
	if err != nil {
		return shape, err
	}
	err = data.each(ctx, func(v *volume.Volume) error {
		shape = [4]int{v.Channels, v.Depth, v.Height, v.Width}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("the shape of the volumes is not known, since none can be read; %w", err)
	}
	return shape, err
}

// OpenNoise opens a .npy file of draws that suffice for a request.
func OpenNoise(ctx context.Context, path string, r cam.Request) (*npy.Stack, error) {
	draws, err := npy.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	if err := enough(draws, path, r); err != nil {
		return nil, errors.Join(err, draws.Close())
	}
	return draws, nil
}

// enough compares a file of draws with the needs of the methods.
func enough(draws *npy.Stack, path string, r cam.Request) error {
	choices, err := cam.Choose(r.Methods, r.Convention)
	if err != nil {
		return err
	}
	for _, c := range choices {
		if c.Convention.Sampling() == cam.Noisy && draws.Len() < r.NSamples {
			return fmt.Errorf("%s: %d draws are asked for and the file has %d: lower %s or give more noise", path, r.NSamples, draws.Len(),
				option.Mention("n_samples"))
		}
	}
	return nil
}
