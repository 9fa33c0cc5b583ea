package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/device"
	"github.com/voxcam/voxcam/internal/gpusurvey"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/layer"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
)

// modelFlags are the flags of commands that open a model.
type modelFlags struct {
	instance.Options // but for Budget, and for TokenGrid
	budget           bytesize.Budget
	grid             []int // TokenGrid, as it was given
}

const outputHelp = "output of the model to explain, by its name in the file (default: the first that is a vector)"

func taskHelp() string {
	return "meaning of the output: " + strings.Join(cam.TaskNames(), ", ") + " (default: as the end of the file shows)"
}

const inputAxesHelp = "axes of the model's input in its order, such as NDHWC (Keras, JAX) or NDCHW (video) (default: as its operations show)"

func (f *modelFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.Model, "model", "", "ONNX file of the classifier")
	f.addOptions(cmd)
	f.addDevice(cmd)
}

// addDevice adds the choice of a device and of its precision.
func (f *modelFlags) addDevice(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.Device, "device", device.DefaultName, "where to compute: auto (a GPU if there is one), cpu, cuda, or cuda:N for GPU N")
	fl.StringVar(&f.Precision, "precision", device.DefaultPrecision, "how products are computed on a GPU: fp32, tf32 and bf16 (faster, less exact), or fp64 (sums in float64, slow)")
}

// addOptions adds the options of the model, and the budget that it has.
func (f *modelFlags) addOptions(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.TargetLayer, "target-layer", "", "layer to explain: a PyTorch module path (of the second call: PATH@2) or a name in the file (default: the last before the scores that has features at places of the volume)")
	fl.StringVar(&f.Output, "output", "", outputHelp)
	fl.StringVar(&f.Task, "task", "", taskHelp())
	fl.StringVar(&f.InputAxes, "input-axes", "", inputAxesHelp)
	fl.StringVar(&f.LayerLayout, "layer-layout", layer.Layouts[0], "axes of the target layer: "+layer.LayoutHelp)
	fl.IntSliceVar(&f.grid, "token-grid", nil, "place the tokens of the layer in space: depth,height,width (default: as the graph shows)")
	fl.IntVar(&f.PrefixTokens, "prefix-tokens", 0, "tokens of the layer in front of those in space, such as class tokens (default: as the graph shows)")
	fl.Var(&f.budget, "memory-budget", "most memory for computing: a size (512MiB), a share of the free memory (50%), auto, or min; the answer stays the same")
}

// options returns the options of model, device and budget, for volumes of a shape, [C, D, H, W], zero where it is not known.
func (f *modelFlags) options(shape [4]int) (o instance.Options, err error) {
	o = f.Options
	o.Shape, o.Budget = shape, f.budget.String()
	if o.TokenGrid, err = network.TokenGrid(f.grid); err != nil {
		return o, usage(fmt.Errorf("--token-grid %w", err))
	}
	return o, flagged(o.Check())
}

// library returns the options of a model as the library has them.
func (f *modelFlags) library(shape [4]int) (voxcam.Options, error) {
	if f.Model == "" {
		return voxcam.Options{}, usage(errors.New("--model is missing: the ONNX file of the classifier"))
	}
	o, err := f.options(shape)
	return voxcam.Options{
		TargetLayer: o.TargetLayer, LayerLayout: o.LayerLayout, TokenGrid: o.TokenGrid, PrefixTokens: o.PrefixTokens, InputAxes: o.InputAxes, Shape: o.Shape,
		Input: o.Input, Output: o.Output, Task: o.Task, Device: o.Device, Precision: o.Precision, Budget: o.Budget,
	}, err
}

// addShape adds --volume-shape, which volumeShape reads.
func addShape(cmd *cobra.Command, sizes *[]int) {
	cmd.Flags().IntSliceVar(sizes, "volume-shape", nil, "channels,depth,height,width where the model leaves them open")
}

// volumeShape reads --volume-shape; zeros where it was not given.
func volumeShape(sizes []int) (shape [4]int, err error) {
	if len(sizes) != 0 && (len(sizes) != 4 || slices.Min(sizes) < 1) {
		return shape, usage(fmt.Errorf("--volume-shape %v: four sizes expected, channels,depth,height,width", sizes))
	}
	copy(shape[:], sizes)
	return shape, nil
}

// methodFlags are the flags of commands that run methods.
type methodFlags struct {
	methods, conventions string
	cam.Request          // but for Methods and Convention, which are read from the above
}

