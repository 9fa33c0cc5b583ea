// Package tiff writes stacks of RGB images as multi-page TIFF with LZW compression, page by page. Formats: TIFF 6.0
// (Adobe, 1992) and, for stacks that might not fit into 4 GiB, BigTIFF (https://libtiff.gitlab.io/libtiff/specification/bigtiff.html).
//
// The first page's description is in the form of ImageJ, which takes the voxel size from it; tifffile reads axes ZYXS.
// A page is a directory and, behind it, one strip of compressed rows: all offsets are known when a page is written, so
// the output is never sought in.
package tiff

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// Options describe a stack.
type Options struct {
	Width, Height int // pixels of a page
	Pages         int // written in total

	// Spacing is the size of a voxel in mm between pages, rows and columns; zeros mean unknown.
	Spacing [3]float64
}

// Encoder writes one stack.
type Encoder struct {
	w      io.Writer
	opt    Options
	big    bool
	offset int64 // bytes written
	page   int   // pages written
	err    error // the first one; no page is written after it

	differences []byte // of a page
	strip       []byte // of a page
	coder       coder
}

// NewEncoder writes the file's header. The caller writes exactly opt.Pages pages and calls Close.
func NewEncoder(w io.Writer, opt Options) (*Encoder, error) {
	// In the worst case every byte becomes a code of 12 bits.
	const worst, slack, limit = 1.5, 1024, 1<<32 - 1
	size := (float64(opt.Width)*float64(opt.Height)*3*worst + slack) * float64(opt.Pages)
	return newEncoder(w, opt, size > limit)
}

// NewBigEncoder is NewEncoder for a BigTIFF of any size. ImageJ reads these with Bio-Formats only.
func NewBigEncoder(w io.Writer, opt Options) (*Encoder, error) { return newEncoder(w, opt, true) }

func newEncoder(w io.Writer, opt Options, big bool) (*Encoder, error) {
	if opt.Width < 1 || opt.Height < 1 || opt.Pages < 1 {
		return nil, fmt.Errorf("tiff: %d pages of %dx%d pixels", opt.Pages, opt.Width, opt.Height)
	}
	const mostPixels = math.MaxInt32 / 3 / 2 // keeps a strip below 2 GiB
	if opt.Width > mostPixels/opt.Height {
		return nil, fmt.Errorf("tiff: a page of %dx%d pixels is too large", opt.Width, opt.Height)
	}
	e := &Encoder{w: w, opt: opt, big: big, differences: make([]byte, 3*opt.Width*opt.Height)}
	le := binary.LittleEndian
	head := le.AppendUint32([]byte("II\x2a\x00"), 8)
	if big {
		head = le.AppendUint64([]byte("II\x2b\x00\x08\x00\x00\x00"), 16)
	}
	e.write(head)
	return e, e.err
}

// write keeps the first error.
func (e *Encoder) write(b []byte) {
	if e.err != nil {
		return
	}
	_, e.err = e.w.Write(b)
	e.offset += int64(len(b))
}

// WritePage writes the next page: Height rows of Width pixels of red, green, blue.
func (e *Encoder) WritePage(rgb []byte) error {
	if e.err != nil {
		return e.err
	}
	if want := 3 * e.opt.Width * e.opt.Height; len(rgb) != want {
		return fmt.Errorf("tiff: page %d has %d bytes instead of %d", e.page, len(rgb), want)
	}
	if e.page == e.opt.Pages {
		return fmt.Errorf("tiff: more than the %d pages announced", e.opt.Pages)
	}
	e.strip = e.compress(rgb)
	if len(e.strip)%2 == 1 {
		e.strip = append(e.strip, 0) // directories begin at even offsets
	}
	e.write(e.directory())
	e.write(e.strip)
	e.page++
	return e.err
}

// compress codes a page, each pixel as the difference to its left neighbour (predictor 2), with LZW.
func (e *Encoder) compress(rgb []byte) []byte {
	width := 3 * e.opt.Width
	for at := 0; at < len(rgb); at += width {
		from, to := rgb[at:at+width], e.differences[at:at+width]
		copy(to, from[:3])
		for i := 3; i < len(to) && i < len(from); i++ {
			to[i] = from[i] - from[i-3]
		}
	}
	return e.coder.strip(e.differences)
}

// Close reports whether all pages were written. It does not close the writer.
func (e *Encoder) Close() error {
	switch {
	case e.err != nil:
		return e.err
	case e.page != e.opt.Pages:
		e.err = fmt.Errorf("tiff: closed after %d of %d pages", e.page, e.opt.Pages)
		return e.err
	}
	e.err = errClosed
	return nil
}

var errClosed = errors.New("tiff: the encoder is closed")

