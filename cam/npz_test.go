package cam

import (
	"archive/zip"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// tensor is an array of a golden file.
type tensor struct {
	shape []int
	data  []float32
}

var (
	npyShape = regexp.MustCompile(`'shape': \(([^)]*)\)`)
	npyFloat = regexp.MustCompile(`'descr': '<f([48])', 'fortran_order': False`)
)

// readNPZ reads the arrays of a golden file, which is trusted, as float32.
func readNPZ(t *testing.T, path string) map[string]tensor {
	t.Helper()
	z, err := zip.OpenReader(path)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out := map[string]tensor{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		a, err := parseNPY(b)
		if err != nil {
			t.Fatalf("%s: %s: %v", path, f.Name, err)
		}
		out[strings.TrimSuffix(f.Name, ".npy")] = a
	}
	return out
}

func parseNPY(b []byte) (tensor, error) {
	if len(b) < 10 || string(b[:7]) != "\x93NUMPY\x01" {
		return tensor{}, fmt.Errorf("not .npy version 1")
	}
	end := 10 + int(binary.LittleEndian.Uint16(b[8:]))
	header, body := string(b[10:end]), b[end:]
	m, width := npyShape.FindStringSubmatch(header), npyFloat.FindStringSubmatch(header)
	if m == nil || width == nil {
		return tensor{}, fmt.Errorf("header %q", header)
	}
	var a tensor
	for s := range strings.SplitSeq(m[1], ",") {
		if s = strings.TrimSpace(s); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil {
				return tensor{}, err
			}
			a.shape = append(a.shape, n)
		}
	}
	if width[1] == "8" {
		for ; len(body) >= 8; body = body[8:] {
			a.data = append(a.data, float32(math.Float64frombits(binary.LittleEndian.Uint64(body))))
		}
		return a, nil
	}
	for ; len(body) >= 4; body = body[4:] {
		a.data = append(a.data, math.Float32frombits(binary.LittleEndian.Uint32(body)))
	}
	return a, nil
}

// channelsLast turns [C, ...] into [..., C].
func (a tensor) channelsLast() (data []float32, channels int) {
	channels = a.shape[0]
	voxels := len(a.data) / channels
	data = make([]float32, len(a.data))
	for c := range channels {
		for v := range voxels {
			data[v*channels+c] = a.data[c*voxels+v]
		}
	}
	return data, channels
}

func (a tensor) dims() [3]int { return [3]int(a.shape[len(a.shape)-3:]) }
