package dataset

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/voxcam/voxcam/cam"
)

// A Complaint is one thing that is wrong with a configuration.
type Complaint struct {
	Line int    // 0 if no line of the file is at fault
	Flag string // the flag that is at fault, with its dashes; empty if none is
	Key  string // section.key; may be empty
	Text string
}

// ConfigError lists everything that is wrong with a configuration.
type ConfigError struct {
	Path       string // empty if there is no file
	Complaints []Complaint
}

func newConfigError(path string, complaints []Complaint) *ConfigError {
	slices.SortStableFunc(complaints, func(a, b Complaint) int { return a.Line - b.Line })
	return &ConfigError{Path: path, Complaints: complaints}
}

func (e *ConfigError) Error() string {
	lines := make([]string, len(e.Complaints))
	for i, c := range e.Complaints {
		if c.Flag != "" {
			lines[i] = c.Flag + " " + c.Text
			continue
		}
		where := e.Path
		if where == "" {
			where = "configuration"
		}
		if c.Line > 0 {
			where += fmt.Sprintf(":%d", c.Line)
		}
		what := c.Text
		if c.Key != "" {
			what = c.Key + " " + what
		}
		lines[i] = where + ": " + what
	}
	return strings.Join(lines, "\n")
}

// document is a TOML file with the place of each of its keys.
type document struct {
	tables []entry // headers in the order of the file
	values []entry
}

type entry struct {
	path  []string
	line  int
	value any // of keys
}

func (d *document) hasTable(name string) bool {
	return slices.ContainsFunc(d.tables, func(e entry) bool { return e.path[0] == name })
}

func (e entry) name() string { return strings.Join(e.path, ".") }

// readTOML parses twice: the decoder finds the values and all faults of syntax, the parser below it tells the lines.
func readTOML(path string, text []byte) (*document, error) {
	values := map[string]any{}
	if err := toml.Unmarshal(text, &values); err != nil {
		c := Complaint{Text: strings.TrimPrefix(err.Error(), "toml: ")}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			c.Line, _ = de.Position()
		}
		return nil, newConfigError(path, []Complaint{c})
	}
	doc := &document{}
	var p unstable.Parser
	p.Reset(text)
	var table []string
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			var line int
			table, line = keyPath(&p, e, nil)
			doc.tables = append(doc.tables, entry{path: table, line: line})
		case unstable.KeyValue:
			doc.addValue(&p, e, table, values)
		}
	}
	return doc, p.Error()
}

func keyPath(p *unstable.Parser, e *unstable.Node, prefix []string) (path []string, line int) {
	path = slices.Clone(prefix)
	for it := e.Key(); it.Next(); {
		if line == 0 {
			line = p.Shape(it.Node().Raw).Start.Line
		}
		path = append(path, string(it.Node().Data))
	}
	return path, line
}

func (d *document) addValue(p *unstable.Parser, e *unstable.Node, table []string, values map[string]any) {
	path, line := keyPath(p, e, table)
	if v := e.Value(); v.Kind == unstable.InlineTable {
		d.tables = append(d.tables, entry{path: path, line: line})
		for it := v.Children(); it.Next(); {
			d.addValue(p, it.Node(), path, values)
		}
		return
	}
	d.values = append(d.values, entry{path: path, line: line, value: lookUp(values, path)})
}

// lookUp follows a path; it ends in nil in an array of tables, which no key of ours is.
func lookUp(values map[string]any, path []string) any {
	var v any = values
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// fill sets the fields from a file of our own keys.
func (c *Config) fill(doc *document) []Complaint {
	var complaints []Complaint
	byName := map[string]*key{}
	sections := []string{}
	for i, k := range keys {
		byName[k.name] = &keys[i]
		section := k.name[:strings.LastIndexByte(k.name, '.')]
		if !slices.Contains(sections, section) {
			sections = append(sections, section)
		}
	}
	unknown := map[string]bool{}
	for _, t := range doc.tables {
		if name := t.name(); !slices.Contains(sections, name) && byName[name] == nil && !unknown[name] {
			unknown[name] = true
			complaints = append(complaints, Complaint{Line: t.line,
				Text: fmt.Sprintf("unknown section [%s]%s", name, didYouMean(name, sections))})
		}
	}
	for _, e := range doc.values {
		name := e.name()
		section := strings.Join(e.path[:len(e.path)-1], ".")
		if unknown[section] {
			continue
		}
		if section == "explain.conventions" {
			s, ok := e.value.(string)
			if !ok {
				complaints = append(complaints, Complaint{Line: e.line, Key: name, Text: wrongType(e.value, "a text in quotes").Error()})
				continue
			}
			if c.Explain.Conventions == nil {
				c.Explain.Conventions = map[string]string{}
			}
			c.Explain.Conventions[e.path[len(e.path)-1]] = s
			if _, err := cam.Choose(nil, map[string]string{e.path[len(e.path)-1]: s}); err != nil {
				complaints = append(complaints, Complaint{Line: e.line, Key: name, Text: fmt.Sprintf("is %q: %v", s, err)})
				delete(c.Explain.Conventions, e.path[len(e.path)-1])
			}
			continue
		}
		k := byName[name]
		if k == nil {
			complaints = append(complaints, Complaint{Line: e.line, Text: fmt.Sprintf("unknown key %s%s", name, nearestKey(name))})
			continue
		}
		c.lines[name] = e.line
		err := k.set(c, e.value)
		if err == nil && k.check != nil {
			err = k.check(c)
		}
		if err != nil {
			complaints = append(complaints, Complaint{Line: e.line, Key: name, Text: err.Error()})
		}
	}
	return complaints
}

func nearestKey(name string) string {
	names := make([]string, 0, len(keys))
	for _, k := range keys {
		names = append(names, k.name)
	}
	// A key in the wrong section is a more likely mistake than one with another spelling.
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, n := range names {
		if n[strings.LastIndexByte(n, '.')+1:] == last {
			return "; did you mean " + n + "?"
		}
	}
	if len(name) > longName {
		return ""
	}
	best, distance := "", len(name)
	for _, n := range names {
		if d := levenshtein.ComputeDistance(name, n); d < distance {
			best, distance = n, d
		}
	}
	if best == "" {
		return ""
	}
	return "; the nearest known key is " + best
}

// longName is the length from which nobody meant another word: looking for the nearest takes time by the length.
const longName = 200

// didYouMean suggests the nearest of some words, if any is near.
func didYouMean(word string, words []string) string {
	if len(word) > longName {
		return ""
	}
	best, distance := "", 1+len(word)/2
	for _, w := range words {
		if d := levenshtein.ComputeDistance(strings.ToLower(word), strings.ToLower(w)); d < distance {
			best, distance = w, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}
