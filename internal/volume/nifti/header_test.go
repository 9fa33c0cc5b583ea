package nifti

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/volume/array"
	"github.com/voxcam/voxcam/internal/volume/volumetest"
	"github.com/voxcam/voxcam/volume"
)

// TestScale reads voxels that are stored as -2 ... 3.75 and become slope*s + inter.
func TestScale(t *testing.T) {
	for _, test := range []struct {
		slope, inter float32
		first, last  float32
	}{
		{2, 0, -4, 7.5}, {1, 3, 1, 6.75}, {1, 0, -2, 3.75}, {-0.5, 1, 2, -0.875}, {0, 3, -2, 3.75},
	} {
		b := slices.Clone(volumetest.Open(t, "f4.nii"))
		binary.LittleEndian.PutUint32(b[112:], math.Float32bits(test.slope))
		binary.LittleEndian.PutUint32(b[116:], math.Float32bits(test.inter))
		a, err := Read(volumetest.Section(b), array.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if x := a.Values(); x[0] != test.first || x[23] != test.last {
			t.Errorf("slope %v, intercept %v: from %v to %v, want %v to %v", test.slope, test.inter, x[0], x[23], test.first, test.last)
		}
	}
}

// TestAxes reads from one axis to seven. Of those behind the fifth, the last of size 1 say nothing.
func TestAxes(t *testing.T) {
	for _, test := range []struct {
		dim  []uint16
		want []int
	}{
		{[]uint16{1, 24}, []int{24}},
		{[]uint16{2, 6, 4, 9, 9}, []int{6, 4}},
		{[]uint16{5, 2, 3, 4, 1, 1}, []int{2, 3, 4, 1, 1}},
		{[]uint16{6, 2, 3, 4, 1, 1, 1}, []int{2, 3, 4, 1, 1}},
		{[]uint16{7, 2, 3, 2, 1, 2, 1, 1}, []int{2, 3, 2, 1, 2}},
		{[]uint16{7, 2, 3, 2, 1, 1, 1, 2}, []int{2, 3, 2, 1, 1, 1, 2}},
	} {
		b := slices.Clone(volumetest.Open(t, "f4.nii"))
		for i, n := range test.dim {
			binary.LittleEndian.PutUint16(b[40+2*i:], n)
		}
		a, err := Read(volumetest.Section(b), array.Options{})
		if err != nil || !slices.Equal(a.Shape, test.want) {
			t.Errorf("axes %v: %v, %v", test.dim, a, err)
		}
	}
}

// TestUncodedPlane has an image of two axes that no code places. Its third axis has one voxel, whatever follows in the header.
func TestUncodedPlane(t *testing.T) {
	b := slices.Clone(volumetest.Open(t, "f4.nii"))
	for i, n := range []uint16{2, 6, 4, 9} {
		binary.LittleEndian.PutUint16(b[40+2*i:], n)
	}
	for i := range 4 {
		binary.LittleEndian.PutUint32(b[76+4*i:], math.Float32bits(2))
	}
	clear(b[252:256]) // codes
	a, err := Read(volumetest.Section(b), array.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if want := (volume.Affine{{-2, 0, 0, 5}, {0, 2, 0, -3}, {0, 0, 2, 0}}); a.Geometry.Affine != want {
		t.Errorf("affine %v, want %v", a.Geometry.Affine, want)
	}
}

// TestQformOfBothVersions demands the same place from the same qform in a header of either version.
func TestQformOfBothVersions(t *testing.T) {
	quaternion, shift := [3]float64{0.25, -0.5, 0.125}, [3]float64{-40, 33, 12.5}
	sizes := [4]float64{-1, 0.5, 1.25, 2}
	le := binary.LittleEndian
	one, two := slices.Clone(volumetest.Open(t, "f4.nii")), slices.Clone(volumetest.Open(t, "two.nii"))
	le.PutUint32(one[252:], 1) // qform_code 1, sform_code 0
	le.PutUint64(two[344:], 1)
	one[123] = byte(volume.Millimetre)
	le.PutUint32(two[500:], uint32(volume.Millimetre))
	for i, x := range sizes {
		le.PutUint32(one[76+4*i:], math.Float32bits(float32(x)))
		le.PutUint64(two[104+8*i:], math.Float64bits(x))
	}
	for i := range 3 {
		le.PutUint32(one[256+4*i:], math.Float32bits(float32(quaternion[i])))
		le.PutUint64(two[352+8*i:], math.Float64bits(quaternion[i]))
		le.PutUint32(one[268+4*i:], math.Float32bits(float32(shift[i])))
		le.PutUint64(two[376+8*i:], math.Float64bits(shift[i]))
	}
	for version, b := range [][]byte{one, two} {
		a, err := Read(volumetest.Section(b), array.Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := a.Geometry.Affine
		for r := range m {
			if m[r][3] != shift[r] {
				t.Errorf("NIfTI-%d: voxel 0 lies at %v of axis %d, want %v", version+1, m[r][3], r, shift[r])
			}
		}
		if version == 1 {
			first, _ := Read(volumetest.Section(one), array.Options{})
			if m != first.Geometry.Affine {
				t.Errorf("NIfTI-2 has %v, NIfTI-1 %v", m, first.Geometry.Affine)
			}
		}
	}
}

// TestDecompose demands that voxel sizes, rotation and hand of an affine, put together again, are the affine: for turns about any axis,
// half turns included, of either hand.
func TestDecompose(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 500 {
		var q [3]float64
		length := 0.0
		for k := range q {
			q[k] = random.NormFloat64()
			length += q[k] * q[k]
		}
		sine := math.Sin(random.Float64() * math.Pi / 2)
		if i%10 == 0 {
			sine = 1
		}
		for k := range q {
			q[k] *= sine / math.Sqrt(length)
		}
		size := [3]float64{0.1 + random.Float64(), 0.1 + 3*random.Float64(), 0.1 + 5*random.Float64()}
		hand := 1 - 2*float64(i%2)
		r := rotationOf(q)
		var m volume.Affine
		for row := range r {
			m[row] = [4]float64{r[row][0] * size[0], r[row][1] * size[1], r[row][2] * size[2] * hand, 7}
		}
		gotSize, gotQ, gotHand, rigid := decompose(m)
		if !rigid || gotHand != hand {
			t.Fatalf("%v of hand %v: rigid %v, hand %v", m, hand, rigid, gotHand)
		}
		back := rotationOf(gotQ)
		for row := range r {
			if math.Abs(gotSize[row]-size[row]) > 1e-9 {
				t.Fatalf("sizes %v, want %v", gotSize, size)
			}
			for c := range r {
				if math.Abs(back[row][c]-r[row][c]) > 1e-6 {
					t.Fatalf("rotation %v, want %v", back, r)
				}
			}
		}
	}
}

// A shear and an axis without extent have no quaternion, and a voxel has a size in the header in any case.
func TestNotRigid(t *testing.T) {
	for _, m := range []volume.Affine{
		{{1, 0.1, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}},
		{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 0, 0}},
		{{1, 0, 0, 0}, {0, math.Inf(1), 0, 0}, {0, 0, 1, 0}},
	} {
		size, q, _, rigid := decompose(m)
		if rigid || q != [3]float64{} || size[0] != 1 || size[2] != 1 || !(size[1] >= 1 && size[1] < 1.1) {
			t.Errorf("%v: sizes %v, quaternion %v, rigid %v", m, size, q, rigid)
		}
	}
}

func TestLongestAxis(t *testing.T) {
	if err := Write(io.Discard, [3]int{1, math.MaxInt16, 1}, make([]float32, math.MaxInt16), volume.Identity()); err != nil {
		t.Error(err)
	}
	err := Write(io.Discard, [3]int{1, math.MaxInt16 + 1, 1}, make([]float32, math.MaxInt16+1), volume.Identity())
	if err == nil || !strings.Contains(err.Error(), "at most 32767 voxels") {
		t.Errorf("error %v", err)
	}
}

// A file that ends is cut off, wherever it ends, and at its end too.
func TestCutOff(t *testing.T) {
	for _, name := range []string{"f4.nii", "two.nii"} {
		whole := volumetest.Open(t, name)
		for _, n := range []int{0, 1, 347, 348, 400, len(whole) - 1} {
			_, err := Read(volumetest.Section(whole[:n]), array.Options{})
			var damaged *volume.MalformedError
			if !errors.As(err, &damaged) {
				t.Errorf("%d bytes of %s: %v", n, name, err)
			}
			if n < 348 && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%d bytes of %s: %v, want an unexpected end", n, name, err)
			}
		}
	}
}
