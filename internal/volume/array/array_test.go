package array

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestCopy compares Copy with the definition of strides, over every order of axes.
func TestCopy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rank := rapid.IntRange(0, 5).Draw(t, "rank")
		shape, strides := make([]int, rank), make([]int, rank)
		n := 1
		gap := rapid.IntRange(1, 3).Draw(t, "gap")                           // between neighbours along the fastest axis
		for _, axis := range rapid.Permutation(seq(rank)).Draw(t, "order") { // fastest first
			shape[axis] = rapid.SampledFrom([]int{1, 2, 3, 7, 16, 33}).Draw(t, "size")
			if strides[axis] = n * gap; shape[axis] == 1 && rapid.Bool().Draw(t, "zero") {
				strides[axis] = 0
			}
			n *= shape[axis]
			if n > 1<<14 {
				t.Skip("large")
			}
		}
		src := make([]float32, n*gap)
		for i := range src {
			src[i] = float32(i)
		}
		got := Gather(src, shape, strides)
		index := make([]int, rank)
		for i := range n {
			rest, at := i, 0
			for axis := rank - 1; axis >= 0; axis-- {
				index[axis], rest = rest%shape[axis], rest/shape[axis]
				at += index[axis] * strides[axis]
			}
			if got[i] != src[at] {
				t.Fatalf("shape %v, strides %v: element %v is %v, want %v", shape, strides, index, got[i], src[at])
			}
		}
	})
}

// TestGatherSharesOrdered demands no copy of what is in order, with axes of one element anywhere.
func TestGatherSharesOrdered(t *testing.T) {
	src := []float32{0, 1, 2, 3, 4, 5, 6, 7}
	got := Gather(src, []int{2, 1, 3}, []int{3, 0, 1})
	if !slices.Equal(got, src[:6]) || cap(got) != 6 || &got[0] != &src[0] {
		t.Errorf("%v of capacity %d", got, cap(got))
	}
}

