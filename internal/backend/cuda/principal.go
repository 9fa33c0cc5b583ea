package cuda

import (
	"errors"
	"unsafe"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
)

// principal makes the first principal component of the activation the weights of a map that is made in the field, from the sums over voxels of
// the activation and of its squares, which lie behind one another. It is false, with a map of zeros, if the activation varies by no more than
// rounding, and if something is not finite: then the host has the words for it. cam.Principal finds the component; its products with the
// covariance are computed here, so that of the activation nothing but sums leaves the device.
func (f *field) principal(p *layerMapParams, sums [2]driver.Ptr) (found bool, err error) {
	s, channels := f.backend.stream, int(p.Channels)
	both := make([]float64, 2*channels)
	if err := s.CopyToHost(unsafe.Pointer(&both[0]), sums[0], 16*channels); err != nil {
		return false, err
	}
	if err := f.readStats(); err != nil || f.stats.Bad != 0 {
		return false, err
	}
	means := make([]float64, channels)
	for k := range means {
		means[k] = both[k] / float64(p.Voxels)
	}
	p.Mean, p.Sum, p.Total = sums[0], sums[1], sums[1]
	if err := upload(s, p.Mean, means); err != nil {
		return false, err
	}
	vector, err := cam.Principal(int(p.Voxels), both[:channels], both[channels:], func(dst, v []float64) error { return f.covariance(dst, v, p) })
	if err != nil {
		return false, err
	}
	if vector == nil {
		return false, s.Fill32(f.memory.At(), 0, f.n)
	}
	return true, upload(s, p.Sum, vector)
}

// covariance writes the product of the activation's covariance, times the number of voxels, with v to dst.
func (f *field) covariance(dst, v []float64, p *layerMapParams) error {
	s := f.backend.stream
	if err := upload(s, p.Sum, v); err != nil {
		return err
	}
	if err := startBlocks(f.backend, "layer_covariance", [3]uint32{uint32(p.Chunks), 1, 1}, p); err != nil {
		return err
	}
	if err := start(f.backend, "layer_total", len(dst), p); err != nil {
		return err
	}
	return errors.Join(s.CopyToHost(unsafe.Pointer(&dst[0]), p.Total, 8*len(dst)), s.Synchronize())
}

// upload copies values to the device and waits.
func upload(s *driver.Stream, at driver.Ptr, values []float64) error {
	return errors.Join(s.CopyToDevice(at, unsafe.Pointer(&values[0]), 8*len(values)), s.Synchronize())
}
