// Package kernel holds the kernels of the CUDA backend: their sources (*.cu), and what they were compiled to, so that neither a build nor
// a run of the program needs a CUDA install. After a change of the sources, go generate compiles them again.
package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
)

//go:generate go run -C _generate . -out ..

// The modules, one archive for each target of the compiler.
var (
	//go:embed kernels_sm_70.tar.gz
	sm70 []byte
	//go:embed kernels_sm_80.tar.gz
	sm80 []byte
	//go:embed kernels_sm_90a.tar.gz
	sm90a []byte
	//go:embed kernels_compute_90.tar.gz
	compute90 []byte
)

// MinMajor is the oldest compute capability that there are kernels for.
const MinMajor = 7

// Open reads the modules of an archive that the generator has written, instead of those in the program: to try changed kernels.
func Open(path string) (names []string, images [][]byte, err error) {
	archive, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	return unpack(archive)
}

// Images gives the modules for a compute capability and the names of their sources. Machine code is for the GPUs of its major version;
// newer ones get PTX, which the driver compiles.
func Images(major, minor int) (names []string, images [][]byte, err error) {
	var archive []byte
	switch {
	case major < MinMajor:
		return nil, nil, fmt.Errorf("the GPU has compute capability %d.%d; the oldest that can be used is %d.0", major, minor, MinMajor)
	case major == 7:
		archive = sm70
	case major == 8:
		archive = sm80
	case major == 9 && minor == 0:
		archive = sm90a
	default:
		archive = compute90
	}
	return unpack(archive)
}

func unpack(archive []byte) (names []string, images [][]byte, err error) {
	damaged := func(err error) ([]string, [][]byte, error) {
		return nil, nil, fmt.Errorf("the kernels in the program are damaged: %w", err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return damaged(err)
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names, images, nil
		}
		if err != nil {
			return damaged(err)
		}
		image, err := io.ReadAll(r)
		if err != nil {
			return damaged(err)
		}
		names, images = append(names, h.Name), append(images, image)
	}
}
