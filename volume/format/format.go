// Package format reads a volume from a file of any known format, and writes it to some.
//
// A format is a row of Table. Its reader returns the array as stored; Read then names the axes, brings them into the order
// [C, D, H, W] and moves the geometry along:
//
//	v, err := format.Read("case01.mat", format.Options{Variable: "imgMat", Axes: "HWD"})
//	...
//	err = format.Write("case01.nii.gz", v)
//
// Which axis is which is never guessed from sizes: it is the format's default for that number of axes, or Options.Axes.
package format

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/mat"
	"github.com/voxcam/voxcam/internal/volume/nifti"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
)

// Format is a file format.
type Format struct {
	Name        string
	Extensions  []string // lower case, with the dot; the first is the usual one, and the one that is written
	Description string
	Refused     bool // known, but not read: the error of Read says how to proceed

	read array.Reader
	// match recognises the first bytes of a file (fewer than headBytes if the file is shorter). It may be nil.
	match func(head []byte) bool
	write func(io.Writer, *volume.Volume) error // nil: it is only read

	// Axes are the names of the axes as stored when the user gives none, by their number. The default is defaultAxes.
	Axes map[int]string
}

// defaultAxes name the axes, slowest first.
var defaultAxes = map[int]string{3: "DHW", 4: "CDHW", 5: "NCDHW"}

// niftiAxes follow the standard: three axes of space, one of time, one of channels.
var niftiAxes = map[int]string{3: "DHW", 4: "DHWC", 5: "DHWNC"}

// headBytes is the number of bytes that Match sees: the length of a NIfTI-1 header.
const headBytes = 348

// table lists the formats. It is never changed.
var table = []Format{
	{Name: "npy", Extensions: []string{".npy"}, Description: "NumPy array of format 1 to 3, of a real numeric type, in any byte order and storage order", read: npy.Read, match: npy.Match, write: writeNPY},
	{Name: "npz", Extensions: []string{".npz"}, Description: "NumPy archive: the named array, or the only one", read: npy.ReadZip, match: npy.MatchZip},
	{Name: "nifti", Extensions: []string{".nii.gz", ".nii"}, Description: "NIfTI-1 and NIfTI-2 in one file, with scaling and affine", read: nifti.Read,
		match: func(head []byte) bool { return nifti.Match(head) || nifti.MatchGzip(head) }, write: writeNIfTI, Axes: niftiAxes},
	{Name: "nifti pair", Extensions: []string{".hdr", ".img", ".hdr.gz", ".img.gz"}, Description: "header and voxels in two files",
		read: refusePair, Refused: true},
	{Name: "mat", Extensions: []string{".mat"}, Description: "MATLAB v4, v5, v6, v7 and v7.2: the named variable, by default " + mat.DefaultVariable,
		read: mat.Read, match: mat.Match, write: writeMAT},
}

// DefaultAxes are the names of the axes of an array of a rank, as stored, where the user gives none; "" if they must be given.
func (f Format) DefaultAxes(rank int) string {
	if f.Axes == nil {
		return defaultAxes[rank]
	}
	return f.Axes[rank]
}

// Table returns the formats.
func Table() []Format { return slices.Clone(table) }

// Extensions returns the extensions of all files that volumes are read from.
func Extensions() []string {
	var all []string
	for _, f := range table {
		if !f.Refused {
			all = append(all, f.Extensions...)
		}
	}
	return all
}

func refusePair(*io.SectionReader, array.Options) (*array.Array, error) {
	return nil, volume.Unsupported("nifti", "a .hdr/.img pair (or ANALYZE) is not read; save the image as one .nii.gz: "+
		"nibabel.save(nibabel.load(path), 'image.nii.gz')")
}

// Options choose the array of a file and the meaning of its axes.
type Options struct {
	// Variable is the name of the array in .mat and .npz files.
	Variable string

	// Axes names the axes of the array as stored, one letter an axis out of N C D H W, in the order in which NumPy,
	// MATLAB or nibabel show them; "" is the default of the format. Axes that are not named have size 1; N must have.
	Axes string

	// MaxVoxels refuses larger arrays before they are read; 0 is 2^31, 8 GiB of float32.
	MaxVoxels int

	// Allow is called with a number of bytes before that memory is taken; it refuses by an error with the reason. Nil allows all.
	Allow func(bytes int) error

	// AllowNonFinite lets NaN and infinite voxels through.
	AllowNonFinite bool
}

