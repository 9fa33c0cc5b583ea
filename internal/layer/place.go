package layer

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/tensor"
)

// Layouts are the layouts that have a name. Other layouts are letters, one for each axis of the layer.
var Layouts = []string{"auto", "channels-first", "channels-last"}

// named are the letters that a name stands for, by the number of axes.
var named = map[string]map[int]string{
	"channels-first": {5: "NCDHW", 4: "CDHW", 3: "NCT"},
	"channels-last":  {5: "NDHWC", 4: "DHWC", 3: "NTC"},
}

// LayoutHelp describes the spelling of a layout.
const LayoutHelp = "auto, channels-first, channels-last, or a letter for each axis: N (batch), C (channels), D H W (depth, height, width), " +
	"T (tokens), such as NDHWC or DTC (slices with tokens)"

// CheckLayout returns an error if text is no layout.
func CheckLayout(text string) error {
	if text == "" || slices.Contains(Layouts, text) {
		return nil
	}
	for i, l := range []byte(text) {
		if strings.IndexByte("NCDHWT", l) < 0 {
			return fmt.Errorf("layer layout %q: %q is not known; it is %s", text, l, LayoutHelp)
		}
		if strings.IndexByte(text, l) != i {
			return fmt.Errorf("layer layout %q has %c twice", text, l)
		}
	}
	if !strings.Contains(text, "C") || !strings.ContainsAny(text, "DHWT") {
		return fmt.Errorf("layer layout %q lacks channels (C) or a place in space (D, H, W or T)", text)
	}
	if strings.Contains(text, "T") && strings.Contains(text, "D") && strings.Contains(text, "H") && strings.Contains(text, "W") {
		return fmt.Errorf("layer layout %q has tokens (T) beside D, H and W: there is nothing left for them to stand for", text)
	}
	return nil
}

// place names the axes of the target and finds its grid: as the graph says, or as the request does.
func (idx *index) place(t *Match, req Request) error {
	if err := CheckLayout(req.Layout); err != nil {
		return err
	}
	s := t.Value.Shape()
	traced, unknown := idx.axes[t.Value].public()
	switch {
	case req.Layout == "" || req.Layout == "auto":
		if len(s) < 3 || unknown == nil && len(s) < 4 && !spatial(traced) { // an image may have one cell
			return fmt.Errorf("layer %q is %v: it has no axes in space to show; choose a layer before the global pooling", t.Label, s)
		}
		if unknown != nil && req.Grid == [3]int{} {
			return fmt.Errorf("layer %q %v cannot be placed in the volume: %w; choose another layer, or give its axes by the option layer_layout (such as NDHWC or NTC) "+
				"and its tokens by the option token_grid", t.Label, s, unknown)
		}
		if unknown != nil {
			return idx.given(t, req, tokensOnly(s, req))
		}
		cut, err := idx.axes[t.Value].cut()
		if err != nil {
			return fmt.Errorf("layer %q %v cannot be placed in the volume: %w; choose another layer, or a volume cut in the same way", t.Label, s, err)
		}
		for _, text := range cut {
			t.Warnings = append(t.Warnings, fmt.Sprintf("the map of layer %q is spread over the whole volume, but %s", t.Label, text))
		}
		t.Axes = traced
	default:
		letters := req.Layout
		if byRank, ok := named[letters]; ok {
			letters = byRank[len(s)]
		}
		if len(letters) != len(s) {
			return fmt.Errorf("layer %q is %v: the layout %s does not fit its %d axes", t.Label, s, req.Layout, len(s))
		}
		if err := idx.given(t, req, letters); err != nil {
			return err
		}
		if unknown == nil && t.Axes.String() != traced.String() {
			t.Warnings = append(t.Warnings, fmt.Sprintf("the axes of layer %q %v are %v in the graph; they are taken to be %v, as asked for by the layout %s",
				t.Label, s, traced, t.Axes, req.Layout))
		}
		return nil
	}
	t.Grid = grid(t.Axes)
	if req.Grid != [3]int{} && req.Grid != t.Grid {
		return fmt.Errorf("layer %q is %v, which is %s cells by the graph (axes %v), not the token grid %s; leave the grid out, or give the axes, too, by the option layer_layout",
			t.Label, s, times(t.Grid), t.Axes, times(req.Grid))
	}
	if before := prefix(t.Axes); req.Prefix != 0 && req.Prefix != before {
		return fmt.Errorf("layer %q is %v with %d tokens in front of those of the volume by the graph (axes %v), not %d; leave the number out, or give the axes, too, "+
			"by the option layer_layout", t.Label, s, before, t.Axes, req.Prefix)
	}
	return nil
}

