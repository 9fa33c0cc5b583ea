package ir

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/internal/tensor"
)

// Axes gives the meaning of each axis of a value.
//
// As text an axis is a letter, or the sum of its positions in brackets: "N(1+D3*H3*W3)C" is a batch, a class token in front of the
// tokens of 3 x 3 x 3 cells, width fastest, and channels. A minus marks a letter that runs backwards: "(-D8)".
type Axes []Axis

// Axis is a product of parts, the outermost first, with positions of no place in space (class tokens) in front of them and behind.
type Axis struct {
	Before, After int
	Parts         []Part
}

// Part is a letter and its size: N batch, C channels, D H W depth, height and width.
type Part struct {
	Letter   byte
	Size     int
	Reversed bool // position 0 is the last one in the volume
}

// Letter returns the letter of an axis that is one part and nothing else, and 0 of any other.
func (a Axis) Letter() byte {
	if a.Before == 0 && a.After == 0 && len(a.Parts) == 1 && !a.Parts[0].Reversed {
		return a.Parts[0].Letter
	}
	return 0
}

// Size returns the number of positions.
func (a Axis) Size() int {
	n := 1
	for _, p := range a.Parts {
		n *= p.Size
	}
	return a.Before + n + a.After
}

func (a Axis) String() string {
	if l := a.Letter(); l != 0 {
		return string(l)
	}
	var parts, sum []string
	for _, p := range a.Parts {
		text := string(p.Letter) + strconv.Itoa(p.Size)
		if p.Reversed {
			text = "-" + text
		}
		parts = append(parts, text)
	}
	if a.Before > 0 {
		sum = append(sum, strconv.Itoa(a.Before))
	}
	sum = append(sum, strings.Join(parts, "*"))
	if a.After > 0 {
		sum = append(sum, strconv.Itoa(a.After))
	}
	return "(" + strings.Join(sum, "+") + ")"
}

func (a Axes) String() string {
	var out strings.Builder
	for _, axis := range a {
		out.WriteString(axis.String())
	}
	return out.String()
}

// Permute returns the axes in another order: axis i of the result is axis perm[i].
func (a Axes) Permute(perm []int) Axes {
	out := make(Axes, len(a))
	for i, p := range perm {
		out[i] = a[p]
	}
	return out
}

// ParseAxes reads the text of Axes, for a value of the given shape.
func ParseAxes(text string, shape tensor.Shape) (Axes, error) {
	var axes Axes
	for rest := text; rest != ""; {
		size := 0
		if len(axes) < len(shape) {
			size = shape[len(axes)]
		}
		if rest[0] != '(' {
			axes = append(axes, Axis{Parts: []Part{{Letter: rest[0], Size: size}}})
			rest = rest[1:]
			continue
		}
		inner, after, closed := strings.Cut(rest[1:], ")")
		axis, err := parseAxis(inner)
		if err != nil || !closed {
			return nil, fmt.Errorf("axes %q: %q is no sum of tokens in front, letters with sizes such as D3*H3*W3, and tokens behind", text, inner)
		}
		axes, rest = append(axes, axis), after
	}
	if len(axes) != len(shape) {
		return nil, fmt.Errorf("axes %q name %d axes, where the shape is %v", text, len(axes), shape)
	}
	for i, a := range axes {
		if a.Size() != shape[i] {
			return nil, fmt.Errorf("axes %q: axis %d has %d positions, where the shape is %v", text, i, a.Size(), shape)
		}
	}
	return axes, nil
}

func parseAxis(text string) (axis Axis, err error) {
	for _, term := range strings.Split(text, "+") {
		if n, err := strconv.Atoi(term); err == nil && n > 0 {
			if axis.Parts == nil {
				axis.Before += n
			} else {
				axis.After += n
			}
			continue
		}
		if axis.Parts != nil {
			return axis, fmt.Errorf("two products")
		}
		for _, factor := range strings.Split(term, "*") {
			name, reversed := strings.CutPrefix(factor, "-")
			if name == "" {
				return axis, fmt.Errorf("an empty factor")
			}
			size, err := strconv.Atoi(name[1:])
			if err != nil || size < 1 {
				return axis, fmt.Errorf("no size")
			}
			axis.Parts = append(axis.Parts, Part{Letter: name[0], Size: size, Reversed: reversed})
		}
	}
	return axis, nil
}
