package policy

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/option"
)

// Policy is the permission to give something up when memory is short. Smaller plans and volumes on the host need none: they change no
// result.
type Policy struct {
	// Original takes fewer draws by the thresholds of the original system, from the memory that is free when a volume begins.
	Original bool `json:"original"`
	// Wait is the longest time in all, for one volume, to wait until others leave memory, before anything else is given up.
	Wait time.Duration `json:"wait_ns"`
	// CPU lets the processor go on where the device cannot.
	CPU bool `json:"cpu"`
	// Fewer lets a volume be explained with fewer draws, down to 5, where memory for all is missing.
	Fewer bool `json:"fewer_samples"`
	// Skip gives a volume up with the status skipped_low_memory; otherwise it fails.
	Skip bool `json:"skip"`
}

// wait is the Wait of all named policies.
const wait = 10 * time.Second

// mostWait bounds Policy.Wait.
const mostWait = math.MaxInt32 * time.Second

// rules are those of a Policy.
var rules = []option.Rule[Policy]{
	{Option: "wait", Check: func(p Policy) error {
		switch {
		case p.Wait < 0:
			return fmt.Errorf("is %v; a time cannot be negative", p.Wait)
		case p.Wait > mostWait:
			return fmt.Errorf("is %v; it must be at most %v", p.Wait, mostWait)
		}
		return nil
	}},
}

// Check returns all that is wrong with the policy, each a *cam.OptionError, joined.
func (p Policy) Check() error { return option.CheckAll(rules, p, cam.NewOptionError) }

// CheckOption is Check for one option: wait. The error begins with the value.
func (p Policy) CheckOption(name string) error { return option.CheckOne(rules, name, p) }

// DefaultPolicy returns the policy that never changes a result: it waits a while, falls back on the processor, and skips volumes that fit
// nowhere.
func DefaultPolicy() Policy { return Policy{Wait: wait, CPU: true, Skip: true} }

// OriginalPolicy returns the policy that takes fewer draws and skips volumes by the original system's thresholds. Like that system, it does
// not fall back on the processor.
func OriginalPolicy() Policy { return Policy{Original: true, Wait: wait, Fewer: true, Skip: true} }

// DefaultName is the name of DefaultPolicy.
const DefaultName = "exact"

// policies by name.
var policies = []struct {
	name   string
	policy Policy
}{
	{DefaultName, DefaultPolicy()},
	{"original", OriginalPolicy()},
}

// ParsePolicy returns the policy of a name: DefaultPolicy for exact, OriginalPolicy for original.
func ParsePolicy(name string) (Policy, error) {
	for _, p := range policies {
		if strings.EqualFold(strings.TrimSpace(name), p.name) {
			return p.policy, nil
		}
	}
	return Policy{}, fmt.Errorf("the policy %q is not known: choose from %s", name, strings.Join(Names(), ", "))
}

// Names returns the names of all policies.
func Names() (names []string) {
	for _, p := range policies {
		names = append(names, p.name)
	}
	return names
}

// String returns the name of the policy, or that of the nearest: original if draws go by thresholds, else exact.
func (p Policy) String() string {
	if p.Original {
		return "original"
	}
	return DefaultName
}

// Set implements flag.Value. A Wait that was set before stays, so that flags may come in any order.
func (p *Policy) Set(name string) error {
	q, err := ParsePolicy(name)
	if err != nil {
		return err
	}
	if *p != (Policy{}) {
		q.Wait = p.Wait
	}
	*p = q
	return nil
}

// Type names the kind of value in help texts.
func (p *Policy) Type() string { return "policy" }

// LeastDraws is the smallest number of draws that any policy takes when more were asked for.
const LeastDraws = 5

// original are the thresholds of the original system for draws. Its GB are 2^30 bytes.
var original = []struct {
	above int // bytes that are free
	draws func(n int) int
}{
	{5 * bytesize.GiB, func(n int) int { return n }},
	{2 * bytesize.GiB, func(n int) int { return max(20, n/2) }},
	{1 * bytesize.GiB, func(n int) int { return max(10, n/4) }},
	{-1, func(int) int { return LeastDraws }},
}

// skipsBelow is the number of free bytes below which the original system begins no volume.
const skipsBelow = bytesize.GiB / 2

// Samples returns the number of n draws that are taken when free bytes are available for a volume (Usage.Available): all, but for the policy
// original.
// Its thresholds are those of the original system for several methods: n above 5 GB, max(20, n/2) above 2, max(10, n/4) above 1, else 5. There
// they raise small numbers (8 become 20 with 3 GB free); here never more are taken than were asked for.
func (p Policy) Samples(n, free int) int {
	if !p.Original {
		return n
	}
	for _, o := range original {
		if free > o.above {
			return min(n, o.draws(n))
		}
	}
	return min(n, LeastDraws)
}

// SamplesOnProcessor returns the number of n draws that are taken when the processor takes the place of a device with free bytes of free
// memory: all, unless the policy allows fewer. Then it follows the steps of the original system, and never takes more than max(20, n/2).
func (p Policy) SamplesOnProcessor(n, free int) int {
	if !p.Fewer {
		return n
	}
	return min(Policy{Original: true}.Samples(n, free), max(20, n/2))
}

// Skips reports whether a volume is not begun with that many bytes free for it (Usage.Available): below 0.5 GB by the original system's
// policy. Other policies begin it.
func (p Policy) Skips(free int) bool { return p.Original && p.Skip && free < skipsBelow }

// Begin returns the number of n draws that are taken when that many bytes are free for a volume (Usage.Available), and whether the volume is
// begun at all.
func (p Policy) Begin(n, free int) (draws int, begins bool) {
	return p.Samples(n, free), !p.Skips(free)
}
