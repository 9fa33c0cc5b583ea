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
	if !slices.Contains(cam.Scores(), f.score) {
		return usage(fmt.Errorf("--score %s: choose from %s", f.score, strings.Join(cam.Scores(), ", ")))
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

// explaining is the work on the inputs of one model: each is explained in its turn, and a result written for each class.
type explaining struct {
	*explainFlags
	cmd     *cobra.Command
	parts   []*modelInput
	req     cam.Request
	classes []cam.Class
	answers []*cam.Result // by class; nil before the first input
	info    cam.Info      // of the model as it was opened for the target layer, or for the first input
}

// explain explains the inputs, and writes the results.
func (f *explainFlags) explain(cmd *cobra.Command, parts []*modelInput, req cam.Request) error {
	x := &explaining{explainFlags: f, cmd: cmd, parts: parts, req: req}
	left := req.Methods // those that look at the layer are for one input alone
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
		err = x.explain(m, p, methods)
		if p.input != "" && slices.ContainsFunc(methods, looksAtLayer) {
			left = slices.DeleteFunc(slices.Clone(left), looksAtLayer)
			x.info = m.Info()
		}
		if err := errors.Join(err, m.Close()); err != nil {
			return err
		}
	}
	if missing != nil && slices.ContainsFunc(left, looksAtLayer) {
		return usage(missing)
	}
	return x.write()
}

// explain explains an input with methods, for each class.
func (x *explaining) explain(m *voxcam.Model, p *modelInput, methods []string) error {
	ctx := x.cmd.Context()
	req := x.req
	req.Methods, req.Inputs = methods, others(x.parts, p)
	if err := m.Prepare(ctx, req.Methods...); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return usage(fmt.Errorf("%s: %w", p.path, err))
	}
	if x.answers == nil {
		if err := x.begin(m.Info()); err != nil {
			return err
		}
	}
	for i, c := range x.classes {
		req.Target.Class = c
		answer, err := m.Explain(ctx, p.volume, req)
		switch {
		case err != nil && ctx.Err() == nil:
			return &exitError{code: session.ExitFailed, err: fmt.Errorf("%s: %w", p.path, err)}
		case err != nil:
			return err
		}
		if x.answers[i], err = p.join(x.answers[i], answer); err != nil {
			return &exitError{code: session.ExitFailed, err: err}
		}
	}
	return nil
}

// begin settles the classes, and checks before the work what would lose it: targets that the model does not have, and folders that cannot be
// written.
func (x *explaining) begin(info cam.Info) (err error) {
	printNotes(x.cmd.ErrOrStderr(), info.Warnings, info.Notes)
	if x.classes, err = x.targets(info.Classes); err != nil {
		return err
	}
	for _, c := range x.classes {
		target := x.req.Target
		target.Class = c
		if _, err := info.Head.Settle(target, 0); err != nil {
			return usage(fmt.Errorf("%s: %s", x.Model, inFlags(err.Error())))
		}
		if err := checkFolder(x.folder(c)); err != nil {
			return err
		}
	}
	x.info, x.answers = info, make([]*cam.Result, len(x.classes))
	return durable.MkdirAll(x.out)
}

// folder returns the folder of the results for a class.
func (x *explaining) folder(c cam.Class) *result.Folder {
	to := &result.Folder{Dir: x.out, Formats: x.save, Alpha: x.alpha, Classes: x.classNames(), SampleID: x.req.SampleID, TrueClass: -1,
		Inputs: map[string]*volume.Volume{}}
	if len(x.classes) > 1 {
		to.Dir = filepath.Join(x.out, fmt.Sprintf("class_%d", c.Index))
	}
	for _, p := range x.parts {
		to.Inputs[p.input] = &p.source
	}
	return to
}

// write writes the results, and says of which methods there is no map, or a doubtful one.
func (x *explaining) write() error {
	failed := 0
	for i, c := range x.classes {
		for _, r := range x.answers[i].Methods {
			if r.Status != cam.StatusOK {
				printable.Fprintf(x.cmd.ErrOrStderr(), "voxcam: %s: %s: %s\n", strings.TrimSuffix(r.Method+" of "+r.Input, " of "), r.Status, inFlags(r.Reason))
			}
			if r.Status == cam.StatusFailed {
				failed++
			}
		}
		if err := x.folder(c).Write(&x.parts[0].source, x.info, x.answers[i]); err != nil {
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
