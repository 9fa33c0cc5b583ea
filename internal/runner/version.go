package runner

import (
	"runtime"
	"runtime/debug"
)

const module = "github.com/voxcam/voxcam"

// Version is the version of this module, or the commit that the program was built from.
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
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && info.Main.Path == module && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	if v == "" || v == "(devel)" {
		v = "development"
	}
	return v + " " + runtime.Version()
}
