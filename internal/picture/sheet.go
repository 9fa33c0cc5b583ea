package picture

import (
	"image"
	"image/color"
	"image/png"
	"io"
	"strconv"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// Row is one line of a sheet: slices of a view, or a note where there is nothing to show.
type Row struct {
	Label string
	View  *View
	Note  string // shown instead of slices if View is nil
}

// Sheet is a picture of a few slices of each of some views, with one colour scale for all.
type Sheet struct {
	Title []string // lines above
	Rows  []Row
}

// SheetSlices is the number of slices shown of each view.
const SheetSlices = 6

// Sizes in pixels.
const (
	panelSize  = 340 // longer side of a slice
	gap        = 12
	textSize   = 18
	lineHeight = 26
	barWidth   = 24
	barText    = 56 // room for the numbers beside the colour bar
)

// EvenSlices returns n indices spread evenly over 0 to depth-1, both ends included, as numpy.linspace does after truncation.
func EvenSlices(depth, n int) []int {
	out := make([]int, n)
	for i := range out {
		if n > 1 {
			out[i] = i * (depth - 1) / (n - 1)
		}
	}
	return out
}

// panel is the size in pixels of one slice: voxels keep their physical aspect, within reason.
func (v *View) panel() (width, height int) {
	w, h := float64(v.Dims[2]), float64(v.Dims[1])
	if v.Spacing[1] > 0 && v.Spacing[2] > 0 {
		const most = 6
		h *= min(max(v.Spacing[1]/v.Spacing[2], 1.0/most), most)
	}
	scale := panelSize / max(w, h)
	return max(int(w*scale+0.5), panelSize/8), max(int(h*scale+0.5), panelSize/8)
}

// WritePNG draws the sheet. With one view the slices stand in two lines of three, otherwise each view has one line.
func (s *Sheet) WritePNG(w io.Writer) error {
	face, err := newFace()
	if err != nil {
		return err
	}
	defer face.Close()

	panelW, panelH := panelSize, panelSize/4
	columns := SheetSlices
	for i := len(s.Rows) - 1; i >= 0; i-- { // all views have the same grid
		if v := s.Rows[i].View; v != nil {
			panelW, panelH = v.panel()
		}
	}
	if len(s.Rows) == 1 {
		columns = SheetSlices / 2
	}
	lines := SheetSlices / columns
	top := gap + len(s.Title)*lineHeight
	rowHeight := lineHeight + lines*(panelH+lineHeight)
	width := gap + columns*(panelW+gap) + barWidth + barText
	height := top + len(s.Rows)*rowHeight + gap
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)

	write := func(x, y int, text string) {
		d := font.Drawer{Dst: img, Src: image.Black, Face: face, Dot: fixed.P(x, y+textSize)}
		// Names may be long: cut them at the edge of the sheet.
		for r := []rune(text); len(r) > 0 && d.MeasureString(text).Ceil() > width-x-gap; {
			r = r[:len(r)-1]
			text = string(r) + "…"
		}
		d.DrawString(text)
	}
	for i, line := range s.Title {
		write(gap, gap/2+i*lineHeight, line)
	}
	for i, row := range s.Rows {
		y := top + i*rowHeight
		write(gap, y, row.Label)
		y += lineHeight
		if row.View == nil {
			write(gap, y, row.Note)
			continue
		}
		slice := image.NewRGBA(image.Rect(0, 0, row.View.Dims[2], row.View.Dims[1]))
		rgb := make([]byte, 3*row.View.Dims[1]*row.View.Dims[2])
		for k, d := range EvenSlices(row.View.Dims[0], SheetSlices) {
			row.View.overlay(rgb, d)
			if row.View.Slices != nil {
				d = row.View.Slices[d]
			}
			for p := range len(rgb) / 3 {
				copy(slice.Pix[4*p:], rgb[3*p:3*p+3])
				slice.Pix[4*p+3] = 255
			}
			at := image.Pt(gap+k%columns*(panelW+gap), y+k/columns*(panelH+lineHeight))
			pw, ph := row.View.panel()
			draw.ApproxBiLinear.Scale(img, image.Rectangle{at, at.Add(image.Pt(pw, ph))}, slice, slice.Bounds(), draw.Src, nil)
			write(at.X, at.Y+panelH, "slice "+strconv.Itoa(d))
		}
	}
	drawBar(img, image.Rect(width-barWidth-barText+gap/2, top+lineHeight, width-barText+gap/2, height-gap-lineHeight), write)
	return (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(w, img)
}

// drawBar draws the colour scale of all heatmaps.
func drawBar(img *image.RGBA, r image.Rectangle, write func(x, y int, text string)) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		c := Jet(float32(r.Max.Y-1-y) / float32(r.Dy()-1))
		for x := r.Min.X; x < r.Max.X; x++ {
			img.SetRGBA(x, y, color.RGBA{c[0], c[1], c[2], 255})
		}
	}
	for i, text := range []string{"1", "0.5", "0"} {
		write(r.Max.X+4, r.Min.Y+i*(r.Dy()-1)/2-textSize/2-4, text)
	}
}

func newFace() (font.Face, error) {
	f, err := opentype.Parse(goregular.TTF)
	if err != nil {
		return nil, err
	}
	return opentype.NewFace(f, &opentype.FaceOptions{Size: textSize, DPI: 72, Hinting: font.HintingFull})
}
