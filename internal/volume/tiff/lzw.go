package tiff

import "encoding/binary"

// Codes of LZW as TIFF has it (TIFF 6.0, section 13): most significant bit first, and codes grow one entry early.
const (
	clearCode = 256
	endCode   = 257
	firstCode = 258
	fullCode  = 4094 // is not used: the table is full
	leastBits = 9
	mostBits  = 12
	tableBits = 14 // of the index of coder.table; at most a quarter of it is used
)

// coder codes strips with LZW.
type coder struct {
	// table has the entries: the code of the prefix and the next byte, above the code of both together. An entry lies
	// at its hash, or at the next free place behind. No entry is 0.
	table [1 << tableBits]uint32
	out   []byte
}

// strip codes data, which are not empty. The result is valid until the next call.
func (c *coder) strip(data []byte) []byte {
	const slack = 64 // codes at the beginning and the end, and bytes that are written ahead
	if most := len(data)*mostBits/8 + len(data)/1024 + slack; len(c.out) < most {
		c.out = make([]byte, most)
	}
	const golden = 0x9e3779b1 // spreads keys
	table, w := &c.table, bitWriter{out: c.out}
	clear(table[:])
	w.put(clearCode, leastBits)
	next, width := uint32(firstCode), uint(leastBits)
	whole := uint32(data[0]) // the code of the bytes that belong to no written code
search:
	for _, x := range data[1:] {
		key := whole<<8 | uint32(x)
		at := key * golden >> (32 - tableBits)
		for entry := table[at]; entry != 0; entry = table[at] {
			if entry>>mostBits == key {
				whole = entry & (1<<mostBits - 1)
				continue search
			}
			at = (at + 1) % (1 << tableBits)
		}
		table[at] = key<<mostBits | next
		w.put(whole, width)
		whole = uint32(x)
		if next++; next == 1<<width {
			width++
		} else if next == fullCode {
			w.put(clearCode, width)
			clear(table[:])
			next, width = firstCode, leastBits
		}
	}
	w.put(whole, width)
	// The reader has made an entry of the last code.
	if next++; next == 1<<width {
		width++
	} else if next == fullCode {
		w.put(clearCode, width)
		width = leastBits
	}
	w.put(endCode, width)
	if w.bits > 0 {
		w.n++
	}
	return w.out[:w.n]
}

// bitWriter writes codes, the first bit at the high end of a byte.
type bitWriter struct {
	out  []byte
	n    int    // bytes in out
	acc  uint64 // bits that are not in out yet, at the high end
	bits uint
}

func (w *bitWriter) put(code uint32, width uint) {
	w.acc |= uint64(code) << ((64 - w.bits - width) & 63)
	w.bits += width
	binary.BigEndian.PutUint64(w.out[w.n:], w.acc)
	w.n += int(w.bits >> 3)
	w.acc <<= w.bits & 0x38
	w.bits &= 7
}
