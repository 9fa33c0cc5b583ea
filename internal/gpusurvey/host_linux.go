package gpusurvey

import "golang.org/x/sys/unix"

// hostTotal is the memory of the machine in bytes; 0 if it is not known.
func hostTotal() int {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return int(uint64(info.Totalram) * uint64(info.Unit))
}