func seq(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// TestColumnMajorBlocks demands that the blocks, joined, are the array in column-major order.
func TestColumnMajorBlocks(t *testing.T) {
	for _, shape := range [][]int{{}, {5}, {2, 3}, {3, 1, 4}, {2, 0, 3}, {2, 3, 100}, {300, 301, 35}} {
		n := 1
		for _, size := range shape {
			n *= size
		}
		data := make([]int32, n)
		for i := range data {
			data[i] = int32(i)
		}
		got := make([]int32, 0, n)
		err := ColumnMajorBlocks(data, shape, func(block []int32) error {
			if got = append(got, block...); n > 1<<20 && len(block) > n/2 {
				t.Errorf("shape %v: a block has %d of %d elements", shape, len(block), n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		again := make([]int32, n)
		if n > 0 {
			Copy(again, got, shape, ColumnMajor(shape))
		}
		if !slices.Equal(again, data) {
			t.Errorf("shape %v: wrong order", shape)
		}
	}
	stop := errors.New("stop")
	if err := ColumnMajorBlocks([]int{1, 2}, []int{1, 2}, func([]int) error { return stop }); err != stop {
		t.Errorf("error %v of yield", err)
	}
}

func TestCount(t *testing.T) {
	for _, test := range []struct {
		shape []int
		limit int
		want  int
		err   string
	}{
		{nil, 0, 1, ""},
		{[]int{2, 3, 4}, 24, 24, ""},
		{[]int{2, 3, 4}, 23, 0, "2x3x4 has more than 23 voxels"},
		{[]int{1 << 31}, 0, 1 << 31, ""},
		{[]int{1 << 31, 2}, 0, 0, "more than"},
		{[]int{1 << 62, 4, 4}, 0, 0, "more than"},
		{[]int{3, 0}, 0, 0, "axis 1 of shape 3x0 has size 0"},
		{[]int{-3, -2}, 0, 0, "axis 0 of shape -3x-2 has size -3"},
	} {
		got, err := Options{MaxVoxels: test.limit}.Count(test.shape)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("Count(%v, %d) = %d, %v", test.shape, test.limit, got, err)
		}
	}
}

// TestHalf goes through all values: each must be the number that the definition of binary16 gives.
func TestHalf(t *testing.T) {
	for u := range 1 << 16 {
		sign, exponent, fraction := 1-2*float64(u>>15), u>>10&31, float64(u&1023)/1024
		want := sign * math.Pow(2, float64(exponent-15)) * (1 + fraction)
		switch {
		case exponent == 0:
			want = sign * math.Pow(2, -14) * fraction
		case exponent == 31 && fraction == 0:
			want = math.Inf(int(sign))
		case exponent == 31:
			want = math.NaN()
		}
		if got := half(uint16(u)); got != want && !(math.IsNaN(got) && math.IsNaN(want)) {
			t.Fatalf("half(%#04x) = %v, want %v", u, got, want)
		}
	}
}

// TestLine demands that slope and intercept are applied in double precision.
func TestLine(t *testing.T) {
	src := binary.BigEndian.AppendUint32(nil, 16777217) // not a float32
	e := Element{Kind: Int, Size: 4, Big: true, Slope: 2, Inter: -33554432}
	var dst [1]float32
	if e.Decode(dst[:], src); dst[0] != 2 {
		t.Errorf("2*16777217 - 33554432 = %v", dst[0])
	}
}

func TestRead(t *testing.T) {
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * 7)
	}
	e := Element{Kind: Uint, Size: 1}
	got, err := e.Read(bytes.NewReader(data), len(data), int64(len(data)/mostRatio+1)) // as if they were compressed
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range got {
		if x != float32(data[i]) {
			t.Fatalf("value %d is %v", i, x)
		}
	}
	for _, n := range []int{len(data) + 1, 1 << 40} { // of which the last cannot be there
		if _, err := e.Read(bytes.NewReader(data), n, int64(len(data))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d values: error %v", n, err)
		}
	}
}

// TestDecode decodes more elements than are converted at a time of every kind, in both orders of bytes.
func TestDecode(t *testing.T) {
	for _, test := range []struct {
		kind   NumberKind
		size   int
		stored any
		want   []float32
	}{
		{Bool, 1, []uint8{0, 1, 2, 255}, []float32{0, 1, 1, 1}},
		{Uint, 1, []uint8{0, 1, 127, 255}, []float32{0, 1, 127, 255}},
		{Uint, 2, []uint16{1, 0x1234, math.MaxUint16}, []float32{1, 0x1234, math.MaxUint16}},
		{Uint, 4, []uint32{1, 0x12345600, math.MaxUint32}, []float32{1, 0x12345600, math.MaxUint32}},
		{Uint, 8, []uint64{1, 0x123456 << 20, math.MaxUint64}, []float32{1, 0x123456 << 20, math.MaxUint64}},
		{Int, 1, []int8{1, -1, 127, -128}, []float32{1, -1, 127, -128}},
		{Int, 2, []int16{1, -2, 0x1234, math.MinInt16}, []float32{1, -2, 0x1234, math.MinInt16}},
		{Int, 4, []int32{1, -2, 0x123456, math.MinInt32}, []float32{1, -2, 0x123456, math.MinInt32}},
		{Int, 8, []int64{1, -2, 0x123456 << 20, math.MinInt64}, []float32{1, -2, 0x123456 << 20, math.MinInt64}},
		{Float, 2, []uint16{0x3c00, 0xc000, 0x7bff, 0x0001}, []float32{1, -2, 65504, 0x1p-24}}, // the largest and the smallest
		{Float, 4, []float32{1.5, -2, math.MaxFloat32, 0x1p-149}, []float32{1.5, -2, math.MaxFloat32, 0x1p-149}},
		{Float, 8, []float64{1.5, -2, math.MaxFloat32, 1 + 0x1p-30}, []float32{1.5, -2, math.MaxFloat32, 1}},
	} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			const times = 300
			var src bytes.Buffer
			for range times {
				if err := binary.Write(&src, order, test.stored); err != nil {
					t.Fatal(err)
				}
			}
			e := Element{Kind: test.kind, Size: test.size, Big: order == binary.BigEndian}
			want := slices.Repeat(test.want, times)
			got := make([]float32, len(want))
			if e.Decode(got, src.Bytes()); !slices.Equal(got, want) {
				t.Errorf("%+v: %v, want %v", e, got[:len(test.want)], test.want)
			}
		}
	}
}

