package cuda

import (
	"testing"

	"github.com/voxcam/voxcam/internal/backend/backendtest"
)

func TestResident(t *testing.T) { backendtest.RunResident(t, open(t, Options{})) }
