// Package input opens files that were named by a user or by another person's file. Only regular files are opened: reading a
// pipe, a terminal or a device may wait for ever, and opening some devices already does something.
package input

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// ErrNotRegular says that a path leads to something else than a regular file.
var ErrNotRegular = errors.New("not a regular file")

// Flag is for opening a file that may have been replaced by a pipe: opening a pipe then does not wait for a writer. It means nothing to
// regular files.
const Flag = syscall.O_NONBLOCK

// Open opens a regular file for reading.
func Open(path string) (*os.File, fs.FileInfo, error) {
	if info, err := os.Stat(path); err == nil { // first, because opening a device may already do something
		if err := Regular(path, info); err != nil {
			return nil, nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|Flag, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = Regular(path, info) // it may have been replaced
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// ReadFile reads a regular file of at most that many bytes.
func ReadFile(path string, most int64) ([]byte, error) {
	f, _, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ReadAll(f, path, most)
}

// ReadAll reads the rest of f. More than most bytes are an error: path is then the wrong file. Nothing larger than the content is
// allocated.
func ReadAll(f io.Reader, path string, most int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s: more than %d bytes; is it the right file?", path, most)
	}
	return text, err
}

// kinds has the words for things that a path may lead to besides a regular file.
var kinds = []struct {
	mode fs.FileMode
	name string
}{
	{fs.ModeDir, "a folder"},
	{fs.ModeNamedPipe, "a pipe (save what comes out of it as a file)"},
	{fs.ModeSocket, "a socket"},
	{fs.ModeDevice, "a device"},
	{fs.ModeSymlink, "a link"},
}

// Regular returns an ErrNotRegular that names the path and its kind if info does not describe a regular file.
func Regular(path string, info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	what := "something else"
	for _, k := range kinds {
		if info.Mode()&k.mode != 0 {
			what = k.name
			break
		}
	}
	return &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("it is %s, %w", what, ErrNotRegular)}
}
