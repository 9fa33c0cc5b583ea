package planview_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/internal/grad"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/plan"
	"github.com/voxcam/voxcam/internal/planview"
	"github.com/voxcam/voxcam/internal/tensor"
)

var update = flag.Bool("update", false, "write testdata")

// network is a chain of blocks with a gate over the mean of the volume each, and the gradient at its input. The names of its
// modules hold what files must not take at its word.
func network(t testing.TB, blocks, depth int) *ir.Graph {
	t.Helper()
	g := &ir.Graph{}
	x := g.Input("volume", ir.F32(1, depth, 8, 8, 4))
	b := ir.NewBuilder(g)
	v := x
	kernel := op.ConvAttr{Stride: [3]int{1, 1, 1}, Dilation: [3]int{1, 1, 1}, Before: [3]int{1, 1, 1}, After: [3]int{1, 1, 1}, Groups: 1}
	for i := range blocks {
		scope := "features." + string(rune('0'+i%10)) + strings.Repeat("'", i/10)
		b.Scope = scope + ".<conv> & \x01\xff"
		w := g.Constant("w", tensor.Shape{4, 4, 3, 3, 3}, tensor.Floats(make([]float32, 4*4*27)))
		y := b.Emit(op.UnaryOp("Silu"), op.UnaryAttr{}, b.Emit(op.Conv, kernel, v, w))
		b.Scope = scope + ".gate"
		s := b.Emit(op.UnaryOp("Sigmoid"), op.UnaryAttr{}, b.Emit(op.ReduceMean, op.ReduceAttr{Axes: []int{1, 2, 3}}, y))
		y = b.Emit(op.BinaryOp("Mul"), nil, y, s)
		b.Scope = scope
		v = b.Emit(op.BinaryOp("Add"), nil, y, v)
	}
	b.Scope = "head"
	score := b.Emit(op.ReduceSum, op.ReduceAttr{Axes: []int{0, 1, 2, 3, 4}}, v)
	if err := b.Err(); err != nil {
		t.Fatal(err)
	}
	_, gradients, err := grad.Build(g, score, []*ir.Value{x})
	if err != nil {
		t.Fatal(err)
	}
	g.Outputs = append([]*ir.Value{score}, gradients...)
	g.Prune()
	return g
}

