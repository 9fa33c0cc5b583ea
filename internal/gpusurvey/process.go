package gpusurvey

// ProcessInfo describes a process that holds memory of a device.
type ProcessInfo struct {
	PID     int    `json:"pid"`
	Bytes   int    `json:"bytes"`             // of the device's memory that it holds; -1 where it is not known
	Name    string `json:"name,omitempty"`    // by the system, up to 15 letters; "" where it is not known
	Command string `json:"command,omitempty"` // with its arguments, separated by single blanks
	UID     int    `json:"uid"`               // of its user; -1 where it is not known
	User    string `json:"user,omitempty"`    // the user's name
	Parent  int    `json:"parent,omitempty"`  // PID of its parent
	// Started is the time of its start, in the system's own unit since it booted. PID and Started together name one process for good.
	Started uint64 `json:"started,omitempty"`

	Ours    bool   `json:"ours"`              // it belongs to a session that answers
	Session string `json:"session,omitempty"` // that session's name
	Program bool   `json:"program"`           // it runs this program, with or without a session
	Orphan  bool   `json:"orphan"`            // a worker of this program whose parent is gone
	// Elsewhere: the PID is that of another container or of the host, and says nothing here.
	Elsewhere bool `json:"elsewhere,omitempty"`
}
