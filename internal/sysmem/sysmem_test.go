package sysmem

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/voxcam/voxcam/internal/bytesize"
)

func TestFree(t *testing.T) {
	const meminfo = "MemTotal:       8000 kB\nMemFree:        1 kB\nMemAvailable:   4096 kB\n"
	unlimited := "9223372036854771712\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int
	}{
		{"no control groups", nil, 4096 * bytesize.KiB},
		{"a limit of the address space", map[string]string{
			"proc/self/limits": "Limit  Soft Limit  Hard Limit  Units\nMax cpu time  unlimited  unlimited  seconds\nMax address space         3145728              unlimited            bytes\n",
			"proc/self/status": "Name:\tvoxcam\nVmPeak:\t 3000 kB\nVmSize:\t    2048 kB\n",
		}, bytesize.MiB},
		{"no limit of the address space", map[string]string{
			"proc/self/limits": "Max address space         unlimited            unlimited            bytes\n",
			"proc/self/status": "VmSize:\t    2048 kB\n",
		}, 4096 * bytesize.KiB},
		{"version 2, own limit", map[string]string{
			"proc/self/cgroup":                    "0::/app/worker\n",
			"sys/fs/cgroup/app/worker/memory.max": "3145728\n", "sys/fs/cgroup/app/worker/memory.current": "2097152\n",
			"sys/fs/cgroup/app/worker/memory.stat": "anon 5\nactive_file 7\ninactive_file 1048576\n",
		}, 2 * bytesize.MiB},
		{"version 2, the limit of a group above", map[string]string{
			"proc/self/cgroup":                    "0::/app/worker\n",
			"sys/fs/cgroup/app/worker/memory.max": "max\n", "sys/fs/cgroup/app/worker/memory.current": "99\n",
			"sys/fs/cgroup/app/memory.max": "1048576\n", "sys/fs/cgroup/app/memory.current": "1000\n",
		}, bytesize.MiB - 1000},
		{"version 2, throttled before the limit", map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "3145728\n", "sys/fs/cgroup/memory.high": "1048576\n", "sys/fs/cgroup/memory.current": "48576\n",
		}, 1000000},
		{"version 2, over its limit", map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "1000\n", "sys/fs/cgroup/memory.current": "2000\n",
		}, 0},
		{"version 2, the host's path", map[string]string{
			"proc/self/cgroup":         "0::/../../other\n",
			"sys/fs/cgroup/memory.max": "2097152\n", "sys/fs/cgroup/memory.current": "0\n",
		}, 2 * bytesize.MiB},
		{"version 1", map[string]string{
			"proc/self/cgroup":                              "11:cpu,cpuacct:/x\n4:memory:/docker/1\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":    "2097152\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes":    "1048576\n",
			"sys/fs/cgroup/memory/memory.stat":              "inactive_file 1\ntotal_inactive_file 4096\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes":  "1\n",
			"sys/fs/cgroup/memory/x/memory.usage_in_bytes":  "1\n",
			"sys/fs/cgroup/cpu,cpuacct/x/memory.max":        "1\n",
			"sys/fs/cgroup/cpu,cpuacct/x/memory.current":    "1\n",
			"sys/fs/cgroup/memory/docker/memory.stat":       "",
			"sys/fs/cgroup/memory/docker/1/cgroup.procs":    "",
			"sys/fs/cgroup/memory/docker/1/irrelevant.file": "",
		}, bytesize.MiB + 4096},
		{"version 1, unlimited", map[string]string{
			"proc/self/cgroup":                           "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": unlimited, "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
		}, 4096 * bytesize.KiB},
		{"the machine has less than the limit", map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "99999999999\n", "sys/fs/cgroup/memory.current": "1\n",
		}, 4096 * bytesize.KiB},
		{"damaged", map[string]string{
			"proc/self/cgroup":         "0\nx:y\n0::/\n",
			"sys/fs/cgroup/memory.max": "many\n", "sys/fs/cgroup/memory.current": "-1\n",
		}, 4096 * bytesize.KiB},
	} {
		root := fstest.MapFS{"proc/meminfo": {Data: []byte(meminfo)}}
		for name, text := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got, err := freeMemory(root); err != nil || got != c.want {
			t.Errorf("%s: %d, %v instead of %d", c.name, got, err, c.want)
		}
	}
	for _, root := range []fstest.MapFS{{}, {"proc/meminfo": {Data: []byte("MemTotal: 1 kB\n")}}, {"proc/meminfo": {Data: []byte("MemAvailable: -4 kB\n")}}} {
		if n, err := freeMemory(root); err == nil || !strings.Contains(err.Error(), "give a size") {
			t.Errorf("%v: %d, %v", root, n, err)
		}
	}
}
