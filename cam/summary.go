package cam

// Summary describes a model for a person who looks for a target layer. As JSON its keys are stable: programs read them.
type Summary struct {
	Path          string         `json:"path"`
	SHA256        string         `json:"sha256"`
	Producer      string         `json:"producer"`
	Opset         int            `json:"opset"`
	Volume        [4]int         `json:"volume"` // channels, depth, height, width
	Classes       int            `json:"classes"`
	Head          *Head          `json:"head,omitempty"` // of the output; nil where none can be explained
	Parameters    int            `json:"parameters"`
	DefaultTarget string         `json:"default_target,omitempty"` // name of the layer that is explained where none is named
	DefaultValue  string         `json:"default_value,omitempty"`  // of the layers' values, the one that is meant
	Warnings      []string       `json:"warnings,omitempty"`
	Layers        []LayerSummary `json:"layers"` // in the file's order
}

// LayerSummary describes a node of the model's file as a layer.
type LayerSummary struct {
	Name       string `json:"name"`      // PyTorch module path, or the name of the value
	Value      string `json:"value"`     // name of its output in the file
	Operation  string `json:"operation"` // as in the file
	Shape      []int  `json:"output_shape"`
	Parameters int    `json:"parameters"` // learned numbers that no layer before it has
	// Candidate layers have more than one cell in space and lie before the scores: CAM methods can look at them.
	Candidate bool       `json:"candidate"`
	Cells     [3]int     `json:"cells,omitzero"`     // of candidates: depth, height, width
	CellSize  [3]float64 `json:"cell_size,omitzero"` // of candidates: the distance of cells in voxels
}
