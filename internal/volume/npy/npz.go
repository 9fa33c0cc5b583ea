package npy

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

const zipFormat = "npz"

// MatchZip reports whether a file that begins with head is a zip archive, as .npz files are.
func MatchZip(head []byte) bool {
	return bytes.HasPrefix(head, []byte("PK\x03\x04")) || bytes.HasPrefix(head, []byte("PK\x05\x06"))
}

// ReadZip decodes the array opt.Variable of a .npz file, or the only one if no name is given.
func ReadZip(r *io.SectionReader, opt array.Options) (*array.Array, error) {
	z, names, err := openZip(r)
	if err != nil {
		return nil, err
	}
	at := slices.Index(names, opt.Variable)
	switch {
	case opt.Variable != "" && at < 0:
		return nil, volume.Unsupported(zipFormat, "it holds no array %q, only %s; name one of them as the variable",
			opt.Variable, strings.Join(names, ", "))
	case opt.Variable == "" && len(names) > 1:
		return nil, volume.Unsupported(zipFormat, "it holds %d arrays (%s); name one of them as the variable",
			len(names), strings.Join(names, ", "))
	case opt.Variable == "":
		at = 0
	}
	return readEntry(z[at], names[at], r.Size(), opt)
}

// ReadAll decodes every array of a .npz file, by name.
func ReadAll(r *io.SectionReader) (map[string]*array.Array, error) {
	z, names, err := openZip(r)
	if err != nil {
		return nil, err
	}
	all := make(map[string]*array.Array, len(z))
	for i, name := range names {
		if all[name], err = readEntry(z[i], name, r.Size(), array.Options{}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// openZip returns the arrays of an archive, at least one, and their names.
func openZip(r *io.SectionReader) (arrays []*zip.File, names []string, err error) {
	z, err := zip.NewReader(r, r.Size())
	if err != nil {
		return nil, nil, volume.Malformed(zipFormat, "%w; it may be cut off", err)
	}
	for _, f := range z.File {
		if name, ok := strings.CutSuffix(f.Name, ".npy"); ok {
			arrays, names = append(arrays, f), append(names, name)
		}
	}
	if len(arrays) == 0 {
		return nil, nil, volume.Malformed(zipFormat, "the archive holds no array (no entry that ends in .npy)")
	}
	return arrays, names, nil
}

func readEntry(f *zip.File, name string, fileSize int64, opt array.Options) (*array.Array, error) {
	const encrypted = 1
	if f.Flags&encrypted != 0 {
		return nil, volume.Unsupported(zipFormat, "array %s is encrypted", name)
	}
	content, err := f.Open()
	if errors.Is(err, zip.ErrAlgorithm) {
		return nil, volume.Unsupported(zipFormat, "array %s is compressed by method %d; save it with np.savez or np.savez_compressed",
			name, f.Method)
	}
	if err != nil {
		return nil, volume.Malformed(zipFormat, "array %s: %w", name, err)
	}
	defer content.Close()
	h, err := readHeader(content, opt)
	if err != nil {
		return nil, prefixed(name, err)
	}
	if err := h.checkSize(int64(min(f.UncompressedSize64, 1<<62))); err != nil {
		return nil, prefixed(name, err)
	}
	a, err := h.read(content, min(int64(min(f.CompressedSize64, 1<<62)), fileSize))
	if err != nil {
		return nil, prefixed(name, err)
	}
	if err := array.Drain(content, 0); err != nil {
		return nil, volume.Malformed(zipFormat, "array %s: %w", name, err)
	}
	return a, nil
}

// prefixed adds the name of the array to an error without hiding its type.
func prefixed(name string, err error) error {
	var malformed *volume.MalformedError
	if errors.As(err, &malformed) {
		return volume.Malformed(zipFormat, "array %s: %w", name, malformed.Err)
	}
	var unsupported *volume.UnsupportedError
	if errors.As(err, &unsupported) {
		return volume.Unsupported(zipFormat, "array %s: %w", name, unsupported.Err)
	}
	return err
}
