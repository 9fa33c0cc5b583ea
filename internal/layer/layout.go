package layer

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// CheckLayout says why a layout cannot be used for any layer, nil if it can: "" and "auto" recognise the axes, and the others name them.
func CheckLayout(layout string) error {
	if layout == "" || layout == "auto" || layouts[layout] != nil {
		return nil
	}
	return fmt.Errorf("%q is none of auto, %s", layout, strings.Join(slices.Sorted(maps.Keys(layouts)), ", "))
}
