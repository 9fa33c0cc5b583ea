package result

import (
	"fmt"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/picture"
)

// Title is the line above a sheet of slices. A truth of "" is left out.
func Title(sample, truth, predicted string, confidence float64, layer string) []string {
	if truth != "" {
		truth = "   true: " + truth
	}
	return []string{fmt.Sprintf("%s%s   predicted: %s (%.3f)   layer: %s", sample, truth, predicted, confidence, layer)}
}

// Row is a method's line of a sheet, with slices of the map, nil where there is none. class is the name of the target class; "" where it
// is clear.
func Row(m *cam.MethodResult, class string, of *Map) picture.Row {
	label := m.Method
	if class != "" {
		label += ", class " + class
	}
	if m.Status != cam.StatusOK {
		label += fmt.Sprintf(" (%s: %s)", m.Status, m.Reason)
	}
	if of == nil {
		return picture.Row{Label: label, Note: "no map"}
	}
	return picture.Row{Label: label, View: of.view.Thin(picture.SheetSlices)}
}