func (f *methodFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.methods, "method", cam.DefaultMethod, "methods, separated by commas: "+strings.Join(cam.Methods(), ", ")+"; or groups of them: "+groupsHelp())
	fl.StringVar(&f.conventions, "convention", "", "conventions other than the original system's: METHOD=NAME,...")
	fl.IntVar(&f.NSamples, "n-samples", cam.DefaultNSamples, "draws of the methods with noise: "+sampledBy(cam.Noisy))
	fl.Float64Var(&f.NoiseLevel, "noise-level", cam.DefaultNoiseLevel, "standard deviation of the noise, in units of the volume as the network sees it")
	fl.IntVar(&f.Steps, "steps", cam.DefaultSteps, "points of the methods on a path: "+sampledBy(cam.Path))
	fl.StringVar(&f.Baseline, "baseline", cam.DefaultBaseline, "where a path begins: "+strings.Join(cam.Baselines(), ", ")+", or a value in units of the volume as the network sees it")
	fl.StringVar(&f.Quadrature, "quadrature", cam.DefaultQuadrature, "how the points of a path are chosen and weighted: "+strings.Join(cam.Quadratures(), ", "))
	fl.Uint64Var(&f.Seed, "seed", 0, "seed of the noise")
}

// groupsHelp lists the groups of methods with their members.
func groupsHelp() string {
	var list []string
	for _, group := range cam.Groups() {
		members, err := cam.Expand(group)
		if err == nil {
			list = append(list, fmt.Sprintf("%s (%s)", group, strings.Join(members, ", ")))
		}
	}
	return strings.Join(list, ", ")
}

// sampledBy lists the methods with a convention that evaluates the network at such points.
func sampledBy(points cam.Sampling) string {
	var list []string
	for _, name := range cam.Methods() {
		m, err := cam.Lookup(name)
		if err == nil && slices.ContainsFunc(m.Conventions, func(c cam.Convention) bool { return c.Sampling() == points }) {
			list = append(list, name)
		}
	}
	return strings.Join(list, ", ")
}

func (f *methodFlags) request() (r cam.Request, err error) {
	r = f.Request
	if r.Methods, err = cam.Expand(f.methods); err != nil {
		return r, usage(err)
	}
	if r.Convention, err = cam.ParseConventions(f.conventions); err != nil {
		return r, usage(err)
	}
	return r, flagged(r.Check())
}

// memoryFlags are the flags for times when memory is short.
type memoryFlags struct {
	policy   policy.Policy
	wait     time.Duration
	cpu      bool
	fewer    bool
	threads  int
	shuttle  shuttle
	blocking bool
}

func (f *memoryFlags) add(cmd *cobra.Command) {
	f.policy = policy.DefaultPolicy()
	f.shuttle = shuttle(instance.Shuttles[0])
	fl := cmd.Flags()
	fl.Var(&f.policy, "policy", "when memory is short: exact never changes a result; original takes fewer draws and skips, as the original system")
	fl.DurationVar(&f.wait, "wait", f.policy.Wait, "how long in all a volume waits for other programs to leave memory of the GPU")
	fl.BoolVar(&f.cpu, "cpu-fallback", true, "let the processor go on where the GPU cannot; with --policy original only if it is asked for")
	fl.BoolVar(&f.fewer, "fewer-samples", false, "take fewer draws, at least 5, where not all can be had; with --policy original that is the default")
	fl.IntVar(&f.threads, "threads", 0, "threads of the processor to compute with; 0 for all")
	fl.Var(&f.shuttle, "shuttle", "give the GPU's memory back between volumes: "+strings.Join(instance.Shuttles, ", "))
	fl.BoolVar(&f.blocking, "launch-blocking", false, "wait after every step on a GPU, so that an error names the step: slow")
}

// put puts the values of a command's flags into options. Flags that were not given leave the named policy as it is.
func (f *memoryFlags) put(cmd *cobra.Command, o *voxcam.Options) {
	may := voxcam.Policy(f.policy)
	if cmd.Flags().Changed("wait") {
		may.Wait = f.wait
	}
	if cmd.Flags().Changed("cpu-fallback") {
		may.CPU = f.cpu
	}
	if cmd.Flags().Changed("fewer-samples") {
		may.Fewer = f.fewer
	}
	o.Policy, o.Shuttle, o.LaunchBlocking, o.Threads = &may, string(f.shuttle), f.blocking, f.threads
}

// shuttle is one of instance.Shuttles.
type shuttle string

// Set implements flag.Value.
func (s *shuttle) Set(name string) error {
	if !slices.Contains(instance.Shuttles, name) {
		return fmt.Errorf("choose from %s", strings.Join(instance.Shuttles, ", "))
	}
	*s = shuttle(name)
	return nil
}

func (s *shuttle) String() string { return string(*s) }

// Type names the kind of value in help texts.
func (*shuttle) Type() string { return "when" }

// addThresholds adds the flag of the bounds of health.
func addThresholds(cmd *cobra.Command, bands *gpusurvey.Bands) {
	*bands = gpusurvey.DefaultBands()
	cmd.Flags().Var(bands, "thresholds", "bounds of healthy, caution and warning: three sizes that are free, and three shares of fragmentation")
}

// takeFlags gives a command some of the flags that add would.
func takeFlags(cmd *cobra.Command, add func(*cobra.Command), names ...string) {
	all := &cobra.Command{}
	add(all)
	all.Flags().VisitAll(func(flag *pflag.Flag) {
		if slices.Contains(names, flag.Name) {
			cmd.Flags().AddFlag(flag)
		}
	})
}
