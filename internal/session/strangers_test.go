package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voxcam/voxcam/internal/report"
)

const case0 = "heatmaps/val/class_0_normal/case0/"

// victim makes a folder beside the session that nothing may touch, and returns a check of that.
func (w *world) victim() (dir string, untouched func()) {
	w.t.Helper()
	dir = filepath.Join(w.dir, "out", "victim")
	file := filepath.Join(dir, "thesis", "only_copy.txt")
	const precious = "precious, without a newline"
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(precious), 0o644)); err != nil {
		w.t.Fatal(err)
	}
	return dir, func() {
		w.t.Helper()
		if text, err := os.ReadFile(file); err != nil || string(text) != precious {
			w.t.Errorf("the file outside of the session holds %q, %v", text, err)
		}
		if found, _ := filepath.Glob(filepath.Join(dir, "*")); len(found) != 1 {
			w.t.Errorf("the folder outside of the session holds %v", found)
		}
	}
}

// edit changes the record in a file of the session, and lets its digest fit if sealed.
func (w *world) edit(from, to string, sealed bool, change func(*report.Sample)) {
	w.t.Helper()
	s := sampleRecord(w.t, w, from)
	digest := s.Digest
	change(s)
	var b bytes.Buffer
	if err := report.WriteJSON(&b, s); err != nil {
		w.t.Fatal(err)
	}
	text := b.String()
	if !sealed {
		text = strings.Replace(text, s.Digest, digest, 1)
	}
	path := w.session(to)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		w.t.Fatal(err)
	}
}

