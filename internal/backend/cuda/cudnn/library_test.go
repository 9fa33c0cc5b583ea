package cudnn

import (
	"os"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/dl"
)

// load opens the library from the folders that VOXCAM_CUDNN names, or from where people have it. Tests that need it are skipped without.
func load(t testing.TB) *Library {
	t.Helper()
	l, err := Open(dl.NVIDIADirs(os.Getenv("VOXCAM_CUDNN")))
	if err != nil {
		t.Skipf("SKIPPED: needs cuDNN 9; VOXCAM_CUDNN=FOLDER says where it is: %v", err)
	}
	return l
}

// h200 describes a device to the library, so that plans can be made where there is none.
const h200 = `{"maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "driverVer": 13000, "deviceVer": 900,
"cudaDeviceId": 0, "regsPerBlock": 65536, "multiProcessorCount": 132, "smClockRateKHz": 1980000, "memClockRateKHz": 3201000,
"l2CacheSize": 62914560, "warpSize": 32, "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448,
"reservedSharedMemoryPerBlock": 1024, "maxRegistersPerSM": 65536, "pciDeviceId": 0, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
"maxThreadsPerSM": 2048, "isTccDriver": 0, "supportCoopLaunch": 1, "totalGlobalMem": 150000000000, "deviceName": "NVIDIA H200"}`

// imagine is a handle for a device that is only described: it makes plans and cannot run them.
func imagine(t testing.TB, l *Library, device string) *Handle {
	t.Helper()
	if l.version < 90800 {
		t.Skipf("SKIPPED: needs cuDNN 9.8 or newer, which knows devices that are not there; this is %s", versionText(l.version))
	}
	m := maker{lib: l}
	d := m.create(kindDevice)
	put(&m, d, attrDeviceJSON, typeChar, []byte(device)...)
	m.finalize(d)
	if m.err != nil {
		m.close()
		t.Fatal(m.err)
	}
	h := &Handle{lib: l, device: d}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestVersion(t *testing.T) {
	l := load(t)
	text, number := l.Version()
	t.Logf("%s: version %s, for CUDA %d, not found %q", l.Path(), text, l.cuda, l.Missing())
	if number < 90000 || !strings.HasPrefix(text, "9.") {
		t.Errorf("version %s (%d)", text, number)
	}
	if _, err := os.Stat(l.Path()); err != nil {
		t.Errorf("the path does not exist: %v", err)
	}
	if versionText(8907) != "8.9.7" || versionText(91900) != "9.19.0" || versionText(90101) != "9.1.1" {
		t.Error("versions print wrong")
	}
}
