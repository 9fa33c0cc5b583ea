package bytesize

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]int{
		"0": 0, "800000": 800000, "1b": 1, "512MiB": 512 << 20, "512 mib": 512 << 20, " 1.5GiB ": 3 << 29, "64MB": 64e6, "2k": 2048,
		"1KB": 1000, "1TiB": 1 << 40, "3t": 3 << 40, "2TB": 2e12, ".5KiB": 512, "1152921504606846976": 1 << 60, "9007199254740993": 1<<53 + 1,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v instead of %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "MiB", "-1", "1e9", "0x10", "inf", "nan", "1.2.3", ".", "5 apples", "5MiBs", "1 2MiB", "9999999TiB", "1152921504606846977",
		strings.Repeat("9", 400), "٣MiB",
	} {
		if n, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %d without an error", text, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"512MiB", "1.5 GiB", "64MB", "0", "9e9", "99999999999999999999T", "1..2k", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := Parse(s); err == nil && (n < 0 || n > most) {
			t.Errorf("Parse(%q) = %d", s, n)
		}
		if b, err := ParseBudget(s); err == nil {
			if n, err := b.Bytes(func() (int, error) { return 1 << 40, nil }); err != nil || n < 0 || n > most || n == 0 && !b.Min() {
				t.Errorf("a budget of %q is %d bytes, %v", s, n, err)
			}
		}
	})
}

func TestFormat(t *testing.T) {
	for n, want := range map[int]string{
		0: "0 B", 830: "830 B", 1024: "1 KiB", 65641841: "62.6 MiB", 5 << 28: "1.25 GiB", 1<<20 - 1: "1 MiB", 999 << 20: "999 MiB",
		1023 << 20: "1023 MiB", 3 << 50: "3072 TiB", -2048: "-2 KiB",
	} {
		if got := Format(n); got != want {
			t.Errorf("Format(%d) = %q instead of %q", n, got, want)
		}
	}
}

// What a refusal prints as the smallest budget must work when it is typed.
func TestFormatUpSuffices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 1<<45).Draw(t, "n") >> rapid.IntRange(0, 44).Draw(t, "shift")
		text := FormatUp(n)
		got, err := Parse(text)
		if err != nil || got < n || float64(got) > 1.02*float64(n)+1 {
			t.Fatalf("FormatUp(%d) = %q, read as %d, %v", n, text, got, err)
		}
	})
}

func TestBudget(t *testing.T) {
	free := func() (int, error) { return 1000, nil }
	for text, want := range map[string]int{"": 600, "auto": 600, "AUTO": 600, "min": 0, "50%": 500, "12.5 %": 125, "100%": 1000, "2KiB": 2048} {
		b, err := ParseBudget(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if n, err := b.Bytes(free); err != nil || n != want || b.Min() != (text == "min") {
			t.Errorf("%q is %d bytes, %v instead of %d", text, n, err, want)
		}
		if again, err := ParseBudget(b.String()); err != nil || again != b {
			t.Errorf("%q prints as %q, which is not the same budget", text, b)
		}
	}
	for _, text := range []string{"0", "0MiB", "0%", "101%", "-5%", "nan%", "%", "most", "5 apples"} {
		if b, err := ParseBudget(text); err == nil {
			t.Errorf("%q is the budget %v without an error", text, b)
		}
	}
	unknown := errors.New("unknown")
	fail := func() (int, error) { return 0, unknown }
	for text, want := range map[string]error{"auto": unknown, "50%": unknown, "min": nil, "1MiB": nil} {
		b, err := ParseBudget(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Bytes(fail); !errors.Is(err, want) {
			t.Errorf("%q without knowing what is free: %v", text, err)
		}
	}
	if n, err := (Budget{}).Bytes(func() (int, error) { return 0, nil }); err == nil {
		t.Errorf("auto is %d bytes when nothing is free", n)
	}
}

func TestFreeMemory(t *testing.T) {
	const meminfo = "MemTotal:       8000 kB\nMemFree:        1 kB\nMemAvailable:   4096 kB\n"
	unlimited := "9223372036854771712\n"
	for _, c := range []struct {
		name  string
		files map[string]string
		want  int
	}{
		{"no control groups", nil, 4096 * KiB},
		{"a limit of the address space", map[string]string{
			"proc/self/limits": "Limit  Soft Limit  Hard Limit  Units\nMax cpu time  unlimited  unlimited  seconds\nMax address space         3145728              unlimited            bytes\n",
			"proc/self/status": "Name:\tvoxcam\nVmPeak:\t 3000 kB\nVmSize:\t    2048 kB\n",
		}, MiB},
		{"no limit of the address space", map[string]string{
			"proc/self/limits": "Max address space         unlimited            unlimited            bytes\n",
			"proc/self/status": "VmSize:\t    2048 kB\n",
		}, 4096 * KiB},
		{"version 2, own limit", map[string]string{
			"proc/self/cgroup":                    "0::/app/worker\n",
			"sys/fs/cgroup/app/worker/memory.max": "3145728\n", "sys/fs/cgroup/app/worker/memory.current": "2097152\n",
			"sys/fs/cgroup/app/worker/memory.stat": "anon 5\nactive_file 7\ninactive_file 1048576\n",
		}, 2 * MiB},
		{"version 2, the limit of a group above", map[string]string{
			"proc/self/cgroup":                    "0::/app/worker\n",
			"sys/fs/cgroup/app/worker/memory.max": "max\n", "sys/fs/cgroup/app/worker/memory.current": "99\n",
			"sys/fs/cgroup/app/memory.max": "1048576\n", "sys/fs/cgroup/app/memory.current": "1000\n",
		}, MiB - 1000},
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
		}, 2 * MiB},
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
		}, MiB + 4096},
		{"version 1, unlimited", map[string]string{
			"proc/self/cgroup":                           "4:memory:/\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": unlimited, "sys/fs/cgroup/memory/memory.usage_in_bytes": "1\n",
		}, 4096 * KiB},
		{"the machine has less than the limit", map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "99999999999\n", "sys/fs/cgroup/memory.current": "1\n",
		}, 4096 * KiB},
		{"damaged", map[string]string{
			"proc/self/cgroup":         "0\nx:y\n0::/\n",
			"sys/fs/cgroup/memory.max": "many\n", "sys/fs/cgroup/memory.current": "-1\n",
		}, 4096 * KiB},
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
