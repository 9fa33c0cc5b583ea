package nvml

import (
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// standIn compiles the library of testdata.
func standIn(t *testing.T, flags ...string) *Library {
	t.Helper()
	compiler, err := exec.LookPath("g++")
	if err != nil {
		t.Skip("NVML NOT CHECKED: there is no g++ to build a stand-in with")
	}
	path := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	out, err := exec.Command(compiler, append(flags, "-shared", "-fPIC", "-o", path, "testdata/nvml.cpp")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if l.Path() != path {
		t.Errorf("the path is %s", l.Path())
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestNewDriver(t *testing.T) {
	l := standIn(t)
	if v, err := l.DriverVersion(); err != nil || v != "550.54.15" {
		t.Error(v, err)
	}
	d, err := l.ByPCI("0000:3b:00.0")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := d.Name(); err != nil || name != "Stand-in" {
		t.Error(name, err)
	}
	if m, err := d.Memory(); err != nil || m != (Memory{Total: 100, Used: 30, Free: 60, Reserved: 10}) {
		t.Error(m, err)
	}
	if gpu, memory, err := d.Utilization(); err != nil || gpu != 0.75 || memory != 0.5 {
		t.Error(gpu, memory, err)
	}
	// 40 processes compute, the last of them and one more draw.
	p, err := d.Processes()
	if err != nil || len(p) != 41 || p[0] != (Process{7, -1}) || p[39] != (Process{46, 39000}) || p[40] != (Process{47, 1000}) {
		t.Error(p, err)
	}
}

func TestSurvey(t *testing.T) {
	l := standIn(t)
	if n, err := l.Count(); err != nil || n != 2 {
		t.Error(n, err)
	}
	d, err := l.ByIndex(0)
	if err != nil {
		t.Fatal(err)
	}
	if uuid, err := d.UUID(); err != nil || uuid != "GPU-1" {
		t.Error(uuid, err)
	}
	if bus, err := d.PCIBusID(); err != nil || bus != "0000:3b:00.0" {
		t.Error(bus, err)
	}
	if celsius, err := d.Temperature(); err != nil || celsius != 45 {
		t.Error(celsius, err)
	}
	if watts, err := d.Power(); err != nil || watts != 123.5 {
		t.Error(watts, err)
	}
	if name, err := l.ProcessName(7); err != nil || name != "/usr/bin/other" {
		t.Error(name, err)
	}
	if _, err := l.ProcessName(8); code(err) != CodeNotFound || !strings.Contains(err.Error(), "process 8") {
		t.Error(err)
	}
	if _, err := l.ByIndex(1); code(err) != CodeNoPermission || !strings.Contains(err.Error(), "GPU 1") {
		t.Error(err)
	}
}

// code is the library's number of an error; 0 if it is not of the library.
func code(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return 0
}

func TestOldDriver(t *testing.T) {
	l := standIn(t, "-DOLD")
	d, err := l.ByUUID("GPU-1")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := d.Memory(); err != nil || m != (Memory{Total: 100, Used: 40, Free: 60}) {
		t.Error(m, err)
	}
	if p, err := d.Processes(); err != nil || !slices.Equal(p, []Process{{7, -1}, {8, 1000}, {9, 2000}}) {
		t.Error(p, err)
	}
}

func TestErrors(t *testing.T) {
	if _, err := Open("/no/such/libnvidia-ml.so.1"); err == nil || !strings.Contains(err.Error(), "/no/such/") {
		t.Error(err)
	}
	l := standIn(t)
	if _, err := l.ByPCI("0000:00:00.0"); code(err) != CodeNotFound || !strings.Contains(err.Error(), "0000:00:00.0") {
		t.Error(err)
	}
}
