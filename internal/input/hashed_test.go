package input

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"
)

// hashed writes a file and opens it.
func hashed(t *testing.T, data []byte) (*Hashed, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	h, err := Hash(t.Context(), f, sum)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Errorf("digest of %d bytes: %x, want %x", len(data), sum.Sum(nil), want)
	}
	return h, path
}

func numbers(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 7)
	}
	return b
}

func TestHashedReads(t *testing.T) {
	for _, n := range []int{0, 1, blockBytes - 1, blockBytes, blockBytes + 1, 3*blockBytes + 5} {
		data := numbers(n)
		h, _ := hashed(t, data)
		if err := iotest.TestReader(io.NewSectionReader(h, 0, h.Size()), data); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
		all := make([]byte, n)
		if _, err := h.ReadAt(all, 0); err != nil || !bytes.Equal(all, data) {
			t.Errorf("%d bytes at once: %v", n, err)
		}
		if n, err := h.ReadAt(make([]byte, 1), h.Size()); n != 0 || err != io.EOF {
			t.Errorf("behind the end: %d bytes, %v", n, err)
		}
	}
}

// TestHashedNotices demands that no byte of a file that was changed after it was hashed is taken for one of it, and that other parts of it
// still can be read.
func TestHashedNotices(t *testing.T) {
	const n = 3*blockBytes + 5
	for name, change := range map[string]func(f *os.File) error{
		"written over":    func(f *os.File) error { _, err := f.WriteAt([]byte{77, 78}, 2*blockBytes); return err },
		"cut off":         func(f *os.File) error { return f.Truncate(2*blockBytes + 1) },
		"cut off at zero": func(f *os.File) error { return f.Truncate(0) },
	} {
		h, path := hashed(t, numbers(n))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := change(f); err != nil {
			t.Fatal(err)
		}
		var changed *ChangedError
		for _, length := range []int{1, blockBytes, n - 2*blockBytes} {
			if _, err := h.ReadAt(make([]byte, length), 2*blockBytes); !errors.As(err, &changed) || changed.Path != path {
				t.Errorf("%s, %d bytes: %v", name, length, err)
			}
		}
		if err := h.Err(); !errors.As(err, &changed) {
			t.Errorf("%s: Err is %v", name, err)
		}
		if _, err := h.ReadAt(make([]byte, 9), 0); (err == nil) == (name == "cut off at zero") {
			t.Errorf("%s: the first block: %v", name, err)
		}
	}
}

// TestHashedStays demands that a file that was replaced under its name stays the old one.
func TestHashedStays(t *testing.T) {
	data := numbers(2 * blockBytes)
	h, path := hashed(t, data)
	if err := os.WriteFile(path+"new", numbers(5), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"new", path); err != nil {
		t.Fatal(err)
	}
	all := make([]byte, len(data))
	if _, err := h.ReadAt(all, 0); err != nil || !bytes.Equal(all, data) {
		t.Errorf("the old file: %v", err)
	}
}

func TestHashStops(t *testing.T) {
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Hash(ctx, f, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
