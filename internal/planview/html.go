package planview

import (
	"html/template"
	"io"
	"strings"
)

// page is the whole document; it loads nothing from elsewhere.
var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Memory plan: {{.Title}}</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:1240px;margin:24px auto;padding:0 16px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin:8px 0 24px}
th,td{padding:3px 10px;text-align:right;vertical-align:top;border-bottom:1px solid #8885}
.left{text-align:left}
svg{width:100%;height:auto}
.wide{overflow-x:auto}
</style>
<h1>Memory plan</h1>
<p>A plan says, before anything runs, which step writes where in the one block of memory that activations and gradients live in. A sweep
takes the volume plane by plane and holds only the planes that somebody still needs, in rings; what is not kept whole is computed again
by a later sweep. The result is the same for every budget; a smaller one costs time.</p>
{{.Picture}}
{{range .Passes}}
<h2>{{.Name}}</h2>
<table>{{range .Facts}}<tr><th class="left">{{.Name}}</th><td class="left">{{.Text}}</td></tr>
{{end}}</table>
<h3>What happens, in order</h3>
<p>Kept is what a unit leaves behind for later ones; rings are its own; alive is all that the arena holds at its fullest moment.</p>
<div class="wide">{{template "table" .Rows}}</div>
{{if .Choices.Lines}}<h3>What other budgets would cost</h3>
<div class="wide">{{template "table" .Choices}}</div>
<p>{{$.Note}}</p>{{end}}
{{end}}
</html>
{{define "table"}}<table><tr>{{range .Heads}}<th{{if .Left}} class="left"{{end}}>{{.Text}}</th>{{end}}</tr>
{{range .Lines}}<tr>{{range .}}<td{{if .Left}} class="left"{{end}}>{{.Text}}</td>{{end}}</tr>
{{end}}</table>{{end}}`))

type cell struct {
	Text string
	Left bool
}

type table struct {
	Heads []cell
	Lines [][]cell
}

func newTable[T any](columns []column[T], rows []T) (t table) {
	for _, c := range columns {
		t.Heads = append(t.Heads, cell{c.head, c.left})
	}
	for _, r := range rows {
		var line []cell
		for _, c := range columns {
			line = append(line, cell{c.cell(r), c.left})
		}
		t.Lines = append(t.Lines, line)
	}
	return t
}

// WriteHTML writes the picture and the tables as one page.
func WriteHTML(w io.Writer, passes []PassPlan) error {
	var picture strings.Builder
	if err := WriteSVG(&picture, passes); err != nil {
		return err
	}
	type section struct {
		Name          string
		Facts         []fact
		Rows, Choices table
	}
	doc := struct {
		Title   string
		Picture template.HTML // made here, and escaped there
		Note    string
		Passes  []section
	}{Title: names(passes), Picture: template.HTML(picture.String()), Note: choicesNote}
	why := column[UnitRow]{"why", true, func(r UnitRow) string { return strings.Join(r.Why, "; ") }}
	columns := append(rowColumns[:len(rowColumns):len(rowColumns)], why)
	for _, p := range passes {
		doc.Passes = append(doc.Passes, section{
			Name:  p.Name + " (" + strings.Join(p.Methods, ", ") + ")",
			Facts: p.facts(), Rows: newTable(columns, Rows(p.Plan)), Choices: newTable(choiceColumns, p.Choices(tablePoints)),
		})
	}
	return page.Execute(w, doc)
}
