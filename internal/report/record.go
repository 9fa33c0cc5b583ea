// Package report has the records of a session and its samples, and makes statistics, a text and pictures of the
// records in the session's folder. The folder is the only source, so a session that was resumed ten times reports
// the same as one that ran through.
//
// A value that does not exist is null in JSON and n/a in text: the accuracy of no predictions is not 0 and not NaN.
package report

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/volume"
)

// Schema is the version of the records. A session of another version is not resumed.
const Schema = 1

// Session is session.json: the facts about all samples of a session.
type Session struct {
	Schema  int       `json:"schema"`
	Name    string    `json:"session"`
	Created time.Time `json:"created"`
	Version string    `json:"voxcam_version"`
	Config  string    `json:"config_used"`
	Model   ModelInfo `json:"model_info"`
	Seed    uint64    `json:"seed"`

	// Settings are all settings that change results, as text; Hash is the digest of them.
	Settings map[string]string `json:"settings"`
	Hash     string            `json:"configuration_sha256"`

	SplitSource string              `json:"split_source"` // column or shuffle
	Splits      map[string][]string `json:"splits"`       // IDs of the whole data set

	Digest string `json:"record_sha256,omitempty"` // as in Sample; absent if the samples' records have none
}

// ModelInfo describes the network.
type ModelInfo struct {
	Classes     int        `json:"n_classes"`
	ClassNames  []string   `json:"class_names"`
	Head        cam.Head   `json:"head"` // of the output
	Backbone    string     `json:"backbone"`
	File        string     `json:"file"`
	SHA256      string     `json:"sha256"`
	TargetLayer string     `json:"target_layer"`
	Layer       *cam.Layer `json:"layer,omitempty"`
	Warnings    []string   `json:"warnings,omitempty"` // such as a target layer that an exporter has changed
}

// Sample is the metadata.json of a sample. Pointers are nil, and null in JSON, where there is no value.
type Sample struct {
	Place string `json:"-"` // its folder in the session's, as Collect found it

	Schema int        `json:"schema"`
	ID     string     `json:"sample_id"`
	Name   string     `json:"name"` // in file names
	Split  string     `json:"split"`
	Status cam.Status `json:"status"`
	Reason string     `json:"reason,omitempty"`

	Warnings []string `json:"warnings,omitempty"` // of the volume's file

	TrueClass          *int      `json:"true_class"`
	TrueClassName      *string   `json:"true_class_name"`
	PredictedClass     *int      `json:"predicted_class"`
	PredictedClassName *string   `json:"predicted_class_name"`
	Confidence         *float64  `json:"confidence"` // probability of the predicted class
	Probabilities      []float64 `json:"probabilities"`
	Logits             []float32 `json:"logits"`
	CorrectPrediction  *bool     `json:"correct_prediction"`

	TargetLayer string      `json:"target_layer,omitempty"`
	Layer       *cam.Layer  `json:"layer,omitempty"`  // the tensor, and the assumptions about it
	CellSize    *[3]float64 `json:"cell_size_voxels"` // of the target layer along depth, height, width
	Methods     []Method    `json:"methods"`

	// Execution has the device, its memory, and the events while the sample was explained; nil where nothing is known.
	Execution *cam.Execution `json:"execution,omitempty"`

	// Statistics has an entry for each method that has a map, by Method.Key.
	Statistics map[string]Statistics `json:"heatmap_statistics"`

	Input       *dataset.Input  `json:"input"`
	InputShape  *[4]int         `json:"input_shape"`  // of the file: [C, D, H, W]
	Shape       *[4]int         `json:"volume_shape"` // as the network saw it
	CropOffset  *[3]int         `json:"crop_offset"`  // voxel of the file that is voxel 0 of the prepared volume
	Scaling     *volume.Scaling `json:"scaling"`
	Seed        uint64          `json:"seed"`
	ModelSHA256 string          `json:"model_sha256"`
	Hash        string          `json:"configuration_sha256"`
	Version     string          `json:"voxcam_version"`
	Finished    time.Time       `json:"finished"`
	Seconds     float64         `json:"processing_time"` // of explaining, without reading and writing
	Files       []FileRecord    `json:"files"`

	Digest string `json:"record_sha256,omitempty"` // of all the rest of the record; WriteJSON fills it in
}

