// Package phantom draws OCT volumes of a retina whose disease is known exactly: an image, its grade of age-related macular
// degeneration (AMD), and a mask of the voxels that make the grade. They stand in for patients in the demonstration and in
// tests, where a heatmap can be compared with the truth. They are drawn, not simulated: anatomy and lesions have the look
// and the order of an OCT, not its optics, and lesions are larger than life in relation to the field.
//
// A phantom is [D, H, W]: D counts B-scans, H is the axial direction (0 is the vitreous side), W runs along a B-scan.
//
// The same Params give the same bytes on every machine: all randomness is one PCG stream, the arithmetic uses only
// operations that IEEE 754 rounds exactly, and products are kept from being fused with sums (see mul).
package phantom

import (
	"fmt"

	"github.com/voxcam/voxcam/volume"
)

// Grade is a grade of AMD; its value is the class index of the demonstration model.
type Grade int

const (
	Normal       Grade = iota
	Early              // few small drusen
	Intermediate       // large drusen
	Advanced           // fluid in or under the retina, detachment of the pigment epithelium (PED), or geographic atrophy (GA)
)

// GradeNames holds the name of each grade, in the order of the class indices.
var GradeNames = [...]string{"Normal", "Early AMD", "Intermediate AMD", "Advanced AMD"}

// Grades is the number of grades.
const Grades = len(GradeNames)

func (g Grade) String() string {
	if g < 0 || int(g) >= Grades {
		return fmt.Sprintf("Grade(%d)", int(g))
	}
	return GradeNames[g]
}

// DefaultDims is the size [D, H, W] that the demonstration model was trained on.
var DefaultDims = [3]int{32, 64, 64}

const (
	minSize = 16      // of an axis: below it the layers no longer fit
	maxSize = 1 << 10 // of an axis: 1 GiB a volume
)

// Params chooses a phantom.
type Params struct {
	Seed  uint64
	Grade Grade
	Dims  [3]int // D, H, W in voxels; zero means DefaultDims. The anatomy scales with it.
}

// Phantom is a volume with its truth. Slices are row-major [D, H, W].
type Phantom struct {
	Params
	Image []uint8 // intensities, 0 to 255
	Mask  []uint8 // 1 where a voxel belongs to a lesion that makes the grade, 0 elsewhere; all 0 for Normal
}

// Volume returns the image as a single-channel volume of the values 0 to 255.
func (p *Phantom) Volume() *volume.Volume {
	v := volume.New(1, p.Dims[0], p.Dims[1], p.Dims[2])
	for i, x := range p.Image {
		v.Data[i] = float32(x)
	}
	return v
}

// Generate draws a phantom. It fails only for a grade or a size out of range.
func Generate(p Params) (*Phantom, error) {
	if p.Dims == [3]int{} {
		p.Dims = DefaultDims
	}
	if p.Grade < 0 || int(p.Grade) >= Grades {
		return nil, fmt.Errorf("phantom: grade %d: want 0 to %d", int(p.Grade), Grades-1)
	}
	for i, n := range p.Dims {
		if n < minSize || n > maxSize {
			return nil, fmt.Errorf("phantom: size %v: axis %d must have %d to %d voxels", p.Dims, i, minSize, maxSize)
		}
	}
	r := newRandom(p.Seed, uint64(p.Grade))
	a := newAnatomy(r, p.Dims)
	a.addLesions(r, p.Grade)
	img := newCanvas(p.Dims)
	a.draw(img)
	a.drawCysts(img)
	return &Phantom{Params: p, Image: a.speckle(img, r), Mask: img.mask}, nil
}
