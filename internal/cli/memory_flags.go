package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
)

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
