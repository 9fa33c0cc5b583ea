package voxcam

import (
	"errors"
	"io"
	"os"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
)

// ReadVector reads a .npy file [n] or [1, n], the data of an input without space, as a volume [1, 1, 1, n]; nil where the file holds something else.
func ReadVector(path string) (v *volume.Volume, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	head := make([]byte, 16)
	if n, _ := file.ReadAt(head, 0); !npy.Match(head[:n]) {
		return nil, nil
	}
	a, err := npy.Read(io.NewSectionReader(file, 0, info.Size()), array.Options{})
	if err != nil || len(a.Shape) > 2 || len(a.Shape) == 2 && a.Shape[0] != 1 || len(a.Data) == 0 {
		return nil, nil // what is wrong with it is said when it is read as a volume
	}
	v = volume.New(1, 1, 1, len(a.Data))
	copy(v.Data, a.Data)
	return v, nil
}
