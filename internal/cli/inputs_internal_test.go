package cli

import (
	"math"
	"testing"

	"github.com/voxcam/voxcam/cam"
)

// Results for the inputs of a model are joined if the model gave the same logits but for rounding: otherwise it saw other data.
func TestJoinedResults(t *testing.T) {
	for _, c := range []struct {
		a, b []float32
		same bool
	}{
		{nil, nil, true}, {[]float32{1, -2}, []float32{1.00001, -2}, true}, {[]float32{1, -2}, []float32{1, -1.5}, false}, {[]float32{1}, []float32{1, 2}, false},
		{[]float32{1}, []float32{float32(math.NaN())}, false},
	} {
		_, err := (&modelInput{input: "mr"}).join(&cam.Result{Logits: c.a}, &cam.Result{Logits: c.b})
		if (err == nil) != c.same {
			t.Errorf("%v and %v: %v", c.a, c.b, err)
		}
	}
}
