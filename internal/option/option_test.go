package option_test

import (
	"testing"

	"github.com/voxcam/voxcam/internal/option"
)

// A program puts its own words for the options that it has; others stay.
func TestRename(t *testing.T) {
	text := "give " + option.Mention("token_grid") + ", or " + option.Mention("other_one") + "; the options are more"
	flag := func(name string) (string, bool) { return "--token-grid", name == "token_grid" }
	if got := option.Rename(text, flag); got != "give --token-grid, or the option other_one; the options are more" {
		t.Error(got)
	}
}
