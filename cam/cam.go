// Package cam has the attribution methods: the needs of each, its formula in every convention that has a name, and the way from its
// signed map to a heatmap. It is pure arithmetic on slices; it runs no model and reads no file. It also has the types in which
// models are asked and answer: Request and Result with their parts, the errors of memory and devices, and the facts about a model before
// it explains anything (Summary, Fit).
//
// A Method is a row of the table in methods.go. Its Conventions are the variants of its formula that people publish under the
// same name; the first is the default. docs/architecture.md lists what a new method takes.
//
//	names, err := cam.Expand("both,smoothgrad")               // gradcam, gradcam++, smoothgrad
//	choices, err := cam.Choose(names, nil)                    // rows with their default conventions
//	m, err := choices[0].LayerMap(cam.LayerPoint{Activation: a, Gradient: g, Channels: c})
//	heat, finding, err := choices[0].Heatmap(m, layerDims, volumeDims)
//
// Vocabulary: A is the activation of the target layer and g the gradient of the class score S (before softmax) by A, both
// channels-last [voxels, C] with voxels = d*h*w of the layer; x is the volume as the network sees it, dS/dx its gradient,
// channels-last [D*H*W, channels]. A map is signed, [d,h,w] for methods that look at a layer and [D,H,W] for those that look at
// the input. A heatmap is [D,H,W] in [0, 1].
package cam

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/internal/option"
)

// Method is one attribution method.
type Method struct {
	Name     string
	Citation string
	// Groups are the names under which Expand includes the method.
	Groups []string
	// Positive methods show evidence for the class only: ReLU comes before up-sampling. All that look at a layer do.
	Positive    bool
	Conventions []Convention // at least one; the first is the default
}

// Convention is one formula of a method.
type Convention struct {
	Name    string
	Formula string // for people: reports and documentation print it
	rule    rule
}

// Choice is a method in one of its conventions.
type Choice struct {
	Method
	Convention Convention
}

// Key names the choice's formula, for example "gradcam++/paper". Implementations on other devices are found by it.
func (c Choice) Key() string { return c.Name + "/" + c.Convention.Name }

// Methods returns the names of all methods in the table's order.
func Methods() []string {
	names := make([]string, len(table))
	for i := range table {
		names[i] = table[i].Name
	}
	return names
}

// Lookup returns the method of that name.
func Lookup(name string) (Method, error) {
	for i := range table {
		if table[i].Name == name {
			return table[i], nil
		}
	}
	return Method{}, &UnknownError{What: "method", Name: name, Known: append(Methods(), Groups()...)}
}

// Default is the convention that is used when none is named.
func (m Method) Default() Choice { return Choice{m, m.Conventions[0]} }

// In returns the method in the named convention; an empty name is the default.
func (m Method) In(convention string) (Choice, error) {
	if convention == "" {
		return m.Default(), nil
	}
	known := make([]string, len(m.Conventions))
	for i, c := range m.Conventions {
		if c.Name == convention {
			return Choice{m, c}, nil
		}
		known[i] = c.Name
	}
	return Choice{}, &UnknownError{What: "convention of " + m.Name, Name: convention, Known: known}
}

// Expand turns a comma-separated list of methods and groups ("both", "all") into method names, each once, in the order of their
// first mention. Case and blanks do not matter.
func Expand(list string) ([]string, error) {
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.ToLower(strings.TrimSpace(item))
		switch members := group(item); {
		case item == "":
		case len(members) > 0:
			for _, name := range members {
				add(name)
			}
		default:
			if _, err := Lookup(item); err != nil {
				return nil, err
			}
			add(item)
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no method is named: choose from %s", strings.Join(append(Methods(), Groups()...), ", "))
	}
	return names, nil
}

// Choose looks up methods by name, each in its convention of the map (method to convention) or in its default. A convention for
// a method that is not in names is checked and has no further effect.
func Choose(names []string, conventions map[string]string) ([]Choice, error) {
	for name, convention := range conventions {
		m, err := Lookup(name)
		if err != nil {
			return nil, err
		}
		if _, err := m.In(convention); err != nil {
			return nil, err
		}
	}
	choices := make([]Choice, 0, len(names))
	for _, name := range names {
		m, err := Lookup(name)
		if err != nil {
			return nil, err
		}
		c, err := m.In(conventions[name])
		if err != nil {
			return nil, err
		}
		choices = append(choices, c)
	}
	return choices, nil
}

// ParseConventions reads "gradcam++=paper,smoothgrad=captum" into the map that Choose takes. Names are checked by Choose.
func ParseConventions(list string) (map[string]string, error) {
	conventions := map[string]string{}
	for item := range strings.SplitSeq(list, ",") {
		item = strings.ToLower(strings.TrimSpace(item))
		if item == "" {
			continue
		}
		name, convention, ok := strings.Cut(item, "=")
		name, convention = strings.TrimSpace(name), strings.TrimSpace(convention)
		if !ok || name == "" || convention == "" {
			return nil, fmt.Errorf("convention %q: write METHOD=CONVENTION, for example gradcam++=paper", item)
		}
		if was, twice := conventions[name]; twice && was != convention {
			return nil, fmt.Errorf("%s is given two conventions, %s and %s: choose one", name, was, convention)
		}
		conventions[name] = convention
	}
	return conventions, nil
}

// Groups returns the names of the groups of methods, which Expand takes too.
func Groups() (names []string) {
	for i := range table {
		for _, g := range table[i].Groups {
			if !slices.Contains(names, g) {
				names = append(names, g)
			}
		}
	}
	return names
}

// group returns the methods of a group in the table's order.
func group(name string) (members []string) {
	for i := range table {
		if slices.Contains(table[i].Groups, name) {
			members = append(members, table[i].Name)
		}
	}
	return members
}

// UnknownError is a name that is not in the table.
type UnknownError struct {
	What  string // "method", "convention of gradcam++"
	Name  string
	Known []string
}

// Nearest returns the known name with the fewest edits to the written one, or "" when none resembles it.
func (e *UnknownError) Nearest() string {
	return option.Nearest(e.Name, e.Known, 1+max(2, len(e.Name)/3))
}

func (e *UnknownError) Error() string {
	hint := ""
	if n := e.Nearest(); n != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", n)
	}
	return fmt.Sprintf("unknown %s %q%s: choose from %s", e.What, e.Name, hint, strings.Join(e.Known, ", "))
}
