package contention

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend/cuda/nvml"
	"github.com/voxcam/voxcam/internal/cli"
	"github.com/voxcam/voxcam/internal/control"
	"github.com/voxcam/voxcam/internal/harm"
)

// counter notes what is taken each time that a run in this process tells of a volume.
type counter struct {
	h *harm.Rig

	mu   sync.Mutex
	text bytes.Buffer
	seen [][3]int // bytes of the device, of pinned memory, handles
}

func (c *counter) Write(text []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range bytes.Count(text, []byte(": ok, ")) {
		c.seen = append(c.seen, [3]int{c.h.GPU.Simulator.Used(), c.h.GPU.Host(), c.h.GPU.Handles()})
	}
	return c.text.Write(text)
}

// A long session has at its end what it had after some volumes: of the device and of pinned memory to the byte.
func TestHarmManyVolumes(t *testing.T) {
	volumes := harm.Often(30, 200)
	h := harm.WithMethods(t, volumes, 2)

	// In processes of its own, by what the devices say.
	h.Start("many")
	device, host := map[int]int{}, map[string][2]int{}
	for done := 5; h.IsRunning(); time.Sleep(5 * time.Millisecond) {
		client, err := control.Dial(t.Context(), h.Cmd.Process.Pid)
		if err != nil {
			continue // it has not begun, or has just ended
		}
		s, err := client.Status(t.Context())
		if err != nil || s.Worker == 0 || s.Done < done || s.Done >= volumes-1 {
			continue
		}
		done = s.Done + 1
		device[h.GPU.Used(s.Worker)]++
		for name, pid := range map[string]int{"run": h.Cmd.Process.Pid, "worker": s.Worker} {
			if rss := resident(pid); host[name][0] == 0 {
				host[name] = [2]int{rss, rss}
			} else if rss > 0 {
				host[name] = [2]int{host[name][0], rss}
			}
		}
	}
	h.Finish(0)
	h.IsFree(0)
	if len(device) != 1 || device[0] > 0 {
		t.Errorf("the worker has had so many bytes of the device, so often: %v", device)
	}
	for name, rss := range host {
		if grown := rss[1] - rss[0]; grown > 24<<20 {
			t.Errorf("the %s has grown by %d KiB", name, grown>>10)
		}
	}

	// In this process, by what the driver says.
	h.T.Chdir(h.Dir)
	h.GPU.Reset()
	c := &counter{h: h}
	if code := cli.Run(t.Context(), []string{"run", "--config", "config.toml", "--session", "here", "--worker=false"}, c, c); code != 0 {
		t.Fatal(c.text.String())
	}
	if len(c.seen) != volumes {
		t.Fatalf("%d volumes were told of: %s", len(c.seen), c.text.String())
	}
	most := 0
	for i, seen := range c.seen[5 : volumes-1] { // when the last one is told of, the device may be closed
		if i <= len(c.seen)/2 {
			most = max(most, seen[2]+1) // the next volume may have an event more or less at that time
		}
		if seen[0] != c.seen[5][0] || seen[1] != c.seen[5][1] || seen[1] == 0 || seen[2] > most {
			t.Errorf("after volume %d, [bytes of the device, of pinned memory, handles] are %v, after the 6th %v", i+6, seen, c.seen[5])
		}
	}
	h.Expect("here")
	if worst := h.Check("many"); worst != 0 {
		t.Errorf("%.1e off", worst)
	}
	t.Logf("%d volumes: bytes of the device and how often they were seen: %v; resident after 5 and at the end: %v; in one process: %v", volumes,
		device, host, c.seen[5])
}

// resident is a process's resident memory in bytes; 0 if it is not known.
func resident(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.Atoi(fields[1])
	return pages * os.Getpagesize()
}

// recovered runs voxcam recover, which is to find that memory came back or was healthy, and returns what it wrote.
func recovered(h *harm.Rig, args ...string) string {
	h.T.Helper()
	out, err := h.Program(append([]string{"recover"}, args...)...).CombinedOutput()
	if err != nil {
		h.T.Errorf("recover %v: %v: %s", args, err, out)
	}
	return string(out)
}

