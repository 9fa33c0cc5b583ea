package cli

import (
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
	out, noise, variable string
	sampleID             string
	axes, normalize      string
	save                 []string
	alpha                float64
}

func newExplain() *cobra.Command {
	f := &explainFlags{}
	cmd := &cobra.Command{
		Use:   "explain VOLUME --model M.onnx --out DIR",
		Short: "Explain the decision for one volume",
		Long: `Explain computes maps of one volume and writes them to a folder: METHOD.map (signed, at the layer's resolution, before
ReLU) and METHOD.heatmap ([depth, height, width], in [0, 1]) in the formats of --save, and result.json. The format mat has one file a
method, METHOD.mat; tiff has the heatmap in colours and METHOD.overlay over the volume; png is one picture of slices, combined.png.

The exit code is 0 when every method gave a map. A map that shows nothing (no positive evidence, a layer of one cell) is
there with status "degraded" and its reason in result.json.`,
		Args: exactArgs("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd, args[0]) },
	}
	f.modelFlags.add(cmd)
	f.methodFlags.add(cmd)
	f.memoryFlags.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.class, "target-class", "predicted", "class to explain: predicted, all, an index, or a name of --classes")
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
	v, err := voxcam.Read(cmd.Context(), path, format.Options{Variable: f.variable, Axes: f.axes})
	if err != nil {
		return usage(err)
	}
	source := *v // as it was, for the pictures
	if f.normalize != "none" && slices.ContainsFunc(formats, func(f result.Format) bool { return f.Pictures }) {
		source.Data = slices.Clone(v.Data)
	}
	if _, err := volume.Scale(v, f.normalize); err != nil {
		return usage(fmt.Errorf("%s: %w", path, err))
	}
	m, err := f.open(cmd, v)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Prepare(cmd.Context(), req.Methods...); err != nil {
		if cmd.Context().Err() != nil {
			return err
		}
		return usage(fmt.Errorf("%s: %w", path, err))
	}
	printNotes(cmd.ErrOrStderr(), m.Info().Warnings, m.Info().Notes)
	printNotes(cmd.ErrOrStderr(), v.Warnings, nil)
	if f.noise != "" {
		draws, err := voxcam.OpenNoise(cmd.Context(), f.noise, req)
		if err != nil {
			return usage(err)
		}
		defer draws.Close()
		req.Noise = draws
	}
	if req.SampleID = f.sampleID; req.SampleID == "" {
		req.SampleID = dataset.SampleID(path)
	}
	var mu sync.Mutex
	req.OnEvent = func(i cam.Event) {
		mu.Lock()
		defer mu.Unlock()
		printable.Fprintf(cmd.ErrOrStderr(), "voxcam: memory: %s: %s\n", i.Kind, i.Text)
	}
	classes, err := f.targets(m.Info().Classes)
	if err != nil {
		return err
	}
	folder := func(c cam.Class) *result.Folder {
		to := &result.Folder{Dir: f.out, Formats: f.save, Alpha: f.alpha, Classes: f.classNames(), SampleID: req.SampleID, TrueClass: -1}
		if len(classes) > 1 {
			to.Dir = filepath.Join(f.out, fmt.Sprintf("class_%d", c.Index))
		}
		return to
	}
	// Before the work, so that it is not lost on a folder that cannot be written.
	for _, c := range classes {
		if err := checkFolder(folder(c)); err != nil {
			return err
		}
	}
	if err := durable.MkdirAll(f.out); err != nil {
		return err
	}
	failed := 0
	for _, c := range classes {
		req.Target.Class = c
		answer, err := m.Explain(cmd.Context(), v, req)
		if err != nil && cmd.Context().Err() == nil {
			return &exitError{code: session.ExitFailed, err: fmt.Errorf("%s: %w", path, err)}
		}
		if err != nil {
			return err
		}
		for _, r := range answer.Methods {
			if r.Status != cam.StatusOK {
				printable.Fprintf(cmd.ErrOrStderr(), "voxcam: %s: %s: %s\n", r.Method, r.Status, inFlags(r.Reason))
			}
			if r.Status == cam.StatusFailed {
				failed++
			}
		}
		if err := folder(c).Write(&source, m.Info(), answer); err != nil {
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
