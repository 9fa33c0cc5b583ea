package explain

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/volume"
)

// misfit adds to err, for which a model cannot be bound to a shape [C, D, H, W], what the shape may have to do with it.
func (m *Model) misfit(shape [4]int, err error) error {
	input := (*onnx.InputError)(nil)
	if declared := m.file.VolumeShape(m.opt.InputAxes); !slices.Contains(declared[:], -1) || errors.As(err, &input) {
		return err
	}
	err = fmt.Errorf("for a volume of shape %v [C D H W]: %w", shape, err)
	if contradiction := (*onnx.FormatError)(nil); errors.As(err, &contradiction) {
		err = fmt.Errorf("%w; if the file is in order, the model takes volumes of one size only, though it declares open ones (a Linear layer behind "+
			"a Flatten, or a Reshape or a position embedding of fixed size): crop, pad or resample the volume to that size", err)
	}
	return err
}

// SuggestAxes adds to an error about the volume's shape by which other names of its stored axes it would fit.
func SuggestAxes(err error, v *volume.Volume) error {
	var wrong *onnx.InputError
	if !errors.As(err, &wrong) || wrong.Want == [4]int{} {
		return err
	}
	const most = 3
	switch readings := v.Readings(wrong.Want); {
	case len(readings) == 1:
		return fmt.Errorf("%w; or, if the stored axes are %s, say so: --axes %s, or data.axes = %q", err, readings[0], readings[0], readings[0])
	case len(readings) > 1:
		return fmt.Errorf("%w; or say which of %s the stored axes are (--axes, or data.axes)", err,
			strings.Join(readings[:min(most, len(readings))], ", "))
	}
	return err
}
