// Package nifti reads and writes NIfTI images. Formats: NIfTI-1 (https://nifti.nimh.nih.gov/nifti-1, nifti1.h) and
// NIfTI-2 (nifti2.h), as one file, plain or gzip-compressed. The .hdr/.img pairs and ANALYZE 7.5 are refused.
//
// The axes of an array are presented as nibabel does: axis 0 is the fastest in the file (i of the specification), the
// first three axes are space, a fourth is time or channels. The affine is chosen as nibabel chooses it: sform if its code
// is set, otherwise qform if its code is set, otherwise voxel sizes with the x axis flipped around the centre.
package nifti

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/volume"
)

const (
	format = "nifti"

	size1 = 348 // bytes of a NIfTI-1 header, and its first number
	size2 = 540 // of a NIfTI-2 header
)

var (
	magic1 = []byte("n+1\x00")
	pair1  = []byte("ni1\x00")
	magic2 = []byte("n+2\x00")
	pair2  = []byte("ni2\x00")
	eol    = []byte("\r\n\x1a\n") // of NIfTI-2, behind its magic: changed by a transfer as text
)

// Match reports whether a file that begins with head, at least 348 bytes, is an uncompressed NIfTI image.
func Match(head []byte) bool {
	_, _, _, err := recognise(head)
	return err == nil
}

// MatchGzip reports whether head is the beginning of a gzip stream.
func MatchGzip(head []byte) bool { return bytes.HasPrefix(head, []byte{0x1f, 0x8b}) }

// Read decodes a NIfTI file, compressed or not.
func Read(r *io.SectionReader, opt array.Options) (*array.Array, error) {
	var first [2]byte
	if _, err := r.ReadAt(first[:], 0); err == nil && MatchGzip(first[:]) {
		z, err := gzip.NewReader(bufio.NewReader(io.NewSectionReader(r, 0, r.Size())))
		if err != nil {
			return nil, volume.Malformed(format, "compressed data: %w", noEOF(err))
		}
		return decode(z, r.Size(), true, opt)
	}
	return decode(bufio.NewReader(io.NewSectionReader(r, 0, r.Size())), r.Size(), false, opt)
}

// decode reads an image from r, behind which lie size bytes, compressed or not.
func decode(r io.Reader, size int64, compressed bool, opt array.Options) (*array.Array, error) {
	head := make([]byte, size2)
	n, err := io.ReadFull(r, head[:size1])
	if err != nil {
		return nil, volume.Malformed(format, "the header is cut off after %d bytes: %w", n, noEOF(err))
	}
	version, order, single, err := recognise(head[:size1])
	if err != nil {
		return nil, err
	}
	read := int64(size1)
	if version == 2 {
		if _, err := io.ReadFull(r, head[size1:]); err != nil {
			return nil, volume.Malformed(format, "the header is cut off: %w", noEOF(err))
		}
		read = size2
	}
	if !single {
		return nil, volume.Unsupported(format, "it is the header of a .hdr/.img pair; save the image as one .nii.gz: "+
			"nibabel.save(nibabel.load(path), 'image.nii.gz')")
	}
	h, err := parseHeader(head, version, order)
	if err != nil {
		return nil, err
	}
	count, err := opt.Count(h.shape)
	if err != nil {
		return nil, volume.Unsupported(format, "%w", err)
	}
	need := int64(count) * int64(h.element.Size)
	if !compressed && (h.offset > size || need > size-h.offset) {
		return nil, volume.Malformed(format, "shape %s needs %d bytes from offset %d, the file has %d; it was cut off",
			array.FormatShape(h.shape), need, h.offset, size)
	}
	if n, err := io.CopyN(io.Discard, r, h.offset-read); err != nil {
		return nil, volume.Malformed(format, "it ends at byte %d, the voxels begin at %d: %w", read+n, h.offset, noEOF(err))
	}
	data, err := h.element.Read(r, count, size)
	if err != nil {
		return nil, volume.Malformed(format, "shape %s: %w", array.FormatShape(h.shape), err)
	}
	if compressed {
		const padding = 1 << 20 // some writers fill blocks
		if err := array.Drain(r, padding); err != nil {
			return nil, volume.Malformed(format, "%w", err)
		}
	}
	return &array.Array{Shape: h.shape, Strides: array.ColumnMajor(h.shape), Data: data, Geometry: &h.geometry}, nil
}

