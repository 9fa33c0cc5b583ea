package volume

// Affine maps the homogeneous voxel index (d, h, w, 1) to a place (x, y, z), in the convention of NIfTI (RAS+).
type Affine [3][4]float64

// Geometry places voxels in space.
type Geometry struct {
	// Affine is in millimetres.
	Affine Affine
	// Known says whether the affine was read from the file; it is the identity otherwise.
	Known bool
	// Forms are the affines of the NIfTI header that the volume came with, moved along with it; zero if there was none.
	Forms Forms
}

// Forms are the two affines of a NIfTI header, each in the unit of the header. They may differ, and programs choose between
// them by their own rules: a result lies on its volume in all of them only if it has both as the volume has them.
type Forms struct {
	Qform, Sform Form
	Unit         Unit
}

// Form is an affine of a NIfTI header.
type Form struct {
	Affine Affine
	// Code is the header's code for the space of the coordinates. 0: the header does not use this form; the affine of the qform then has its
	// voxel sizes, or both are as NoForms says.
	Code int
}

// Unit is a NIfTI header's code of the unit of length. Other codes than these mean nothing.
type Unit uint8

const (
	UnknownUnit Unit = iota // taken as millimetres
	Metre
	Millimetre
	Micrometre
)

// Identity is the geometry of a file that has none: one millimetre a voxel, origin at voxel (0, 0, 0).
func Identity() Geometry {
	return Geometry{Affine: Affine{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}}}
}

// NoForms are the forms of a header without codes, for a grid of dims voxels of the given size. Nothing says then where the
// volume lies, and programs differ: sform has the place of nibabel and SPM (x flipped, the centre at the origin), qform
// that of ITK (voxel 0 at the origin, the axes those of DICOM).
func NoForms(dims [3]int, size [3]float64) Forms {
	var f Forms
	for i, s := range size {
		f.Qform.Affine[i][i], f.Sform.Affine[i][i] = s, s
	}
	f.Sform.Affine[0][0] *= -1
	f.Qform.Affine[0][0] *= -1
	f.Qform.Affine[1][1] *= -1
	for i, n := range dims {
		f.Sform.Affine[i][3] = -float64(n-1) / 2 * f.Sform.Affine[i][i]
	}
	return f
}

// Coded reports whether a code says which of the forms to use.
func (f Forms) Coded() bool { return f.Qform.Code != 0 || f.Sform.Code != 0 }

// Shift returns the geometry of a volume whose voxel (0, 0, 0) is voxel offset of g: negative offsets pad, positive crop.
func (g Geometry) Shift(offset [3]int) Geometry {
	return g.each(func(a Affine) Affine {
		for r := range a {
			for c, o := range offset {
				a[r][3] += a[r][c] * float64(o)
			}
		}
		return a
	})
}

// Resample returns the geometry of a grid over the same field of view with cells of the given size in voxels: the centre
// of cell 0 lies (cell-1)/2 voxels behind the centre of voxel 0 (align_corners = false).
func (g Geometry) Resample(cell [3]float64) Geometry {
	return g.each(func(a Affine) Affine {
		for r := range a {
			for c, s := range cell {
				a[r][3] += a[r][c] * (s - 1) / 2
				a[r][c] *= s
			}
		}
		return a
	})
}

// Permute returns the geometry after the spatial axes were reordered: new axis i is old axis perm[i].
func (g Geometry) Permute(perm [3]int) Geometry {
	return g.each(func(a Affine) Affine {
		out := a
		for r := range a {
			for i, p := range perm {
				out[r][i] = a[r][p]
			}
		}
		return out
	})
}

// each returns g after the same change of its affines.
func (g Geometry) each(change func(Affine) Affine) Geometry {
	g.Affine = change(g.Affine)
	g.Forms.Qform.Affine = change(g.Forms.Qform.Affine)
	g.Forms.Sform.Affine = change(g.Forms.Sform.Affine)
	return g
}
