package nifti

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/gzip"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

// aligned is the code of both forms: coordinates of another file, here the volume that was explained.
const aligned = 2

// Write writes data [D, H, W] (dims, row-major) as a gzip-compressed NIfTI-1 image of float32 whose array, as nibabel
// presents it, has the shape (D, H, W). It has the forms, codes and unit of g, so that it lies where the volume does in every
// program; without forms, the affine of g in millimetres as both. The bytes depend on the arguments only.
func Write(w io.Writer, dims [3]int, data []float32, g volume.Geometry) error {
	if dims[0]*dims[1]*dims[2] != len(data) || len(data) == 0 {
		return fmt.Errorf("nifti: %d values do not have shape %s", len(data), array.FormatShape(dims[:]))
	}
	for _, n := range dims {
		if n > math.MaxInt16 {
			return fmt.Errorf("nifti: shape %s: an axis of NIfTI-1 has at most %d voxels; write .npy instead",
				array.FormatShape(dims[:]), math.MaxInt16)
		}
	}
	head, err := encodeHeader(dims, formsOf(dims, g))
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(z, 1<<16)
	if _, err := out.Write(head); err != nil {
		return err
	}
	var buf []byte
	err = array.ColumnMajorBlocks(data, dims[:], func(block []float32) error {
		buf = array.AppendFloat32(buf[:0], block)
		_, err := out.Write(buf)
		return err
	})
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	return z.Close()
}

// formsOf are the forms to write for a grid of dims voxels: those of the volume's header, moved along, as far as there are any.
func formsOf(dims [3]int, g volume.Geometry) volume.Forms {
	f := g.Forms
	if f == (volume.Forms{}) {
		form := volume.Form{Affine: g.Affine, Code: aligned}
		return volume.Forms{Qform: form, Sform: form, Unit: volume.Millimetre}
	}
	if f.Coded() {
		return f
	}
	// The header has no code. A file without codes places this grid only if programs put such a file there.
	size, _, _, _ := decompose(f.Qform.Affine)
	again := volume.NoForms(dims, size)
	if again.Unit = f.Unit; f != again {
		f.Qform.Code, f.Sform.Code = aligned, aligned
	}
	return f
}

// encodeHeader returns the header and the empty extension flag behind it.
func encodeHeader(dims [3]int, f volume.Forms) ([]byte, error) {
	const float32Code = 16
	b := make([]byte, size1+4)
	le := binary.LittleEndian
	i16 := func(at, x int) { le.PutUint16(b[at:], uint16(x)) }
	f32 := func(at int, x float64) { le.PutUint32(b[at:], math.Float32bits(float32(x))) }
	le.PutUint32(b, size1)
	b[38] = 'r' // regular: of no meaning, but some readers look for it
	size, quaternion, handed, rigid := decompose(f.Qform.Affine)
	f32(76, handed)
	i16(40, 3)
	for i := range 7 {
		i16(42+2*i, 1)
		f32(80+4*i, 1)
	}
	for i, n := range dims {
		i16(42+2*i, n)
		f32(80+4*i, size[i])
	}
	i16(70, float32Code)
	i16(72, 32)
	f32(108, size1+4)
	f32(112, 1) // scl_slope
	b[123] = byte(f.Unit)
	if f.Qform.Code != 0 && rigid {
		i16(252, f.Qform.Code)
		for i := range 3 {
			f32(256+4*i, quaternion[i])
			f32(268+4*i, f.Qform.Affine[i][3])
		}
	}
	if f.Sform.Code != 0 {
		i16(254, f.Sform.Code)
		for r := range 3 {
			for c := range 4 {
				f32(280+16*r+4*c, f.Sform.Affine[r][c])
			}
		}
	}
	for _, form := range []volume.Form{f.Qform, f.Sform} {
		for _, row := range form.Affine {
			for _, x := range row {
				if !finite(float64(float32(x))) {
					return nil, fmt.Errorf("nifti: the affine %v does not fit into a header of float32; write .npy instead", form.Affine)
				}
			}
		}
	}
	copy(b[344:], magic1)
	return b, nil
}

// decompose splits an affine into voxel sizes, the vector part of a rotation's unit quaternion and the sign of its third
// axis (qfac). rigid is false if the affine is not of that form (shear, no extent): only the sform can hold it.
func decompose(m [3][4]float64) (size [3]float64, quaternion [3]float64, handed float64, rigid bool) {
	var r [3][3]float64
	rigid, handed = true, 1
	for c := range 3 {
		size[c] = math.Sqrt(m[0][c]*m[0][c] + m[1][c]*m[1][c] + m[2][c]*m[2][c])
		if size[c] == 0 || !finite(size[c]) {
			size[c], rigid = 1, false
		}
		for i := range 3 {
			r[i][c] = m[i][c] / size[c]
		}
	}
	det := r[0][0]*(r[1][1]*r[2][2]-r[1][2]*r[2][1]) - r[0][1]*(r[1][0]*r[2][2]-r[1][2]*r[2][0]) +
		r[0][2]*(r[1][0]*r[2][1]-r[1][1]*r[2][0])
	if det < 0 {
		handed = -1
		for i := range 3 {
			r[i][2] = -r[i][2]
		}
	}
	quaternion = quaternionOf(r)
	back := rotationOf(quaternion)
	const tolerance = 1e-4
	for i := range 3 {
		for j := range 3 {
			if !(math.Abs(back[i][j]-r[i][j]) < tolerance) {
				return size, [3]float64{}, handed, false
			}
		}
	}
	return size, quaternion, handed, rigid
}

// quaternionOf returns b, c, d of the unit quaternion with a >= 0 of a rotation (nifti1.h, METHOD 2): from the largest
// component, for accuracy.
func quaternionOf(r [3][3]float64) [3]float64 {
	// Four times the squares of a, b, c, d.
	squares := [4]float64{1 + r[0][0] + r[1][1] + r[2][2], 1 + r[0][0] - r[1][1] - r[2][2],
		1 - r[0][0] + r[1][1] - r[2][2], 1 - r[0][0] - r[1][1] + r[2][2]}
	best := 0
	for i, s := range squares {
		if s > squares[best] {
			best = i
		}
	}
	// Four times the products of components.
	ab, ac, ad := r[2][1]-r[1][2], r[0][2]-r[2][0], r[1][0]-r[0][1]
	bc, bd, cd := r[0][1]+r[1][0], r[0][2]+r[2][0], r[1][2]+r[2][1]
	rows := [4][4]float64{{squares[0], ab, ac, ad}, {ab, squares[1], bc, bd}, {ac, bc, squares[2], cd}, {ad, bd, cd, squares[3]}}
	scale := 1 / (2 * math.Sqrt(squares[best]))
	if rows[best][0] < 0 {
		scale = -scale
	}
	return [3]float64{rows[best][1] * scale, rows[best][2] * scale, rows[best][3] * scale}
}
