package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// module is a source compiled for a target.
type module struct {
	target string
	image  []byte
}

// writeArchive writes the modules of a source, complete or not at all. The same modules make the same bytes: entries have no times.
func writeArchive(path, origin string, modules []module) error {
	var archive bytes.Buffer
	w := zip.NewWriter(&archive)
	w.RegisterCompressor(zip.Deflate, func(to io.Writer) (io.WriteCloser, error) { return flate.NewWriter(to, flate.BestCompression) })
	if err := w.SetComment(origin); err != nil {
		return err
	}
	for _, m := range modules {
		entry, err := w.CreateHeader(&zip.FileHeader{Name: m.target, Method: zip.Deflate})
		if err != nil {
			return err
		}
		if _, err := entry.Write(m.image); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return err
	}
	_, err = archive.WriteTo(file)
	if err := errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return os.Rename(file.Name(), path)
}

// origin says what an archive was made from; "" where there is none that can be read.
func origin(path string) string {
	r, err := zip.OpenReader(path)
	if err != nil {
		return ""
	}
	defer r.Close()
	return r.Comment
}
