package dataset

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/volume/format"
)

// Split is a part of the data set.
type Split string

// The splits, in the order in which they are worked on. A sample whose split cannot be read is in Unassigned.
const (
	Train      Split = "train"
	Val        Split = "val"
	Test       Split = "test"
	Unassigned Split = "unassigned"
)

// Splits are the splits that one can ask for.
var Splits = []Split{Train, Val, Test}

var splitNames = map[string]Split{
	"train": Train, "training": Train,
	"val": Val, "valid": Val, "validation": Val,
	"test": Test, "testing": Test,
}

// Sample is one row of the table of labels.
type Sample struct {
	ID    string // as in the table
	Name  string // names its results: the last part of ID, made unique within the table and safe as a file name
	Label int    // -1 if it cannot be read
	Split Split
	Line  int   // in the table
	Err   error // the reason why this sample cannot be explained, if it is known before its volume is read
}

// maxLabelBytes bounds the table; a larger file is a mistaken path.
const maxLabelBytes = 256 << 20

// readLabels reads a table with the columns caseID and label and, optionally, split, in any order and among others.
// A fault of the file is an error, a fault of a row is that sample's Err. Labels are not compared with the number of
// classes here, which the model knows.
func readLabels(file string) (samples []Sample, hasSplit bool, err error) {
	text, err := input.ReadFile(file, maxLabelBytes)
	if err != nil {
		return nil, false, fmt.Errorf("labels: %w", err)
	}
	samples, hasSplit, err = parseLabels(string(text))
	if err != nil {
		return nil, false, fmt.Errorf("labels %s: %w", file, err)
	}
	return samples, hasSplit, nil
}

func parseLabels(text string) (samples []Sample, hasSplit bool, err error) {
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		return nil, false, errors.New("the file is UTF-16; save it as UTF-8")
	}
	text = strings.TrimPrefix(text, "\ufeff")
	if !utf8.ValidString(text) {
		return nil, false, fmt.Errorf("line %d: the file is not UTF-8 (%q); save it as UTF-8, and rename files whose names are in another encoding",
			1+strings.Count(text[:invalid(text)], "\n"), near(text, invalid(text)))
	}
	r := csv.NewReader(strings.NewReader(text))
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	header, err := r.Read()
	if err == io.EOF {
		return nil, false, errors.New("the file is empty; its first line must be caseID,label")
	}
	if err != nil {
		return nil, false, err
	}
	columns, err := findColumns(header)
	if err != nil {
		return nil, false, err
	}
	lines := map[string]int{} // of the first sample with an ID, as a clean path
	for {
		record, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, false, err // it names the line
		}
		line, _ := r.FieldPos(0)
		s := columns.sample(record, line)
		if id := path.Clean(s.ID); s.ID == "" {
			s.Err = fmt.Errorf("labels line %d: caseID is empty", line)
		} else if !filepath.IsLocal(filepath.FromSlash(s.ID)) {
			s.Err = fmt.Errorf("labels line %d: caseID %q leads out of the data folder", line, s.ID)
		} else if first, twice := lines[id]; twice {
			s.Err = fmt.Errorf("labels line %d: caseID %q is already on line %d", line, s.ID, first)
		} else {
			lines[id] = line
		}
		samples = append(samples, s)
	}
	nameSamples(samples)
	return samples, columns.split >= 0, nil
}

// columns are the places of the columns of a table of labels; split is -1 if it has none.
type columns struct{ id, label, split int }

// findColumns finds the columns by the table's first line.
func findColumns(header []string) (c columns, err error) {
	c = columns{-1, -1, -1}
	known := map[string]*int{"caseid": &c.id, "label": &c.label, "split": &c.split}
	for i, name := range header {
		at := known[strings.ToLower(strings.TrimSpace(name))]
		if at == nil {
			continue
		}
		if *at >= 0 {
			return c, fmt.Errorf("line 1: two columns are called %q", name)
		}
		*at = i
	}
	if c.id < 0 || c.label < 0 {
		hint := ""
		if len(header) == 1 && strings.ContainsAny(header[0], ";\t") {
			hint = " (separated by commas, not by semicolons or tabs)"
		}
		return c, fmt.Errorf("line 1: the columns must include caseID and label%s, found %q", hint, header)
	}
	return c, nil
}

// sample returns the sample of a row. A fault of its split or label is its Err.
func (c columns) sample(record []string, line int) Sample {
	field := func(i int) string {
		if i < len(record) {
			return strings.TrimSpace(record[i])
		}
		return ""
	}
	s := Sample{ID: field(c.id), Label: -1, Split: Unassigned, Line: line}
	if c.split >= 0 {
		split, known := splitNames[strings.ToLower(field(c.split))]
		if known {
			s.Split = split
		} else {
			s.Err = fmt.Errorf("labels line %d: the split is %q; it must be train, val or test", line, field(c.split))
		}
	}
	label, err := strconv.Atoi(field(c.label))
	switch {
	case err != nil:
		s.Err = fmt.Errorf("labels line %d: the label is %q; it must be an integer from 0 up", line, field(c.label))
	case label < 0:
		s.Err = fmt.Errorf("labels line %d: the label is %d; it must be an integer from 0 up", line, label)
	default:
		s.Label = label
	}
	return s
}

