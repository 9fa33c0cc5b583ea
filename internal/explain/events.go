package explain

import (
	"fmt"
	"time"

	"github.com/voxcam/voxcam/cam"
)

// record makes an event and publishes it, now or with the next volume.
func (e *explanation) record(kind cam.EventKind, format string, args ...any) {
	i := cam.Event{Time: time.Now(), Kind: kind, Text: fmt.Sprintf(format, args...)}
	if e.quiet {
		e.model.unpublished = append(e.model.unpublished, i)
		return
	}
	e.publish(i)
}

// publish appends an event to the result, and hands it to the caller.
func (e *explanation) publish(i cam.Event) {
	e.eventsMu.Lock()
	e.result.Execution.Events = append(e.result.Execution.Events, i)
	e.eventsMu.Unlock()
	if e.req.OnEvent != nil {
		e.req.OnEvent(i)
	}
}

// publishPending publishes the events from before the volume.
func (m *Model) publishPending(e *explanation) {
	for _, i := range m.unpublished {
		e.publish(i)
	}
	m.unpublished = nil
}
