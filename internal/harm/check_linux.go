package harm

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/report"
)

// nearly bounds the difference of another device's results, as a share of the largest value.
const nearly = 1e-4

// Undisturbed runs the session that others are compared with, without harm.
func (r *Rig) Undisturbed() {
	r.T.Helper()
	if out := r.Run("whole", 0); strings.Contains(out, "warning") {
		r.T.Error(out)
	}
	r.Expect("whole")
	for _, s := range r.Records("whole") {
		if s.Status != cam.StatusOK || s.Execution.Level != cam.LevelWhole || len(s.Execution.Events) > 0 {
			r.T.Errorf("undisturbed: %s is %s, %+v", s.ID, s.Status, s.Execution)
		}
	}
}

// Expect sets the results that other sessions are compared with to those of a session.
func (r *Rig) Expect(session string) {
	r.T.Helper()
	r.want, r.files = r.Results(session), r.Names(session)
	if len(r.want) == 0 {
		r.T.Fatal("there are no results")
	}
}

// Records returns the records of a session's samples.
func (r *Rig) Records(name string) []*report.Sample {
	r.T.Helper()
	folder := os.DirFS(r.Folder(name))
	session, err := report.ReadSession(folder)
	if err != nil {
		r.T.Fatal(err)
	}
	samples, problems, err := report.Collect(folder, session)
	if err != nil || len(problems) > 0 {
		r.T.Fatal(err, problems)
	}
	return samples
}

// Folder returns the path of a session.
func (r *Rig) Folder(session string) string { return filepath.Join(r.Dir, "out", "session_"+session) }

// Results returns the arrays of a session by their names. Each file is the one that a record speaks of.
func (r *Rig) Results(session string) map[string][]float32 {
	r.T.Helper()
	all := map[string][]float32{}
	for _, s := range r.Records(session) {
		for _, f := range s.Files {
			text, err := os.ReadFile(filepath.Join(r.Folder(session), filepath.FromSlash(f.Path)))
			if err != nil {
				r.T.Error(err)
				continue
			}
			if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != f.SHA256 || len(text) != int(f.Bytes) {
				r.T.Errorf("%s is not what the record of %s says", f.Path, s.ID)
			}
			if filepath.Ext(f.Path) != ".npy" {
				continue
			}
			text = text[10+int(binary.LittleEndian.Uint16(text[8:])):]
			values := make([]float32, len(text)/4)
			for i := range values {
				values[i] = math.Float32frombits(binary.LittleEndian.Uint32(text[4*i:]))
			}
			all[f.Path] = values
		}
	}
	return all
}

// Names returns the names of all files of a session but the timeline, which differs from run to run.
func (r *Rig) Names(session string) (names []string) {
	r.T.Helper()
	root := r.Folder(session)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, path)
		if err == nil && (!d.IsDir() || strings.HasPrefix(name, ".partial/")) && !strings.Contains(name, "memory_timeline") {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		r.T.Error(err)
	}
	return names
}

// Levels counts how often a session's volumes were explained at each level, and how often each thing happened to them.
func (r *Rig) Levels(session string) (levels map[cam.Level]int, kinds map[cam.EventKind]int) {
	r.T.Helper()
	levels, kinds = map[cam.Level]int{}, map[cam.EventKind]int{}
	for _, s := range r.Records(session) {
		if s.Execution == nil {
			r.T.Errorf("%s does not tell where it was explained", s.ID)
			continue
		}
		levels[s.Execution.Level]++
		for _, i := range s.Execution.Events {
			kinds[i.Kind]++
		}
	}
	return levels, kinds
}

// Check compares a complete session with the undisturbed one: a volume that was explained on the GPU has the same bits, whatever the plans;
// a volume that the processor had a part in has nearly the same values. It returns the largest difference, as a share of the largest value.
func (r *Rig) Check(session string) (worst float64) {
	r.T.Helper()
	exact := map[string]bool{}
	for _, s := range r.Records(session) {
		if s.Status != cam.StatusOK || s.Execution == nil {
			r.T.Errorf("%s is %s (%s)", s.ID, s.Status, s.Reason)
			continue
		}
		for _, f := range s.Files {
			exact[f.Path] = !onProcessor(s.Execution)
		}
	}
	got := r.Results(session)
	if a, b := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(r.want)); !slices.Equal(a, b) {
		r.T.Errorf("the results are %v, not %v", a, b)
		return 0
	}
	for name, values := range got {
		e := difference(values, r.want[name])
		if worst = max(worst, e); !(e <= nearly) || exact[name] && e != 0 {
			r.T.Errorf("%s of %s is %.1e of the largest value off", name, session, e)
		}
	}
	if names := r.Names(session); !slices.Equal(names, r.files) {
		r.T.Errorf("the session's files are %v, not %v", names, r.files)
	}
	return worst
}

// CheckPart compares the records of a session that was killed: each must have all its files, with the same bits.
func (r *Rig) CheckPart(session string) {
	r.T.Helper()
	if _, err := os.Stat(r.Folder(session)); errors.Is(err, fs.ErrNotExist) {
		return
	}
	for name, values := range r.Results(session) {
		if e := difference(values, r.want[name]); e != 0 {
			r.T.Errorf("%s of %s, which was killed, is %.1e off", name, session, e)
		}
	}
}

// onProcessor reports whether the processor had a part in explaining a volume.
func onProcessor(e *cam.Execution) bool {
	return e.Level == cam.LevelCPU || strings.HasPrefix(e.Device, "cpu") || slices.ContainsFunc(e.Events, func(i cam.Event) bool { return i.Kind == cam.EventCPU })
}

// difference is the largest one, as a share of the largest value.
func difference(got, want []float32) (e float64) {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	top := 0.0
	for i := range got {
		e = max(e, math.Abs(float64(got[i])-float64(want[i])))
		top = max(top, math.Abs(float64(want[i])))
	}
	if e == 0 {
		return 0
	}
	return e / top
}

// IsFree waits until all of the device's memory but that many bytes is free: a process that was killed has it until the system has ended it.
func (r *Rig) IsFree(taken int) {
	r.T.Helper()
	for began := time.Now(); r.GPU.Free() != Capacity-taken; time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > processes {
			r.T.Fatalf("%d bytes of the device are free, not %d", r.GPU.Free(), Capacity-taken)
		}
	}
}

// NoSockets wants no socket to be left.
func (r *Rig) NoSockets() {
	r.T.Helper()
	if found, _ := filepath.Glob(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "*", "*")); len(found) > 0 {
		r.T.Errorf("sockets are left: %v", found)
	}
}
