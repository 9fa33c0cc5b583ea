package ir

import (
	"bufio"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/internal/tensor"
)

// The text form of a graph, one line a value, node, output or target:
//
//	input %0 "volume" f32[1,4,4,4,1]
//	const %1 "w" f32[2,1,1,1,1] = 0.5 -1
//	node %2 "y" = Conv(%0, %1, _) {Stride=[1,1,1] ...} "name" "scope"
//	output %2
//	target %2 "NDHWC" "layer4"
//
// It is lossless: Parse of the output of Write gives the same graph.

// Write prints g. With elide, the data of constants of more than eight elements are left out; such a text cannot be parsed.
func (g *Graph) Write(w io.Writer, elide bool) error {
	out := bufio.NewWriter(w)
	for _, v := range g.Inputs {
		fmt.Fprintf(out, "input %v %q %v\n", v, v.Name, v.Type)
	}
	seen := map[*Value]bool{}
	constant := func(v *Value) {
		if v == nil || v.Const == nil || seen[v] {
			return
		}
		seen[v] = true
		fmt.Fprintf(out, "const %v %q %v =", v, v.Name, v.Type)
		if elide && v.Const.Len() > 8 {
			out.WriteString(" ...")
		} else {
			for i := range v.Const.Len() {
				out.WriteByte(' ')
				out.WriteString(strconv.FormatFloat(v.Const.At(i), 'g', -1, 64))
			}
		}
		out.WriteByte('\n')
	}
	for _, n := range g.Nodes {
		args := make([]string, len(n.Inputs))
		for i, v := range n.Inputs {
			constant(v)
			args[i] = "_"
			if v != nil {
				args[i] = v.String()
			}
		}
		out.WriteString("node ")
		for i, v := range n.Outputs {
			if i > 0 {
				out.WriteString(", ")
			}
			fmt.Fprintf(out, "%v %q", v, v.Name)
		}
		fmt.Fprintf(out, " = %s(%s) %s %q %q\n", n.Op.Name, strings.Join(args, ", "), formatAttr(reflect.ValueOf(n.Attr)), n.Name, n.Scope)
	}
	for _, v := range g.Outputs {
		constant(v)
		fmt.Fprintf(out, "output %v\n", v)
	}
	for _, t := range g.Targets {
		fmt.Fprintf(out, "target %v %q %q\n", t.Value, t.Axes.String(), t.Label)
	}
	return out.Flush()
}

// String returns the elided text form.
func (g *Graph) String() string {
	var b strings.Builder
	_ = g.Write(&b, true) // a strings.Builder does not fail
	return b.String()
}

func formatAttr(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Invalid:
		return "{}"
	case reflect.Struct:
		parts := make([]string, v.NumField())
		for i := range parts {
			parts[i] = v.Type().Field(i).Name + "=" + formatAttr(v.Field(i))
		}
		return "{" + strings.Join(parts, " ") + "}"
	case reflect.Slice, reflect.Array:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = formatAttr(v.Index(i))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case reflect.String:
		return strconv.Quote(v.String())
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}

