package memory

import "time"

// Policy says what may be given up, and in which order, when memory is short. Smaller plans and volumes on the host are never asked
// about: they change no result.
type Policy struct {
	// Original takes fewer draws by the thresholds of the original system, from the memory that is free when a volume begins.
	Original bool `json:"original"`
	// Wait is how long in all others are waited for to leave memory, for one volume, before less is done.
	Wait time.Duration `json:"wait_ns"`
	// CPU lets the processor go on where the device cannot.
	CPU bool `json:"cpu"`
	// Fewer lets a volume be explained with fewer draws, down to 5, where not all can be had.
	Fewer bool `json:"fewer_samples"`
	// Skip gives a volume up with the status skipped_low_memory; otherwise it fails.
	Skip bool `json:"skip"`
}

// DefaultPolicy never changes a result: it waits a while, goes on on the processor, and skips what nothing can hold.
func DefaultPolicy() Policy { return Policy{Wait: 10 * time.Second, CPU: true, Skip: true} }
