package session

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
)

// leave makes the mark that a run leaves which is killed while it reads a sample's volume.
func (w *world) leave(id string, tries int) {
	w.t.Helper()
	set, err := dataset.Open(w.config.Data)
	if err != nil {
		w.t.Fatal(err)
	}
	in, err := set.Locate(dataset.Sample{ID: id})
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := json.Marshal(mark{Sample: id, Input: in, Tries: tries})
	path := w.session(markOf(id))
	if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644)); err != nil {
		w.t.Fatal(err)
	}
}

// A volume that a run was killed over is tried again, behind all others; one that two runs were killed over fails, until it is another one.
func TestVolumeThatEndsRuns(t *testing.T) {
	w := newWorld(t, 4)
	w.leave("case1", 1)
	w.leave("case2", 2)
	for range 2 {
		f := &fake{}
		s := w.must(f, ExitFailed)
		if s.Status.OK != 3 || len(s.Problems) != 1 || s.Problems[0].Sample != "case2" ||
			!strings.Contains(s.Problems[0].Reason, "2 runs ended while they read this volume") || !strings.Contains(s.Problems[0].Reason, markOf("case2")) {
			t.Errorf("%+v", s)
		}
	}
	if _, err := os.Stat(w.session(markOf("case1"))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mark of a volume that was read: %v", err)
	}
	w.volume("case2", 77)
	if err := os.Chtimes(filepath.Join(w.dir, "case2.npy"), w.opt.Now, w.opt.Now); err != nil {
		t.Fatal(err)
	}
	w.must(&fake{}, ExitOK)
	if _, err := os.Stat(w.session(readingFolder)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of marks: %v", err)
	}
}

func TestMarkedVolumesComeLast(t *testing.T) {
	w := newWorld(t, 4)
	w.leave("case0", 1)
	w.leave("case2", 1)
	folder, err := durable.Open(w.session(""))
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	var samples []dataset.Sample
	for _, id := range []string{"case0", "case1", "case2", "case3"} {
		samples = append(samples, dataset.Sample{ID: id})
	}
	_, samples = newReading(&run{folder: folder}, samples)
	var ids []string
	for _, s := range samples {
		ids = append(ids, s.ID)
	}
	if got := strings.Join(ids, " "); got != "case1 case3 case0 case2" {
		t.Errorf("the order is %s", got)
	}
}

// A volume of some size is not read before it is marked.
func TestVolumesAreMarked(t *testing.T) {
	w := newWorld(t, 2)
	path := filepath.Join(w.dir, "case1.npy")
	if err := os.WriteFile(path, make([]byte, markedBytes), 0o644); err != nil {
		t.Fatal(err)
	}
	s := w.must(&fake{}, ExitFailed)
	if _, err := os.Stat(w.session(readingFolder)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a mark is left of a volume that cannot be read: %v, %+v", err, s)
	}
	if err := os.WriteFile(w.session(readingFolder), nil, 0o644); err != nil { // in the way of marks
		t.Fatal(err)
	}
	s, err := w.run(&fake{})
	if err != nil || len(s.Problems) != 1 || s.Problems[0].Status != cam.StatusFailed || !strings.Contains(s.Problems[0].Reason, readingFolder) {
		t.Errorf("%+v, %v", s, err)
	}
}
