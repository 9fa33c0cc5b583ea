package volume

import (
	"errors"
	"math"
	"testing"
)

func TestCheckFinite(t *testing.T) {
	v := New(2, 3, 4, 5)
	if err := v.CheckFinite(); err != nil {
		t.Errorf("zeros: %v", err)
	}
	v.Data[0], v.Data[1] = math.MaxFloat32, -math.MaxFloat32
	if err := v.CheckFinite(); err != nil {
		t.Errorf("the largest numbers: %v", err)
	}
	inf := float32(math.Inf(-1))
	v.Data[((1*3+2)*4+3)*5+4] = float32(math.NaN())
	v.Data[((1*3+0)*4+1)*5+2] = inf
	err := v.CheckFinite()
	var found *NonFiniteError
	if !errors.As(err, &found) {
		t.Fatalf("error %v", err)
	}
	if found.Count != 2 || found.Total != 120 || found.First != [4]int{1, 0, 1, 2} || found.Value != inf {
		t.Errorf("found %+v", found)
	}
}

func TestCheckSize(t *testing.T) {
	for _, v := range []*Volume{New(2, 3, 4, 5), New(1, 1, 1, 1)} {
		if err := v.CheckSize(); err != nil {
			t.Error(err)
		}
	}
	data := make([]float32, 8)
	for name, v := range map[string]*Volume{
		"nil": nil, "empty": {}, "too few": {Data: data[:7], Channels: 1, Depth: 2, Height: 2, Width: 2},
		"too many": {Data: data, Channels: 1, Depth: 1, Height: 2, Width: 2}, "negative": {Data: data, Channels: -2, Depth: -2, Height: 2, Width: 1},
		"zero": {Channels: 1, Depth: 0, Height: 2, Width: 2}, "overflow": {Channels: 1 << 32, Depth: 1 << 32, Height: 1, Width: 1},
		// The products of these sizes are 8 in 64 bits.
		"as many in 64 bits":      {Data: data, Channels: 4, Depth: 1<<62 + 2, Height: 1, Width: 1},
		"as many after the first": {Data: data, Channels: 1 << 20, Depth: 1, Height: 8, Width: 1<<61 - 1},
	} {
		if v.CheckSize() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
