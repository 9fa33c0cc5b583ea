package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/cli"
	"github.com/voxcam/voxcam/internal/explain"
)

// here runs a session in this process, whose device's calls can be counted, and wants nothing of it to be left there.
func (h *harm) here(session string) string {
	h.t.Helper()
	var out bytes.Buffer
	args := slices.Concat([]string{"run", "--config", "config.toml", "--session", session, "--worker=false"}, h.args)
	if code := cli.Run(h.t.Context(), args, &out, &out); code != 0 {
		h.t.Errorf("exit code %d:\n%s", code, out.String())
	}
	if used, host, handles := h.gpu.Simulator.Used(), h.gpu.Host(), h.gpu.Handles(); used != 0 || host != 0 || handles != 0 {
		h.t.Errorf("%d bytes of the device, %d of pinned memory and %d handles are left:\n%s", used, host, handles, out.String())
	}
	return out.String()
}

// calls are how many calls of each function of the driver a session makes, and, of "", how many in all.
func (h *harm) calls() (of func(name string) int) {
	h.t.Helper()
	h.t.Chdir(h.dir)
	h.gpu.Reset() // which leaves shared devices as they are
	h.here("counted")
	each := map[string]int{"": h.gpu.Count()}
	for _, name := range slices.Concat(allocations, others) {
		each[name] = h.gpu.Calls(name)
	}
	return func(name string) int { return each[name] }
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

// tally counts what became of runs.
type tally struct {
	runs      int
	silent    []string // faults of which no record tells
	processor int      // runs in which it computed
	kinds     map[explain.IncidentKind]int
	off       float64
}

// fault runs a session with faults in the first worker alone, or in each one, which begins to count anew.
func (h *harm) fault(list string, each bool, sum *tally, args ...string) string {
	h.t.Helper()
	sum.runs++
	name := fmt.Sprintf("fault%d", sum.runs)
	h.command, h.env = "voxcam", []string{faults + "=" + list}
	if !each {
		h.command, h.env = onceCommand, []string{onceVariable + "=" + filepath.Join(h.dir, name), onceFaults + "=" + list}
	}
	out := h.run(name, 0, args...)
	h.command, h.env = "voxcam", nil
	before := h.t.Failed()
	sum.off = max(sum.off, h.check(name))
	levels, kinds := h.levels(name)
	if len(kinds) == 0 {
		sum.silent = append(sum.silent, list)
	}
	for k, n := range kinds {
		sum.kinds[k] += n
	}
	if n := levels[explain.LevelCPU]; n > 0 {
		sum.processor++
		if !each {
			h.t.Logf("%s once: %d volumes went to the processor: %v", list, n, kinds)
		}
	}
	if h.t.Failed() && !before {
		h.t.Logf("%s, in each worker %v:\n%s", list, each, out)
	}
	h.isFree(0)
	if err := os.RemoveAll(h.folder(name)); err != nil {
		h.t.Error(err)
	}
	return out
}

// Each allocation, and calls of all other functions, fail once, and again in each worker that is started anew: the run finishes.
func TestHarmFaults(t *testing.T) {
	h := withMethods(t, 2, 3)
	h.args = []string{"--wait", "1s"}
	h.wholly()
	calls := h.calls()
	t.Logf("an undisturbed run makes %d calls", calls(""))
	sum := tally{kinds: map[explain.IncidentKind]int{}}
	for _, name := range allocations {
		n := calls(name)
		if n == 0 {
			t.Errorf("%s is not called", name)
		}
		for k := 1; k <= n; k++ {
			if !isLong() && k != (n+1)/2 {
				continue
			}
			h.fault(fmt.Sprintf("%s:%d:%d", name, k, outOfMemory), false, &sum)
			if isLong() {
				h.fault(fmt.Sprintf("%s:%d:%d", name, k, unknown), false, &sum)
				h.fault(fmt.Sprintf("%s:%d:%d", name, k, outOfMemory), true, &sum)
			}
		}
	}
	t.Logf("allocations: %+v", sum)
	sum = tally{kinds: map[explain.IncidentKind]int{}}
	for i, name := range others {
		if n := calls(name); n > 0 && (isLong() || i%8 == 0) {
			h.fault(fmt.Sprintf("%s:%d:%d", name, (n+1)/2, unknown), false, &sum)
		}
	}
	if isLong() {
		for k := 1; k <= calls(""); k += 7 {
			h.fault(fmt.Sprintf("any:%d:%d", k, unknown), false, &sum)
		}
	}
	t.Logf("other calls: %+v", sum)
	sum = tally{kinds: map[explain.IncidentKind]int{}}
	for _, n := range []int{2000, 701, 150, 40, 7, 1} {
		if isLong() || n == 701 || n == 40 {
			h.fault(fmt.Sprintf("every:%d:%d", n, unknown), true, &sum)
			h.fault(fmt.Sprintf("every:%d:%d", n, outOfMemory), true, &sum)
		}
	}
	t.Logf("every n-th: %+v", sum)
	h.noSockets()
}

// After each allocation that fails the program gives back all that it has, also where no process ends with it.
func TestHarmFaultsLeaveNothing(t *testing.T) {
	h := withMethods(t, 2, 3)
	h.args = []string{"--wait", "1s"}
	h.wholly()
	calls := h.calls()
	runs, processor := 0, 0
	for _, name := range allocations {
		n := calls(name)
		for k := 1; k <= n; k++ {
			for _, code := range []int{outOfMemory, unknown} {
				if !isLong() && (k != (n+1)/2 || code == unknown) {
					continue
				}
				runs++
				session := "here" + strconv.Itoa(runs)
				h.gpu.Reset()
				h.gpu.FailCall(name, k, code)
				failed := t.Failed()
				out := h.here(session)
				h.check(session)
				if levels, _ := h.levels(session); levels[explain.LevelCPU] > 0 {
					processor++
				}
				if t.Failed() && !failed {
					t.Logf("call %d of %s gave error %d:\n%s", k, name, code, out)
				}
			}
		}
	}
	h.gpu.Reset()
	t.Logf("%d calls failed, one at a time; in %d runs the processor computed", runs, processor)
	h.isFree(0)
}

// Calls that do not return end with the worker, and another one goes on; so does one after the device was lost.
func TestHarmHangsAndLosses(t *testing.T) {
	h := withMethods(t, 2, 3)
	h.args = []string{"--pass-timeout", "1s"}
	h.wholly()
	calls := h.calls()
	sum := tally{kinds: map[explain.IncidentKind]int{}}
	for _, name := range []string{"cuStreamSynchronize", "cuLaunchKernel", "cuMemCreate", "cuMemHostAlloc", "cuEventSynchronize", "cuDevicePrimaryCtxRelease_v2"} {
		if n := calls(name); n > 0 && (isLong() || name == "cuStreamSynchronize") {
			out := h.fault(fmt.Sprintf("hang:%s:%d", name, (n+1)/2), false, &sum)
			if !strings.Contains(out, "no progress for 1s") {
				t.Errorf("%s hangs, and the run says\n%s", name, out)
			}
		}
	}
	t.Logf("hangs: %+v", sum)
	sum = tally{kinds: map[explain.IncidentKind]int{}}
	for i := range often(2, 20) {
		h.fault(fmt.Sprintf("lose:%d", 1+(i+1)*calls("")/(often(2, 20)+1)), i%2 == 1, &sum)
	}
	t.Logf("losses: %+v", sum)
	h.noSockets()
}
