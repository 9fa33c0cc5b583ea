package dataset

import (
	"strings"
	"testing"
)

// Names of files are cut between letters, and however long an ID is, that takes one look at it.
func TestFileNamesAreCut(t *testing.T) {
	for in, want := range map[string]string{
		strings.Repeat("x", 1<<21):     strings.Repeat("x", 120),
		"a" + strings.Repeat("ä", 100): "a" + strings.Repeat("ä", 59),
		strings.Repeat("x", 120):       strings.Repeat("x", 120),
		"..":                           "sample",
	} {
		if got := fileName(in); got != want {
			t.Errorf("%.20q... of %d bytes becomes %q", in, len(in), got)
		}
	}
}
