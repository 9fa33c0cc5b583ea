package layer

import (
	"fmt"
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/op"
	"github.com/voxcam/voxcam/internal/tensor"
)

// nameAxes names the axes of the graph's values, one letter each (ir.Target.Axes), where they follow from what the operations
// mean: images are channels-last, a matrix product with weights has its channels last, and the rest carries names along.
func nameAxes(g *ir.Graph) map[*ir.Value]string {
	axes := map[*ir.Value]string{}
	for _, v := range g.Inputs {
		if len(v.Shape()) == 5 {
			axes[v] = "NCDHW"
		}
	}
	for _, n := range g.Nodes {
		v := n.Out()
		var name string
		first := ""
		for _, in := range n.Inputs {
			if in != nil && axes[in] != "" && len(in.Shape()) == len(v.Shape()) {
				first = axes[in]
				break
			}
		}
		switch n.Op {
		case op.Conv, op.ConvBackwardData, op.MaxPool, op.AvgPool:
			name = "NDHWC"
		case op.Transpose:
			if first != "" {
				for _, p := range n.Attr.(op.TransposeAttr).Perm {
					name += string(first[p])
				}
			}
		case op.Reshape:
			name = reshapedAxes(axes[n.Inputs[0]], n.Inputs[0].Shape(), v.Shape())
		case op.MatMul:
			if n.Inputs[1].Const != nil && len(n.Inputs[1].Shape()) == 2 {
				name = lastIsChannel(first, len(v.Shape()))
			}
		case op.LayerNorm:
			if n.Attr.(op.LayerNormAttr).Axes == 1 {
				name = lastIsChannel(first, len(v.Shape()))
			}
		default:
			name = first
		}
		for _, o := range n.Outputs {
			axes[o] = name
		}
	}
	return axes
}

func lastIsChannel(known string, rank int) string {
	if strings.HasSuffix(known, "C") {
		return known
	}
	return map[int]string{5: "NDHWC", 3: "NTC", 2: "NC"}[rank]
}

// reshapedAxes carries names over a reshape that joins, splits or keeps axes: D, H and W together are T; axes of 1 are N.
func reshapedAxes(axes string, from, to tensor.Shape) string {
	if axes == "" {
		return ""
	}
	out := make([]byte, len(to))
	i, j := 0, 0
	for j < len(to) || i < len(from) {
		var name, places []int
		p, q := 1, 1
		take := func() {
			if i < len(from) && (p <= q) {
				p *= from[i]
				if from[i] != 1 {
					name = append(name, i)
				}
				i++
			} else if j < len(to) {
				q *= to[j]
				out[j] = 'N'
				if to[j] != 1 {
					places = append(places, j)
				}
				j++
			}
		}
		for {
			before := i + j
			take()
			if p == q || i+j == before {
				break
			}
		}
		if p != q {
			return ""
		}
		letters := ""
		for _, a := range name {
			letters += string(axes[a])
		}
		switch {
		case len(places) == 0:
		case len(places) == len(letters):
			for k, a := range places {
				if from[name[k]] != to[a] {
					return ""
				}
				out[a] = letters[k]
			}
		case len(places) == 1 && strings.Trim(letters, "DHWT") == "":
			out[places[0]] = 'T'
		case letters == "T" && len(places) == 3:
			copyLetters(out, places, "DHW")
		default:
			return ""
		}
	}
	return string(out)
}

func copyLetters(out []byte, places []int, letters string) {
	for k, a := range places {
		out[a] = letters[k]
	}
}

// cells is the number of places in space that a value has, 0 when its axes are not known.
func cells(axes string, s tensor.Shape) int {
	if axes == "" {
		return 0
	}
	n := 1
	for i, a := range axes {
		if strings.ContainsRune("DHWT", a) {
			n *= s[i]
		}
	}
	return n
}

var layouts = map[string]map[int]string{
	"channels-first": {5: "NCDHW", 4: "CDHW", 3: "NCT"},
	"channels-last":  {5: "NDHWC", 4: "DHWC", 3: "NTC"},
}

