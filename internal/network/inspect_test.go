package network_test

import (
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/network"
)

// Where layers are there and none can be placed, the last of them says why. Shapes and lists of positions are no parameters.
func TestInspectWithoutPlaces(t *testing.T) {
	s, err := network.Inspect(t.Context(), "testdata/shuffled.onnx", network.ModelOptions{InputAxes: "NCDHW"})
	if err != nil {
		t.Fatal(err)
	}
	if s.DefaultTarget != "" || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], `that can be placed: layer "act" [1,8,4] cannot be placed in the volume: `) ||
		!strings.Contains(s.Warnings[0], "the option token_grid") {
		t.Errorf("default %q, %q", s.DefaultTarget, s.Warnings)
	}
	if s.Parameters != 8*4+4*3 {
		t.Errorf("%d parameters", s.Parameters)
	}
}
