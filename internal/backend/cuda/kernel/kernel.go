// Package kernel holds the kernels of the CUDA backend: their sources (*.cu), and the compiled modules (*.zip), so that neither a
// build nor a run of the program needs a CUDA install. After a change of sources, go generate compiles those that changed.
package kernel

import (
	"archive/zip"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

//go:generate go run -C _generate . -out ..

// archives has one archive for each source, with a module for each target of the compiler, named after the target. The comment of an
// archive names the compiler, its options, and the digests of the sources.
//
//go:embed *.zip
var archives embed.FS

// MinMajor is the oldest compute capability that there are kernels for.
const MinMajor = 7

// Module is a source compiled for a GPU.
type Module struct {
	Source string // name of the file
	Image  []byte // machine code or PTX
}

// Modules returns the modules for a compute capability. Machine code is for the GPUs of its major version; newer ones get PTX, which the
// driver compiles.
func Modules(major, minor int) ([]Module, error) { return read(archives, "the program", major, minor) }

// Open reads modules from a folder of archives that the generator has written, instead of those in the program: to try changed kernels.
func Open(dir string, major, minor int) ([]Module, error) {
	return read(os.DirFS(dir), dir, major, minor)
}

// read decompresses the modules for a compute capability, and no others. The place of the archives is for messages.
func read(from fs.FS, place string, major, minor int) (modules []Module, err error) {
	var target string
	switch {
	case major < MinMajor:
		return nil, fmt.Errorf("the GPU has compute capability %d.%d; the oldest that can be used is %d.0", major, minor, MinMajor)
	case major == 7:
		target = "sm_70"
	case major == 8:
		target = "sm_80"
	case major == 9 && minor == 0:
		target = "sm_90a"
	default:
		target = "compute_90"
	}
	paths, err := fs.Glob(from, "*.zip")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		image, err := readEntry(from, path, target)
		switch {
		case errors.Is(err, fs.ErrNotExist): // the source is not for this target
		case err != nil:
			return nil, fmt.Errorf("the kernels in %s are damaged: %s: %w", place, path, err)
		default:
			modules = append(modules, Module{strings.TrimSuffix(path, ".zip") + ".cu", image})
		}
	}
	if modules == nil {
		return nil, fmt.Errorf("there are no kernels for %s in %s", target, place)
	}
	return modules, nil
}

// readEntry reads a file of an archive; the error of one that is not there is fs.ErrNotExist.
func readEntry(from fs.FS, path, name string) ([]byte, error) {
	file, err := from.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	at, ok := file.(io.ReaderAt) // as files of the system and embedded ones are
	if !ok {
		return nil, errors.ErrUnsupported
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	archive, err := zip.NewReader(at, info.Size())
	if err != nil {
		return nil, err
	}
	return fs.ReadFile(archive, name)
}
