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
		for _, axis := range rapid.Permutation(seq(rank)).Draw(t, "order") { // fastest first
			shape[axis] = rapid.SampledFrom([]int{1, 2, 3, 7, 16, 33}).Draw(t, "size")
			if strides[axis] = n; shape[axis] == 1 && rapid.Bool().Draw(t, "zero") {
				strides[axis] = 0
			}
			n *= shape[axis]
			if n > 1<<14 {
				t.Skip("large")
			}
		}
		src := make([]float32, n)
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
			got = append(got, block...)
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