// tokensOnly returns the layout of a layer from the grid of its tokens alone; "" where that is not enough.
func tokensOnly(s tensor.Shape, req Request) string {
	letters := []byte(strings.Repeat("N", len(s)))
	for i, n := range s {
		switch {
		case n == 1:
		case n == product(req.Grid)+req.Prefix && strings.IndexByte(string(letters), 'T') < 0:
			letters[i] = 'T'
		case strings.IndexByte(string(letters), 'C') < 0:
			letters[i] = 'C'
		default:
			return ""
		}
	}
	if strings.IndexByte(string(letters), 'T') < 0 || strings.IndexByte(string(letters), 'C') < 0 {
		return ""
	}
	return string(letters)
}

// given takes the letters, grid and tokens in front that the request states.
func (idx *index) given(t *Match, req Request, letters string) error {
	s := t.Value.Shape()
	if letters == "" {
		return fmt.Errorf("layer %q is %v: the token grid %s (and %d tokens in front) alone does not say which axis is which: give the option layer_layout, "+
			"and the option prefix_tokens if there are class tokens", t.Label, s, times(req.Grid), req.Prefix)
	}
	tokens := false
	t.Axes = nil
	for i, l := range []byte(letters) {
		axis := ir.Axis{Parts: []ir.Part{{Letter: l, Size: s[i]}}}
		switch l {
		case 'N':
			if s[i] != 1 {
				return fmt.Errorf("layer %q is %v with a batch of %d: it shows no single volume (a value inside attention windows?); if these are slices, "+
					"name the axis D in the option layer_layout, else choose a layer outside", t.Label, s, s[i])
			}
		case 'T':
			tokens = true
			parts, err := idx.tokens(t, req, letters, s[i])
			if err != nil {
				return err
			}
			axis = ir.Axis{Before: s[i] - ir.Axis{Parts: parts}.Size(), Parts: parts}
			if axis.Before != req.Prefix {
				return fmt.Errorf("layer %q has %d tokens, which are %d in front and the token grid %s: give the number in front by the option prefix_tokens, or another grid by the option token_grid",
					t.Label, s[i], axis.Before, times(req.Grid))
			}
		}
		t.Axes = append(t.Axes, axis)
	}
	t.Grid = grid(t.Axes)
	if !tokens && (req.Grid != [3]int{} && req.Grid != t.Grid || req.Prefix != 0) {
		return fmt.Errorf("a token grid or tokens in front are given, but layer %q is %v with axes %v: it has no tokens to place", t.Label, s, t.Axes)
	}
	for k, n := range t.Grid {
		if n > req.Volume[k] {
			return fmt.Errorf("layer %q %v with axes %v has %d cells for %d voxels along %s: cells are smaller than voxels, so that the axes are others (the option layer_layout), "+
				"or the grid is (the option token_grid)", t.Label, s, t.Axes, n, req.Volume[k], letterNames[k])
		}
	}
	return nil
}

// tokens returns the parts of an axis of tokens: the letters in space that have no axis of their own.
func (idx *index) tokens(t *Match, req Request, letters string, size int) (parts []ir.Part, err error) {
	if req.Grid == [3]int{} {
		return nil, fmt.Errorf("layer %q has %d tokens and their places in space are not in the file: give them by the option token_grid: depth, height, width", t.Label, size)
	}
	cells := 1
	for k, l := range []byte(space) {
		if at := strings.IndexByte(letters, l); at >= 0 {
			if n := t.Value.Shape()[at]; req.Grid[k] != 1 && req.Grid[k] != n {
				return nil, fmt.Errorf("layer %q has %d positions along %s, which the token grid %s does not fit", t.Label, n, letterNames[k], times(req.Grid))
			}
			continue
		}
		cells *= req.Grid[k]
		parts = append(parts, ir.Part{Letter: l, Size: req.Grid[k]})
	}
	if cells > size {
		return nil, fmt.Errorf("layer %q has %d tokens, which the token grid %s does not hold", t.Label, size, times(req.Grid))
	}
	return parts, nil
}

func product(g [3]int) int { return g[0] * g[1] * g[2] }

func times(g [3]int) string { return fmt.Sprintf("%dx%dx%d", g[0], g[1], g[2]) }

// grid returns the number of cells along depth, height and width.
func grid(axes ir.Axes) [3]int {
	g := [3]int{1, 1, 1}
	for _, a := range axes {
		for _, p := range a.Parts {
			if k := strings.IndexByte(space, p.Letter); k >= 0 {
				g[k] = p.Size
			}
		}
	}
	return g
}

// spatial reports whether an axis is in space.
func spatial(axes ir.Axes) bool {
	return slices.ContainsFunc(axes, func(a ir.Axis) bool {
		return slices.ContainsFunc(a.Parts, func(p ir.Part) bool { return strings.IndexByte(space, p.Letter) >= 0 })
	})
}

// prefix returns the number of tokens in front of those of the volume.
func prefix(axes ir.Axes) (n int) {
	for _, a := range axes {
		n += a.Before
	}
	return n
}
