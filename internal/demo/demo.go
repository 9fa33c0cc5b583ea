// Package demo holds the material of the demonstration: a trained network, and a data set of OCT phantoms with known
// lesions that it has never seen. It writes both as a user would have them (volumes, labels, configuration, ONNX file); the
// main job then runs on these files as on any others.
package demo

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"

	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/phantom"
	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/internal/volume/npy"
)

// Model is the ONNX file of the network: [1, 1, 32, 64, 64] voxels in [0, 1] to the logits of the four grades.
// tools/train_demo.py makes it.
//
//go:embed model.onnx
var Model string

// Facts about the network that its users need.
const (
	TargetLayer = "head" // the last layer before the global pooling
	CellVoxels  = 4      // of that layer, along each axis
)

// PointingRadius is the distance in voxels, from the lesion mask, within which the maximum of a heatmap counts as pointing
// to the lesion: half a cell, since a map cannot be finer, and two voxels of tolerance.
const PointingRadius = CellVoxels/2 + 2

// Case is one volume of the data set.
type Case struct {
	ID     string // name of its files, without extension
	Split  string
	Params phantom.Params
}

// Cases lists a data set of n volumes: the grades in turn, and of five rounds of grades three in the split train, one in
// val, one in test. (The network has seen none of them; the splits show how they are used.) The phantoms' seeds are below
// 2^40, where those of the training set begin.
func Cases(n int, seed uint64) []Case {
	source := rand.NewPCG(seed, 0)
	splits := [...]string{"train", "val", "train", "test", "train"}
	cases := make([]Case, n)
	for i := range cases {
		cases[i] = Case{
			ID:     fmt.Sprintf("oct_%03d", i),
			Split:  splits[i/phantom.Grades%len(splits)],
			Params: phantom.Params{Seed: source.Uint64() >> 24, Grade: phantom.Grade(i % phantom.Grades), Dims: phantom.DefaultDims},
		}
	}
	return cases
}

// Dataset says where WriteDataset has put things.
type Dataset struct {
	Config string // configuration of the run, TOML
	Model  string // ONNX file
	Labels string // CSV with the columns caseID, label, split
	Data   string // folder of volumes: caseID.mat, variable imgMat, 0 to 255
	Masks  string // folder of lesion masks: caseID.npy, [D, H, W], 0 or 1
	Cases  []Case
}

// WriteDataset writes a data set of n volumes, the model and a configuration into a folder, which is made if need be. The
// same n and seed give the same files. Every file is complete or absent.
func WriteDataset(ctx context.Context, dir string, n int, seed uint64) (*Dataset, error) {
	if n < 1 {
		return nil, fmt.Errorf("demo: %d volumes: want at least 1", n)
	}
	s := &Dataset{
		Config: filepath.Join(dir, "config.toml"), Model: filepath.Join(dir, "model.onnx"), Labels: filepath.Join(dir, "labels.csv"),
		Data: filepath.Join(dir, "data"), Masks: filepath.Join(dir, "masks"), Cases: Cases(n, seed),
	}
	for _, folder := range []string{s.Data, s.Masks} {
		if err := durable.MkdirAll(folder); err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
	}
	for _, c := range s.Cases {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := s.writeCase(c); err != nil {
			return nil, fmt.Errorf("demo: %s: %w", c.ID, err)
		}
	}
	for _, f := range []struct{ path, text string }{{s.Labels, labels(s.Cases)}, {s.Model, Model}, {s.Config, config}} {
		if err := writeText(f.path, f.text); err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
	}
	return s, nil
}

func (s *Dataset) writeCase(c Case) error {
	p, err := phantom.Generate(c.Params)
	if err != nil {
		return err
	}
	shape := p.Dims[:]
	_, err = durable.WriteFile(filepath.Join(s.Data, c.ID+".mat"), func(f *durable.File) error {
		return mat.Write(f, []mat.Variable{{Name: "imgMat", Shape: shape, Data: p.Volume().Data}})
	})
	if err != nil {
		return err
	}
	mask := make([]float32, len(p.Mask))
	for i, m := range p.Mask {
		mask[i] = float32(m)
	}
	_, err = durable.WriteFile(filepath.Join(s.Masks, c.ID+".npy"), func(f *durable.File) error {
		return npy.Write(f, shape, mask)
	})
	return err
}

func writeText(path, text string) error {
	_, err := durable.WriteFile(path, func(f *durable.File) error {
		_, err := io.WriteString(f, text)
		return err
	})
	return err
}

func labels(cases []Case) string {
	var b strings.Builder
	b.WriteString("caseID,label,split\n")
	for _, c := range cases {
		fmt.Fprintf(&b, "%s,%d,%s\n", c.ID, c.Params.Grade, c.Split)
	}
	return b.String()
}

// config is the configuration of the demonstration's run; paths are relative to its folder.
const config = `# Written by "voxcam demo". Run it again with: voxcam run --config config.toml

[model]
file = "model.onnx"
target_layer = "head"          # the last layer before the global pooling; cells of 4 x 4 x 4 voxels
target_class = "predicted"
classes = ["Normal", "Early AMD", "Intermediate AMD", "Advanced AMD"]

[data]
folder = "data"                # caseID.mat with the variable imgMat
labels = "labels.csv"
extension = ".mat"
axes = "DHW"                   # B-scans, axial, lateral
image_shape = [32, 64, 64]
scale = "div255"               # as in training
split = "column"
dataset = "all"

[explain]
methods = ["gradcam", "gradcam++", "smoothgrad", "vargrad"]
n_samples = 16
noise_level = 0.05             # more than the speckle of a scan hides its structure from this network

[output]
dir = "results"
formats = ["nifti", "tiff", "png"]
`