// recognise finds version, byte order and whether header and voxels are in one file.
func recognise(head []byte) (version int, order binary.ByteOrder, single bool, err error) {
	if len(head) < size1 {
		return 0, nil, false, volume.Malformed(format, "it has fewer bytes than its header")
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(head) {
		case size1:
			switch {
			case bytes.Equal(head[344:348], magic1):
				return 1, order, true, nil
			case bytes.Equal(head[344:348], pair1):
				return 1, order, false, nil
			}
			return 0, nil, false, volume.Unsupported(format, "it has the header of ANALYZE 7.5, which has no orientation; "+
				"convert it to .nii.gz with a tool that knows how it was acquired")
		case size2:
			single := bytes.Equal(head[4:8], magic2)
			if !single && !bytes.Equal(head[4:8], pair2) {
				continue
			}
			if !bytes.Equal(head[8:12], eol) && !bytes.Equal(head[8:12], make([]byte, len(eol))) {
				return 0, nil, false, volume.Malformed(format, "its line ends were converted, as by a transfer in text mode; copy it again as binary")
			}
			return 2, order, single, nil
		}
	}
	return 0, nil, false, volume.Malformed(format, "it does not begin with a NIfTI header")
}

// header has the fields of a header that are used.
type header struct {
	shape   []int
	element array.Element
	offset  int64 // of the first voxel

	geometry volume.Geometry
}

// dataTypes are the numeric types of voxels by code.
var dataTypes = map[int]array.Element{
	2: {Kind: array.Uint, Size: 1}, 4: {Kind: array.Int, Size: 2}, 8: {Kind: array.Int, Size: 4},
	16: {Kind: array.Float, Size: 4}, 64: {Kind: array.Float, Size: 8}, 256: {Kind: array.Int, Size: 1},
	512: {Kind: array.Uint, Size: 2}, 768: {Kind: array.Uint, Size: 4},
	1024: {Kind: array.Int, Size: 8}, 1280: {Kind: array.Uint, Size: 8},
}

// otherTypes are the names of types that are refused.
var otherTypes = map[int]string{
	0: "none", 1: "binary", 32: "complex64", 128: "RGB24", 1536: "float128", 1792: "complex128", 2048: "complex256", 2304: "RGBA32",
}

// fields are the parts of a header that both versions have, in double precision.
type fields struct {
	dim          [8]int64
	dataType     int
	bits         int // of a voxel; 0 is not said
	pixdim       [8]float64
	offset       float64
	slope, inter float64
	qform, sform int
	quaternion   [3]float64 // b, c, d
	shift        [3]float64
	srow         [3][4]float64
	units        int
}

func fields1(b []byte, o binary.ByteOrder) fields {
	i16 := func(at int) int { return int(int16(o.Uint16(b[at:]))) }
	f32 := func(at int) float64 { return float64(math.Float32frombits(o.Uint32(b[at:]))) }
	f := fields{dataType: i16(70), bits: i16(72), offset: f32(108), slope: f32(112), inter: f32(116),
		units: int(b[123]), qform: i16(252), sform: i16(254)}
	for i := range f.dim {
		f.dim[i], f.pixdim[i] = int64(i16(40+2*i)), f32(76+4*i)
	}
	for i := range 3 {
		f.quaternion[i], f.shift[i] = f32(256+4*i), f32(268+4*i)
		for j := range 4 {
			f.srow[i][j] = f32(280 + 16*i + 4*j)
		}
	}
	return f
}

