package tiff

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hhrutter/lzw"
	"golang.org/x/image/tiff"
	strict "golang.org/x/image/tiff/lzw"
)

// stack returns pages that compress well (smooth) and not at all (noise), by turns.
func stack(opt Options) [][]byte {
	pages := make([][]byte, opt.Pages)
	state := uint32(1)
	for p := range pages {
		pages[p] = make([]byte, 3*opt.Width*opt.Height)
		for i := range pages[p] {
			state = state*1664525 + 1013904223
			if pages[p][i] = byte(i/3 + p); p%2 == 1 {
				pages[p][i] = byte(state >> 24)
			}
		}
	}
	return pages
}

func encode(t testing.TB, w io.Writer, opt Options, big bool, pages [][]byte) {
	t.Helper()
	e, err := newEncoder(w, opt, big)
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if err := e.WritePage(page); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// directories returns the offset of each page's directory, following the chain.
func directories(t *testing.T, b []byte) []uint32 {
	t.Helper()
	le := binary.LittleEndian
	var all []uint32
	for at := le.Uint32(b[4:]); at != 0; {
		if at%2 != 0 || int(at) >= len(b) || len(all) > 1000 {
			t.Fatalf("directory %d at %d of %d bytes", len(all), at, len(b))
		}
		all = append(all, at)
		entries := uint32(le.Uint16(b[at:]))
		tag := uint16(0)
		for i := range entries {
			if next := le.Uint16(b[at+2+12*i:]); next <= tag {
				t.Fatalf("tag %d after tag %d", next, tag)
			} else {
				tag = next
			}
		}
		at = le.Uint32(b[at+2+12*entries:])
	}
	return all
}

func TestPages(t *testing.T) {
	for _, opt := range []Options{
		{Width: 1, Height: 1, Pages: 1},
		{Width: 37, Height: 23, Pages: 5, Spacing: [3]float64{0.047, 0.0117, 0.0039}},
		{Width: 256, Height: 192, Pages: 2},
	} {
		var b bytes.Buffer
		pages := stack(opt)
		encode(t, &b, opt, false, pages)
		at := directories(t, b.Bytes())
		if len(at) != opt.Pages {
			t.Fatalf("%+v: %d directories", opt, len(at))
		}
		for p := range pages {
			one := bytes.Clone(b.Bytes()) // x/image/tiff reads the first page: make page p the first
			binary.LittleEndian.PutUint32(one[4:], at[p])
			img, err := tiff.Decode(bytes.NewReader(one))
			if err != nil {
				t.Fatalf("%+v: page %d: %v", opt, p, err)
			}
			if s := img.Bounds().Size(); s.X != opt.Width || s.Y != opt.Height {
				t.Fatalf("%+v: page %d has size %v", opt, p, s)
			}
			for i := range opt.Width * opt.Height {
				r, g, bl, _ := img.At(i%opt.Width, i/opt.Width).RGBA()
				want := pages[p][3*i : 3*i+3]
				if byte(r>>8) != want[0] || byte(g>>8) != want[1] || byte(bl>>8) != want[2] {
					t.Fatalf("%+v: page %d, pixel %d: %d %d %d, want %v", opt, p, i, r>>8, g>>8, bl>>8, want)
				}
			}
		}
	}
}

// TestBig follows the directories of a BigTIFF, which no Go package reads, and decodes its strips.
func TestBig(t *testing.T) {
	opt := Options{Width: 37, Height: 23, Pages: 3, Spacing: [3]float64{1, 1, 1}}
	var buf bytes.Buffer
	pages := stack(opt)
	encode(t, &buf, opt, true, pages)
	b, le := buf.Bytes(), binary.LittleEndian
	if string(b[:8]) != "II\x2b\x00\x08\x00\x00\x00" {
		t.Fatalf("header %q", b[:8])
	}
	at := le.Uint64(b[8:])
	for p, page := range pages {
		n := le.Uint64(b[at:])
		values := map[uint16]uint64{}
		for i := range n {
			entry := b[at+8+20*i:]
			values[le.Uint16(entry)] = le.Uint64(entry[12:])
		}
		strip := b[values[273]:][:values[279]]
		got, err := io.ReadAll(lzw.NewReader(bytes.NewReader(strip), true))
		if err != nil {
			t.Fatalf("page %d: %v", p, err)
		}
		row := 3 * opt.Width
		for i := range got {
			if i%row >= 3 {
				got[i] += got[i-3]
			}
		}
		if !bytes.Equal(got, page) {
			t.Errorf("page %d differs", p)
		}
		at = le.Uint64(b[at+8+20*n:])
	}
	if at != 0 {
		t.Errorf("a directory behind the last page, at %d", at)
	}
}

// TestCoder reads strips of all lengths around the places where codes grow and where the table is full.
func TestCoder(t *testing.T) {
	var c coder
	noise := stack(Options{Width: 100, Height: 100, Pages: 2})[1]
	check := func(data []byte) {
		t.Helper()
		strip := c.strip(data)
		got, err := io.ReadAll(lzw.NewReader(bytes.NewReader(strip), true))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes: %d came back, %v", len(data), len(got), err)
		}
		// This reader misses a last code of another width.
		got, err = io.ReadAll(strict.NewReader(bytes.NewReader(strip), strict.MSB, 8))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes: %d came back, %v", len(data), len(got), err)
		}
	}
	for n := 1; n < 9000; n++ {
		if n < 300 || n%251 == 0 || n > 3800 && n < 3900 || n%512 < 4 || n%512 > 508 || n > 1740 && n < 1800 {
			check(noise[:n])
		}
	}
	check(make([]byte, 1<<20))
	check(bytes.Repeat([]byte{1, 2, 1, 2, 3}, 1<<16))
}