// invalid returns the place of the first byte of text that is not UTF-8.
func invalid(text string) int {
	for i, r := range text {
		if _, size := utf8.DecodeRuneInString(text[i:]); r == utf8.RuneError && size == 1 {
			return i
		}
	}
	return len(text)
}

// near returns the text around a place, within its line.
func near(text string, at int) string {
	const before, behind = 16, 16
	from := max(strings.LastIndexByte(text[:at], '\n')+1, at-before)
	to := min(at+behind, len(text))
	if end := strings.IndexByte(text[at:to], '\n'); end >= 0 {
		to = at + end
	}
	return strings.TrimRight(text[from:to], "\r")
}

// refuseAliases gives the later of two rows an error that name the same file, one with its extension and one without: it would count
// twice. extension is that of all cases, or empty.
func refuseAliases(samples []Sample, extension string) {
	first := map[string]*Sample{} // by the path without extension
	for i := range samples {
		s := &samples[i]
		if s.Err != nil {
			continue
		}
		id := path.Clean(s.ID)
		bare := trimExtension(id)
		other := first[bare]
		if other == nil {
			first[bare] = s
			continue
		}
		without, with := id, path.Clean(other.ID)
		if with == bare {
			without, with = with, without
		}
		if without == bare && (extension == "" || with == bare+extension) {
			s.Err = fmt.Errorf("labels line %d: caseID %q is the file of caseID %q on line %d", s.Line, s.ID, other.ID, other.Line)
		}
	}
}

// nameSamples gives each sample the stem of its ID as a name, as the original does; where stems are equal (a/scan and
// b/scan), the whole ID, and where even that is equal, the line. Names are compared without case, as some file systems do.
func nameSamples(samples []Sample) {
	count := map[string]int{}
	for i := range samples {
		samples[i].Name = fileName(SampleID(samples[i].ID))
		count[strings.ToLower(samples[i].Name)]++
	}
	for i := range samples {
		if count[strings.ToLower(samples[i].Name)] > 1 && strings.Contains(samples[i].ID, "/") {
			samples[i].Name = fileName(trimExtension(samples[i].ID))
		}
	}
	taken := map[string]bool{}
	for i := range samples {
		name := samples[i].Name
		for n := 0; taken[strings.ToLower(samples[i].Name)]; n++ {
			samples[i].Name = fmt.Sprintf("%s_line%d", name, samples[i].Line)
			if n > 0 {
				samples[i].Name += fmt.Sprintf("_%d", n)
			}
		}
		taken[strings.ToLower(samples[i].Name)] = true
	}
}

// SampleID is the ID of a file's sample where no table names it: the file's name without folder and extension, as most tables
// call the case.
func SampleID(file string) string { return trimExtension(path.Base(filepath.ToSlash(file))) }

func trimExtension(id string) string {
	for _, ext := range format.Extensions() {
		if len(id) > len(ext) && strings.EqualFold(id[len(id)-len(ext):], ext) {
			return id[:len(id)-len(ext)]
		}
	}
	return id
}

// fileName replaces letters that file systems or shells do not take. Long names are cut, since suffixes follow.
func fileName(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_.+=@#()", r) {
			return r
		}
		return '_'
	}, s)
	s = strings.TrimLeft(s, ".-")
	if most := 120; len(s) > most {
		for !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	if s == "" {
		return "sample"
	}
	return s
}

// deal assigns splits by a seeded shuffle. The counts round up as in the original, train first, then val; test gets the
// rest. (The original exchanges val and test by mistake.) The order of the samples becomes the shuffled one within each
// split, so that the first ones of a split are a random choice from it.
func deal(samples []Sample, ratio []float64, seed uint64) []Sample {
	out := make([]Sample, len(samples))
	rng := rand.New(rand.NewPCG(seed, 0x73706c6974)) // the second half of the seed spells "split"
	for i, j := range rng.Perm(len(samples)) {
		out[i] = samples[j]
	}
	n := len(out)
	share := func(r float64, left int) int { return min(left, int(math.Ceil(r*float64(n)-1e-9))) }
	train := share(ratio[0], n)
	val := share(ratio[1], n-train)
	for i := range out {
		switch {
		case i < train:
			out[i].Split = Train
		case i < train+val:
			out[i].Split = Val
		default:
			out[i].Split = Test
		}
	}
	return out
}