func fields2(b []byte, o binary.ByteOrder) fields {
	i32 := func(at int) int { return int(int32(o.Uint32(b[at:]))) }
	f64 := func(at int) float64 { return math.Float64frombits(o.Uint64(b[at:])) }
	f := fields{dataType: int(int16(o.Uint16(b[12:]))), bits: int(int16(o.Uint16(b[14:]))), offset: float64(int64(o.Uint64(b[168:]))), slope: f64(176), inter: f64(184),
		units: i32(500), qform: i32(344), sform: i32(348)}
	for i := range f.dim {
		f.dim[i], f.pixdim[i] = int64(o.Uint64(b[16+8*i:])), f64(104+8*i)
	}
	for i := range 3 {
		f.quaternion[i], f.shift[i] = f64(352+8*i), f64(376+8*i)
		for j := range 4 {
			f.srow[i][j] = f64(400 + 32*i + 8*j)
		}
	}
	return f
}

// parseHeader decodes a header of version 1 or 2.
func parseHeader(b []byte, version int, order binary.ByteOrder) (*header, error) {
	f, least := fields1(b, order), float64(size1+4)
	if version == 2 {
		f, least = fields2(b, order), size2+4
	}
	if f.dim[0] < 1 || f.dim[0] > 7 {
		return nil, volume.Malformed(format, "the header has %d axes", f.dim[0])
	}
	h := &header{}
	for _, n := range f.dim[1 : f.dim[0]+1] {
		if n < 1 || n > math.MaxInt32 {
			return nil, volume.Malformed(format, "an axis of the header %v has size %d", f.dim[1:f.dim[0]+1], n)
		}
		h.shape = append(h.shape, int(n))
	}
	const named = 5 // axes that have a meaning here; files often have more, of size 1, to which the standard gives no meaning
	for len(h.shape) > named && h.shape[len(h.shape)-1] == 1 {
		h.shape = h.shape[:len(h.shape)-1]
	}
	element, ok := dataTypes[f.dataType]
	if !ok {
		name := fmt.Sprintf("type %d", f.dataType)
		if s := otherTypes[f.dataType]; s != "" {
			name = s
		}
		return nil, volume.Unsupported(format, "its voxels are of type %s; save it with a real numeric type", name)
	}
	if bits := 8 * element.Size; f.bits != 0 && f.bits != bits {
		return nil, volume.Malformed(format, "its voxels are of type %d, which has %d bits, and bitpix is %d; repair the header", f.dataType, bits, f.bits)
	}
	h.element = element
	h.element.Big = order == binary.ByteOrder(binary.BigEndian)
	if f.slope != 0 && finite(f.slope) && !(f.slope == 1 && f.inter == 0) {
		if !finite(f.inter) {
			return nil, volume.Malformed(format, "scl_inter is %v", f.inter)
		}
		h.element.Slope, h.element.Inter = f.slope, f.inter
	}
	if f.offset == 0 { // nothing said: right behind header and extension flag
		f.offset = least
	}
	if !(f.offset >= least && f.offset < 1<<53) {
		return nil, volume.Malformed(format, "vox_offset is %v, inside the header", f.offset)
	}
	h.offset = int64(f.offset)
	h.geometry = f.geometry()
	if err := f.checkPlace(h.geometry.Forms); err != nil {
		return nil, err
	}
	return h, nil
}

