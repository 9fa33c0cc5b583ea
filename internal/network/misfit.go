package network

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/volume"
)

// misfit adds to err, the reason why a model cannot be bound to a shape [C, D, H, W], an advice about that shape.
func (f *ModelFile) misfit(shape [4]int, err error) error {
	input := (*onnx.InputError)(nil)
	if declared := f.onnx.VolumeShape(f.options.InputAxes); !slices.Contains(declared[:], -1) || errors.As(err, &input) {
		return err
	}
	err = fmt.Errorf("for a volume of shape %v [C D H W]: %w", shape, err)
	if contradiction := (*onnx.FormatError)(nil); errors.As(err, &contradiction) {
		err = fmt.Errorf("%w; if the file is in order, the model takes volumes of one size only, though it declares open ones (a Linear layer behind "+
			"a Flatten, or a Reshape or a position embedding of fixed size): crop, pad or resample the volume to that size", err)
	}
	return err
}

// SuggestAxes adds to an error about the volume's shape the names of its stored axes with which it would fit, in front of other advice.
func SuggestAxes(err error, v *volume.Volume) error {
	var wrong *onnx.InputError
	if !errors.As(err, &wrong) || wrong.Want == [4]int{} || err.Error() != wrong.Error() { // an error that wraps one may say more
		return err
	}
	const most = 3
	advice := ""
	switch readings := v.Readings(wrong.Want); len(readings) {
	case 0:
		return err
	case 1:
		advice = "if the stored axes are " + readings[0] + ", say so by " + option.Mention("axes") + ": " + readings[0]
	default:
		advice = fmt.Sprintf("say which of %s the stored axes are by %s", strings.Join(readings[:min(most, len(readings))], ", "), option.Mention("axes"))
	}
	better := *wrong
	better.Advice = append([]string{advice}, wrong.Advice...)
	if len(wrong.Advice) > 0 {
		better.Advice[1] = "or else " + wrong.Advice[0]
	}
	return &better
}
