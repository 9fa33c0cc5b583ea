package worker

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"unsafe"
)

// region is a part of a file of shared memory, in bytes.
type region struct{ Offset, Length int64 }

// sharedMemory hands out regions of a file of shared memory. Memory outside of regions is given back to the system.
type sharedMemory struct {
	file *os.File

	mu   sync.Mutex
	used []region // ascending
}

const page = 1 << 16 // the alignment of regions; a multiple of the page size of all systems

// allocate returns a region of that many bytes. The system takes memory for it only when it is written.
func (a *sharedMemory) allocate(length int64) region {
	a.mu.Lock()
	defer a.mu.Unlock()
	offset := int64(0)
	at := 0
	for ; at < len(a.used); at++ {
		if a.used[at].Offset-offset >= length {
			break
		}
		offset = (a.used[at].Offset + a.used[at].Length + page - 1) / page * page
	}
	r := region{offset, length}
	a.used = slices.Insert(a.used, at, r)
	return r
}

// put takes memory for values and writes them there.
func (a *sharedMemory) put(values []float32) (region, error) {
	r := a.allocate(4 * int64(len(values)))
	if _, err := a.file.WriteAt(bytesOf(values), r.Offset); err != nil {
		return region{}, errors.Join(fmt.Errorf("no shared memory for %d bytes: %w", r.Length, err), a.release(r))
	}
	return r, nil
}

// release gives a region back, and its memory to the system.
func (a *sharedMemory) release(r region) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.used, r)
	if i < 0 {
		return nil
	}
	a.used = slices.Delete(a.used, i, i+1)
	if r.Length == 0 {
		return nil
	}
	return punch(a.file, r)
}

// get reads count values from a region.
func get(file *os.File, r region, count int) ([]float32, error) {
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case count < 0 || int64(count) > info.Size()/4 || r.Offset < 0 || r.Length != 4*int64(count) || r.Offset > info.Size()-r.Length:
		return nil, fmt.Errorf("shared memory has no %d values at %d to %d", count, r.Offset, r.Offset+r.Length)
	}
	values := make([]float32, count)
	_, err = file.ReadAt(bytesOf(values), r.Offset)
	return values, err
}

func bytesOf(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}
