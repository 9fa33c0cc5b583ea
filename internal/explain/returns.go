package explain

import (
	"errors"
	"sync"
)

// returns collects transfers to the host beside computing, and their errors.
type returns struct {
	sync.WaitGroup
	mu     sync.Mutex
	failed map[int]error // by method; guarded by mu
}

// fail notes that something of method i did not come back.
func (r *returns) fail(i int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil {
		r.failed = map[int]error{}
	}
	r.failed[i] = errors.Join(r.failed[i], err)
}

// wait waits for all that is on its way, and returns the failures by method since the last call.
func (r *returns) wait() map[int]error {
	r.Wait()
	failed := r.failed
	r.failed = nil
	return failed
}
