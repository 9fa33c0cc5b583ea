// Package faults holds tests of runs whose driver fails, hangs or loses its device, and of runs that are killed.
package faults

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/cli"
	"github.com/voxcam/voxcam/internal/harm"
)

func TestMain(m *testing.M) { harm.Main(m) }

// Calls of the driver fail, do not return, or find the device lost: the run finishes, with the results of one that was left alone.
func TestHarmFaults(t *testing.T) {
	h := harm.WithMethods(t, 2, 3)
	wait := []string{"--wait", "1s"}
	h.Args = wait
	h.Undisturbed()
	calls := countCalls(h)
	t.Logf("an undisturbed run makes %d calls", calls[""])
	for _, c := range []struct {
		name string
		args []string
		test func(*trials)
	}{
		{"FailedAllocations", wait, failedAllocations},
		{"FailedCalls", wait, failedCalls},
		{"EveryCall", wait, everyCall},
		{"LeaveNothing", wait, leaveNothing},
		{"HangsAndLosses", []string{"--pass-timeout", "2s"}, hangsAndLosses},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &trials{Rig: h.In(t), calls: calls, session: c.name, kinds: map[cam.EventKind]int{}}
			s.Args = c.args
			c.test(s)
			t.Logf("%d runs, without a word of %v, in %d the processor computed; what happened: %v; %.1e off", s.runs, s.silent, s.processor, s.kinds, s.off)
			s.IsFree(0)
			s.NoSockets()
		})
	}
}

// here runs a session in this process, whose device's calls can be counted, and wants nothing of it to be left there.
func here(h *harm.Rig, session string) string {
	h.T.Helper()
	var out bytes.Buffer
	args := slices.Concat([]string{"run", "--config", "config.toml", "--session", session, "--worker=false"}, h.Args)
	if code := cli.Run(h.T.Context(), args, &out, &out); code != 0 {
		h.T.Errorf("exit code %d:\n%s", code, out.String())
	}
	if used, host, handles := h.GPU.Simulator.Used(), h.GPU.Host(), h.GPU.Handles(); used != 0 || host != 0 || handles != 0 {
		h.T.Errorf("%d bytes of the device, %d of pinned memory and %d handles are left:\n%s", used, host, handles, out.String())
	}
	return out.String()
}

// countCalls counts the calls of each function of the driver that a session makes and, of "", all.
func countCalls(h *harm.Rig) map[string]int {
	h.T.Helper()
	h.T.Chdir(h.Dir)
	h.GPU.Reset() // which leaves shared devices as they are
	here(h, "counted")
	each := map[string]int{"": h.GPU.Count()}
	for _, name := range slices.Concat(allocations, others) {
		each[name] = h.GPU.Calls(name)
	}
	return each
}

// allocations are the functions of the driver that take something, and others those that do not.
var (
	allocations = []string{"cuDevicePrimaryCtxRetain", "cuModuleLoadDataEx", "cuStreamCreate", "cuEventCreate", "cuMemAddressReserve", "cuMemCreate",
		"cuMemMap", "cuMemSetAccess", "cuMemHostAlloc", "cuGraphInstantiateWithFlags"}
	others = []string{"cuInit", "cuDriverGetVersion", "cuDeviceGet", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute",
		"cuCtxSetCurrent", "cuCtxSynchronize", "cuMemGetInfo_v2", "cuMemGetAllocationGranularity", "cuMemRelease", "cuMemUnmap", "cuMemAddressFree",
		"cuMemFreeHost", "cuStreamDestroy_v2", "cuStreamSynchronize", "cuStreamWaitEvent", "cuEventDestroy_v2", "cuEventRecord", "cuEventSynchronize",
		"cuEventQuery", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemsetD8Async", "cuMemsetD32Async",
		"cuModuleUnload", "cuModuleGetFunction", "cuFuncSetAttribute", "cuLaunchKernel", "cuStreamBeginCapture_v2", "cuStreamEndCapture",
		"cuGraphLaunch", "cuGraphDestroy", "cuGraphExecDestroy", "cuDevicePrimaryCtxRelease_v2"}
)

const (
	outOfMemory = 2
	unknown     = 999
)

// trials are runs with faults, and what became of them.
type trials struct {
	*harm.Rig
	calls   map[string]int // of an undisturbed run
	session string         // prefix of the names of sessions

	runs      int
	silent    []string // faults of which no record tells
	processor int      // runs in which it computed
	kinds     map[cam.EventKind]int
	off       float64
}