// unseal removes the digest of a record.
func (w *world) unseal(name string) {
	w.t.Helper()
	text := w.tree()[name]
	at := strings.Index(text, `,
  "record_sha256": "`)
	if at < 0 {
		w.t.Fatalf("%s has no digest: %s", name, text)
	}
	if err := os.WriteFile(w.session(name), []byte(text[:at]+"\n}\n"), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// A record says where its sample lies; what it says is not where something is removed.
func TestRecordsRemoveNothingElsewhere(t *testing.T) {
	for name, lie := range map[string]func(*report.Sample){
		"by split":    func(s *report.Sample) { s.Split, s.Name = "../../../victim", "../thesis" },
		"by name":     func(s *report.Sample) { s.Name = "../../../../../victim/thesis" },
		"by absolute": func(s *report.Sample) { s.Split = "/" },
		"by files":    func(s *report.Sample) { s.Files[0].Path = "../victim/thesis/only_copy.txt" },
		"honestly":    func(s *report.Sample) { s.Name = "evil" },
	} {
		w := newWorld(t, 2)
		w.must(&fake{}, ExitOK)
		_, untouched := w.victim()
		w.edit(case0+"case0_metadata.json", "heatmaps/val/class_0_normal/evil/evil_metadata.json", true, lie)
		if err := os.RemoveAll(w.session(case0)); err != nil {
			t.Fatal(err)
		}
		f := &fake{}
		w.must(f, ExitOK)
		if len(f.called()) != 1 {
			t.Errorf("%s: calls %v", name, f.called())
		}
		untouched()
	}
}

// Links and second names in a session that goes on: refused, or passed over with a word, and nothing behind them is changed.
func TestLinksInASession(t *testing.T) {
	kinds := []string{"link", "hard link", "pipe"}
	if testing.Short() {
		kinds = kinds[:1]
	}
	for _, at := range []string{
		".lock", ".partial", "session.json", "heatmaps", "heatmaps/val", "heatmaps/val/class_0_normal", "heatmaps/val/class_0_normal/case0",
		case0 + "case0_metadata.json", case0 + "case0_volume_map.npy", "visualizations", "visualizations/val", "reports", "summaries",
		report.TimelineFile, "reports/overall_statistics.json", "summaries/analysis_summary.png",
	} {
		for _, kind := range kinds {
			w := newWorld(t, 2)
			w.opt.Figures = func(context.Context) (report.Figures, error) { return report.Figures{Resident: 7}, nil }
			w.config.Output.Formats = []string{"npy", "tiff", "png"}
			w.must(&fake{}, ExitOK)
			dir, untouched := w.victim()
			path, file := w.session(at), filepath.Join(dir, "thesis", "only_copy.txt")
			info, err := os.Stat(path)
			folder := err == nil && info.IsDir() || at == ".partial"
			if folder && kind == "hard link" {
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			target := file
			if folder {
				target = dir
			}
			switch kind {
			case "link":
				err = os.Symlink(target, path)
			case "hard link":
				err = os.Link(target, path)
			case "pipe":
				err = syscall.Mkfifo(path, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			var said []string
			w.opt.Observer = ObserverFunc(func(e Notice) {
				if e.Kind == NoticeWarning {
					said = append(said, e.Reason)
				}
			})
			w.opt.VerifyFiles = true
			s, err := w.run(&fake{})
			if code := ExitCode(s, err); code != ExitOK && code != ExitRefused && code != ExitOutput || err != nil && strings.Contains(err.Error(), "internal") {
				t.Errorf("a %s as %s: exit code %d, %v", kind, at, code, err)
			}
			// What is made anew in one step needs no word.
			if err == nil && len(said) == 0 && kind != "hard link" && !strings.HasPrefix(at, case0+"case0_volume") && at != ".partial" {
				t.Errorf("a %s as %s: not a word", kind, at)
			}
			untouched()
		}
	}
}

// People keep notes and masks beside results; they stay when a sample is done again or moves.
func TestNotesAreKept(t *testing.T) {
	w := newWorld(t, 2)
	w.must(&fake{}, ExitOK)
	for _, name := range []string{"note.txt", "case0_my_mask_volume_map.npy", "case0_volume_map.npy.bak"} {
		if err := os.WriteFile(w.session(case0+name), []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	w.opt.Observer = ObserverFunc(func(e Notice) {
		if e.Kind == NoticeWarning {
			said = append(said, e.Reason)
		}
	})
	w.volume("case0", 77) // another class
	w.must(&fake{}, ExitOK)
	tree := w.tree()
	kept := strings.TrimSuffix(case0, "/") + ".kept-1/"
	for _, name := range []string{"note.txt", "case0_my_mask_volume_map.npy", "case0_volume_map.npy.bak"} {
		if tree[kept+name] != "mine" || tree[case0+name] != "" {
			t.Errorf("%s was not kept", name)
		}
	}
	if tree[kept+"case0_volume_map.npy"] != "" || tree[kept+"case0_metadata.json"] != "" || tree[case0+"case0_metadata.json"] == "" {
		t.Error("old results were kept, too, or there are no new ones")
	}
	if len(said) != 1 || !strings.Contains(said[0], kept[:len(kept)-1]) {
		t.Errorf("said: %q", said)
	}
	f := &fake{}
	if w.must(f, ExitOK); len(f.called()) != 0 {
		t.Errorf("calls %v", f.called())
	}
}

func TestIsResult(t *testing.T) {
	for name, want := range map[string]bool{
		"a_metadata.json": true, "a_volume_map.nii.gz": true, "a_gradcam++_volume_heatmap.tiff": true, "a_class_12_volume.mat": true,
		"a_smoothgrad-squared_class_0_volume_overlay.tiff": true,
		"a": false, "a_": false, "b_metadata.json": false, "a_b_metadata.json": false, "a_volume": false, "a_mine_volume.mat": false,
		"a_class_x_volume.mat": false, "a_class_1_mine_volume.mat": false, "a_class_99999999999_volume.mat": false, "a_volume_map.nii": false,
	} {
		if isResult("a", name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}

// A run knows the names of all files that it writes.
func TestResultsAreKnown(t *testing.T) {
	w := newWorld(t, 1)
	w.config.Model.TargetClass = "all"
	w.config.Explain.Methods = []string{"gradcam", "gradcam++", "vargrad"}
	w.config.Output.Formats = []string{"nifti", "npy", "mat", "tiff", "png"}
	w.must(&fake{}, ExitOK)
	entries, err := os.ReadDir(w.session(case0))
	if err != nil || len(entries) < 50 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		if !isResult("case0", e.Name()) {
			t.Errorf("%s is not known", e.Name())
		}
	}
}

// Whatever is changed in a record, its sample is done again, with a word, and the record is as before.
func TestDamagedRecordsAreDoneAgain(t *testing.T) {
	w := newWorld(t, 2)
	w.must(&fake{}, ExitOK)
	record := case0 + "case0_metadata.json"
	whole := w.tree()[record]
	// damage puts the text in the record's place and wants what was there before.
	damage := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(w.session(record), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		var said []string
		w.opt.Observer = ObserverFunc(func(e Notice) {
			if e.Kind == NoticeWarning {
				said = append(said, e.Reason)
			}
		})
		f := &fake{}
		w.must(f, ExitOK)
		if len(f.called()) != 1 || len(said) != 1 || !strings.Contains(said[0], "damaged record") || !strings.Contains(said[0], record) {
			t.Errorf("%s: calls %v, said %q", name, f.called(), said)
		}
		if got := w.tree()[record]; withoutTimes(t, got) != withoutTimes(t, whole) {
			t.Errorf("%s: the record is\n%s\ninstead of\n%s", name, got, whole)
		}
	}
	// Each value in turn becomes something else, or goes.
	var doc any
	if err := json.Unmarshal([]byte(whole), &doc); err != nil {
		t.Fatal(err)
	}
	count := 0
	eachValue(doc, "", func(at string, set func(any), old any) {
		if testing.Short() && count%7 != 0 {
			count++
			return
		}
		count++
		for _, junk := range []any{nil, -1, "\x1b[31m"} {
			if fmt.Sprint(junk) == fmt.Sprint(old) {
				continue
			}
			set(junk)
			text, err := json.MarshalIndent(doc, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			damage(fmt.Sprintf("%s is %v", at, junk), string(text))
			if testing.Short() {
				break
			}
		}
		set(old)
	})
	if count < 50 {
		t.Errorf("only %d values", count)
	}
	damage("deep", strings.Repeat("[", 100000))
	damage("cut", whole[:len(whole)/2])
	damage("without a digest", strings.Replace(whole, `"record_sha256"`, `"record_sha257"`, 1))
}

// withoutTimes is a record without what differs from run to run.
func withoutTimes(t *testing.T, text string) string {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return text
	}
	delete(doc, "processing_time")
	delete(doc, "record_sha256")
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// eachValue visits the values of a document.
func eachValue(doc any, at string, visit func(at string, set func(any), old any)) {
	switch d := doc.(type) {
	case map[string]any:
		for k, v := range d {
			visit(at+"/"+k, func(x any) { d[k] = x }, v)
			eachValue(v, at+"/"+k, visit)
		}
	case []any:
		for i, v := range d {
			visit(fmt.Sprintf("%s/%d", at, i), func(x any) { d[i] = x }, v)
			eachValue(v, fmt.Sprintf("%s/%d", at, i), visit)
		}
	}
}

// session.json of a session that goes on: refused if it is damaged, and what reports need is not taken from it.
func TestDamagedSessionRecord(t *testing.T) {
	for name, change := range map[string]func(*report.Session){
		"no classes":      func(s *report.Session) { s.Model.Classes = 0 },
		"many classes":    func(s *report.Session) { s.Model.Classes = 1 << 40 },
		"negative":        func(s *report.Session) { s.Model.Classes = -1 },
		"no names":        func(s *report.Session) { s.Model.ClassNames = nil },
		"other names":     func(s *report.Session) { s.Model.ClassNames = []string{"\x1b[31m", "x", "y"} },
		"no splits":       func(s *report.Session) { s.Splits = nil },
		"another name":    func(s *report.Session) { s.Name = "../../x" },
		"no settings":     func(s *report.Session) { s.Settings = nil },
		"strange version": func(s *report.Session) { s.Version = strings.Repeat("x", 1<<20) },
	} {
		for _, sealed := range []bool{true, false} {
			w := newWorld(t, 2)
			w.must(&fake{}, ExitOK)
			before := w.tree()["reports/overall_statistics.json"]
			s := w.record()
			digest := s.Digest
			change(s)
			var b bytes.Buffer
			if err := report.WriteJSON(&b, s); err != nil {
				t.Fatal(err)
			}
			text := b.String()
			if !sealed {
				text = strings.Replace(text, s.Digest, digest, 1)
			}
			if err := os.WriteFile(w.session(report.SessionFile), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			f := &fake{}
			summary, err := w.run(f)
			if want := map[bool]int{true: ExitOK, false: ExitRefused}[sealed]; ExitCode(summary, err) != want || len(f.called()) > 0 {
				t.Errorf("%s, sealed %v: exit code %d, %v, calls %v", name, sealed, ExitCode(summary, err), err, f.called())
			}
			if got := w.tree()["reports/overall_statistics.json"]; got != before {
				t.Errorf("%s, sealed %v: the statistics are\n%s", name, sealed, got)
			}
		}
	}
}

// Sessions of earlier versions have records without digests.
func TestSessionsWithoutDigestsGoOn(t *testing.T) {
	w := newWorld(t, 2)
	w.must(&fake{}, ExitOK)
	w.unseal(report.SessionFile)
	w.unseal(case0 + "case0_metadata.json")
	f := &fake{}
	if s := w.must(f, ExitOK); s.Resumed != 2 || len(f.called()) > 0 {
		t.Errorf("%+v, calls %v", s, f.called())
	}
}

// A folder that this program did not make is left as it is.
func TestOtherFoldersAreNotTouched(t *testing.T) {
	for name, made := range map[string][]string{
		"other":          {"thesis.tex"},
		"hidden":         {".git/config"},
		"another record": {"session.json", ".partial/download"},
	} {
		w := newWorld(t, 1)
		for _, file := range made {
			path := w.session(file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("{}"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		before := len(w.tree())
		s, err := w.run(&fake{classes: 3})
		if ExitCode(s, err) != ExitRefused || len(w.tree()) != before {
			t.Errorf("%s: %v, %v", name, err, w.tree())
		}
		if _, err := os.Stat(w.session(".lock")); err == nil {
			t.Errorf("%s: a lock was left", name)
		}
	}
}
