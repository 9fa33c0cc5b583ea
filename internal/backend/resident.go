package backend

// Resident is a Backend whose device has memory of its own, which it shares with other programs. Backends that compute in the host's
// memory do not implement it.
//
// Arenas, weights and fields take memory. Once they are closed it is kept for the next ones, until Trim: so taking no more than before does
// not depend on the memory that other programs leave free.
type Resident interface {
	Backend
	// Usage returns the present use of the device's memory.
	Usage() (Usage, error)
	// Trim gives unused memory back to the driver, all but keep bytes, and returns the bytes that it freed. It also tries again to return
	// memory that the driver refused to take in earlier calls.
	Trim(keep int) (freed int, err error)
	// Vacate gives all memory back to the driver until Return, and reports how much that was. The weights and the fields of keep wait in
	// pinned memory of the host; the contents of arenas and other fields are lost. Addresses and programs stay. Nothing may be written,
	// read or run in between, but all may be closed.
	Vacate(keep ...Field) (freed int, err error)
	// Return takes the memory of Vacate again. On an error all is as before the call.
	Return() error
	// Vacated reports whether Return is needed.
	Vacated() bool
	// Class returns the class of an error of the backend.
	Class(err error) ErrorClass
}

// Usage is the use of a device's memory, in bytes. Free and Largest are by the driver's figures, which include the memory that it needs to
// map memory: a few MiB of them cannot be taken.
type Usage struct {
	Total     int `json:"total_bytes"`     // of the device
	Free      int `json:"free_bytes"`      // free for any program, by the driver
	Allocated int `json:"allocated_bytes"` // by this backend, for arenas, weights and fields
	Reserved  int `json:"reserved_bytes"`  // taken by this backend from the driver: Allocated, and spare memory for later
	Largest   int `json:"largest_bytes"`   // block that could be allocated, of memory that is free, or reserved and not allocated
	Overhead  int `json:"overhead_bytes"`  // other memory of this process: context, kernels, libraries; 0 where it is not known
}

// Available returns the most that computing could take: reserved and free memory.
func (u Usage) Available() int { return u.Reserved + u.Free }

// Fragmentation returns the share of unused memory outside of the largest block that could be allocated: 0 is none.
func (u Usage) Fragmentation() float64 {
	unused := u.Free + u.Reserved - u.Allocated
	if unused <= 0 || u.Largest >= unused {
		return 0
	}
	return 1 - float64(u.Largest)/float64(unused)
}

// ErrorClass is the class of an error: whether, and how, computing can go on.
type ErrorClass uint8

const (
	Fault     ErrorClass = iota // of the program, the plan or the input: it would be the same again
	NoMemory                    // the device, or the host, refused memory: less may do, or as much later
	Transient                   // a call failed that may work after all was given back and taken again
	Lost                        // the context is gone, with all that is on the device, and this process gets no other; another process can go on
)
