// Package sysmem tells how much memory the host has, and how much of it this process may still take.
package sysmem

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/internal/bytesize"
)

// unlimited bounds the limits of control groups that limit something.
const unlimited = 1 << 60

// Free returns the number of bytes that this process may still take without pushing anything out: those that the machine has available, or
// that the limits of the process's control groups or of its address space (ulimit -v) leave, if that is less. Page cache that the kernel
// can drop counts as free. It is known on Linux; elsewhere it is an error that asks for a size.
func Free() (int, error) { return freeMemory(os.DirFS("/")) }

// freeMemory reads the files of proc(5) and cgroups(7) below root.
func freeMemory(root fs.FS) (int, error) {
	info, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("how much memory is free cannot be told on this system (%w): give a size, such as 4GiB", err)
	}
	free, ok := field(info, "MemAvailable:")
	if !ok || free > unlimited/bytesize.KiB {
		return 0, fmt.Errorf("/proc/meminfo does not tell MemAvailable: give a size, such as 4GiB")
	}
	free = min(free*bytesize.KiB, addressSpace(root))
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return free, nil // a kernel without control groups
	}
	for line := range strings.Lines(string(groups)) {
		// hierarchy:controllers:path; version 2 has no list of controllers.
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, v := range versions {
			if v.mine(parts[1]) {
				free = min(free, v.free(root, parts[2]))
			}
		}
	}
	return free, nil
}

// Room refuses to take more than the given part of the free memory: 1/parts.
func Room(bytes, parts int) error {
	free, err := Free()
	if err == nil && bytes > free/parts {
		debug.FreeOSMemory() // unused memory of this process counts, too
		free, err = Free()
	}
	if err != nil || bytes <= free/parts { // some systems do not tell
		return nil
	}
	return fmt.Errorf("reading it takes %s of memory, of %s that may be taken for it; make it smaller, or run where more memory is free",
		bytesize.FormatUp(bytes), bytesize.Format(free/parts))
}

// addressSpace returns the bytes that the limit of the process's address space leaves.
func addressSpace(root fs.FS) int {
	limits, err := fs.ReadFile(root, "proc/self/limits")
	if err != nil {
		return math.MaxInt
	}
	status, err := fs.ReadFile(root, "proc/self/status")
	if err != nil {
		return math.MaxInt
	}
	used, known := field(status, "VmSize:")
	for line := range strings.Lines(string(limits)) {
		soft, found := strings.CutPrefix(line, "Max address space ")
		if limit, limited := field([]byte("x "+soft), "x"); found && limited && known {
			return max(0, limit-used*bytesize.KiB)
		}
	}
	return math.MaxInt
}

// version of control groups: where its files are.
type version struct {
	mine      func(controllers string) bool
	mount     string
	limits    []string
	usage     string
	droppable string // in memory.stat: page cache that was not touched lately
}

var versions = []version{
	{
		mine:   func(c string) bool { return c == "" },
		mount:  "sys/fs/cgroup",
		limits: []string{"memory.max", "memory.high"}, usage: "memory.current", droppable: "inactive_file",
	},
	{
		mine:   func(c string) bool { return slices.Contains(strings.Split(c, ","), "memory") },
		mount:  "sys/fs/cgroup/memory",
		limits: []string{"memory.limit_in_bytes"}, usage: "memory.usage_in_bytes", droppable: "total_inactive_file",
	},
}

// free returns the bytes that the group and those above it leave. Inside a container the path can be the host's; then only its last
// ancestor, the mount itself, is there.
func (v version) free(root fs.FS, group string) int {
	least := math.MaxInt
	for at := path.Join("/", group); ; at = path.Dir(at) {
		dir := path.Join(v.mount, at)
		limit := math.MaxInt
		for _, name := range v.limits {
			if n, ok := number(root, path.Join(dir, name)); ok {
				limit = min(limit, n)
			}
		}
		if used, ok := number(root, path.Join(dir, v.usage)); ok && limit < unlimited {
			stat, _ := fs.ReadFile(root, path.Join(dir, "memory.stat")) // without it, nothing counts as droppable
			cache, _ := field(stat, v.droppable)
			least = min(least, max(0, limit-max(0, used-cache)))
		}
		if at == "/" {
			return least
		}
	}
}

// number reads a file of one number; "max" is none.
func number(root fs.FS, name string) (int, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return n, err == nil && n >= 0
}

// field finds the number behind a name at the beginning of a line.
func field(text []byte, name string) (int, bool) {
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) >= 2 && words[0] == name {
			n, err := strconv.Atoi(words[1])
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}
