package session

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/dataset"
	"github.com/voxcam/voxcam/internal/durable"
	"github.com/voxcam/voxcam/internal/report"
	"github.com/voxcam/voxcam/internal/result"
)

// isResult reports whether a file in the folder of a sample has a name that only this program gives. Nothing else is removed: people
// put notes and masks of their own beside results.
func isResult(sample, file string) bool {
	rest, ok := strings.CutPrefix(file, sample+"_")
	if !ok {
		return false
	}
	return file == report.MetadataName(sample) || slices.ContainsFunc(result.Endings("_"), func(ending string) bool {
		key, ok := strings.CutSuffix(rest, ending)
		return ok && isKey(key)
	})
}

// isKey reports whether a name is one of run.key: METHOD_class_I_volume, perhaps without method or class.
func isKey(key string) bool {
	for _, method := range cam.Methods() {
		if rest, ok := strings.CutPrefix(key, method+"_"); ok {
			key = rest
			break
		}
	}
	if rest, ok := strings.CutPrefix(key, "class_"); ok {
		number, volume, _ := strings.Cut(rest, "_")
		if _, err := strconv.ParseUint(number, 10, 31); err != nil {
			return false
		}
		key = volume
	}
	return key == "volume"
}

// stage begins the folder of a sample.
func (r *run) stage(s dataset.Sample) (*durable.Stage, error) {
	stage, err := r.folder.Stage(r.place(s))
	if err == nil {
		stage.Ours = func(name string) bool { return isResult(s.Name, name) }
	}
	return stage, err
}

// removeSample removes the folder of a sample.
func (r *run) removeSample(place string) error {
	kept, err := r.folder.RemoveOurs(place, func(name string) bool { return isResult(path.Base(place), name) })
	r.warnKept(place, kept)
	return err
}

// removePicture removes a file of a sample in visualizations.
func (r *run) removePicture(picture string) error {
	kept, err := r.folder.RemoveOurs(picture, func(name string) bool { return name == path.Base(picture) })
	r.warnKept(picture, kept)
	return err
}

// warnKept warns that files in the place of results are not of this program, and names their new place.
func (r *run) warnKept(place, kept string) {
	if kept != "" {
		r.observe.Notify(Notice{Kind: NoticeWarning, Reason: fmt.Sprintf("%s held files that this program does not write; they are in %s now", place, kept)})
	}
}