// Find returns the format of a file by its extension, and the extension as written in path.
func Find(path string) (f Format, extension string, ok bool) {
	base := strings.ToLower(filepath.Base(path))
	for _, f := range table {
		for _, e := range f.Extensions {
			if strings.HasSuffix(base, e) {
				return f, path[len(path)-len(e):], true
			}
		}
	}
	return Format{}, "", false
}

// Read reads the volume in the file at path as float32 [C, D, H, W]. Unless opt.Allow bounds it, it takes as much memory as the file asks for:
// for volumes to be explained take voxcam.Read, which refuses those that take more than is free.
func Read(path string, opt Options) (*volume.Volume, error) {
	return ReadContext(context.Background(), path, opt)
}

// ReadContext is Read that stops when ctx is done.
func ReadContext(ctx context.Context, path string, opt Options) (*volume.Volume, error) {
	v, _, err := ReadFile(ctx, path, opt)
	return v, err
}

// File is the file that a volume was read from, as it was when it was open.
type File struct {
	Path     string
	Bytes    int64
	Modified time.Time
	SHA256   string // hexadecimal
}

// ReadFile is ReadContext; it also returns the file whose bytes were decoded. A file that changes while it is read is an error.
func ReadFile(ctx context.Context, path string, opt Options) (*volume.Volume, File, error) {
	v, file, err := read(ctx, path, opt)
	if err != nil {
		if _, named := err.(*os.PathError); named { //nolint:errorlint // a wrapped one does not begin with the path
			return nil, file, err
		}
		return nil, file, fmt.Errorf("%s: %w", path, err)
	}
	return v, file, nil
}

func read(ctx context.Context, path string, opt Options) (_ *volume.Volume, file File, err error) {
	opened, info, err := input.Open(path)
	if err != nil {
		return nil, file, err
	}
	defer opened.Close()
	if info.Size() == 0 {
		return nil, file, fmt.Errorf("the file is empty")
	}
	sum := sha256.New()
	hashed, err := input.Hash(ctx, opened, sum)
	if err != nil {
		return nil, file, err
	}
	file = File{path, hashed.Size(), info.ModTime().UTC(), hex.EncodeToString(sum.Sum(nil))}
	r := io.NewSectionReader(cancelReader{ctx, hashed}, 0, hashed.Size())
	f, err := recognise(path, r)
	if err != nil {
		return nil, file, err
	}
	a, err := f.read(r, array.Options{Variable: opt.Variable, MaxVoxels: opt.MaxVoxels, Allow: opt.Allow})
	switch {
	case ctx.Err() != nil:
		return nil, file, ctx.Err()
	case hashed.Err() != nil:
		return nil, file, fmt.Errorf("it was changed while it was read")
	case err != nil:
		return nil, file, err
	}
	v, err := arrange(a, f, opt.Axes)
	if err != nil || opt.AllowNonFinite {
		return v, file, err
	}
	return v, file, v.CheckFinite()
}

// recognise chooses the format by extension and checks it against the content; without a known extension the content
// decides.
func recognise(path string, r *io.SectionReader) (Format, error) {
	head := make([]byte, min(headBytes, r.Size()))
	if _, err := r.ReadAt(head, 0); err != nil {
		return Format{}, err
	}
	named, extension, ok := Find(path)
	if err := checkKind(r, head, named.Name == "nifti" || named.Refused); err != nil {
		return Format{}, err
	}
	if ok && (named.match == nil || named.match(head)) {
		return named, nil
	}
	for _, f := range table {
		if f.match == nil || !f.match(head) {
			continue
		}
		if ok {
			return f, fmt.Errorf("is called %s but holds a %s file; rename it to %s", extension, f.Name, f.Extensions[0])
		}
		return f, nil
	}
	if ok {
		return named, nil // its reader reports the error
	}
	return Format{}, fmt.Errorf("is of no known format; volumes are read from %s", strings.Join(Extensions(), ", "))
}

// cancelReader fails when its context is done.
type cancelReader struct {
	ctx context.Context
	r   io.ReaderAt
}

func (c cancelReader) ReadAt(p []byte, at int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.ReadAt(p, at)
}
