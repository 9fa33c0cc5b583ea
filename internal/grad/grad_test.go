package grad_test

import (
	"context"
	"flag"
	"os"
	"testing"

	"pgregory.net/rapid"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
	"github.com/voxcam/voxcam/internal/backend/reference"
)

// The random graphs are the same in every run, unless a seed is given.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.seed"); f.Value.String() == "0" {
		if err := flag.Set("rapid.seed", "20"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// The gradient of a random network, with joins and branches, is the derivative of the reference.
func TestGradientsOfNetworks(t *testing.T) {
	networks := backendtest.Networks()
	rapid.Check(t, func(t *rapid.T) {
		s := networks.Draw(t, "network")
		values, err := reference.Eval(context.Background(), s.Graph, s.Data)
		if err != nil {
			t.Fatal(err)
		}
		if s.Margin(values) < 1e-4 {
			t.Skip("too near to a kink for finite differences")
		}
		if err := backendtest.CheckGradient(s, 4); err != nil {
			t.Fatal(err)
		}
	})
}