// TestReadChunks reads elements of several bytes over the parts in which they are read, and data that end in the second part.
func TestReadChunks(t *testing.T) {
	const n = 3*chunkBytes/4 + 5
	want := make([]float32, n)
	for i := range want {
		want[i] = float32(i)
	}
	stored := AppendFloat32([]byte("ab"), want)
	if string(stored[:2]) != "ab" || len(stored) != 2+4*n || !bytes.Equal(stored[2:10], []byte{0, 0, 0, 0, 0, 0, 0x80, 0x3f}) {
		t.Fatalf("%d bytes, the first %v", len(stored), stored[:10])
	}
	e := Element{Kind: Float, Size: 4}
	got, err := e.Read(bytes.NewReader(stored[2:]), n, 4*n)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("read %d values, %v", len(got), err)
	}
	_, err = e.Read(bytes.NewReader(stored[2:2+chunkBytes+1]), n, 4*n)
	if err == nil || !strings.Contains(err.Error(), "the data end within the first 32768 of 49157 values") {
		t.Errorf("error %v", err)
	}
}

// TestReadClaims compares claims with the most that deflate can make of a byte (1032): above it, nothing is taken or read.
func TestReadClaims(t *testing.T) {
	e := Element{Kind: Float, Size: 8}
	const have = 10
	if _, err := e.Read(strings.NewReader(""), have*mostRatio/8+mostRatio/8, have); err == nil || !strings.Contains(err.Error(), "however compressed") {
		t.Errorf("more than there can be: %v", err)
	}
	if got, err := e.Read(bytes.NewReader(make([]byte, have*mostRatio)), have*mostRatio/8, have); err != nil || len(got) != have*mostRatio/8 {
		t.Errorf("as many as there can be: %d, %v", len(got), err)
	}
}

// TestAllow demands that memory is asked for in bytes, two copies of float32, before any is taken.
func TestAllow(t *testing.T) {
	asked := 0
	full := errors.New("full")
	opt := Options{Allow: func(bytes int) error { asked = bytes; return nil }}
	if n, err := opt.Count([]int{2, 3, 4}); n != 24 || err != nil || asked != 192 {
		t.Errorf("%d voxels, %v, %d bytes", n, err, asked)
	}
	opt.Allow = func(int) error { return full }
	if _, err := opt.Count([]int{2, 3, 4}); !errors.Is(err, full) || !strings.Contains(err.Error(), "2x3x4") {
		t.Errorf("error %v", err)
	}
}

func TestDrain(t *testing.T) {
	if err := Drain(strings.NewReader("abc"), 3); err != nil {
		t.Error(err)
	}
	if err := Drain(strings.NewReader("abcd"), 3); err == nil {
		t.Error("4 bytes behind the voxels, 3 allowed, no error")
	}
}

// BenchmarkTurn reorders a column-major volume, what every .mat and .nii needs.
func BenchmarkTurn(b *testing.B) {
	shape := []int{192, 256, 256}
	src := make([]float32, 192*256*256)
	dst := make([]float32, len(src))
	b.SetBytes(int64(4 * len(src)))
	for b.Loop() {
		Copy(dst, src, shape, ColumnMajor(shape))
	}
}
