package gpusurvey

import (
	"context"
	"errors"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/policy"
)

// ask asks the driver about a GPU through a context of this process, which it closes again. Errors are those of ctx.
func (s *Surveyor) ask(ctx context.Context, g *GPU) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	said := Context{Bytes: -1}
	c, err := s.driver.Context(g.Number)
	if driver.IsOutOfMemory(err) {
		g.Problem = "there is no room for a context, of some hundred MiB: " + err.Error()
		return nil
	}
	if err == nil {
		err = c.Do(func() error {
			_ = c.SetStack(0) // as for computing; a driver that keeps stacks makes the context larger
			if said.Free, said.Total, err = c.MemInfo(); err != nil {
				return err
			}
			if g.TrulyFree >= 0 {
				if d, err := s.nvml.ByUUID(g.UUID); err == nil {
					if m, err := d.Memory(); err == nil {
						said.Bytes = max(0, g.TrulyFree-m.Free)
					}
				}
			}
			if s.o.Probe {
				said.Asked = max(0, said.Free-policy.Reserve) / piece * piece
				said.Got, err = probe(ctx, c, said.Asked)
			}
			return err
		})
		err = errors.Join(err, c.Close())
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		g.Problem = err.Error()
		return nil
	}
	g.Context = &said
	if g.TrulyFree < 0 { // without NVML: the memory free besides this context
		g.Total, g.TrulyFree, g.Used = said.Total, said.Free, said.Total-said.Free
		g.Unattributed = g.Used
	}
	return nil
}

// probe takes up to bytes, a multiple of piece, as one block of addresses, gives them back, and returns the bytes that it got.
func probe(ctx context.Context, c *driver.Context, bytes int) (got int, err error) {
	if bytes == 0 {
		return 0, nil
	}
	unit, err := c.Granularity()
	if err != nil {
		return 0, err
	}
	at, err := c.ReserveAddress(bytes, 0)
	if err != nil {
		return 0, err
	}
	type part struct {
		bytes  int
		memory driver.Physical
	}
	var parts []part
	// Large parts need few calls; where one is refused, half as much is tried, down to the driver's unit.
	for size := bytesize.GiB; got < bytes && size >= max(piece, unit) && ctx.Err() == nil; {
		if size > bytes-got {
			size /= 2
			continue
		}
		memory, refused := c.CreatePhysical(size)
		if driver.IsOutOfMemory(refused) {
			size /= 2
			continue
		}
		if err = refused; err == nil {
			if err = c.Map(at+driver.Ptr(got), size, memory); err != nil {
				err = errors.Join(err, c.Release(memory))
			}
		}
		if err != nil {
			break
		}
		parts = append(parts, part{size, memory})
		got += size
	}
	end := at
	for _, p := range parts {
		err = errors.Join(err, c.Unmap(end, p.bytes), c.Release(p.memory))
		end += driver.Ptr(p.bytes)
	}
	return got, errors.Join(err, c.FreeAddress(at, bytes))
}
