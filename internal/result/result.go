// Package result writes the maps of a volume as files. A format is one row of a table, for one explanation (voxcam explain), for a run over
// a data set, and for the library.
package result

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/picture"
	"github.com/voxcam/voxcam/volume"
)

// Contents of a file, in its name.
const (
	signedMap = "map"      // the signed map at its own resolution
	heatmap   = "heatmap"  // on the volume's grid
	Overlay   = "overlay"  // the heatmap over the volume
	sheet     = "combined" // slices of all methods
	labels    = "labels"   // of a segmentation: the class of each voxel that the model predicts
)

// Format is a format of results.
type Format struct {
	Name     string
	Pictures bool // shows the volume, too

	maps   []mapFile                                        // of each method
	sheets []sheetFile                                      // of all methods together
	labels func(w io.Writer, s *Subject, l []float32) error // of a segmentation, in a file with the extension of the first map; may be nil
}

type mapFile struct {
	what, extension string
	write           func(io.Writer, *Map) error
}

type sheetFile struct {
	what, extension string
	write           func(io.Writer, *picture.Sheet) error
}

// table lists the formats. It is never changed.
var table = []Format{
	{Name: "nifti", maps: []mapFile{{signedMap, ".nii.gz", writeMapNIfTI}, {heatmap, ".nii.gz", writeHeatmapNIfTI}}, labels: writeLabelsNIfTI},
	{Name: "npy", maps: []mapFile{{signedMap, ".npy", writeMapNPY}, {heatmap, ".npy", writeHeatmapNPY}}, labels: writeLabelsNPY},
	{Name: "mat", maps: []mapFile{{"", ".mat", writeMAT}}},
	{Name: "tiff", Pictures: true, maps: []mapFile{{heatmap, ".tiff", writeHeatmapTIFF}, {Overlay, ".tiff", writeOverlayTIFF}}},
	{Name: "png", Pictures: true, sheets: []sheetFile{{sheet, ".png", writeSheetPNG}}},
}

// DefaultAlpha is the weight of the heatmap in an overlay where none is given.
const DefaultAlpha = 0.4

// Names returns the names of the formats.
func Names() (names []string) {
	for _, f := range table {
		names = append(names, f.Name)
	}
	return names
}

// Choose returns the formats of these names, each once, in the order of Names.
func Choose(names []string) (chosen []Format, err error) {
	for _, name := range names {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("the format %q is not known: choose from %s", name, strings.Join(Names(), ", "))
		}
	}
	for _, f := range table {
		if slices.Contains(names, f.Name) {
			chosen = append(chosen, f)
		}
	}
	return chosen, nil
}

// Endings returns the ends of the names of a method's files in all formats, behind a stem and a separator.
func Endings(separator string) (endings []string) {
	for _, f := range table {
		for _, m := range f.maps {
			endings = append(endings, Output{What: m.what, extension: m.extension}.Name("", separator))
		}
	}
	return endings
}

// SheetEndings returns the ends of the names of the files that show all methods together, in all formats, behind a stem and a separator.
func SheetEndings(separator string) (endings []string) {
	for _, f := range table {
		for _, s := range f.sheets {
			endings = append(endings, Output{What: s.what, extension: s.extension}.Name("", separator))
		}
	}
	return endings
}

// Output is one file of results, to be written.
type Output struct {
	What  string // Overlay, for example; "" for all that there is of a method
	Write func(io.Writer) error

	extension string
}

// Name returns the file's name: a stem, a separator, and the contents.
func (f Output) Name(stem, separator string) string {
	if f.What == "" {
		return stem + f.extension
	}
	return stem + separator + f.What + f.extension
}

// Subject is a volume with the facts that its result files state.
type Subject struct {
	ID             string
	Volume         *volume.Volume // as pictures show it
	Window         picture.Window // of the pictures
	Alpha          float64        // weight of the heatmap in an overlay, 0 to 1
	TrueClass      int            // -1: not known
	PredictedClass int
}

// Map is the result of one method for a sample.
type Map struct {
	*cam.MethodResult
	sample *Subject
	view   *picture.View
}

// Map joins the sample with a method's result, which is not cam.StatusFailed.
func (s *Subject) Map(m *cam.MethodResult) (*Map, error) {
	view, err := picture.NewView(s.Volume, s.Window, m.Heatmap, s.Alpha)
	return &Map{m, s, view}, err
}

// Files returns the files of a method's result in the format.
func (f Format) Files(m *Map) (files []Output) {
	for _, file := range f.maps {
		files = append(files, Output{file.what, func(w io.Writer) error { return file.write(w, m) }, file.extension})
	}
	return files
}

// Labels returns the file with the predicted classes of a segmentation, [D, H, W], if the format has one.
func (f Format) Labels(s *Subject, l []float32) (files []Output) {
	if f.labels == nil || l == nil {
		return nil
	}
	return []Output{{labels, func(w io.Writer) error { return f.labels(w, s, l) }, f.maps[0].extension}}
}

// Sheets returns the files that show all methods together in the format.
func (f Format) Sheets(s *picture.Sheet) (files []Output) {
	for _, file := range f.sheets {
		files = append(files, Output{file.what, func(w io.Writer) error { return file.write(w, s) }, file.extension})
	}
	return files
}

// Title is the line above a sheet of slices. A truth of "" is left out.
func Title(sample, truth, predicted, layer string) []string {
	if truth != "" {
		truth = "   true: " + truth
	}
	return []string{fmt.Sprintf("%s%s   predicted: %s   layer: %s", sample, truth, predicted, layer)}
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
