package dl

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DriverDirs lists folders where NVIDIA's driver lies that the loader does not always look into: of containers, WSL, NixOS.
func DriverDirs() []string {
	return []string{
		"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/nvidia/lib64", "/usr/lib/wsl/lib",
		"/run/opengl-driver/lib",
	}
}

// pip is the folder in which Python packages of NVIDIA have their libraries, below a Python's prefix.
var pip = []string{"lib/python*/site-packages/nvidia/*/lib", "lib/python*/dist-packages/nvidia/*/lib", "lib64/python*/site-packages/nvidia/*/lib"}

// NVIDIADirs lists the folders in which people have NVIDIA's libraries, in the order to search them: those set explicitly (folders,
// separated as in PATH: of libraries, of a CUDA or cuDNN install or of a Python environment), the loader's variable, CUDA installs, the
// system, and the packages of conda, of a virtual environment and of each Python on the PATH. Only folders that are there are listed.
func NVIDIADirs(explicit string) []string {
	var dirs []string
	add := func(root string, patterns ...string) {
		if root == "" {
			return
		}
		if root, err := filepath.Abs(root); err == nil {
			for _, p := range patterns {
				found, _ := filepath.Glob(filepath.Join(root, p)) // the patterns are well formed; a root that is not finds nothing
				slices.Sort(found)
				slices.Reverse(found) // newer versions first
				dirs = append(dirs, found...)
			}
		}
	}
	targets := "targets/x86_64-linux/lib"
	for _, root := range filepath.SplitList(explicit) {
		add(root, ".", "lib64", "lib", targets)
		add(root, pip...)
		add(root, "nvidia/*/lib")
	}
	for _, root := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
		add(root, ".")
	}
	for _, variable := range []string{"CUDA_HOME", "CUDA_PATH"} {
		add(os.Getenv(variable), "lib64", targets)
	}
	add("/usr/local", "cuda/lib64", "cuda/"+targets, "cuda-*/lib64", "cuda-*/"+targets)
	add("/", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/local/nvidia/lib64", "opt/cuda/lib64")
	if conda := os.Getenv("CONDA_PREFIX"); conda != "" {
		add(conda, "lib", targets)
		add(conda, pip...)
	}
	add(os.Getenv("VIRTUAL_ENV"), pip...)
	for _, prefix := range pythons() {
		add(prefix, pip...)
	}
	if home, err := os.UserHomeDir(); err == nil {
		add(filepath.Join(home, ".local"), pip...)
	}

	seen := map[string]bool{}
	return slices.DeleteFunc(dirs, func(dir string) bool {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			return true
		}
		info, err := os.Stat(real)
		if err != nil || !info.IsDir() || seen[real] {
			return true
		}
		seen[real] = true
		return false
	})
}

// pythons are the prefixes of the Pythons on the PATH, as the path names them and as links resolve them: a virtual environment's Python
// is a link to the one it was made with.
func pythons() []string {
	var prefixes []string
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		for _, name := range []string{"python3", "python"} {
			path := filepath.Join(dir, name)
			if !filepath.IsAbs(path) {
				continue
			}
			if info, err := os.Stat(path); err != nil || info.IsDir() {
				continue
			}
			for _, p := range []string{path, resolved(path)} {
				prefix := filepath.Dir(filepath.Dir(p))
				if !slices.Contains(prefixes, prefix) {
					prefixes = append(prefixes, prefix)
				}
				if local := "/usr/local"; prefix == "/usr" && !slices.Contains(prefixes, local) { // Debian's Python looks there
					prefixes = append(prefixes, local)
				}
			}
		}
	}
	return prefixes
}

func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil && strings.HasPrefix(real, "/") {
		return real
	}
	return path
}
