package session

import (
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/report"
)

// Kind says which step of a run an Event is.
type Kind string

const (
	EventStart  Kind = "start"  // Session, Dir, Total (to do now), Resumed
	EventBegin  Kind = "begin"  // Sample and Split are being explained
	EventPass   Kind = "pass"   // Passes of PassesTotal through the network are done for Sample
	EventSample Kind = "sample" // Sample is written: Status, Reason, Predicted, Confidence, Done, Total, Seconds, Left

	EventDevice Kind = "incident" // Device happened to memory or device while Sample was explained
	EventMemory Kind = "memory"   // Figures of memory, for each line of the timeline

	EventNote    Kind = "note"    // Reason
	EventWarning Kind = "warning" // Reason
	EventEnd     Kind = "end"     // Counts, Seconds
)

// Event is a step of a run. Fields that its kind does not name are zero.
type Event struct {
	Kind         Kind
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

// Observer is called for each step of a run, one call at a time, from several goroutines. A slow one slows the run.
type Observer interface{ Event(Event) }

// ObserverFunc makes an Observer of a function.
type ObserverFunc func(Event)

// Event calls f.
func (f ObserverFunc) Event(e Event) { f(e) }

// serial passes events on one at a time.
type serial struct {
	mu sync.Mutex
	to Observer
}

func (s *serial) Event(e Event) {
	if s.to == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to.Event(e)
}
