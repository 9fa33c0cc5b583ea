package cudnn

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNotFound comes first in the package: a library that is loaded is found by its name from then on.
func TestNotFound(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("not a library"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Open([]string{dir})
	var missing *NotFoundError
	if err == nil {
		t.Skip("SKIPPED: the loader finds cuDNN by its name")
	}
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "pip install") {
		t.Errorf("%v", err)
	}
	t.Log(err)
}
