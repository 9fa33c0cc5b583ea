package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/report"
)

// place returns the folder of a sample, relative to the session's.
func (r *run) place(s dataset.Sample) string {
	label := s.Label
	if label >= r.info.Classes {
		label = -1
	}
	return path.Join("heatmaps", string(s.Split), r.config.ClassFolder(label), s.Name)
}

// sort separates finished samples from those that are to be done.
func (r *run) sort(ctx context.Context, samples []dataset.Sample) (todo []dataset.Sample, done []*report.Sample, err error) {
	records, problems, err := report.Collect(r.folder.FS(), r.record)
	if err != nil {
		return nil, nil, refuse("session %s cannot be continued: %w", r.record.Name, err)
	}
	for _, p := range problems {
		r.observe.Notify(Notice{Kind: NoticeWarning, Reason: p.Error() + "; the sample is done again"})
	}
	byPlace := map[string]*report.Sample{}
	for _, record := range records {
		byPlace[record.Place] = record
		r.stale[record.ID] = append(r.stale[record.ID], record.Place)
	}
	for _, s := range samples {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if record := byPlace[r.place(s)]; record != nil && r.finished(s, record) {
			done = append(done, record)
		} else {
			todo = append(todo, s)
		}
	}
	return todo, done, nil
}

// finished reports whether a record is that of this sample as it is now, complete, with all its files. A failed or
// skipped sample is not finished: its cause may be mended. A degraded one is: another attempt might come out worse.
func (r *run) finished(s dataset.Sample, record *report.Sample) bool {
	failed := func(m report.Method) bool { return m.Status == cam.StatusFailed }
	switch {
	case record.Schema != report.Schema || record.Hash != r.record.Hash || record.ID != s.ID || s.Err != nil,
		record.TrueClass == nil || *record.TrueClass != s.Label,
		record.Status == cam.StatusFailed || record.Status == cam.StatusSkipped,
		len(record.Methods) != len(r.request.Methods)*len(r.targets) || slices.ContainsFunc(record.Methods, failed):
		return false
	}
	// A volume that was changed since is explained again; one that was moved away is not missed.
	if in, err := r.set.Locate(s); err == nil && record.Input != nil && !in.Same(*record.Input) {
		return false
	}
	return !slices.ContainsFunc(record.Files, func(f report.FileRecord) bool { return !complete(r.folder.FS(), f, r.opt.VerifyFiles) })
}

// complete reports whether a result file is there with its size and, if asked for, with its digest.
func complete(folder fs.FS, file report.FileRecord, digest bool) bool {
	f, err := folder.Open(file.Path)
	if err != nil {
		return false
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != file.Bytes {
		return false
	}
	if !digest {
		return true
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	return err == nil && hex.EncodeToString(h.Sum(nil)) == file.SHA256
}
