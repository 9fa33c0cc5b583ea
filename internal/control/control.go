// Package control lets other programs of the same user reach a running session: by a socket that speaks HTTP and JSON, with GET /status,
// POST /order, and routes that the session adds. The session serves it; voxcam check, monitor and recover are clients. The socket is PID.sock
// in $XDG_RUNTIME_DIR/voxcam or, without that variable, in voxcam-UID in the folder for temporary files. Other users cannot enter either
// folder.
package control

import (
	"context"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/network"
	"github.com/voxcam/voxcam/internal/policy"
)

// Responder answers for a session on its socket.
type Responder interface {
	Status(ctx context.Context) (Status, error)
	// Order carries out an operation. It returns when that is done, which may take as long as a pass through the network.
	Order(ctx context.Context, o policy.Order) (policy.Outcome, error)
}

// Status describes a session.
type Status struct {
	PID     int       `json:"pid"`
	Worker  int       `json:"worker_pid,omitempty"` // the process that has the device; 0: the session itself
	Session string    `json:"session"`
	Dir     string    `json:"dir"`
	Model   string    `json:"model"`
	Started time.Time `json:"started"`

	Device string              `json:"device"`         // as in --device, with the name
	UUID   string              `json:"uuid,omitempty"` // of the GPU
	Usage  backend.Usage       `json:"usage"`
	Budget int                 `json:"budget_bytes"` // now; 0: the smallest plan
	Level  cam.Level           `json:"level"`
	Arena  int                 `json:"arena_bytes"`
	Plans  []network.PassState `json:"plans"`
	Held   bool                `json:"held"`            // it was asked to release memory, and has not resumed
	Until  time.Time           `json:"until,omitzero"`  // when it resumes
	State  string              `json:"state,omitempty"` // of the device: starting, computing, idle, waiting, restarting

	Sample      string  `json:"sample,omitempty"`
	Split       string  `json:"split,omitempty"`
	Passes      int     `json:"passes"`
	PassesTotal int     `json:"passes_total"`
	Done        int     `json:"done"`
	Total       int     `json:"total"`
	OK          int     `json:"ok"`
	Degraded    int     `json:"degraded"`
	Failed      int     `json:"failed"`
	Skipped     int     `json:"skipped"`
	LeftSeconds float64 `json:"left_seconds"`

	Events []cam.Event `json:"incidents,omitempty"` // the latest, oldest first
}
