// Package gpusurvey surveys the memory of this machine's GPUs: its size, the processes that hold it, and its health, from the driver, NVML
// and /proc. It runs nothing on a device.
package gpusurvey

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/backend/cuda/nvml"
	"github.com/voxcam/voxcam/internal/bytesize"
	"github.com/voxcam/voxcam/internal/sysmem"
)

// Options of a survey. The zero value asks NVML and the driver where the system has them, and takes no memory of any GPU.
type Options struct {
	Driver string // the file of the driver, libcuda.so.1; "" looks for it
	NVML   string // the file of NVML, libnvidia-ml.so.1; "" looks for it
	Bands  Bands  // zero: DefaultBands
	// Sessions lists the sessions of this program that answer; nil: none.
	Sessions func(context.Context) ([]SessionUsage, error)
	// Context asks the driver too, through a context on each GPU, which takes some hundred MiB of its memory for a moment.
	Context bool
	// Probe takes all free memory of each GPU but a reserve for a moment, to see whether it can be one block. Other programs that ask
	// for memory at that moment are refused it. It needs Context.
	Probe bool
	// Only limits Context and Probe to GPUs that it names, as CUDA counts them; nil: all.
	Only []int
}

// SessionUsage has the processes and the memory of a session of this program.
type SessionUsage struct {
	Name  string        `json:"session"`
	PIDs  []int         `json:"pids"`           // of all its processes
	UUID  string        `json:"uuid,omitempty"` // of its GPU; "" without one
	Usage backend.Usage `json:"usage"`
	Held  bool          `json:"held"` // it was asked to release memory, and has not resumed
}

// Fragmentation returns the share of the free memory, and of memory that is held without contents, that the session could not get as one
// block.
func (s SessionUsage) Fragmentation() float64 { return s.Usage.Fragmentation() }

// Survey shows the use of a machine's memory at one moment.
type Survey struct {
	Time     time.Time      `json:"time"`
	GPUs     []GPU          `json:"gpus"` // in the order of CUDA, then those that CUDA does not show
	Host     Host           `json:"host"`
	Sessions []SessionUsage `json:"sessions"`
	// Notes are for the user, about missing or hidden figures and the sources of the others.
	Notes []string `json:"notes,omitempty"`
}

// Figures of a GPU, in bytes.
type Figures struct {
	Total     int `json:"total_bytes"`
	Used      int `json:"used_bytes"`            // by all processes
	TrulyFree int `json:"truly_free_bytes"`      // free for any process now, by the driver; -1 where it is not known
	System    int `json:"driver_reserved_bytes"` // kept by driver and firmware; 0 where they do not tell: it is part of Used then
	Allocated int `json:"allocated_bytes"`       // with arenas, weights and volumes of this program's sessions
	Pool      int `json:"pool_bytes"`            // taken by those sessions for that: Allocated, and spare memory for later allocations
	Reserved  int `json:"reserved_bytes"`        // held by processes of this program in all, with their contexts
	Largest   int `json:"largest_bytes"`         // the largest block that one process could get

	Fragmentation float64 `json:"fragmentation_ratio"` // 1 - Largest / (TrulyFree + Pool - Allocated)
	Slack         float64 `json:"slack_ratio"`         // (Pool - Allocated) / Pool: the original's fragmentation
}

// GPU has the findings about one GPU.
type GPU struct {
	Number int    `json:"number"` // as CUDA and --device cuda:N count; -1 where CUDA does not show it to this process
	Index  int    `json:"index"`  // as NVML and nvidia-smi count; -1 for a slice, and where there is no NVML
	Name   string `json:"name"`
	UUID   string `json:"uuid"`
	MIG    bool   `json:"mig"` // a slice of a GPU
	Figures
	Utilization       float64       `json:"utilization"`        // share of the last moments in which it was busy, 0 to 1; -1 where it is not known
	MemoryUtilization float64       `json:"memory_utilization"` // the same for its memory
	Processes         []ProcessInfo `json:"processes"`          // with memory of it, most first
	Unattributed      int           `json:"unattributed_bytes"` // part of Used that no process in the list holds
	Health            Health        `json:"health"`
	Context           *Context      `json:"context,omitempty"` // the driver's figures, if it was asked
	Problem           string        `json:"problem,omitempty"` // the reason why figures are missing
}

