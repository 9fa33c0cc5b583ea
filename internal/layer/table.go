package layer

import (
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/onnx"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Row describes a node of the file as a layer.
type Row struct {
	Name       string // module path, or the name of the value
	Operation  string // as in the file
	Shape      tensor.Shape
	Parameters int
	Value      string // name of the output
	// Cells are the layer's places along depth, height and width, and CellSize their distance in voxels, for candidates:
	// layers that have more than one place in space and lie before the scores.
	Candidate bool
	Cells     [3]int
	CellSize  [3]float64
}

// Table lists the layers of a model in the file's order. volume is depth, height, width.
func Table(m *onnx.Imported, volume [3]int) []Row {
	idx := newIndex(m)
	scores := ancestors(m.Graph, m.Graph.Outputs)
	counted := map[string]bool{}
	var rows []Row
	for i, n := range m.Nodes {
		if len(n.Outputs) == 0 || n.Outputs[0] == nil || n.Outputs[0].Const != nil {
			continue
		}
		v := n.Outputs[0]
		row := Row{Name: idx.members[i].own(), Operation: n.Op, Shape: v.Shape(), Value: v.Name}
		if row.Name == "" {
			row.Name = v.Name
		}
		for _, p := range n.Params {
			// Statistics of norms are not learned.
			if !counted[p] && !strings.HasSuffix(p, ".running_mean") && !strings.HasSuffix(p, ".running_var") {
				counted[p] = true
				row.Parameters += m.ParamElements[p]
			}
		}
		if scores[v] && idx.axes[v].cells() > 1 {
			t := Match{Target: ir.Target{Value: v, Label: row.Name}}
			if idx.place(&t, Request{Volume: volume}) == nil {
				row.Candidate, row.Cells = true, t.Grid
				for a := range volume {
					row.CellSize[a] = float64(volume[a]) / float64(t.Grid[a])
				}
			}
		}
		rows = append(rows, row)
	}
	return rows
}
