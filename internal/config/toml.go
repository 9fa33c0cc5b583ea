package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/voxcam/voxcam/internal/option"
)

// A Complaint is one thing that is wrong with a configuration.
type Complaint struct {
	Line int    // 0 if no line of the file is at fault
	Flag string // the flag that is at fault, with its dashes; empty if none is
	Key  string // section.key; may be empty
	Text string
}

// Error lists everything that is wrong with a configuration.
type Error struct {
	Path       string // empty if there is no file
	Complaints []Complaint
}

func newError(path string, complaints []Complaint) *Error {
	slices.SortStableFunc(complaints, func(a, b Complaint) int { return a.Line - b.Line })
	return &Error{Path: path, Complaints: complaints}
}

func (e *Error) Error() string {
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
		if syntax, ok := errors.AsType[*toml.DecodeError](err); ok {
			c.Line, _ = syntax.Position()
		}
		return nil, newError(path, []Complaint{c})
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
	var sections []string
	for _, k := range c.keys() {
		if section := k.section(); !slices.Contains(sections, section) {
			sections = append(sections, section)
		}
	}
	unknown := map[string]bool{}
	for _, t := range doc.tables {
		if name := t.name(); !slices.Contains(sections, name) && c.key(name) == nil && !unknown[name] {
			unknown[name] = true
			complaints = append(complaints, Complaint{Line: t.line,
				Text: fmt.Sprintf("unknown section [%s]%s", name, option.DidYouMean(name, sections))})
		}
	}
	for _, e := range doc.values {
		if !unknown[strings.Join(e.path[:len(e.path)-1], ".")] {
			complaints = append(complaints, c.setEntry(e)...)
		}
	}
	return complaints
}

// setEntry sets the key of an entry to its value.
func (c *Config) setEntry(e entry) []Complaint {
	name := e.name()
	if strings.HasPrefix(name, conventionsKey) && len(e.path) == 3 {
		if err := c.setConvention(e.path[2], e.value); err != nil {
			return []Complaint{{Line: e.line, Key: name, Text: err.Error()}}
		}
		return nil
	}
	k := c.key(name)
	if k == nil {
		return []Complaint{{Line: e.line, Text: fmt.Sprintf("unknown key %s%s", name, c.nearestKey(name))}}
	}
	c.lines[name] = e.line
	if err := k.set(e.value); err != nil {
		return []Complaint{{Line: e.line, Key: name, Text: err.Error()}}
	}
	return nil
}

// nearestKey suggests a key in place of an unknown one. A key in the wrong section is a more likely mistake than one with another spelling.
func (c *Config) nearestKey(name string) string {
	var names []string
	for _, k := range c.keys() {
		if last(k.name) == last(name) {
			return "; did you mean " + k.name + "?"
		}
		names = append(names, k.name)
	}
	if best := option.Nearest(name, names, len(name)); best != "" {
		return "; the nearest known key is " + best
	}
	return ""
}