// Hidden reports whether this process cannot use the GPU.
func (g GPU) Hidden() bool { return g.Number < 0 }

// ProcessInfo describes a process that holds memory of a device.
type ProcessInfo struct {
	PID     int    `json:"pid"`
	Bytes   int    `json:"bytes"`             // of the device's memory that it holds; -1 where it is not known
	Name    string `json:"name,omitempty"`    // by the system, up to 15 letters; "" where it is not known
	Command string `json:"command,omitempty"` // with its arguments, separated by single blanks
	UID     int    `json:"uid"`               // of its user; -1 where it is not known
	User    string `json:"user,omitempty"`    // the user's name
	Parent  int    `json:"parent,omitempty"`  // PID of its parent
	// Started is the time of its start, in the system's own unit since it booted. PID and Started together name one process for good.
	Started uint64 `json:"started,omitempty"`

	Ours    bool   `json:"ours"`              // it belongs to a session that answers
	Session string `json:"session,omitempty"` // that session's name
	Program bool   `json:"program"`           // it runs this program, with or without a session
	Orphan  bool   `json:"orphan"`            // a worker of this program whose parent is gone
	// Elsewhere: the PID is that of another container or of the host, and says nothing here.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// Context holds the driver's figures of a GPU, read from a context on it.
type Context struct {
	Free  int `json:"driver_free_bytes"` // besides this context
	Total int `json:"driver_total_bytes"`
	Bytes int `json:"context_bytes"` // of this context; -1 where it is not known
	// Asked and Got are the bytes that a probe asked for, and got as one block.
	Asked int `json:"probe_asked_bytes,omitempty"`
	Got   int `json:"probe_got_bytes,omitempty"`
}

// Host is the memory that the processor computes in.
type Host struct {
	Total   int    `json:"total_bytes"`      // of the machine; 0 where it is not known
	Free    int    `json:"truly_free_bytes"` // that this process may still take (sysmem.Free); -1 where it is not known
	Health  Health `json:"health"`
	Problem string `json:"problem,omitempty"`
}

// gb returns n in the unit of the original's keys, 2^30 bytes: torch's figures divided by 1024**3.
func gb(n int) float64 { return float64(n) / bytesize.GiB }

// knownGB returns gb(n), or nil (null in JSON) for -1, which is not known.
func knownGB(n int) *float64 {
	if n < 0 {
		return nil
	}
	x := gb(n)
	return &x
}

// MarshalJSON adds the original's keys, which end in _gb and are in units of 2^30 bytes.
func (g GPU) MarshalJSON() ([]byte, error) {
	type plain GPU
	return json.Marshal(struct {
		plain
		AllocatedGB float64  `json:"allocated_gb"`
		ReservedGB  float64  `json:"reserved_gb"`
		TrulyFreeGB *float64 `json:"truly_free_gb"` // null where it is not known
		TotalGB     float64  `json:"total_gb"`
	}{plain(g), gb(g.Allocated), gb(g.Reserved), knownGB(g.TrulyFree), gb(g.Total)})
}

// MarshalJSON adds the original's keys.
func (h Host) MarshalJSON() ([]byte, error) {
	type plain Host
	return json.Marshal(struct {
		plain
		TrulyFreeGB *float64 `json:"truly_free_gb"`
		TotalGB     float64  `json:"total_gb"`
	}{plain(h), knownGB(h.Free), gb(h.Total)})
}

// Surveyor keeps the libraries open between surveys. It may be used by many goroutines.
type Surveyor struct {
	o         Options
	processes *processes

	nvml    *nvml.Library
	noNVML  error
	driver  *driver.Driver
	noCUDA  error
	devices []driver.DeviceInfo // shown to this process by CUDA
}

// Open looks for the libraries. Missing ones are named in the notes of surveys: a machine without a GPU has a survey too.
func Open(o Options) *Surveyor {
	if o.Bands == (Bands{}) {
		o.Bands = DefaultBands()
	}
	s := &Surveyor{o: o, processes: newProcesses(o.Driver)}
	s.nvml, s.noNVML = nvml.Open(o.NVML)
	if s.driver, s.noCUDA = driver.Open(o.Driver); s.noCUDA == nil {
		s.devices, s.noCUDA = s.driver.Devices()
	}
	return s
}

// Close ends the surveyor.
func (s *Surveyor) Close() error {
	if s.nvml == nil {
		return nil
	}
	return s.nvml.Close()
}

// Look makes a single survey.
func Look(ctx context.Context, o Options) (v *Survey, err error) {
	s := Open(o)
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.Survey(ctx)
}

// Survey looks at all GPUs and the host. Its errors are those of the context; other failures are part of the survey.
func (s *Surveyor) Survey(ctx context.Context) (*Survey, error) {
	v := &Survey{Time: time.Now(), GPUs: []GPU{}, Sessions: []SessionUsage{}, Host: s.host()}
	if s.o.Sessions != nil {
		sessions, err := s.o.Sessions(ctx)
		if err != nil {
			v.note("not all sessions could be asked: %v", err)
		}
		v.Sessions = append(v.Sessions, sessions...)
	}
	s.list(v)
	for i := range v.GPUs {
		g := &v.GPUs[i]
		s.attribute(g, v.Sessions)
		if s.o.Context && !g.Hidden() && (s.o.Only == nil || slices.Contains(s.o.Only, g.Number)) {
			if err := s.ask(ctx, g); err != nil {
				return nil, err
			}
		}
		s.figure(g, v.Sessions)
	}
	s.explain(v)
	return v, ctx.Err()
}

func (s *Survey) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// list finds the GPUs: those that CUDA shows, in its order, then those that only NVML shows.
func (s *Surveyor) list(v *Survey) {
	for _, d := range s.devices {
		g := GPU{Number: d.Ordinal, Index: -1, Name: d.Name, UUID: d.UUID, MIG: d.MIG}
		g.Total = d.TotalBytes
		v.GPUs = append(v.GPUs, g)
	}
	if s.nvml == nil {
		return
	}
	n, err := s.nvml.Count()
	if err != nil {
		v.note("NVML does not count the GPUs: %v", err)
	}
	forbidden := 0
	for i := range n {
		d, err := s.nvml.ByIndex(i)
		if refused, ok := errors.AsType[*nvml.Error](err); ok && refused.Code == nvml.CodeNoPermission {
			forbidden++
			continue
		}
		if err != nil {
			v.note("NVML: %v", err)
			continue
		}
		uuid, err := d.UUID()
		if err != nil {
			v.note("NVML: GPU %d: %v", i, err)
			continue
		}
		at := slices.IndexFunc(v.GPUs, func(g GPU) bool { return g.UUID == uuid })
		if at < 0 {
			g := GPU{Number: -1, Index: i, UUID: uuid}
			g.Name, _ = d.Name()
			v.GPUs = append(v.GPUs, g)
			continue
		}
		v.GPUs[at].Index = i
	}
	if forbidden > 0 {
		v.note("the machine has more GPUs, which this process may not ask: %d", forbidden)
	}
}

// attribute fills in NVML's figures of a GPU and the processes that hold its memory.
func (s *Surveyor) attribute(g *GPU, sessions []SessionUsage) {
	g.TrulyFree, g.Utilization, g.MemoryUtilization = -1, -1, -1
	g.Processes = []ProcessInfo{}
	if s.nvml == nil {
		return
	}
	d, err := s.nvml.ByUUID(g.UUID)
	if err != nil {
		g.Problem = err.Error()
		return
	}
	m, err := d.Memory()
	if err != nil {
		g.Problem = err.Error()
		return
	}
	g.Total, g.Used, g.TrulyFree, g.System = m.Total, m.Used, m.Free, m.Reserved
	if gpu, memory, err := d.Utilization(); err == nil { // slices do not report it
		g.Utilization, g.MemoryUtilization = gpu, memory
	}
	list, err := d.Processes()
	if err != nil {
		g.Problem = fmt.Sprintf("the processes that hold its memory are not known: %v", err)
	}
	g.Unattributed = g.Used
	for _, p := range list {
		is := s.processes.holder(p.PID)
		if is.Bytes = p.Bytes; is.Name == "" {
			if file, err := s.nvml.ProcessName(p.PID); err == nil { // the driver knows names of processes that are hidden here
				is.Name = file[strings.LastIndexAny(file, `/\\`)+1:]
			}
		}
		for _, session := range sessions {
			if slices.Contains(session.PIDs, p.PID) {
				is.Ours, is.Program, is.Session = true, true, session.Name
			}
		}
		g.Unattributed -= max(0, p.Bytes)
		g.Processes = append(g.Processes, is)
	}
	g.Unattributed = max(0, g.Unattributed)
	slices.SortStableFunc(g.Processes, func(a, b ProcessInfo) int { return b.Bytes - a.Bytes })
}

// piece is the unit in which the driver hands out memory. Pieces from anywhere can be mapped side by side, so that only a rest of less than
// one piece of the free memory cannot be used.
const piece = 2 * bytesize.MiB

// figure computes the figures that follow from the findings.
func (s *Surveyor) figure(g *GPU, sessions []SessionUsage) {
	named := map[string]int{} // bytes that NVML attributes to sessions
	for _, p := range g.Processes {
		if p.Program {
			g.Reserved += max(0, p.Bytes)
		}
		if p.Ours {
			named[p.Session] += max(0, p.Bytes)
		}
	}
	largest := max(0, g.TrulyFree) / piece * piece
	for _, session := range sessions {
		u := session.Usage
		if session.UUID == "" || session.UUID != g.UUID {
			continue
		}
		g.Allocated += u.Allocated
		g.Pool += u.Reserved
		if named[session.Name] == 0 { // NVML does not see its processes: its own figures count
			g.Reserved += u.Reserved + u.Overhead
		}
		largest = max(largest, u.Largest)
	}
	if g.Pool > 0 {
		g.Slack = float64(g.Pool-g.Allocated) / float64(g.Pool)
	}
	if g.TrulyFree < 0 {
		return
	}
	unused := g.TrulyFree + g.Pool - g.Allocated
	g.Largest = min(largest, unused) // the session's figure may be a moment older
	if c := g.Context; c != nil && c.Asked > c.Got {
		g.Largest = c.Got
	}
	if unused > 0 {
		g.Fragmentation = 1 - float64(g.Largest)/float64(unused)
	}
	if unused < piece { // too little to be split
		g.Fragmentation = 0
	}
	g.Health = s.o.Bands.Judge(g.TrulyFree, g.Fragmentation)
}

// host returns the figures of the host.
func (s *Surveyor) host() Host {
	h := Host{Free: -1, Total: sysmem.Total()}
	free, err := sysmem.Free()
	if err != nil {
		h.Problem = err.Error()
		return h
	}
	h.Free = free
	h.Health = s.o.Bands.Judge(free, 0) // addresses are virtual: any part of it can be one block
	return h
}

// explain adds notes on missing and hidden figures.
func (s *Surveyor) explain(v *Survey) {
	visible, chosen := os.LookupEnv("CUDA_VISIBLE_DEVICES")
	var hidden []string
	unattributed, elsewhere, silent := false, false, false
	for _, g := range v.GPUs {
		if g.Hidden() {
			hidden = append(hidden, fmt.Sprint(g.Index))
		}
		unattributed = unattributed || g.Unattributed >= 16*bytesize.MiB
		for _, p := range g.Processes {
			elsewhere = elsewhere || p.Elsewhere
			silent = silent || p.Bytes < 0
		}
	}
	var none *driver.NoDriverError
	var refused *driver.Error
	switch {
	case s.noCUDA == nil:
	case errors.As(s.noCUDA, &none) && none.Found == "" && len(v.GPUs) == 0:
		v.note("no GPU: %v", s.noCUDA)
	case errors.As(s.noCUDA, &refused) && refused.Code == driver.CodeNoDevice && chosen:
		v.note("CUDA shows no GPU to this process: CUDA_VISIBLE_DEVICES is %q", visible)
	default:
		v.note("CUDA shows no GPU to this process: %v", s.noCUDA)
	}
	if len(hidden) > 0 && s.noCUDA == nil {
		why := "they can be split in slices, or too old for the driver"
		if chosen {
			why = fmt.Sprintf("CUDA_VISIBLE_DEVICES is %q", visible)
		}
		v.note("this process cannot use the GPUs that nvidia-smi calls %s: %s", strings.Join(hidden, ", "), why)
	}
	if s.noNVML != nil && len(v.GPUs) > 0 {
		v.note("%v: free memory is only known from a context on the GPU, and the holders of memory not at all", s.noNVML)
	}
	if unattributed {
		v.note("not attributed is memory in use that NVML gives to no process in its list: processes of other containers, and graphics")
	}
	if elsewhere {
		v.note("process numbers with a question mark are those of another container or of the host")
	}
	if silent {
		v.note("the system does not tell how much some processes hold: it is in what is not attributed")
	}
}
