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