func BenchmarkCoder(b *testing.B) {
	pages := stack(Options{Width: 512, Height: 512, Pages: 2})
	for i, name := range []string{"smooth", "noise"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(pages[i])))
			var c coder
			for b.Loop() {
				c.strip(pages[i])
			}
		})
	}
}

func TestChoiceOfBig(t *testing.T) {
	for _, test := range []struct {
		opt Options
		big bool
	}{
		{Options{Width: 1000, Height: 1000, Pages: 900}, false},
		{Options{Width: 1000, Height: 1000, Pages: 1000}, true},
		{Options{Width: 1, Height: 1, Pages: 4_500_000}, true}, // directories
	} {
		e, err := NewEncoder(io.Discard, test.opt)
		if err != nil || e.big != test.big {
			t.Errorf("%+v: BigTIFF %v, %v", test.opt, e.big, err)
		}
	}
}

func TestDescription(t *testing.T) {
	var b bytes.Buffer
	opt := Options{Width: 2, Height: 2, Pages: 3, Spacing: [3]float64{0.047, 0.5, 0.25}}
	encode(t, &b, opt, false, stack(opt))
	for _, want := range []string{
		"ImageJ=1.54f\nimages=3\nslices=3\nloop=false\nunit=mm\nspacing=0.047\n\x00",
		"\x00\xca\x9a\x3b\x80\xb2\xe6\x0e", // 1e9 / 0.25e9: columns
		"\x00\xca\x9a\x3b\x00\x65\xcd\x1d", // 1e9 / 0.5e9: rows
	} {
		if strings.Count(b.String(), want) != 1+2*b2i(strings.HasPrefix(want, "\x00")) {
			t.Errorf("%q appears %d times", want, strings.Count(b.String(), want))
		}
	}
}

