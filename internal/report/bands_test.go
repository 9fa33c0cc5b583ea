package report

import (
	"bytes"
	"image/png"
	"io"
	"runtime"
	"testing"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// A picture that is drawn band by band is the one that is drawn as a whole; sums of coordinates may round another way at edges.
func TestBandsAreThePicture(t *testing.T) {
	const dpi = 150
	o := Aggregate(session(), samples(), time.Time{})
	p := plot.New()
	if err := scatter(p, "volume", o, samples()); err != nil {
		t.Fatal(err)
	}
	p.Title.Text = "a title"
	width, height := 5*vg.Inch, 7.3*vg.Inch
	var b bytes.Buffer
	err := writeBands(&b, width, height, dpi, func(c vg.Canvas, _, _ vg.Length) { p.Draw(draw.NewCanvas(c, width, height)) })
	if err != nil {
		t.Fatal(err)
	}
	got, err := png.Decode(&b)
	if err != nil {
		t.Fatal(err)
	}
	whole := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(dpi))
	p.Draw(draw.New(whole))
	want := whole.Image()
	if got.Bounds() != want.Bounds() || got.Bounds().Dy() <= bandRows {
		t.Fatalf("a picture of %v, not of %v", got.Bounds(), want.Bounds())
	}
	differ := 0
	for y := range got.Bounds().Dy() {
		for x := range got.Bounds().Dx() {
			if got.At(x, y) != want.At(x, y) {
				differ++
			}
		}
	}
	if differ > 20 {
		t.Errorf("%d pixels differ", differ)
	}
}

// A page of 16 panels at 150 dots an inch has 32 MB.
func TestPlotsTakeLittleMemory(t *testing.T) {
	s := samples()
	for _, x := range s {
		for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"} {
			if v, ok := x.Statistics["volume"]; ok {
				x.Statistics[key] = v
			}
		}
	}
	o := Aggregate(session(), s, time.Time{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := WriteDetailPlot(io.Discard, o, s, 150); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	const most = 28 << 20 // in sum; less is held at a time
	if taken := after.TotalAlloc - before.TotalAlloc; taken > most {
		t.Errorf("%d bytes were allocated", taken)
	}
}