// place names the axes of the target and finds its grid.
func (idx *index) place(t *Target, req Request) error {
	s := t.Value.Shape()
	switch req.Layout {
	case "", "auto":
		t.Axes = idx.axes[t.Value]
		if t.Axes == "" || !strings.Contains(t.Axes, "C") {
			t.Axes = layouts["channels-first"][len(s)]
			if len(s) == 3 {
				t.Axes = layouts["channels-last"][3]
			}
			if t.Axes != "" {
				t.Warnings = append(t.Warnings, fmt.Sprintf("the axes of layer %q %v are taken to be %s; name them with --layer-layout if that is wrong", t.Label, s, t.Axes))
			}
		}
	case "channels-first", "channels-last":
		t.Axes = layouts[req.Layout][len(s)]
	default:
		return fmt.Errorf("layer layout %q is none of auto, channels-first, channels-last", req.Layout)
	}
	if len(t.Axes) != len(s) {
		return fmt.Errorf("layer %q is %v: it has no axes in space to show", t.Label, s)
	}
	if n := strings.IndexByte(t.Axes, 'N'); n >= 0 && s[n] != 1 && !strings.Contains(t.Axes, "D") {
		t.Axes = strings.Replace(t.Axes, "N", "D", 1) // slices as a batch
	}
	if req.Grid != [3]int{} && !strings.Contains(t.Axes, "T") {
		return fmt.Errorf("a token grid is given, but layer %q is %v with axes %s: it has no tokens to place", t.Label, s, t.Axes)
	}
	t.Grid = [3]int{1, 1, 1}
	for i, a := range t.Axes {
		switch {
		case a == 'N' && s[i] != 1:
			return fmt.Errorf("layer %q is %v with a batch of %d: it shows no single volume (a value inside attention windows?); choose a layer outside", t.Label, s, s[i])
		case a == 'T':
			grid, err := idx.grid(t, s[i], req)
			if err != nil {
				return err
			}
			t.Grid = grid
		case strings.ContainsRune("DHW", a):
			t.Grid[strings.IndexRune("DHW", a)] = s[i]
		}
	}
	if !strings.ContainsAny(t.Axes, "DHWT") {
		return fmt.Errorf("layer %q is %v: it has no axes in space to show; choose a layer before the global pooling", t.Label, s)
	}
	return nil
}

// grid places tokens in space. There may be one more token than cells: the class token in front.
func (idx *index) grid(t *Target, tokens int, req Request) ([3]int, error) {
	product := func(g [3]int) int { return g[0] * g[1] * g[2] }
	fits := func(g [3]int) bool { return product(g) == tokens || product(g) == tokens-1 }
	if product(req.Grid) > 0 {
		if !fits(req.Grid) {
			return req.Grid, fmt.Errorf("layer %q has %d tokens, which the token grid %v does not hold (with or without a class token)", t.Label, tokens, req.Grid)
		}
		return req.Grid, nil
	}
	// The convolution that cut the volume into patches knows.
	for _, n := range idx.m.Graph.Nodes {
		if s := n.Out().Shape(); n.Op == op.Conv && len(s) == 5 && fits([3]int(s[1:4])) {
			return [3]int(s[1:4]), nil
		}
		if n.Out() == t.Value {
			break
		}
	}
	var found [][3]int
	for _, cells := range []int{tokens, tokens - 1} {
		for d := 1; d <= cells; d++ {
			for h := 1; cells%d == 0 && h <= cells/d; h++ {
				g := [3]int{d, h, cells / d / h}
				if product(g) == cells && req.Volume[0]*g[1] == req.Volume[1]*g[0] && req.Volume[1]*g[2] == req.Volume[2]*g[1] {
					found = append(found, g)
				}
			}
		}
	}
	if len(found) != 1 {
		return [3]int{}, fmt.Errorf("layer %q has %d tokens and their places in space are not in the file: give --token-grid depth,height,width", t.Label, tokens)
	}
	return found[0], nil
}