// A session gives its memory to others when a signal or voxcam recover says so, takes it back with the next volume, and has its context made
// anew, while it explains volumes to the same results.
func TestHarmMovingBudget(t *testing.T) {
	h := harm.WithMethods(t, harm.Often(10, 60), 8)
	h.GPU.SetContext(4 * harm.Piece) // of which the worker has half as long as it lives: it needs no stacks
	h.Undisturbed()
	library, err := nvml.Open(h.GPU.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer library.Close()
	h.Start("moved")
	_, s := h.Until("a pass", func(s control.Status) bool { return harm.IsComputing(s) && s.Passes > 2 && s.Worker != 0 })
	full := usedBy(h, library, s.Worker)
	steps := []string{fmt.Sprint(full>>20, " MiB")}
	gives := func(what string, order func()) {
		order()
		h.Until("little memory after "+what, func(s control.Status) bool { return s.Held && s.Level == cam.LevelHost && harm.IsComputing(s) })
		used := usedBy(h, library, s.Worker)
		if used >= full {
			t.Errorf("%s: the worker has %d bytes, and had %d before", what, used, full)
		}
		steps = append(steps, fmt.Sprint(what, ": ", used>>20, " MiB"))
	}
	returns := func(what string) {
		used := 0 // plans can be whole a volume before the last field is on the device
		h.Until("all memory after "+what, func(now control.Status) bool {
			used = usedBy(h, library, s.Worker)
			return !now.Held && now.Level == cam.LevelWhole && harm.IsComputing(now) && used == full
		})
		steps = append(steps, fmt.Sprint(what, ": ", used>>20, " MiB"))
	}
	signal := func(s syscall.Signal) {
		if err := h.Cmd.Process.Signal(s); err != nil {
			t.Error(err)
		}
	}
	gives("SIGUSR1", func() { signal(syscall.SIGUSR1) })
	signal(syscall.SIGUSR2)
	returns("SIGUSR2")
	gives("recover", func() { recovered(h, "--for", "1s") })
	returns("recover --for")
	if client, err := control.Dial(t.Context(), h.Cmd.Process.Pid); err != nil {
		t.Error(err)
	} else if metrics, err := client.Get(t.Context(), "/metrics"); err != nil || !strings.Contains(string(metrics), "voxcam_") {
		t.Errorf("metrics: %q, %v", metrics, err)
	}
	if said := recovered(h, "--restart-cuda"); !strings.Contains(said, "restart  session moved") {
		t.Error(said)
	}
	h.Until("memory of another process", func(now control.Status) bool {
		return now.Worker != 0 && now.Worker != s.Worker && h.GPU.Used(now.Worker) >= 2*harm.Piece
	})
	if left := h.GPU.Used(s.Worker); left != 0 {
		t.Errorf("the process before has %d bytes of the device", left)
	}
	out := h.Finish(0)
	t.Log(strings.Join(steps, ", "))
	if worst := h.Check("moved"); worst != 0 {
		t.Errorf("%.1e off", worst)
	}
	_, kinds := h.Levels("moved")
	for _, k := range []cam.EventKind{cam.EventReleased, cam.EventLarger, cam.EventResumed, cam.EventRestart} {
		if kinds[k] == 0 {
			t.Errorf("nothing is told of %s: %v\n%s", k, kinds, out)
		}
	}
	h.IsFree(0)
	h.NoSockets()
}

// usedBy returns the bytes that a process has of the device, as NVML says.
func usedBy(h *harm.Rig, library *nvml.Library, pid int) int {
	h.T.Helper()
	device, err := library.ByIndex(0)
	if err != nil {
		h.T.Fatal(err)
	}
	processes, err := device.Processes()
	if err != nil {
		h.T.Fatal(err)
	}
	for _, p := range processes {
		if p.PID == pid {
			return p.Bytes
		}
	}
	return 0
}
