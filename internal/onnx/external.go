package onnx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/internal/input"
)

// externalTensor is a tensor whose data are in another file.
type externalTensor struct {
	t        *Tensor
	elements int
	entries  map[string]string // location, offset, length
	at       int64
}

// loadExternal opens the files beside the model that hold weights, in the order of their names.
func (d *decoder) loadExternal() error {
	if len(d.pending) == 0 {
		return nil
	}
	root, err := os.OpenRoot(filepath.Dir(d.m.Path))
	if err != nil {
		return fmt.Errorf("opening the model's folder: %w", err)
	}
	defer root.Close()
	slices.SortStableFunc(d.pending, func(a, b externalTensor) int { return strings.Compare(a.location(), b.location()) })
	files := map[string]span{}
	named := map[string]int{} // bytes that tensors name of each file
	for _, p := range d.pending {
		data, ok := files[p.location()]
		if !ok {
			data, err = d.openExternal(root, p.location())
			files[p.location()] = data
		}
		if err == nil {
			all := data.length
			data, err = externalPart(data, p)
			if named[p.location()] += data.length; err == nil && named[p.location()]/maxShared > all {
				err = fmt.Errorf("the tensors of the model take its %d bytes more than %d times", all, maxShared)
			}
		}
		if err != nil {
			return &FormatError{Path: d.m.Path, Offset: p.at, Where: "tensor " + quoted(p.t.Name), Err: fmt.Errorf("external data %q: %w", p.location(), err)}
		}
		p.t.set(data)
	}
	d.pending = nil
	return nil
}

// maxShared bounds how often tensors take the same bytes of a file, since computing makes something of each.
const maxShared = 16

// location returns the file's name.
func (p externalTensor) location() string { return p.entries["location"] }

// openExternal opens a file inside the model's folder. A path that leads out of it, by name or by a link, is refused: a model
// from elsewhere must not read this machine's other files.
func (d *decoder) openExternal(root *os.Root, location string) (span, error) {
	if location == "" {
		return span{}, errors.New("the file is not named")
	}
	local := filepath.FromSlash(location)
	if !filepath.IsLocal(local) || strings.Contains(location, "\\") {
		return span{}, errors.New("the path leaves the model's folder")
	}
	info, err := root.Stat(local) // before opening, which would wait for the writer of a pipe
	if errors.Is(err, fs.ErrNotExist) {
		return span{}, fmt.Errorf("%w in the model's folder; copy it there, together with the model", fs.ErrNotExist)
	}
	if err != nil {
		return span{}, reason(err)
	}
	if err := input.Regular(location, info); err != nil {
		return span{}, err
	}
	f, err := root.OpenFile(local, os.O_RDONLY|input.Flag, 0)
	if err != nil {
		return span{}, reason(err)
	}
	return d.m.hash(d.ctx, f)
}

// reason strips the names of the call and the file from an error.
func reason(err error) error {
	if of := (*fs.PathError)(nil); errors.As(err, &of) {
		return of.Err
	}
	return err
}

// externalPart returns the part of a file that a tensor names.
func externalPart(data span, p externalTensor) (span, error) {
	want := p.elements * p.t.Elem.Bytes()
	offset, err := entryNumber(p.entries, "offset", 0)
	if err != nil {
		return span{}, err
	}
	length, err := entryNumber(p.entries, "length", want)
	if err != nil {
		return span{}, err
	}
	if length != want {
		return span{}, fmt.Errorf("%d elements of %v take %d bytes, not %d", p.elements, p.t.Elem, want, length)
	}
	if offset > data.length || length > data.length-offset {
		return span{}, fmt.Errorf("%d bytes at %d are outside the file of %d bytes", length, offset, data.length)
	}
	return data.part(offset, length), nil
}

func entryNumber(entries map[string]string, key string, missing int) (int, error) {
	s, ok := entries[key]
	if !ok {
		return missing, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s %q is not a number of bytes", key, s)
	}
	return n, nil
}
