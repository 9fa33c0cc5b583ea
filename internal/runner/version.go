package runner

import (
	"runtime"
	"runtime/debug"
)

const module = "github.com/voxcam/voxcam"

// Version is the version of this module, which names the commit where the program was built from a checkout.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if info.Main.Path != module { // in another program that imports this module
		v = ""
		for _, m := range info.Deps {
			if m.Path == module {
				v = m.Version
			}
		}
	}
	if v == "" || v == "(devel)" {
		v = "development"
	}
	return v + " " + runtime.Version()
}
