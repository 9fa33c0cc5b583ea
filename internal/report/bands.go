package report

import (
	"image"
	"image/color"
	imagedraw "image/draw"
	"image/png"
	"io"

	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/vgimg"
)

// bandRows has the number of rows of a picture's pixels that are in memory at a time.
const bandRows = 400

// bands is a picture that is drawn while it is read, from its first row to its last, so that it is never in memory as a whole: pages of
// many panels have some hundred megabytes. It is an image.Image for the PNG encoder, which reads rows in order.
type bands struct {
	size   image.Point
	dpi    int
	draw   func(c vg.Canvas, bottom, top vg.Length)
	canvas *vgimg.Canvas
	pixels *image.RGBA // of the canvas
	first  int         // row of the picture that is the canvas's first
	pixel  color.RGBA  // that At has returned
}

// writeBands writes a picture as PNG. draw draws the part of it between two heights, measured from below, or more.
func writeBands(w io.Writer, width, height vg.Length, dpi int, draw func(c vg.Canvas, bottom, top vg.Length)) error {
	pixels := func(l vg.Length) int { return int(l/vg.Inch*vg.Length(dpi) + 0.5) }
	b := &bands{size: image.Pt(pixels(width), pixels(height)), dpi: dpi, draw: draw, first: -bandRows}
	b.canvas = vgimg.NewWith(vgimg.UseWH(width, b.length(bandRows)), vgimg.UseDPI(dpi))
	b.pixels = b.canvas.Image().(*image.RGBA) //nolint:errcheck,forcetypeassert // a canvas that is not given an image makes one of this type
	return (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(w, b)
}

// length returns the extent of that many rows.
func (b *bands) length(rows int) vg.Length { return vg.Length(rows) / vg.Length(b.dpi) * vg.Inch }

func (b *bands) ColorModel() color.Model { return color.RGBAModel }
func (b *bands) Bounds() image.Rectangle { return image.Rectangle{Max: b.size} }
func (b *bands) Opaque() bool            { return true } // it begins as white, on which everything is painted

// At returns a pixel, which is valid until the next call.
func (b *bands) At(x, y int) color.Color {
	if y < b.first || y >= b.first+bandRows {
		b.first = y - y%bandRows
		imagedraw.Draw(b.pixels, b.pixels.Bounds(), image.White, image.Point{}, imagedraw.Src)
		bottom := b.length(b.size.Y - b.first - bandRows)
		b.canvas.Push()
		b.canvas.Translate(vg.Point{Y: -bottom})
		b.draw(b.canvas, bottom, bottom+b.length(bandRows))
		b.canvas.Pop()
	}
	b.pixel = b.pixels.RGBAAt(x, y-b.first)
	return &b.pixel
}