// Types of fields.
const (
	ascii    = 2
	short    = 3
	long     = 4
	rational = 5
	long8    = 16
)

// directoryEntry is an entry of a page's directory (IFD).
type directoryEntry struct {
	tag, kind uint16
	count     int
	value     []byte
}

// directory encodes the directory of the page whose strip is ready, to be written at e.offset.
func (e *Encoder) directory() []byte {
	le := binary.LittleEndian
	shorts := func(tag uint16, values ...uint16) directoryEntry {
		f := directoryEntry{tag: tag, kind: short, count: len(values)}
		for _, v := range values {
			f.value = le.AppendUint16(f.value, v)
		}
		return f
	}
	longs := func(tag uint16, v int) directoryEntry {
		return directoryEntry{tag, long, 1, le.AppendUint32(nil, uint32(v))}
	}
	text := func(tag uint16, s string) directoryEntry {
		return directoryEntry{tag, ascii, len(s) + 1, append([]byte(s), 0)}
	}
	offset := func(v int64) directoryEntry { // of the strip
		if e.big {
			return directoryEntry{273, long8, 1, le.AppendUint64(nil, uint64(v))}
		}
		return directoryEntry{273, long, 1, le.AppendUint32(nil, uint32(v))}
	}
	const lzwCode, rgbCode, chunky, noUnit, differences = 5, 2, 1, 1, 2
	fields := []directoryEntry{
		longs(256, e.opt.Width), longs(257, e.opt.Height), shorts(258, 8, 8, 8), shorts(259, lzwCode), shorts(262, rgbCode),
	}
	if e.page == 0 {
		fields = append(fields, text(270, e.description()))
	}
	fields = append(fields, offset(0), shorts(277, 3), longs(278, e.opt.Height), longs(279, len(e.strip)))
	if y, x := e.opt.Spacing[1], e.opt.Spacing[2]; y > 0 && x > 0 {
		fields = append(fields, directoryEntry{282, rational, 1, perMM(x)}, directoryEntry{283, rational, 1, perMM(y)})
	}
	fields = append(fields, shorts(284, chunky), shorts(296, noUnit), text(305, "voxcam"), shorts(317, differences))

	// Values that do not fit into their entry follow the directory.
	countSize, entrySize, inline := 2, 12, 4
	if e.big {
		countSize, entrySize, inline = 8, 20, 8
	}
	size := countSize + entrySize*len(fields) + inline
	var behind []byte
	entries := make([]byte, 0, size)
	if e.big {
		entries = le.AppendUint64(entries, uint64(len(fields)))
	} else {
		entries = le.AppendUint16(entries, uint16(len(fields)))
	}
	number := func(b []byte, v int64) []byte {
		if e.big {
			return le.AppendUint64(b, uint64(v))
		}
		return le.AppendUint32(b, uint32(v))
	}
	total := size
	for _, f := range fields {
		if len(f.value) > inline {
			total += (len(f.value) + 1) &^ 1
		}
	}
	for _, f := range fields {
		if f.tag == 273 {
			f = offset(e.offset + int64(total))
		}
		entries = number(le.AppendUint16(le.AppendUint16(entries, f.tag), f.kind), int64(f.count))
		if len(f.value) > inline {
			entries = number(entries, e.offset+int64(size+len(behind)))
			behind = append(behind, f.value...)
			if len(behind)%2 == 1 {
				behind = append(behind, 0)
			}
			continue
		}
		entries = append(append(entries, f.value...), make([]byte, inline-len(f.value))...)
	}
	next := int64(0)
	if e.page+1 < e.opt.Pages {
		next = e.offset + int64(total+len(e.strip))
	}
	return append(number(entries, next), behind...)
}

// description is the text by which ImageJ knows a stack and the distance of its slices.
func (e *Encoder) description() string {
	var s strings.Builder
	fmt.Fprintf(&s, "ImageJ=1.54f\nimages=%d\nslices=%d\nloop=false\n", e.opt.Pages, e.opt.Pages)
	if z := e.opt.Spacing[0]; z > 0 {
		fmt.Fprintf(&s, "unit=mm\nspacing=%s\n", strconv.FormatFloat(z, 'g', 10, 64))
	}
	return s.String()
}

// perMM is the rational 1/mm, in numbers that also fit into a signed integer of 32 bits (ImageJ).
func perMM(mm float64) []byte {
	scale := 1e9
	for mm*scale > math.MaxInt32 && scale > 1 {
		scale /= 10
	}
	le := binary.LittleEndian
	return le.AppendUint32(le.AppendUint32(nil, uint32(scale)), uint32(max(1, min(math.Round(mm*scale), math.MaxInt32))))
}