// checkPlace refuses a header whose numbers place no voxel, or overflow float32, also after they were multiplied by a number of voxels.
func (f *fields) checkPlace(forms volume.Forms) error {
	const smallest, largest = 1e-30, 1e30
	for i, x := range f.pixdim[1:4] {
		if x = math.Abs(x); x != 0 && !(x > smallest && x < largest) {
			return volume.Malformed(format, "the size of a voxel along axis %d is %g; repair pixdim in its header", i, x)
		}
	}
	for _, form := range []struct {
		name string
		volume.Form
	}{{"qform", forms.Qform}, {"sform", forms.Sform}} {
		if int(int16(form.Code)) != form.Code {
			return volume.Malformed(format, "%s_code is %d", form.name, form.Code)
		}
		for _, row := range form.Affine {
			for _, x := range row {
				if !(math.Abs(x) < largest) {
					return volume.Malformed(format, "the %s %v has the entry %g, which is no place; repair the header, "+
						"or set %s_code to 0", form.name, form.Affine, x, form.name)
				}
			}
		}
	}
	if _, _, _, rigid := decompose(forms.Qform.Affine); forms.Qform.Code != 0 && !rigid {
		return volume.Malformed(format, "the quaternion %v of the qform is no rotation; repair the header, or set qform_code to 0", f.quaternion)
	}
	return nil
}

// unitsInMM is the length in millimetres of the units of space; voxels whose unit is unknown are taken as millimetres.
var unitsInMM = map[volume.Unit]float64{volume.Metre: 1000, volume.Millimetre: 1, volume.Micrometre: 0.001}

// geometry has both forms, and the affine in the order of nibabel: sform, qform, voxel sizes.
func (f *fields) geometry() volume.Geometry {
	var size [3]float64
	dims := [3]int{1, 1, 1}
	for i := range size {
		if size[i] = math.Abs(f.pixdim[i+1]); size[i] == 0 {
			size[i] = 1
		}
		if int64(i) < f.dim[0] {
			dims[i] = int(f.dim[i+1])
		}
	}
	forms := volume.NoForms(dims, size)
	if f.qform != 0 || f.sform != 0 {
		forms.Qform, forms.Sform = f.quaternionForm(size), volume.Form{}
	}
	if f.sform != 0 {
		forms.Sform = volume.Form{Affine: f.srow, Code: f.sform}
	}
	forms.Unit = volume.Unit(f.units & 7)
	m := forms.Sform.Affine
	if f.sform == 0 && f.qform != 0 {
		m = forms.Qform.Affine
	}
	if scale, ok := unitsInMM[forms.Unit]; ok && scale != 1 {
		for r := range m {
			for c := range m[r] {
				m[r][c] *= scale
			}
		}
	}
	return volume.Geometry{Affine: m, Known: true, Forms: forms}
}

// quaternionForm is the qform of voxels of the given size; without a code, it has nothing but that size.
func (f *fields) quaternionForm(size [3]float64) volume.Form {
	form := volume.Form{Code: f.qform}
	rotation := [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
	if f.qform != 0 {
		rotation = rotationOf(f.quaternion)
		if f.pixdim[0] == -1 {
			size[2] = -size[2]
		}
	}
	for r := range rotation {
		for c := range size {
			form.Affine[r][c] = rotation[r][c] * size[c]
		}
		if f.qform != 0 {
			form.Affine[r][3] = f.shift[r]
		}
	}
	return form
}

// rotationOf returns the rotation of the unit quaternion (a, b, c, d) with a >= 0 (nifti1.h, METHOD 2). A vector part
// longer than one, by rounding, is normalised.
func rotationOf(q [3]float64) [3][3]float64 {
	const zero = 3.0 / (1 << 23) // of float32 arithmetic, as nibabel has it
	b, c, d := q[0], q[1], q[2]
	a := 1 - (b*b + c*c + d*d)
	if a < zero {
		norm := 1 / math.Sqrt(b*b+c*c+d*d)
		b, c, d, a = b*norm, c*norm, d*norm, 0
	} else {
		a = math.Sqrt(a)
	}
	return [3][3]float64{
		{a*a + b*b - c*c - d*d, 2*b*c - 2*a*d, 2*b*d + 2*a*c},
		{2*b*c + 2*a*d, a*a + c*c - b*b - d*d, 2*c*d - 2*a*b},
		{2*b*d - 2*a*c, 2*c*d + 2*a*b, a*a + d*d - c*c - b*b},
	}
}

func finite(x float64) bool { return x-x == 0 }

// noEOF turns a plain end of file, which says nothing to a user, into an unexpected one.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
