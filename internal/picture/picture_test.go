package picture

import (
	"bytes"
	"image/png"
	"math"
	"reflect"
	"testing"

	"golang.org/x/image/tiff"

	"github.com/voxcam/voxcam/volume"
)

func near(a, b [3]uint8) bool {
	for i := range a {
		if math.Abs(float64(a[i])-float64(b[i])) > 3 {
			return false
		}
	}
	return true
}

func TestJet(t *testing.T) {
	// matplotlib.colormaps["jet"](x, bytes=True)
	for x, want := range map[float32][3]uint8{
		-1: {0, 0, 127}, 0: {0, 0, 127}, 0.125: {0, 0, 255}, 0.25: {0, 128, 255}, 0.375: {21, 255, 225},
		0.5: {124, 255, 121}, 0.75: {255, 148, 0}, 0.9: {241, 7, 0}, 1: {127, 0, 0}, 2: {127, 0, 0},
		float32(math.NaN()): {0, 0, 127},
	} {
		if got := Jet(x); !near(got, want) {
			t.Errorf("Jet(%v) = %v, want %v", x, got, want)
		}
	}
}

func TestWindow(t *testing.T) {
	w := FullWindow([]float32{3, -1, 7})
	if w != (Window{-1, 7}) || w.Grey(-1) != 0 || w.Grey(7) != 255 || w.Grey(3) != 128 || w.Grey(99) != 255 {
		t.Errorf("%v %d", w, w.Grey(3))
	}
	if FullWindow([]float32{5, 5}).Grey(5) != 0 {
		t.Error("a constant volume is black")
	}
}

func view(t *testing.T, alpha float64) *View {
	t.Helper()
	v := volume.New(1, 3, 4, 5)
	heat := make([]float32, v.Voxels())
	for i := range v.Data {
		v.Data[i] = float32(i)
		heat[i] = float32(i) / float32(len(heat)-1)
	}
	view, err := NewView(v, FullWindow(v.Data), heat, alpha)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

func TestStacks(t *testing.T) {
	v := view(t, 0.4)
	var heat, overlay bytes.Buffer
	if err := v.WriteHeatmap(&heat); err != nil {
		t.Fatal(err)
	}
	if err := v.WriteOverlay(&overlay); err != nil {
		t.Fatal(err)
	}
	// x/image reads the first page of a file.
	h, err := tiff.Decode(&heat)
	if err != nil {
		t.Fatal(err)
	}
	o, err := tiff.Decode(&overlay)
	if err != nil {
		t.Fatal(err)
	}
	if h.Bounds().Dx() != 5 || h.Bounds().Dy() != 4 {
		t.Fatalf("page of %v", h.Bounds())
	}
	i := 2*5 + 3 // row 2, column 3 of slice 0
	colour, grey := Jet(v.Heat[i]), v.Window.Grey(v.Grey[i])
	r, g, b, _ := h.At(3, 2).RGBA()
	if got := [3]uint8{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8)}; got != colour {
		t.Errorf("heatmap %v, want %v", got, colour)
	}
	r, g, b, _ = o.At(3, 2).RGBA()
	want := [3]uint8{}
	for c := range want {
		want[c] = uint8(math.Round(0.6*float64(grey) + 0.4*float64(colour[c])))
	}
	if got := [3]uint8{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8)}; got != want {
		t.Errorf("overlay %v, want %v", got, want)
	}
}

func TestViewRefusesAnotherGrid(t *testing.T) {
	v := volume.New(1, 2, 2, 2)
	if _, err := NewView(v, Window{}, make([]float32, 7), 0.4); err == nil {
		t.Error("no error")
	}
}

func TestEvenSlices(t *testing.T) {
	for depth, want := range map[int][]int{1: {0, 0, 0, 0, 0, 0}, 6: {0, 1, 2, 3, 4, 5}, 192: {0, 38, 76, 114, 152, 191}} {
		if got := EvenSlices(depth, 6); !reflect.DeepEqual(got, want) {
			t.Errorf("%d: %v, want %v", depth, got, want)
		}
	}
}

func TestSheet(t *testing.T) {
	v := view(t, 1) // the heatmap alone, so that colours are known
	single := &Sheet{Title: []string{"case"}, Rows: []Row{{Label: "gradcam", View: v}}}
	var whole, thin bytes.Buffer
	if err := single.WritePNG(&whole); err != nil {
		t.Fatal(err)
	}
	if err := (&Sheet{Title: single.Title, Rows: []Row{{Label: "gradcam", View: v.Thin(SheetSlices)}}}).WritePNG(&thin); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(whole.Bytes(), thin.Bytes()) {
		t.Error("a thinned view makes another sheet")
	}
	several := &Sheet{Title: []string{"case", "a very long line " + string(bytes.Repeat([]byte("W"), 400))},
		Rows: []Row{{Label: "gradcam", View: v}, {Label: "vargrad", Note: "failed: because"}, {Label: "smoothgrad", View: v}}}
	for name, s := range map[string]*Sheet{"single": single, "several": several} {
		var b bytes.Buffer
		if err := s.WritePNG(&b); err != nil {
			t.Fatal(err)
		}
		img, err := png.Decode(&b)
		if err != nil {
			t.Fatal(err)
		}
		// All slices share one scale: slice 0 is in the blue third everywhere, not stretched to the whole of jet.
		top := gap + len(s.Title)*lineHeight + lineHeight
		for x := gap; x < gap+panelSize; x += 10 {
			r, _, b, _ := img.At(x, top+100).RGBA()
			if r > b {
				t.Errorf("%s: red in slice 0 at %d", name, x)
				break
			}
		}
		if name == "single" && img.Bounds().Dx() > 4*panelSize {
			t.Errorf("single sheet is %v", img.Bounds())
		}
	}
}
