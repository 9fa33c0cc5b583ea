package backend

// Resident is a Backend whose device has memory of its own, which it shares with other programs. Backends that compute in the host's
// memory do not implement it.
//
// What arenas, weights and fields take is allocated. What was closed is kept for the next that is taken, until Trim: so that taking no more
// than before does not depend on what others leave.
type Resident interface {
	Backend
	// Usage says how the memory of the device is used now.
	Usage() (Usage, error)
	// Trim gives memory back to the driver that nothing is in, but for so many bytes, and reports how much that was. It ends what an
	// earlier call could not give back.
	Trim(keep int) (freed int, err error)
	// Vacate gives all memory back to the driver until Return, and reports how much that was: what arenas hold is lost, and what
	// fields hold that are not to be kept; those and the weights wait in pinned memory of the host. Addresses and programs stay.
	// Nothing may be written, read or run in between, but all may be closed.
	Vacate(keep ...Field) (freed int, err error)
	// Return takes the memory of Vacate again. On an error all is as before the call.
	Return() error
	// Vacated reports whether Return is needed.
	Vacated() bool
	// Trouble says what an error of the backend means.
	Trouble(err error) Trouble
}

// Usage is how the memory of a device is used, in bytes. Free and Largest are by the driver's figures, which count what it needs to map memory
// itself: when all is taken, a few MiB of them cannot be had.
type Usage struct {
	Total     int `json:"total_bytes"`     // of the device
	Free      int `json:"free_bytes"`      // that the driver would give to anybody
	Allocated int `json:"allocated_bytes"` // by this backend, for arenas, weights and fields
	Reserved  int `json:"reserved_bytes"`  // that this backend has of the driver: what is allocated, and what it keeps for what comes next
	Largest   int `json:"largest_bytes"`   // block that could be handed out, of what is free and of what is reserved and not allocated
	Overhead  int `json:"overhead_bytes"`  // of this process besides: context, kernels, libraries; 0 where it is not known
}

// Available is what computing could take at most: what it has, and what is free.
func (u Usage) Available() int { return u.Reserved + u.Free }

// Fragmentation is the share of the memory that is not in use which could not be handed out as one block: 0 is none.
func (u Usage) Fragmentation() float64 {
	unused := u.Free + u.Reserved - u.Allocated
	if unused <= 0 || u.Largest >= unused {
		return 0
	}
	return 1 - float64(u.Largest)/float64(unused)
}

// Trouble is what an error means for those who could go on.
type Trouble uint8

const (
	Fault     Trouble = iota // of the program, the plan or the input: it would be the same again
	NoMemory                 // the device, or the host, refused memory: less may be given, or as much later
	Transient                // a call failed that may work after all was given back and taken again
	Lost                     // the context is gone, with all that is on the device, and this process gets no other: another process can go on
)
