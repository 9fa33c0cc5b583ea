package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/voxcam/voxcam"
	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/printable"
	"github.com/voxcam/voxcam/internal/result"
	"github.com/voxcam/voxcam/internal/session"
	"github.com/voxcam/voxcam/volume"
	"github.com/voxcam/voxcam/volume/format"
)

// lean makes the garbage collector run early: memory that a budget does not count should stay small. Activations and weights have no
// pointers, so that this costs little.
func lean() { debug.SetGCPercent(10) }

type explainFlags struct {
	modelFlags
	methodFlags
	memoryFlags
	class, classes       string
	score, against       string
	region               string
	inputs               []string // NAME=FILE
	out, noise, variable string
	sampleID             string
	axes, normalize      string
	save                 []string
	alpha                float64
}

func newExplain() *cobra.Command {
	f := &explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain [VOLUME] --model M.onnx --out DIR",
		Short: "Explain the decision for one volume",
		Long: `Explain computes maps of one volume and writes them to a folder: METHOD.map (signed, at the layer's resolution, before
ReLU) and METHOD.heatmap ([depth, height, width], in [0, 1]) in the formats of --save, and result.json. The format mat has one file a
method, METHOD.mat; tiff has the heatmap in colours and METHOD.overlay over the volume; png is one picture of slices, combined.png.

The exit code is 0 when every method gave a map. A map that shows nothing (no positive evidence, a layer of one cell) is
there with status "degraded" and its reason in result.json.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(f.inputs) > 0 {
				return exactArgs()(cmd, args)
			}
			return exactArgs("VOLUME")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, strings.Join(args, "")) },
	}
	f.modelFlags.add(cmd)
	f.methodFlags.add(cmd)
	f.memoryFlags.add(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&f.inputs, "input", nil, "NAME=FILE: the data of an input of a model with several, in the place of VOLUME; once for each. Vectors are .npy files")
	fl.StringVar(&f.class, "target-class", "predicted", "class to explain: predicted, all, an index, or a name of --classes")
	fl.StringVar(&f.score, "score", cam.Scores()[0], scoreHelp)
	fl.StringVar(&f.against, "against", "", againstHelp)
	fl.StringVar(&f.region, "target-region", "predicted", "of a segmentation, the voxels whose scores are summed: predicted (those of the class on this volume), all, a voxel z,y,x, or a file with a mask")
	fl.StringVar(&f.classes, "classes", "", "names of the classes in order, separated by commas")
	fl.StringVar(&f.out, "out", "", "folder for the results")
	fl.StringVar(&f.noise, "noise", "", "take the draws from this .npy file, [n, C, D, H, W], standard normal")
	fl.StringVar(&f.sampleID, "sample-id", "", "what keys the noise besides the seed: for the draws of a run, the case ID in its labels (default: the file's name without extension)")
	fl.StringVar(&f.variable, "variable", "", "name of the array in a .mat or .npz file")
	fl.StringVar(&f.axes, "axes", "", "axes of the array as stored, letters of N C D H W (default by format and rank)")
	fl.StringVar(&f.normalize, "normalize", "none", "scaling of the volume: "+strings.Join(volume.Scalings(), ", "))
	fl.StringSliceVar(&f.save, "save", []string{"nifti"}, "formats of the results: "+strings.Join(result.Names(), ", "))
	fl.Float64Var(&f.alpha, "overlay-alpha", result.DefaultAlpha, "weight of the heatmap in an overlay")
	return cmd
}

// Help of the flags of the score.
const (
	scoreHelp   = "what is explained of the class: its logit, in front of the model's softmax or sigmoid, or its probability"
	againstHelp = "explain the difference to another class, by index or name, or to the mean of the others (others)"
)

func (f *explainFlags) run(cmd *cobra.Command, path string) error {
	req, err := f.request()
	if err != nil {
		return err
	}
	if f.out == "" {
		return usage(errors.New("--out is missing: the folder for the results"))
	}
	formats, err := result.Choose(f.save)
	if err != nil {
		return usage(fmt.Errorf("--save: %w", err))
	}
	if !slices.Contains(volume.Scalings(), f.normalize) {
		return usage(fmt.Errorf("--normalize %s: choose from %s", f.normalize, strings.Join(volume.Scalings(), ", ")))
	}
	if !(f.alpha >= 0 && f.alpha <= 1) {
		return usage(fmt.Errorf("--overlay-alpha %g: a weight from 0 to 1 expected", f.alpha))
	}
	parts, err := f.parts(cmd.Context(), path)
	if err != nil {
		return usage(err)
	}
	pictures := slices.ContainsFunc(formats, func(f result.Format) bool { return f.Pictures })
	for _, p := range parts {
		if err := p.scale(f.normalize, pictures); err != nil {
			return usage(err)
		}
		printNotes(cmd.ErrOrStderr(), p.volume.Warnings, nil)
	}
	if f.noise != "" {
		draws, err := voxcam.OpenNoise(cmd.Context(), f.noise, req)
		if err != nil {
			return usage(err)
		}
		defer draws.Close()
		req.Noise = draws
	}
	if req.SampleID = f.sampleID; req.SampleID == "" {
		req.SampleID = dataset.SampleID(parts[0].path)
	}
	var mu sync.Mutex
	req.OnEvent = func(i cam.Event) {
		mu.Lock()
		defer mu.Unlock()
		printable.Fprintf(cmd.ErrOrStderr(), "voxcam: memory: %s: %s\n", i.Kind, i.Text)
	}
	req.Target.Score = f.score
	if req.Target.Region, err = f.targetRegion(cmd.Context()); err != nil {
		return usage(err)
	}
	if req.Target.Against, err = cam.ParseAgainst(f.against, f.classNames()); err != nil {
		return usage(fmt.Errorf("--against %w", err))
	}
	return f.explain(cmd, parts, req)
}

// folder returns the folder of the results for one of so many classes.
func (f *explainFlags) folder(c cam.Class, classes int, sample string, parts []*modelInput) *result.Folder {
	to := &result.Folder{Dir: f.out, Formats: f.save, Alpha: f.alpha, Classes: f.classNames(), SampleID: sample, TrueClass: -1,
		Inputs: map[string]*volume.Volume{}}
	if classes > 1 {
		to.Dir = filepath.Join(f.out, fmt.Sprintf("class_%d", c.Index))
	}
	for _, p := range parts {
		to.Inputs[p.input] = &p.source
	}
	return to
}

// explain explains the parts one after the other, each with the data of the others, and writes a result for each class.
func (f *explainFlags) explain(cmd *cobra.Command, parts []*modelInput, req cam.Request) error {
	var classes []cam.Class
	var answers []*cam.Result
	var info cam.Info
	left := req.Methods // those that look at the layer are for one part alone
	var missing error
	for _, p := range parts {
		m, methods, err := f.openPart(cmd, p, left)
		if err != nil {
			return err
		}
		if missing == nil {
			missing = p.refused
		}
		if m == nil {
			continue
		}
		atLayer := p.input != "" && slices.ContainsFunc(methods, looksAtLayer)
		err = func() (err error) {
			defer func() { err = errors.Join(err, m.Close()) }()
			req.Methods, req.Inputs = methods, others(parts, p)
			if err := m.Prepare(cmd.Context(), req.Methods...); err != nil {
				if cmd.Context().Err() != nil {
					return err
				}
				return usage(fmt.Errorf("%s: %w", p.path, err))
			}
			if answers == nil {
				printNotes(cmd.ErrOrStderr(), m.Info().Warnings, m.Info().Notes)
				if classes, err = f.targets(m.Info().Classes); err != nil {
					return err
				}
				answers = make([]*cam.Result, len(classes))
				// Before the work, so that it is not lost on a folder that cannot be written.
				for _, c := range classes {
					req.Target.Class = c
					if _, err := m.Info().Head.Settle(req.Target, 0); err != nil {
						return usage(fmt.Errorf("%s: %s", f.Model, inFlags(err.Error())))
					}
					if err := checkFolder(f.folder(c, len(classes), req.SampleID, parts)); err != nil {
						return err
					}
				}
				if err := durable.MkdirAll(f.out); err != nil {
					return err
				}
			}
			for i, c := range classes {
				req.Target.Class = c
				answer, err := m.Explain(cmd.Context(), p.volume, req)
				if err != nil && cmd.Context().Err() == nil {
					return &exitError{code: session.ExitFailed, err: fmt.Errorf("%s: %w", p.path, err)}
				}
				if err != nil {
					return err
				}
				if first := answers[i]; first != nil && !sameLogits(first.Logits, answer.Logits) {
					return &exitError{code: session.ExitFailed, err: fmt.Errorf("with %s explained, the logits of the model are %v, and with another input %v: "+
						"the axes of its inputs are not understood in the same way; give them all in the order N C D H W", p.input, answer.Logits, first.Logits)}
				}
				answers[i] = p.join(answers[i], answer)
			}
			if info.Path == "" || atLayer {
				info = m.Info()
			}
			return nil
		}()
		if err != nil {
			return err
		}
		if atLayer {
			left = slices.DeleteFunc(slices.Clone(left), looksAtLayer)
		}
	}
	if missing != nil && slices.ContainsFunc(left, looksAtLayer) {
		return usage(missing)
	}
	failed := 0
	for i, c := range classes {
		for _, r := range answers[i].Methods {
			if r.Status != cam.StatusOK {
				printable.Fprintf(cmd.ErrOrStderr(), "voxcam: %s: %s: %s\n", strings.TrimSuffix(r.Method+" of "+r.Input, " of "), r.Status, inFlags(r.Reason))
			}
			if r.Status == cam.StatusFailed {
				failed++
			}
		}
		if err := f.folder(c, len(classes), req.SampleID, parts).Write(&parts[0].source, info, answers[i]); err != nil {
			return err
		}
	}
	if failed > 0 {
		return ended(session.ExitFailed, "not every method gave a map")
	}
	return nil
}

// open opens the model for a volume, and prints the device's warnings and notes on stderr.
func (f *explainFlags) open(cmd *cobra.Command, v *volume.Volume) (*voxcam.Model, error) {
	opt, err := f.library([4]int{v.Channels, v.Depth, v.Height, v.Width})
	if err != nil {
		return nil, err
	}
	f.memoryFlags.put(cmd, &opt)
	lean()
	m, err := voxcam.Open(cmd.Context(), f.Model, opt)
	switch {
	case err != nil && cmd.Context().Err() != nil:
		return nil, err
	case err != nil:
		return nil, flagged(network.SuggestAxes(err, v))
	}
	warnings, notes := m.Notes()
	printNotes(cmd.ErrOrStderr(), warnings, notes)
	return m, nil
}

// checkFolder is to.Check with advice on a folder of another program.
func checkFolder(to *result.Folder) error {
	err := to.Check()
	if foreign := (*result.ForeignError)(nil); errors.As(err, &foreign) {
		return usage(fmt.Errorf("%s is not of voxcam explain and is not overwritten: choose another --out", foreign.Path))
	}
	return err
}

// classNames are the names of --classes; nil without.
func (f *explainFlags) classNames() []string {
	if f.classes == "" {
		return nil
	}
	return strings.Split(f.classes, ",")
}

// targetRegion resolves --target-region. A voxel of a mask counts where its value is not zero.
func (f *explainFlags) targetRegion(ctx context.Context) (cam.Region, error) {
	r, ok := cam.ParseRegion(f.region)
	if ok {
		return r, nil
	}
	v, err := voxcam.Read(ctx, f.region, format.Options{})
	if err != nil {
		return r, fmt.Errorf("--target-region is predicted, all, a voxel z,y,x, or a file with a mask: %w", err)
	}
	if v.Channels != 1 {
		return r, fmt.Errorf("--target-region: %s has %d channels; a mask has one", f.region, v.Channels)
	}
	if err := v.CheckFinite(); err != nil {
		return r, fmt.Errorf("--target-region: %s: %w", f.region, err)
	}
	return cam.Region{Kind: cam.RegionMask, Mask: cam.NewMask(v.Dims(), func(i int) bool { return v.Data[i] != 0 })}, nil
}

// targets resolves --target-class for a model of n classes.
func (f *explainFlags) targets(n int) ([]cam.Class, error) {
	index := func(i int) cam.Class { return cam.Class{Kind: cam.ClassIndex, Index: i} }
	names := f.classNames()
	if f.classes != "" && len(names) != n {
		return nil, usage(fmt.Errorf("--classes names %d classes, but the model has %d", len(names), n))
	}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, usage(fmt.Errorf("--classes has the name %q twice", name))
		}
	}
	switch f.class {
	case "predicted":
		return []cam.Class{{Kind: cam.ClassPredicted}}, nil
	case "all":
		var all []cam.Class
		for i := range n {
			all = append(all, index(i))
		}
		return all, nil
	}
	i, err := strconv.Atoi(f.class)
	if err != nil {
		if i = slices.Index(names, f.class); i < 0 {
			hint := "name the classes with --classes to use their names"
			switch {
			case f.class == "true":
				hint = "only voxcam run knows the true class"
			case f.classes != "":
				hint = "--classes are " + strings.Join(names, ", ")
			}
			return nil, usage(fmt.Errorf("--target-class %s is neither predicted, all, nor an index from 0 to %d; %s", f.class, n-1, hint))
		}
	}
	if i < 0 || i >= n {
		return nil, usage(fmt.Errorf("--target-class %s is out of range: the model has classes 0 to %d", f.class, n-1))
	}
	return []cam.Class{index(i)}, nil
}
