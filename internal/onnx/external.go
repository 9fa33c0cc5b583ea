package onnx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// loadExternal maps the files beside the model that hold weights.
func (d *decoder) loadExternal() error {
	if len(d.pending) == 0 {
		return nil
	}
	root, err := os.OpenRoot(filepath.Dir(d.m.Path))
	if err != nil {
		return fmt.Errorf("opening the model's folder: %w", err)
	}
	defer root.Close()
	d.m.external = map[string][]byte{}
	for _, p := range d.pending {
		where := "tensor " + quoted(p.t.Name)
		location := p.entries["location"]
		data, ok := d.m.external[location]
		if !ok {
			if data, err = d.mapExternal(root, location); err != nil {
				return &FormatError{Path: d.m.Path, Offset: p.at, Where: where, Err: fmt.Errorf("external data %q: %w", location, err)}
			}
			d.m.external[location] = data
		}
		p.t.Mapped = true
		if p.t.Data, err = externalPart(data, p); err != nil {
			return &FormatError{Path: d.m.Path, Offset: p.at, Where: where, Err: fmt.Errorf("external data %q: %w", location, err)}
		}
	}
	d.pending = nil
	return nil
}

// mapExternal maps a file inside the model's folder. A path that leads out of it, by name or by a link, is refused: a model
// from elsewhere must not read this machine's other files.
func (d *decoder) mapExternal(root *os.Root, location string) ([]byte, error) {
	if location == "" {
		return nil, errors.New("the file is not named")
	}
	local := filepath.FromSlash(location)
	if !filepath.IsLocal(local) || strings.Contains(location, "\\") {
		return nil, errors.New("the path leaves the model's folder")
	}
	info, err := root.Stat(local) // before opening, which would wait for the writer of a pipe
	if err != nil {
		return nil, err
	}
	if err := input.Regular(location, info); err != nil {
		return nil, err
	}
	f, err := root.OpenFile(local, os.O_RDONLY|input.Flag, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	mapping, err := mapFile(f)
	if err == nil && mapping != nil {
		d.m.maps = append(d.m.maps, mapping)
	}
	return mapping, err
}

// externalPart is the part of a file that a tensor names.
func externalPart(data []byte, p externalTensor) ([]byte, error) {
	want := p.elements * p.t.Elem.Bytes()
	offset, err := entryNumber(p.entries, "offset", 0)
	if err != nil {
		return nil, err
	}
	length, err := entryNumber(p.entries, "length", want)
	if err != nil {
		return nil, err
	}
	if length != want {
		return nil, fmt.Errorf("%d elements of %v take %d bytes, not %d", p.elements, p.t.Elem, want, length)
	}
	if offset > len(data) || length > len(data)-offset {
		return nil, fmt.Errorf("%d bytes at %d are outside the file of %d bytes", length, offset, len(data))
	}
	return data[offset : offset+length : offset+length], nil
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
