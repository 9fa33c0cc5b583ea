package gpusurvey

// Holder is a process that holds memory of a device.
type Holder struct {
	PID     int    `json:"pid"`
	Bytes   int    `json:"bytes"`             // of the device's memory; -1 where nobody tells
	Name    string `json:"name,omitempty"`    // as the system has it, up to 15 letters; "" where it is not known
	Command string `json:"command,omitempty"` // with its arguments, each blank between two of them one
	UID     int    `json:"uid"`               // who runs it; -1 where it is not known
	User    string `json:"user,omitempty"`    // the name of UID
	Parent  int    `json:"parent,omitempty"`  // PID
	// Started is the time of its start, in the system's own unit since it booted. PID and Started together name one process for good.
	Started uint64 `json:"started,omitempty"`

	Ours    bool   `json:"ours"`              // of a session that answers
	Session string `json:"session,omitempty"` // its name
	Program bool   `json:"program"`           // it runs this program, with or without a session
	Orphan  bool   `json:"orphan"`            // a worker of this program whose parent is gone
	// Elsewhere: the PID is that of another container or of the host, and says nothing here.
	Elsewhere bool `json:"elsewhere,omitempty"`
}