// Method is the outcome of one method for one target class.
type Method struct {
	Method          string         `json:"method"`
	Key             string         `json:"key"` // in file names and in heatmap_statistics
	Status          cam.Status     `json:"status"`
	Reason          string         `json:"reason,omitempty"`
	Seconds         float64        `json:"time_seconds"`
	TargetClass     *int           `json:"target_class"`
	TargetClassName *string        `json:"target_class_name"`
	Score           float64        `json:"score"` // that is explained; 0 without a result
	ScoreDefinition string         `json:"score_definition,omitempty"`
	Parameters      map[string]any `json:"parameters,omitempty"`
	MapShape        *[3]int        `json:"map_shape,omitempty"` // depth, height, width
}

// FileRecord describes a result file of a sample.
type FileRecord struct {
	Path   string `json:"path"` // in the session's folder, with slashes
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Statistics describe one map. Activations are those of the signed map at the layer's resolution, before ReLU and
// normalising; a heatmap's own maximum is 1 by construction and says nothing.
type Statistics struct {
	Max           float64 `json:"max_activation"`
	Mean          float64 `json:"mean_activation"`
	Std           float64 `json:"std_activation"` // divisor n
	Min           float64 `json:"min_activation"`
	PositiveShare float64 `json:"positive_share"` // of the map's cells
	HeatmapMean   float64 `json:"heatmap_mean"`
	HeatmapStd    float64 `json:"heatmap_std"`
	HotShare      float64 `json:"heatmap_share_above_half"` // of the voxels
	Peak          [3]int  `json:"heatmap_peak_voxel"`       // depth, height, width of the heatmap's maximum
}

// SessionFile is the file of a session that holds its Session.
const SessionFile = "session.json"

// MaxSession bounds SessionFile in bytes; it names all samples of a data set.
const MaxSession = 64 << 20

// ReadSession reads the record of a session in its folder.
func ReadSession(folder fs.FS) (*Session, error) {
	s := &Session{}
	err := ReadJSON(folder, SessionFile, MaxSession, s)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%s: damaged record: %w", SessionFile, err)
	}
	return s, err
}

// MetadataName returns the name of a sample's record in its folder.
func MetadataName(sample string) string { return sample + "_metadata.json" }

// Collect reads the records of all samples in a session's folder, ordered by split and name. Records that cannot be read, that do not
// fit their place, or that no run can have written, are left out and named in problems; their samples count as not done.
func Collect(folder fs.FS, session *Session) (samples []*Sample, problems []error, err error) {
	places, err := places(folder)
	if err != nil {
		return nil, nil, err
	}
	for _, place := range places {
		name := path.Join(place, MetadataName(path.Base(place)))
		s, err := readSample(folder, name, session)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			problems = append(problems, fmt.Errorf("%s: damaged record: %w", name, err))
			continue
		}
		s.Place = place
		samples = append(samples, s)
	}
	slices.SortFunc(samples, func(a, b *Sample) int {
		if d := splitRank(a.Split) - splitRank(b.Split); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	return samples, problems, nil
}

// places lists the folders of samples, the third level below heatmaps: split, class and sample.
func places(folder fs.FS) ([]string, error) {
	found := []string{"heatmaps"}
	for level := range 3 {
		var below []string
		for _, parent := range found {
			entries, err := fs.ReadDir(folder, parent)
			if err != nil && !(level == 0 && errors.Is(err, fs.ErrNotExist)) {
				return nil, err
			}
			for _, e := range entries {
				if e.IsDir() && (level != 1 || strings.HasPrefix(e.Name(), "class_")) {
					below = append(below, path.Join(parent, e.Name()))
				}
			}
		}
		found = below
	}
	return found, nil
}

func readSample(folder fs.FS, name string, session *Session) (*Sample, error) {
	s := &Sample{}
	if err := ReadJSON(folder, name, mostSample(&session.Model), s); err != nil {
		return nil, err
	}
	if session.Digest != "" && s.Digest == "" {
		return nil, errors.New("record_sha256 is missing")
	}
	return s, s.validate(path.Dir(name), &session.Model)
}

// mostSample bounds the bytes of a sample's record: 4 MiB for its events, and room for each class as a target of each method.
func mostSample(m *ModelInfo) int64 {
	return 4<<20 + int64(m.Classes)*int64(len(cam.Methods()))*(4<<10)
}

func splitRank(split string) int {
	if i := slices.Index(dataset.Splits, dataset.Split(split)); i >= 0 {
		return i
	}
	return len(dataset.Splits)
}