// Parse reads the text form; named finds operations (op.Named).
func Parse(r io.Reader, named func(string) (*Op, bool)) (*Graph, error) {
	p := &parser{g: &Graph{}, values: map[int]*Value{}, named: named}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<28)
	for n := 1; lines.Scan(); n++ {
		p.rest = strings.TrimSpace(lines.Text())
		if p.rest == "" || p.rest[0] == '#' {
			continue
		}
		if p.line(); p.err != nil {
			return nil, fmt.Errorf("graph text line %d: %w", n, p.err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("graph text: %w", err)
	}
	return p.g, p.g.Verify()
}

type parser struct {
	g      *Graph
	values map[int]*Value
	named  func(string) (*Op, bool)
	rest   string
	err    error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

// accept skips blanks and then s, if it comes next.
func (p *parser) accept(s string) bool {
	p.rest = strings.TrimLeft(p.rest, " ")
	rest, ok := strings.CutPrefix(p.rest, s)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *parser) expect(s string) {
	if !p.accept(s) {
		p.fail("%q expected at %.20q", s, p.rest)
	}
}

// word takes everything up to one of the stop characters.
func (p *parser) word(stops string) string {
	p.rest = strings.TrimLeft(p.rest, " ")
	i := strings.IndexAny(p.rest, stops)
	if i < 0 {
		i = len(p.rest)
	}
	w := p.rest[:i]
	p.rest = p.rest[i:]
	return w
}

func (p *parser) quoted() string {
	p.rest = strings.TrimLeft(p.rest, " ")
	q, err := strconv.QuotedPrefix(p.rest)
	if err != nil {
		p.fail("quoted text expected at %.20q", p.rest)
		return ""
	}
	p.rest = p.rest[len(q):]
	s, err := strconv.Unquote(q)
	if err != nil {
		p.fail("%w", err)
	}
	return s
}

func (p *parser) id() int {
	p.expect("%")
	n, err := strconv.Atoi(p.word(" ,)="))
	if err != nil {
		p.fail("value number: %w", err)
	}
	return n
}

func (p *parser) use() *Value {
	id := p.id()
	v := p.values[id]
	if v == nil {
		p.fail("%%%d is not defined", id)
	}
	return v
}

func (p *parser) define() *Value {
	v := &Value{ID: p.id()}
	v.Name = p.quoted()
	if p.values[v.ID] != nil {
		p.fail("%v is defined twice", v)
	}
	p.values[v.ID] = v
	p.g.nextID = max(p.g.nextID, v.ID+1)
	return v
}

func (p *parser) typ() (t Type) {
	elem, err := tensor.ParseType(p.word("["))
	if err != nil {
		p.fail("%w", err)
	}
	t.Elem, t.Shape = elem, tensor.Shape{}
	p.attr(reflect.ValueOf(&t.Shape).Elem())
	return t
}

func (p *parser) line() {
	switch kind := p.word(" "); kind {
	case "input":
		v := p.define()
		v.Type = p.typ()
		p.g.Inputs = append(p.g.Inputs, v)
	case "const":
		v := p.define()
		v.Type = p.typ()
		p.expect("=")
		var data []float32
		for _, w := range strings.Fields(p.rest) {
			f, err := strconv.ParseFloat(w, 32)
			if err != nil {
				p.fail("%w", err)
			}
			data = append(data, float32(f))
		}
		if len(data) != v.Shape().Elements() {
			p.fail("%d values for shape %v", len(data), v.Shape())
		}
		v.Const = tensor.Floats(data)
	case "node":
		p.node()
	case "output":
		p.g.Outputs = append(p.g.Outputs, p.use())
	case "target":
		t := Target{Value: p.use()}
		axes := p.quoted()
		t.Label = p.quoted()
		if p.err != nil {
			break
		}
		var err error
		if t.Axes, err = ParseAxes(axes, t.Value.Shape()); err != nil {
			p.fail("%w", err)
		}
		p.g.Targets = append(p.g.Targets, t)
	default:
		p.fail("unknown line %q", kind)
	}
}

func (p *parser) node() {
	n := &Node{}
	for {
		n.Outputs = append(n.Outputs, p.define())
		if p.err != nil || !p.accept(",") {
			break
		}
	}
	p.expect("=")
	name := p.word("(")
	op, ok := p.named(name)
	if !ok {
		p.fail("unknown operation %q", name)
		return
	}
	n.Op = op
	p.expect("(")
	for p.err == nil && !p.accept(")") {
		if p.accept("_") {
			n.Inputs = append(n.Inputs, nil)
		} else {
			n.Inputs = append(n.Inputs, p.use())
		}
		p.accept(",")
	}
	if op.Attr != nil {
		attr := reflect.New(reflect.TypeOf(op.Attr)).Elem()
		p.attr(attr)
		n.Attr = attr.Interface()
	} else {
		p.expect("{")
		p.expect("}")
	}
	n.Name, n.Scope = p.quoted(), p.quoted()
	if p.err != nil {
		return
	}
	types, err := op.infer(n.Attr, n.Inputs)
	if err != nil || len(types) != len(n.Outputs) {
		p.fail("%s: %d outputs: %w", name, len(n.Outputs), err)
		return
	}
	for i, v := range n.Outputs {
		v.Type, v.Def = types[i], n
	}
	p.g.Nodes = append(p.g.Nodes, n)
}

// attr reads the output of formatAttr into v.
func (p *parser) attr(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		p.expect("{")
		for i := range v.NumField() {
			p.expect(v.Type().Field(i).Name)
			p.expect("=")
			p.attr(v.Field(i))
		}
		p.expect("}")
	case reflect.Slice:
		p.expect("[")
		for p.err == nil && !p.accept("]") {
			e := reflect.New(v.Type().Elem()).Elem()
			p.attr(e)
			v.Set(reflect.Append(v, e))
			p.accept(",")
		}
	case reflect.Array:
		p.expect("[")
		for i := range v.Len() {
			p.attr(v.Index(i))
			p.accept(",")
		}
		p.expect("]")
	case reflect.String:
		v.SetString(p.quoted())
	default:
		w := p.word(" ,]}")
		var err error
		switch v.Kind() {
		case reflect.Int:
			var i int64
			i, err = strconv.ParseInt(w, 10, 64)
			v.SetInt(i)
		case reflect.Float64:
			var f float64
			f, err = strconv.ParseFloat(w, 64)
			v.SetFloat(f)
		case reflect.Bool:
			var b bool
			b, err = strconv.ParseBool(w)
			v.SetBool(b)
		default:
			err = fmt.Errorf("attributes of type %v have no text form", v.Type())
		}
		if err != nil {
			p.fail("%w", err)
		}
	}
}