// TestFields reads the fields whose values lie behind the directory, of each page.
func TestFields(t *testing.T) {
	for _, test := range []struct {
		spacing    [3]float64
		resolution bool
		described  string
	}{
		{[3]float64{0.5, 0.25, 0.25}, true, "unit=mm\nspacing=0.5\n"},
		{[3]float64{0.5, 0.25, 0}, false, "unit=mm\nspacing=0.5\n"},
		{[3]float64{0, 0, 0.25}, false, ""},
	} {
		var buf bytes.Buffer
		opt := Options{Width: 3, Height: 5, Pages: 3, Spacing: test.spacing}
		encode(t, &buf, opt, false, stack(opt))
		b, le := buf.Bytes(), binary.LittleEndian
		for page, at := range directories(t, b) {
			values := map[uint16]string{}
			for i := range uint32(le.Uint16(b[at:])) {
				entry := b[at+2+12*i:]
				size := le.Uint32(entry[4:]) * map[uint16]uint32{ascii: 1, short: 2, long: 4, rational: 8}[le.Uint16(entry[2:])]
				value := entry[8:]
				if size > 4 {
					value = b[le.Uint32(entry[8:]):]
				}
				values[le.Uint16(entry)] = string(value[:size])
			}
			if values[258] != "\x08\x00\x08\x00\x08\x00" || values[305] != "voxcam\x00" {
				t.Errorf("page %d: bits %q, software %q", page, values[258], values[305])
			}
			want := ""
			if page == 0 {
				want = "ImageJ=1.54f\nimages=3\nslices=3\nloop=false\n" + test.described + "\x00"
			}
			if values[270] != want {
				t.Errorf("page %d: description %q, want %q", page, values[270], want)
			}
			for _, tag := range []uint16{282, 283} {
				if _, ok := values[tag]; ok != test.resolution {
					t.Errorf("spacing %v: tag %d is there: %v", test.spacing, tag, ok)
				}
			}
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestPerMM(t *testing.T) {
	for _, mm := range []float64{1e-6, 0.0039, 0.7, 1, 3, 250, 1e8} {
		b := perMM(mm)
		num, den := float64(binary.LittleEndian.Uint32(b)), float64(binary.LittleEndian.Uint32(b[4:]))
		if got := den / num; got < mm*0.999 || got > mm*1.001 || num >= 1<<31 || den >= 1<<31 {
			t.Errorf("%v mm became %v/%v", mm, num, den)
		}
	}
}

func TestMisuse(t *testing.T) {
	opt := Options{Width: 4, Height: 3, Pages: 2}
	for _, wrong := range []Options{{}, {Width: 4, Height: 3}, {Width: -1, Height: 3, Pages: 1}, {Width: 1 << 20, Height: 1 << 20, Pages: 1}} {
		if _, err := NewEncoder(io.Discard, wrong); err == nil {
			t.Errorf("%+v: no error", wrong)
		}
	}
	e, err := NewEncoder(io.Discard, opt)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, 36)
	if err := e.WritePage(page[:35]); err == nil {
		t.Error("a page of 35 bytes was written")
	}
	if err := errors.Join(e.WritePage(page), e.WritePage(page)); err != nil {
		t.Error(err)
	}
	if err := e.WritePage(page); err == nil {
		t.Error("page 3 of 2 was written")
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if err := e.WritePage(page); err == nil {
		t.Error("a page was written after Close")
	}
	if e, err = NewEncoder(io.Discard, opt); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err == nil || !strings.Contains(err.Error(), "0 of 2 pages") {
		t.Errorf("closed without pages: %v", err)
	}
}

// TestFullDisk demands that the error of the output comes back from every call after it.
func TestFullDisk(t *testing.T) {
	full := errors.New("no space left")
	for room := range 400 {
		e, err := NewEncoder(&limited{room: room, err: full}, Options{Width: 4, Height: 3, Pages: 2})
		if err == nil {
			err = e.WritePage(make([]byte, 36))
		}
		if err == nil {
			err = e.WritePage(make([]byte, 36))
		}
		if err == nil {
			if room < 390 {
				t.Errorf("two pages fitted into %d bytes", room)
			}
			break
		}
		if !errors.Is(err, full) || e != nil && !errors.Is(e.Close(), full) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
	}
}

type limited struct {
	room int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.room {
		return l.room, l.err
	}
	l.room -= len(p)
	return len(p), nil
}

func BenchmarkWritePage(b *testing.B) {
	opt := Options{Width: 256, Height: 256, Pages: 1 << 30}
	page := stack(Options{Width: 256, Height: 256, Pages: 1})[0]
	e, err := newEncoder(io.Discard, opt, true)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	for b.Loop() {
		if err := e.WritePage(page); err != nil {
			b.Fatal(err)
		}
	}
}
