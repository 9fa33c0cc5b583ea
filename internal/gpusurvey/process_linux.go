package gpusurvey

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// initialNamespace is the inode of the host's PID namespace (PROC_PID_INIT_INO in the kernel's proc_ns.h).
const initialNamespace = "pid:[4026531836]"

// workerCommand is the hidden command of a session's child process, which has the device.
const workerCommand = "worker"

// program is the name of this program's file.
const program = "voxcam"

// runs reports whether a process runs this program: the same file as this process (self), or a file of its name.
func runs(exe, self string) bool {
	if exe == "" {
		return false
	}
	// The file of a program that was replaced while it runs.
	exe = strings.TrimSuffix(exe, " (deleted)")
	return exe == strings.TrimSuffix(self, " (deleted)") || exe[strings.LastIndexByte(exe, '/')+1:] == program
}

// isWorker reports whether the arguments, without the program, are those of a session's child process.
func isWorker(arguments []string) bool { return len(arguments) > 0 && arguments[0] == workerCommand }

// processes reads facts about processes from the system.
type processes struct {
	proc string // the folder of proc(5)
	self string // the file of this program
	host bool   // NVML's PIDs are those of this system
}

// libraries are parts of the names of files that each process on a GPU has mapped.
var libraries = []string{"/libcuda.", "/libnvidia-", "/dev/nvidia", "/dev/dxg"}

// newProcesses reads below /proc. Driver is the file of the driver, "" for the system's: another one is a simulated one, of this system.
func newProcesses(driver string) *processes {
	p := &processes{proc: "/proc"}
	p.self, _ = os.Readlink("/proc/self/exe") // without it, only the name of the file counts
	namespace, err := os.Readlink("/proc/self/ns/pid")
	p.host = driver != "" || err == nil && namespace == initialNamespace
	return p
}

// Identify describes a process. The error wraps fs.ErrNotExist if there is none of that number.
func Identify(pid int) (ProcessInfo, error) { return newProcesses("").identify(pid) }

// identify fills in facts from proc(5); processes of other users can hide a part of them.
func (p *processes) identify(pid int) (ProcessInfo, error) {
	is := ProcessInfo{PID: pid, Bytes: -1, UID: -1}
	dir := filepath.Join(p.proc, strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return is, fmt.Errorf("process %d: %w", pid, err)
	}
	// pid (name) state parent ...: the name can hold anything, also brackets.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return is, fmt.Errorf("process %d: %s/stat is not as proc(5) has it", pid, dir)
	}
	is.Name = string(stat[open+1 : end])
	if fields := strings.Fields(string(stat[end+1:])); len(fields) > 19 {
		is.Parent, _ = strconv.Atoi(fields[1])
		is.Started, _ = strconv.ParseUint(fields[19], 10, 64)
	}
	if status, err := os.ReadFile(filepath.Join(dir, "status")); err == nil {
		for line := range strings.Lines(string(status)) {
			if words := strings.Fields(line); len(words) > 1 && words[0] == "Uid:" {
				if is.UID, err = strconv.Atoi(words[1]); err != nil {
					is.UID = -1
				}
			}
		}
	}
	if is.UID >= 0 {
		is.User = strconv.Itoa(is.UID)
		if u, err := user.LookupId(is.User); err == nil {
			is.User = u.Username
		}
	}
	var arguments []string
	if line, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(line) > 0 {
		arguments = strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		is.Command = strings.Join(arguments, " ")
	}
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return is, nil // of another user
	}
	is.Program = runs(exe, p.self)
	if is.Program && len(arguments) > 1 && isWorker(arguments[1:]) {
		is.Orphan = !p.hasParent(is.Parent, exe)
	}
	return is, nil
}

// hasParent reports whether a worker that runs the file still has the session that started it as its parent: when that ends, the system
// gives its children to another process.
func (p *processes) hasParent(parent int, file string) bool {
	exe, err := os.Readlink(filepath.Join(p.proc, strconv.Itoa(parent), "exe"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist) && parent != 1
	}
	return runs(exe, p.self) || exe == file
}

// holder is identify for a PID from NVML, which in a container may differ from the process's PID here.
func (p *processes) holder(pid int) ProcessInfo {
	is, err := p.identify(pid)
	if err != nil {
		return ProcessInfo{PID: pid, Bytes: -1, UID: -1, Elsewhere: !p.host}
	}
	if p.host {
		return is
	}
	maps, err := os.ReadFile(filepath.Join(p.proc, strconv.Itoa(pid), "maps"))
	if err != nil || len(maps) == 0 || slices.ContainsFunc(libraries, func(l string) bool { return bytes.Contains(maps, []byte(l)) }) {
		return is
	}
	return ProcessInfo{PID: pid, Bytes: -1, UID: -1, Elsewhere: true} // here, that number belongs to a process without a GPU
}
