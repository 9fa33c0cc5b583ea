package session

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/report"
)

// reading reads the volumes of a run. While a volume is read, a file in the session's folder marks it. A mark from an earlier run
// names a volume whose reading may have ended that run, killed for lack of memory. Such a volume is read last, and alone, so that
// nothing else can be the cause. A volume that ended two runs fails, until its file changes or the mark is removed.
type reading struct {
	run   *run
	alone sync.RWMutex     // a volume with a mark of an earlier run is read under the write lock, all others under the read lock
	left  map[string]*mark // of earlier runs, by sample; not changed while volumes are read
}

const (
	readingFolder = ".reading"
	// markedBytes is the size from which a file is marked. The volume of a smaller file, compressed or not, takes 256 MiB at most.
	markedBytes = 32 << 10
	mostTries   = 2
)

// mark names a sample whose volume is being read, and the file.
type mark struct {
	Sample string        `json:"sample"`
	Input  dataset.Input `json:"input"`
	Begun  time.Time     `json:"begun"`
	Tries  int           `json:"tries"` // at reading the file, this one and those that ended a run
}

// markOf returns the name of the file that marks a sample.
func markOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	return path.Join(readingFolder, hex.EncodeToString(sum[:8])+".json")
}

// newReading looks for marks of earlier runs, and returns the samples in the order of reading: those with a mark last.
func newReading(r *run, samples []dataset.Sample) (*reading, []dataset.Sample) {
	g := &reading{run: r, left: map[string]*mark{}}
	var first, last []dataset.Sample
	for _, s := range samples {
		m := &mark{}
		if err := report.ReadJSON(r.folder.FS(), markOf(s.ID), markedBytes, m); err == nil && m.Sample == s.ID {
			g.left[s.ID] = m
			last = append(last, s)
		} else {
			first = append(first, s)
		}
	}
	return g, append(first, last...)
}

// prepare reads a sample's volume.
func (g *reading) prepare(ctx context.Context, s dataset.Sample) (*dataset.Prepared, error) {
	r := g.run
	in, err := r.set.Locate(s)
	if err != nil {
		return nil, err
	}
	now := mark{Sample: s.ID, Input: in, Begun: r.now(), Tries: 1}
	if m := g.left[s.ID]; m != nil {
		if m.Input.Same(in) {
			now.Tries = m.Tries + 1
		}
		g.alone.Lock()
		defer g.alone.Unlock()
	} else {
		g.alone.RLock()
		defer g.alone.RUnlock()
	}
	file := markOf(s.ID)
	if now.Tries > mostTries {
		return nil, fmt.Errorf("%s: %d runs ended while they read this volume, perhaps for lack of memory; remove %s to have it tried again",
			in.Path, mostTries, r.folder.Path(file))
	}
	if in.Bytes < markedBytes && g.left[s.ID] == nil {
		return r.set.Prepare(ctx, s)
	}
	if _, err := r.folder.WriteFile(file, func(w *durable.File) error { return report.WriteJSON(w, &now) }); err != nil {
		return nil, err
	}
	var prepared *dataset.Prepared
	err = guard(func() (err error) { prepared, err = r.set.Prepare(ctx, s); return err })
	if rerr := r.folder.Remove(file); rerr != nil {
		return nil, rerr
	}
	return prepared, err
}

// close removes the folder of marks, if it is empty.
func (g *reading) close() { g.run.folder.RemoveEmpty(readingFolder) }