// fault runs a session with faults in the first worker alone, or in each one, which begins to count anew.
func (s *trials) fault(list string, each bool, args ...string) string {
	s.T.Helper()
	s.runs++
	name := fmt.Sprint(s.session, s.runs)
	mark := filepath.Join(s.Dir, name)
	if each {
		s.HarmEach(list)
	} else {
		s.HarmOnce(mark, list)
	}
	out := s.Run(name, 0, args...)
	s.HarmNone()
	if !each {
		if err := os.Remove(mark); err != nil {
			s.T.Errorf("no worker has had the faults %s: %v", list, err)
		}
	}
	before := s.T.Failed()
	s.off = max(s.off, s.Check(name))
	levels, kinds := s.Levels(name)
	if len(kinds) == 0 {
		s.silent = append(s.silent, list)
	}
	for k, n := range kinds {
		s.kinds[k] += n
	}
	if n := levels[cam.LevelCPU]; n > 0 {
		s.processor++
		if !each {
			s.T.Logf("%s once: %d volumes went to the processor: %v", list, n, kinds)
		}
	}
	if s.T.Failed() && !before {
		s.T.Logf("%s, in each worker %v:\n%s", list, each, out)
	}
	s.IsFree(0)
	if err := os.RemoveAll(s.Folder(name)); err != nil {
		s.T.Error(err)
	}
	return out
}

// Each allocation fails once, and again in each worker that is started anew: the run finishes.
func failedAllocations(s *trials) {
	for i, name := range allocations {
		n := s.calls[name]
		if n == 0 {
			s.T.Errorf("%s is not called", name)
		}
		for k := 1; k <= n; k++ {
			if !harm.Long() && (k != (n+1)/2 || i%2 == 0) { // the others fail in leaveNothing
				continue
			}
			s.fault(fmt.Sprintf("%s:%d:%d", name, k, outOfMemory), false)
			if harm.Long() {
				s.fault(fmt.Sprintf("%s:%d:%d", name, k, unknown), false)
				s.fault(fmt.Sprintf("%s:%d:%d", name, k, outOfMemory), true)
			}
		}
	}
}

// Calls of all other functions fail once: the run finishes.
func failedCalls(s *trials) {
	for _, name := range others {
		if n := s.calls[name]; n > 0 && (harm.Long() || name == "cuStreamSynchronize" || name == "cuLaunchKernel") {
			s.fault(fmt.Sprintf("%s:%d:%d", name, (n+1)/2, unknown), false)
		}
	}
	if harm.Long() {
		for k := 1; k <= s.calls[""]; k += 13 {
			s.fault(fmt.Sprintf("any:%d:%d", k, unknown), false)
		}
	}
}

// Each n-th call fails, in each worker: the run finishes, at worst on the processor.
func everyCall(s *trials) {
	for _, n := range []int{2000, 701, 150, 40} {
		if harm.Long() || n == 701 {
			s.fault(fmt.Sprintf("every:%d:%d", n, outOfMemory), true)
		}
		if harm.Long() || n == 40 {
			s.fault(fmt.Sprintf("every:%d:%d", n, unknown), true)
		}
	}
	if harm.Long() { // a GPU that cannot be opened at all is an error, unless the choice is the program's
		s.fault(fmt.Sprintf("every:7:%d", unknown), true, "--device", "auto")
		s.fault(fmt.Sprintf("every:1:%d", unknown), true, "--device", "auto")
	}
}

// After each allocation that fails the program gives back all that it has, also where no process ends with it.
func leaveNothing(s *trials) {
	for i, name := range allocations {
		n := s.calls[name]
		for k := 1; k <= n; k++ {
			for _, code := range []int{outOfMemory, unknown} {
				if !harm.Long() && (k != (n+1)/2 || code == unknown || i%2 == 1) {
					continue
				}
				s.runs++
				session := fmt.Sprint(s.session, s.runs)
				s.GPU.Reset()
				s.GPU.FailCall(name, k, code)
				failed := s.T.Failed()
				out := here(s.Rig, session)
				s.Check(session)
				if levels, _ := s.Levels(session); levels[cam.LevelCPU] > 0 {
					s.processor++
				}
				if s.T.Failed() && !failed {
					s.T.Logf("call %d of %s gave error %d:\n%s", k, name, code, out)
				}
			}
		}
	}
	s.GPU.Reset()
}

// Calls that do not return end with the worker, and another one goes on; so does one after the device was lost.
func hangsAndLosses(s *trials) {
	for _, name := range []string{"cuStreamSynchronize", "cuLaunchKernel", "cuMemCreate", "cuMemHostAlloc", "cuEventSynchronize",
		"cuDevicePrimaryCtxRelease_v2"} {
		if n := s.calls[name]; n > 0 && (harm.Long() || name == "cuStreamSynchronize") {
			out := s.fault(fmt.Sprintf("hang:%s:%d", name, (n+1)/2), false)
			if name == "cuStreamSynchronize" && !strings.Contains(out, "no progress for 2s") { // others may hang while the model is opened
				s.T.Errorf("%s hangs, and the run says\n%s", name, out)
			}
		}
	}
	for i := range harm.Often(2, 20) {
		s.fault(fmt.Sprintf("lose:%d", 1+(i+1)*s.calls[""]/(harm.Often(2, 20)+1)), i%2 == 1)
	}
}
