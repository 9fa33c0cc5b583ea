package voxcam

import (
	"errors"
	"fmt"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/engine"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/option"
	"github.com/voxcam/voxcam/internal/policy"
)

// Options say how a model is opened. The zero value explains the default target layer, on a GPU if there is one, within the free memory,
// and by the policy exact. Values out of range are a *cam.OptionError, which names the option as configurations spell it.
type Options struct {
	// TargetLayer is a PyTorch module path, perhaps with the number of a call ("layer4.1.relu@1"), or the name of a node or value in the
	// file; "" is the last layer before the scores that has features at places of the volume (Inspect lists all). Result.Layer names the
	// tensor, and the assumptions about it.
	TargetLayer string
	// Input is the name of the input that is explained, of a model with several; the data of the others is in cam.Request.Inputs.
	Input string
	// Output is the name of the output that is explained, if the file has several; "" is the first that is a vector.
	Output string
	// Task names the meaning of that output, as cam.Tasks has it; "" takes it from the file: a softmax or one sigmoid at its end is a classification,
	// several sigmoids are labels. Without them the values are taken for logits of classes, one value for the logit of class 1 of two;
	// Result.Head says so.
	Task string
	// InputAxes are the axes of the model's input in the file's order: letters of N (batch), C (channels), D, H, W (depth, height, width),
	// such as "NDHWC" (Keras, JAX) or "NDCHW" (video). "" recognises them where the model's operations show them. Volumes, maps and
	// heatmaps are [C, D, H, W] and [D, H, W] in any case.
	InputAxes string
	// TokenGrid places the tokens of a layer in space: depth, height, width, each 1 to 65536; zero takes it from the graph.
	TokenGrid [3]int
	// PrefixTokens are tokens of the layer in front of those in space, such as class tokens; 0 takes their number from the graph.
	PrefixTokens int
	// LayerLayout names the axes of the target layer: auto, channels-first or channels-last, or a letter for each axis, T for tokens, such
	// as "NDHWC" or "DTC"; "" is auto.
	LayerLayout string
	// Shape is [C, D, H, W] of the volumes to come, where it is known; zero sizes are taken from the model's file.
	Shape [4]int

	// Device names the device: auto, cpu, cuda, or cuda:N for GPU N; "" is auto: the first GPU, or the processor where there is
	// none or it does not work (Model.Notes says so).
	Device string
	// Precision of products on a GPU: fp32, faster and less exact tf32 (10 bits of mantissa) and bf16 (7 bits), or fp64 (sums); "" is
	// fp32. The processor computes in fp32 only.
	Precision string
	// Threads is the number of threads on the processor; 0 is all.
	Threads int

	// Budget bounds the memory that computing takes; on a GPU, all that the model has in its memory: a size ("512MiB"), a share of the
	// free memory ("50%"), "auto" (60% of it), or "min", the least that works; "" is auto. The answer stays the same.
	Budget string
	// Policy tells what may be given up when memory is short; nil is ExactPolicy.
	Policy *Policy
	// Shuttle gives a GPU's memory back between volumes: never, idle (when no volume was begun for two seconds) or always; "" is never.
	Shuttle string
	// LaunchBlocking waits after every step on a GPU, so that an error names the step. It is slow.
	LaunchBlocking bool
}

// Policy tells what may be given up when memory is short. Smaller plans, and volumes in the host's memory, need no permission: they change no
// result.
type Policy struct {
	// Original takes fewer draws by the thresholds of the original system, from the memory that is free when a volume begins.
	Original bool
	// Wait bounds the time, for one volume in all, to wait until other programs give memory back, before anything else is given up.
	Wait time.Duration
	// CPU lets the processor go on where the device cannot.
	CPU bool
	// Fewer lets a volume be explained with fewer draws, down to 5, where memory for all is missing.
	Fewer bool
	// Skip gives a volume up with a *cam.SkippedError; without it the error is the one of the memory.
	Skip bool
}

// ExactPolicy never changes a result: it waits a while, falls back on the processor, and skips volumes that fit nowhere.
func ExactPolicy() Policy { return Policy(policy.DefaultPolicy()) }

// OriginalPolicy takes fewer draws and skips volumes by the thresholds of the original system, and does not fall back on the processor.
func OriginalPolicy() Policy { return Policy(policy.OriginalPolicy()) }

// engine returns the options of an engine for a model, with the defaults filled in, or all that is wrong with them.
func (o Options) engine(path string) (engine.Options, error) {
	may := ExactPolicy()
	if o.Policy != nil {
		may = *o.Policy
	}
	e := engine.Options{Policy: policy.Policy(may), Options: instance.Options{Model: path,
		ModelOptions: network.ModelOptions{TargetLayer: o.TargetLayer, LayerLayout: o.LayerLayout, TokenGrid: o.TokenGrid, PrefixTokens: o.PrefixTokens,
			InputAxes: o.InputAxes, Input: o.Input, Output: o.Output, Task: o.Task, Shape: o.Shape},
		Device: o.Device, Precision: o.Precision, Threads: o.Threads,
		Budget: o.Budget, Shuttle: o.Shuttle, LaunchBlocking: o.LaunchBlocking}}
	if e.Shuttle == "" {
		e.Shuttle = instance.Shuttles[0]
	}
	wrong := []error{
		e.ModelOptions.Check(),
		device.Options{Name: e.Device, Precision: e.Precision, Threads: e.Threads}.Check(),
		e.Policy.Check(),
	}
	if _, err := bytesize.ParseBudget(e.Budget); err != nil {
		wrong = append(wrong, cam.NewOptionError("memory_budget", fmt.Errorf("cannot be used: %w", err)))
	}
	if err := option.OneOf(e.Shuttle, instance.Shuttles); err != nil {
		wrong = append(wrong, cam.NewOptionError("shuttle", err))
	}
	return e, errors.Join(wrong...)
}
