package session

import (
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/report"
)

// NoticeKind names a step of a run.
type NoticeKind string

const (
	NoticeStart  NoticeKind = "start"  // Session, Dir, Total (to do now), Resumed
	NoticeBegin  NoticeKind = "begin"  // Sample and Split are being explained
	NoticePass   NoticeKind = "pass"   // Passes of PassesTotal through the network are done for Sample
	NoticeSample NoticeKind = "sample" // Sample is written: Status, Reason, Predicted, Confidence, Done, Total, Seconds, Left

	NoticeDevice NoticeKind = "incident" // Device happened to memory or device while Sample was explained
	NoticeMemory NoticeKind = "memory"   // Figures of memory, for each line of the timeline

	NoticeNote    NoticeKind = "note"    // Reason
	NoticeWarning NoticeKind = "warning" // Reason
	NoticeEnd     NoticeKind = "end"     // Counts, Seconds
)

// Notice tells an observer of a step of a run. Fields that its kind does not name are zero.
type Notice struct {
	Kind         NoticeKind
	Session, Dir string
	Sample       string
	Split        string
	Done, Total  int // samples of this run
	Resumed      int
	Passes       int
	PassesTotal  int
	Status       cam.Status
	Reason       string
	Predicted    string // name of the predicted class
	Confidence   float64
	Seconds      float64 // of explaining a sample, or of the whole run
	Left         float64 // seconds that remain at the rate so far
	Counts       report.Counts
	Device       cam.Event
	Figures      report.Figures
}

// Observer is called for each step of a run, from several goroutines, by one at a time. A slow observer slows the run.
type Observer interface{ Notify(Notice) }

// ObserverFunc makes an Observer of a function.
type ObserverFunc func(Notice)

// Notify calls f.
func (f ObserverFunc) Notify(e Notice) { f(e) }

// serial passes notices on one at a time.
type serial struct {
	mu sync.Mutex
	to Observer
}

func (s *serial) Notify(e Notice) {
	if s.to == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to.Notify(e)
}
