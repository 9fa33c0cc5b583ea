// Package demo holds the material of the demonstration: a trained network, and a data set of OCT phantoms with known
// lesions that it has never seen. It writes both as a user would have them (volumes, labels, configuration, ONNX file); the
// main job then runs on these files as on any others.
package demo

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/input"
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

// Dataset has the paths of the files that WriteDataset wrote.
type Dataset struct {
	Config string // configuration of the run, TOML
	Model  string // ONNX file
	Labels string // CSV with the columns caseID, label, split
	Data   string // folder of volumes: caseID.mat, variable imgMat, 0 to 255
	Masks  string // folder of lesion masks: caseID.npy, [D, H, W], 0 or 1
	Cases  []Case
}

// file is a file of the data set. write makes the same bytes each time.
type file struct {
	path  string
	write func(io.Writer) error
}

// WriteDataset writes a data set of n volumes, the model and a configuration into a folder, which is made if need be. The
// same n and seed give the same files. Every file is complete or absent. Files that are there already stay; if one of them differs,
// nothing is written and the error names it.
func WriteDataset(ctx context.Context, dir string, n int, seed uint64) (*Dataset, error) {
	if n < 1 {
		return nil, fmt.Errorf("demo: %d volumes: want at least 1", n)
	}
	s := &Dataset{
		Config: filepath.Join(dir, "config.toml"), Model: filepath.Join(dir, "model.onnx"), Labels: filepath.Join(dir, "labels.csv"),
		Data: filepath.Join(dir, "data"), Masks: filepath.Join(dir, "masks"), Cases: Cases(n, seed),
	}
	files := s.files()
	there := make([]bool, len(files))
	for i, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		var err error
		if there[i], err = f.exists(); err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
	}
	for _, folder := range []string{s.Data, s.Masks} {
		if err := durable.MkdirAll(folder); err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
	}
	for i, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if there[i] {
			continue
		}
		if _, err := durable.WriteFile(f.path, func(w *durable.File) error { return f.write(w) }); err != nil {
			return nil, fmt.Errorf("demo: %w", err)
		}
	}
	return s, nil
}

// files are all files of the data set, the configuration last.
func (s *Dataset) files() (files []file) {
	for _, c := range s.Cases {
		files = append(files,
			file{filepath.Join(s.Data, c.ID+".mat"), func(w io.Writer) error {
				p, err := phantom.Generate(c.Params)
				if err != nil {
					return err
				}
				return mat.Write(w, []mat.Variable{{Name: "imgMat", Shape: p.Dims[:], Data: p.Volume().Data}})
			}},
			file{filepath.Join(s.Masks, c.ID+".npy"), func(w io.Writer) error {
				p, err := phantom.Generate(c.Params)
				if err != nil {
					return err
				}
				mask := make([]float32, len(p.Mask))
				for i, m := range p.Mask {
					mask[i] = float32(m)
				}
				return npy.Write(w, p.Dims[:], mask)
			}})
	}
	for _, f := range []struct{ path, text string }{{s.Labels, labels(s.Cases)}, {s.Model, Model}, {s.Config, configuration}} {
		files = append(files, file{f.path, func(w io.Writer) error {
			_, err := io.WriteString(w, f.text)
			return err
		}})
	}
	return files
}

// exists reports whether the file is there already. Another file in its place is an error.
func (f file) exists() (bool, error) {
	at, _, err := input.Open(f.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // making the folder will report a file in its place
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer at.Close()
	want, have := sha256.New(), sha256.New()
	if err := f.write(want); err != nil {
		return false, err
	}
	if _, err := io.Copy(have, at); err != nil {
		return false, err
	}
	if !bytes.Equal(want.Sum(nil), have.Sum(nil)) {
		return false, fmt.Errorf("%s is there already and is another file, which is not overwritten: "+
			"choose another --out (it may be of a demo with other --volumes or --seed)", f.path)
	}
	return true, nil
}

func labels(cases []Case) string {
	var b strings.Builder
	b.WriteString("caseID,label,split\n")
	for _, c := range cases {
		fmt.Fprintf(&b, "%s,%d,%s\n", c.ID, c.Params.Grade, c.Split)
	}
	return b.String()
}

// configuration is that of the demonstration's run; paths are relative to its folder.
const configuration = `# Written by "voxcam demo". Run it again with: voxcam run --config config.toml

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
