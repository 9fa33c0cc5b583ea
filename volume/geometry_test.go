package volume

import (
	"math"
	"testing"
)

// TestGrids compares grids made of a volume's with those that ITK makes of an image of 8x9x10 voxels with the same affine
// (SimpleITK 2.5: RegionOfInterest at (1, 2, 1), ConstantPad by (2, 1, 0), BinShrink by (2, 3, 5), Expand by (2, 4, 5), and
// PermuteAxes (2, 0, 1); direction times spacing, and the origin). Both forms of a header move in the same way.
func TestGrids(t *testing.T) {
	place := Affine{{0.2222771992, -0.6550819106, -0.496673327, -40}, {0.3928818273, 0.3650537857, -0.9541397552, 33},
		{0.2150272459, 0.01016975291, 2.256752741, 12.5}}
	g := Geometry{Affine: place, Known: true, Forms: Forms{Qform: Form{place, 1}, Sform: Form{place, 4}, Unit: Micrometre}}
	for _, test := range []struct {
		name string
		got  Geometry
		want Affine
	}{
		{"crop", g.Shift([3]int{1, 2, 1}), Affine{{0.2222771992, -0.6550819106, -0.496673327, -41.58455995},
			{0.3928818273, 0.3650537857, -0.9541397552, 33.16884964}, {0.2150272459, 0.01016975291, 2.256752741, 14.99211949}}},
		{"pad", g.Shift([3]int{-2, -1, 0}), Affine{{0.2222771992, -0.6550819106, -0.496673327, -39.78947249},
			{0.3928818273, 0.3650537857, -0.9541397552, 31.84918256}, {0.2150272459, 0.01016975291, 2.256752741, 12.05977576}}},
		{"cells of 2x3x5 voxels", g.Resample([3]float64{2, 3, 5}), Affine{{0.4445543984, -1.965245732, -2.483366635, -41.53728997},
			{0.7857636546, 1.095161357, -4.770698776, 31.65321519}, {0.4300544918, 0.03050925873, 11.2837637, 17.13118886}}},
		{"cells of 1/2, 1/4, 1/5 voxel", g.Resample([3]float64{0.5, 0.25, 0.2}), Affine{{0.1111385996, -0.1637704777, -0.0993346654, -39.61124425},
			{0.1964409136, 0.09126344643, -0.190827951, 33.14654028}, {0.107513623, 0.002542438228, 0.4513505482, 11.53972843}}},
		{"axes", g.Permute([3]int{2, 0, 1}), Affine{{-0.496673327, 0.2222771992, -0.6550819106, -40},
			{-0.9541397552, 0.3928818273, 0.3650537857, 33}, {2.256752741, 0.2150272459, 0.01016975291, 12.5}}},
	} {
		forms := test.got.Forms
		if forms.Qform.Code != 1 || forms.Sform.Code != 4 || forms.Unit != Micrometre || !test.got.Known {
			t.Errorf("%s: geometry %+v", test.name, test.got)
		}
		for _, got := range []Affine{test.got.Affine, forms.Qform.Affine, forms.Sform.Affine} {
			for r := range got {
				for c := range got[r] {
					if !(math.Abs(got[r][c]-test.want[r][c]) < 1e-7) {
						t.Errorf("%s: [%d][%d] is %.10g, want %.10g", test.name, r, c, got[r][c], test.want[r][c])
					}
				}
			}
		}
	}
}

// A header without codes leaves programs to their own rules: the sform is get_base_affine of nibabel's Nifti1Header for 8x9x10 voxels of
// 0.5x1x2 mm, the qform where SimpleITK has the image (direction -1, -1, 1 in RAS, origin 0).
func TestNoForms(t *testing.T) {
	f := NoForms([3]int{8, 9, 10}, [3]float64{0.5, 1, 2})
	if want := (Affine{{-0.5, 0, 0, 1.75}, {0, 1, 0, -4}, {0, 0, 2, -9}}); f.Sform.Affine != want {
		t.Errorf("sform %v, want %v", f.Sform.Affine, want)
	}
	if want := (Affine{{-0.5, 0, 0, 0}, {0, -1, 0, 0}, {0, 0, 2, 0}}); f.Qform.Affine != want {
		t.Errorf("qform %v, want %v", f.Qform.Affine, want)
	}
}

func TestCoded(t *testing.T) {
	for _, test := range []struct {
		qform, sform int
		want         bool
	}{{0, 0, false}, {1, 0, true}, {0, 4, true}, {2, 2, true}} {
		f := Forms{Qform: Form{Code: test.qform}, Sform: Form{Code: test.sform}}
		if f.Coded() != test.want {
			t.Errorf("codes %d and %d: %v", test.qform, test.sform, f.Coded())
		}
	}
}
