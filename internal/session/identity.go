package session

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/report"
)

// settings returns all settings that change results, as text: those of the configuration, and the facts of the model, the table of labels
// and the files of draws.
func (r *run) settings() map[string]string {
	c := r.config
	s := c.Settings()
	s["model.sha256"] = r.info.SHA256
	s["model.target_layer"] = r.info.TargetLayer
	s["model.classes"] = encode(r.names)
	if h := r.info.Head; h.Activation != cam.NoActivation || h.Task != cam.TaskClassification && h.Task != "" || h.Classes() != h.Size {
		s["model.head"] = encode([]string{h.Output, string(h.Task), string(h.Activation)}) // earlier versions took the output as it is
	}
	s["data.split"] = r.set.Split
	s["explain.methods"] = encode(r.request.Methods)
	s["output.formats"] = encode(slices.Sorted(slices.Values(c.Output.Formats)))
	if r.set.Split == dataset.SplitShuffle {
		s["data.split_seed"] = encode(c.Data.SplitSeed)
		s["data.split_ratio"] = encode(c.Data.SplitRatio)
		s["data.deal"] = r.set.Deal()
	}
	if r.opt.Noise != nil {
		s["noise"] = r.opt.NoiseName
	}
	if l := r.info.Layer; l != nil {
		s["model.layer_value"] = l.Value // versions of this program may find other values by a name
	}
	return s
}

// encode returns a setting as JSON, whose maps are sorted. Settings are plain values, which always can be encoded.
func encode(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(text)
}

func digest(settings map[string]string) string {
	sum := sha256.Sum256([]byte(encode(settings)))
	return hex.EncodeToString(sum[:])
}

// identify reads session.json and compares, or writes it.
func (r *run) identify(name string) error {
	settings := r.settings()
	now := &report.Session{
		Schema: report.Schema, Name: name, Created: r.now(), Version: r.opt.Version, Config: r.config.Path,
		Model: report.ModelInfo{Classes: r.info.Classes, ClassNames: r.names, Head: r.info.Head, Backbone: r.config.ModelName(),
			File: r.info.Path, SHA256: r.info.SHA256, TargetLayer: r.info.TargetLayer, Layer: r.info.Layer, Warnings: r.info.Warnings},
		Seed: r.config.Explain.Seed, Settings: settings, Hash: digest(settings),
		SplitSource: r.set.Split, Splits: map[string][]string{},
	}
	for _, s := range r.set.Samples {
		now.Splits[string(s.Split)] = append(now.Splits[string(s.Split)], s.ID)
	}
	r.record = now
	before, err := report.ReadSession(r.folder.FS())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		_, err := r.folder.WriteFile(report.SessionFile, func(w *durable.File) error { return report.WriteJSON(w, now) })
		return err
	case err != nil:
		return refuse("session %s cannot be continued: %w; choose another session", name, err)
	}
	if before.Schema != report.Schema {
		return refuse("session %s was made by another version of this program (records of version %d, here %d); choose another session",
			name, before.Schema, report.Schema)
	}
	if before.Hash != now.Hash {
		return refuse("session %s was made under other settings and is not continued; choose another session. What differs:\n%s",
			name, strings.Join(differences(before.Settings, settings), "\n"))
	}
	// The rest follows from the settings, or is about present places, for which the folder's record is not relied upon.
	now.Created, now.Version, now.Digest = before.Created, before.Version, before.Digest
	return nil
}

// checkOurs refuses a folder with results of something else, before anything in it is touched.
func checkOurs(dir, name string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return nil //nolint:nilerr // that it cannot be read is told when it is opened
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == readingFolder })
	text, err := input.ReadFile(filepath.Join(dir, report.SessionFile), report.MaxSession)
	switch {
	case errors.Is(err, fs.ErrNotExist) && durable.OnlyOurs(entries):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return refuse("%s exists but has no %s, so it is not a session of this program; choose another session", dir, report.SessionFile)
	case err != nil:
		return refuse("session %s cannot be continued: %w; choose another session", name, err)
	}
	var record struct {
		Hash *string `json:"configuration_sha256"`
	}
	if err := json.Unmarshal(text, &record); err != nil {
		return refuse("session %s cannot be continued: %s: damaged record: %w; choose another session", name, report.SessionFile, err)
	}
	if record.Hash == nil {
		return refuse("session %s cannot be continued: %s is damaged, or not of this program: it has no configuration_sha256; choose another session",
			name, filepath.Join(dir, report.SessionFile))
	}
	return nil
}

// notes explain settings whose names are not enough.
var notes = map[string]string{
	"data.deal":    " (the table of labels has other cases, so the seeded shuffle deals them to other splits)",
	"model.sha256": " (the model's file has another content)",
}

func differences(before, now map[string]string) (lines []string) {
	all := maps.Clone(now)
	maps.Copy(all, before)
	show := func(m map[string]string, k string) string {
		v, ok := m[k]
		switch {
		case !ok:
			return "absent"
		case v == "" || v == "null":
			return "the default"
		case len(v) > 60:
			return v[:57] + "..."
		}
		return v
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if b, ok := before[k]; !ok || b != now[k] {
			lines = append(lines, fmt.Sprintf("  %s: the session has %s, this run %s%s", k, show(before, k), show(now, k), notes[k]))
		}
	}
	if len(lines) == 0 {
		lines = []string{"  the record itself: its digest does not fit its settings"}
	}
	return lines
}
