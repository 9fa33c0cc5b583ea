package input

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// Hashed is an open file whose bytes were all read once, to hash it. Later reads are compared with that block by block, so that the digest
// names the bytes that are used: a file that was written over or cut off since is a *ChangedError.
// A file that was replaced under its name stays the old one. Its methods may be called by many goroutines.
type Hashed struct {
	file *os.File
	path string
	size int64
	seed maphash.Seed
	sums []uint64              // of its blocks
	err  atomic.Pointer[error] // the first of reading

	mu    sync.Mutex
	block []byte // the last one that was read in parts
	at    int64  // its number
}

// ChangedError says that a file has changed since it was hashed.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string {
	return e.Path + " was changed while it was in use: put the first one back, or begin anew with this one"
}

// blockBytes has the size of the blocks that are compared.
const blockBytes = 256 << 10

// Hash reads a file, which the result closes, from beginning to end, and writes all of it to sum. ctx stops it.
func Hash(ctx context.Context, f *os.File, sum io.Writer) (*Hashed, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	h := &Hashed{file: f, path: f.Name(), size: info.Size(), seed: maphash.MakeSeed(), at: -1}
	buf := make([]byte, min(blockBytes, h.size))
	for at := int64(0); at < h.size; at += blockBytes {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		b := buf[:min(blockBytes, h.size-at)]
		if _, err := f.ReadAt(b, at); errors.Is(err, io.EOF) {
			return nil, &ChangedError{h.path}
		} else if err != nil {
			return nil, err
		}
		if _, err := sum.Write(b); err != nil {
			return nil, err
		}
		h.sums = append(h.sums, maphash.Bytes(h.seed, b))
	}
	return h, nil
}

// Size is the number of bytes.
func (h *Hashed) Size() int64 { return h.size }

// Err is the first error of reading the file, nil if there was none.
func (h *Hashed) Err() error {
	if err := h.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Close closes the file.
func (h *Hashed) Close() error { return h.file.Close() }

// ReadAt implements io.ReaderAt.
func (h *Hashed) ReadAt(p []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, fmt.Errorf("%s: byte %d asked for", h.path, at)
	}
	for len(p) > 0 {
		if at >= h.size {
			return n, io.EOF
		}
		number, skip := at/blockBytes, int(at%blockBytes)
		length := int(min(blockBytes, h.size-number*blockBytes))
		k := min(len(p), length-skip)
		if k == length {
			err = h.read(p[:k], number)
		} else {
			err = h.readPart(p[:k], number, skip, length)
		}
		if err != nil {
			return n, err
		}
		p, at, n = p[k:], at+int64(k), n+k
	}
	return n, nil
}

// readPart reads a part of a block, which is kept for the next part of it.
func (h *Hashed) readPart(p []byte, number int64, skip, length int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at != number {
		h.at = -1
		if h.block == nil {
			h.block = make([]byte, min(blockBytes, h.size))
		}
		if err := h.read(h.block[:length], number); err != nil {
			return err
		}
		h.at = number
	}
	copy(p, h.block[skip:])
	return nil
}

// read reads a block and compares it.
func (h *Hashed) read(b []byte, number int64) error {
	_, err := h.file.ReadAt(b, number*blockBytes)
	if errors.Is(err, io.EOF) || err == nil && maphash.Bytes(h.seed, b) != h.sums[number] {
		err = &ChangedError{h.path}
	}
	if err != nil {
		h.err.CompareAndSwap(nil, &err)
	}
	return err
}
