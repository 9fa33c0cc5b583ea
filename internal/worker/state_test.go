package worker

import (
	"testing"

	"github.com/voxcam/voxcam/internal/instance"
)

// fixed is an instance on a device.
type fixed struct {
	instance.Instance
	device instance.DeviceInfo
}

func (e fixed) State() instance.Snapshot    { return instance.Snapshot{} }
func (e fixed) Device() instance.DeviceInfo { return e.device }

// What a driver may hang in has no pulse: computing on a device, and the first volume that is brought to it. All else has one.
func TestPulse(t *testing.T) {
	for _, c := range []struct {
		processor bool
		computing int
		beginning int
		works     int
		want      bool
	}{
		{false, 0, 0, 0, true},
		{false, 0, 1, 0, false},
		{false, 0, 1, 1, true},
		{false, 1, 0, 1, false},
		{true, 1, 0, 1, true},
		{true, 0, 1, 0, true},
	} {
		s := &server{beginning: c.beginning, computing: c.computing, works: map[uint64]*served{}}
		for i := range c.works {
			s.works[uint64(i)] = nil
		}
		told, err := s.describe(fixed{device: instance.DeviceInfo{Processor: c.processor}})
		if err != nil || told.Pulse != c.want {
			t.Errorf("%+v: %+v, %v", c, told, err)
		}
	}
}