// pass plans a network for a budget, 0 for the smallest and below 0 for whole tensors.
func pass(t testing.TB, g *ir.Graph, budget int) planview.PassPlan {
	t.Helper()
	opt := plan.Options{External: []*ir.Value{g.Inputs[0], g.Outputs[1]}}
	least, err := plan.Stream(g, opt)
	if err != nil {
		t.Fatal(err)
	}
	p := planview.PassPlan{
		Name: "gradient at the volume", Methods: []string{"saliency", "smoothgrad"}, Plan: plan.Make(g), Curve: plan.Curve(g, opt),
		Budget: max(0, budget), Smallest: least.Peak, Whole: plan.Make(g).Peak, Weights: 6912, Volume: 2 * 4 * g.Inputs[0].Shape().Elements(),
	}
	if opt.Budget = budget; budget >= 0 {
		if p.Plan, err = plan.Stream(g, opt); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

var writers = map[string]func(io.Writer, []planview.PassPlan) error{
	"txt": planview.WriteText, "svg": planview.WriteSVG, "html": planview.WriteHTML,
}

// The files for a small plan are as committed, and the same each time.
func TestGolden(t *testing.T) {
	for name, write := range writers {
		g := network(t, 2, 12)
		passes := []planview.PassPlan{pass(t, g, 0), pass(t, g, 90000)}
		var got, again bytes.Buffer
		if err := errors.Join(write(&got, passes), write(&again, passes)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), again.Bytes()) {
			t.Errorf("%s: two drawings of one plan differ", name)
		}
		file := filepath.Join("testdata", "small."+name)
		if *update {
			if err := os.WriteFile(file, got.Bytes(), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s is not as committed; go test ./internal/planview -update writes it, git diff shows what changed", file)
		}
	}
}

// Rows cover every step once, in order, and say what the plan says.
func TestRowsCoverThePlan(t *testing.T) {
	for _, blocks := range []int{1, 2, 9} {
		g := network(t, blocks, 12)
		for _, budget := range []int{-1, 0, 1 << 40} {
			p := pass(t, g, budget).Plan
			rows := planview.Rows(p)
			step, unit, full, seconds := 0, 1, 0, 0.0
			for _, r := range rows {
				if r.Step != step || r.First != unit || r.Modules == "" || len(r.Why) == 0 {
					t.Errorf("%d blocks, budget %d: row %+v does not follow step %d, unit %d", blocks, budget, r, step, unit)
				}
				step, unit, full, seconds = step+r.Steps, r.Last+1, max(full, r.Alive), seconds+r.Seconds
			}
			if step != len(p.Steps) || p.Units != nil && unit != len(p.Units)+1 {
				t.Errorf("%d blocks, budget %d: rows end at step %d of %d, unit %d of %d", blocks, budget, step, len(p.Steps), unit, len(p.Units))
			}
			if full > p.Peak || full < p.Peak*3/4 {
				t.Errorf("%d blocks, budget %d: rows hold at most %d bytes of a peak of %d", blocks, budget, full, p.Peak)
			}
			if d := seconds - p.Seconds; d > 1e-9 || d < -1e-9 {
				t.Errorf("%d blocks, budget %d: rows take %g s, the plan %g", blocks, budget, seconds, p.Seconds)
			}
		}
	}
}

// The smallest plan computes something again and says so; the largest keeps all.
func TestReasons(t *testing.T) {
	g := network(t, 3, 12)
	text := func(budget int) string {
		var b strings.Builder
		if err := planview.WriteText(&b, []planview.PassPlan{pass(t, g, budget)}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	small, large, whole := text(0), text(1<<40), text(-1)
	for _, want := range []string{"through rings of", "again instead of keeping", "the mean over the volume is complete only", "streamed to the caller"} {
		if !strings.Contains(small, want) {
			t.Errorf("the smallest plan does not say %q:\n%s", want, small)
		}
	}
	if strings.Contains(large, "again instead") || !strings.Contains(large, "kept") {
		t.Errorf("the largest plan:\n%s", large)
	}
	if !strings.Contains(whole, "every value whole as long") || strings.Contains(whole, "rings of") {
		t.Errorf("the plan of whole tensors:\n%s", whole)
	}
}

// Pictures are XML that any viewer takes, whatever modules are called, and stay below a megabyte.
func TestPicturesAreSmallAndWellFormed(t *testing.T) {
	g := network(t, 12, 320)
	large, err := plan.Stream(g, plan.Options{Budget: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	small, err := plan.Stream(g, plan.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(small.Steps) < 10000 {
		t.Fatalf("the plan has only %d steps", len(small.Steps))
	}
	p, q := planview.PassPlan{Name: "roomy", Plan: large, Budget: 1 << 40}, planview.PassPlan{Name: "tight", Plan: small}
	for _, passes := range [][]planview.PassPlan{{p}, {q}, {p, q}, {}} {
		var b bytes.Buffer
		if err := planview.WriteSVG(&b, passes); err != nil {
			t.Fatal(err)
		}
		if b.Len() > 1<<20 {
			t.Errorf("a picture of %d passes has %d bytes", len(passes), b.Len())
		}
		for d := xml.NewDecoder(&b); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestJSONHoldsTheSchedule(t *testing.T) {
	p := pass(t, network(t, 2, 12), 0)
	var b bytes.Buffer
	if err := planview.WriteJSON(&b, []planview.PassPlan{p}); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Passes []struct {
			Peak    int `json:"peak_bytes"`
			Choices []planview.Tradeoff
			Buffers []struct{ Offset, Bytes int }
			Steps   []struct {
				In, Out []int
			}
		}
	}
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	top := 0
	for i, buf := range doc.Passes[0].Buffers {
		if !p.Plan.Buffers[i].External {
			top = max(top, buf.Offset+buf.Bytes)
		}
	}
	if got := doc.Passes[0]; got.Peak != p.Plan.Peak || top != p.Plan.Peak || len(got.Steps) != len(p.Plan.Steps) || len(got.Choices) != len(p.Curve) {
		t.Errorf("the record has a peak of %d, buffers up to %d, %d steps, %d choices; the plan %d, %d steps, %d choices",
			got.Peak, top, len(got.Steps), len(got.Choices), p.Plan.Peak, len(p.Plan.Steps), len(p.Curve))
	}
}

func TestChoicesKeepBothEnds(t *testing.T) {
	p := planview.PassPlan{Whole: 1 << 20}
	for i := range 100 {
		p.Curve = append(p.Curve, plan.Point{Bytes: (1 << 20) - i*10000, Seconds: 1 + float64(i)})
	}
	for _, n := range []int{2, 5, 12} {
		got := p.Choices(n)
		if len(got) < 2 || len(got) > n+1 || got[0].Bytes != 1<<20 || got[len(got)-1].Bytes != p.Curve[99].Bytes || got[len(got)-1].Slower != 100 {
			t.Errorf("%d of 100 points: %+v", n, got)
		}
	}
	if got := p.Choices(200); len(got) != 100 || got[50].Share >= 1 {
		t.Errorf("all points: %d", len(got))
	}
	if got := (planview.PassPlan{}).Choices(5); len(got) != 0 {
		t.Errorf("a pass without a curve has the choices %v", got)
	}
}
