package cam

import (
	"errors"
	"fmt"

	"github.com/voxcam/voxcam/internal/bytesize"
)

// Budget bounds the memory that computing takes: the arena, where activations and gradients live, the backend's copies of the
// weights, and the working memory of steps. The volume and the gradient with respect to it are counted apart, except where a device has
// memory of its own: there, all that lies on the device is counted. A user gives it as text (voxcam.Options.Budget), which becomes a
// Budget when the free memory is known.
type Budget struct {
	Bytes    int  // 0: no bound
	Arena    int  // bound of the arena alone, without copies of the weights and working memory of steps; 0: none
	Smallest bool // as little as possible
}

// Bounded reports whether there is a bound, so that plans must stream.
func (b Budget) Bounded() bool { return b.Smallest || b.Bytes > 0 || b.Arena > 0 }

// BudgetError says that not even the smallest plan fits. Sizes are in bytes.
type BudgetError struct {
	Budget   int  // the budget
	Smallest int  // budget that would do
	Weights  int  // part of Smallest: copies of the weights, and working memory of steps
	Free     bool // Budget is the free memory of the host
}

func (e *BudgetError) Error() string {
	what := "the memory budget"
	if e.Free {
		what = "the free memory"
	}
	return fmt.Sprintf("%s of %s is too small: the least that works is %s, of which %s are copies of the weights; "+
		"give a larger budget, smaller volumes, or for the CAM methods alone a layer further behind", what, bytesize.FormatMiB(e.Budget), bytesize.FormatMiB(e.Smallest), bytesize.FormatMiB(e.Weights))
}

// MemoryError says that the device, or its host, refused memory even for the smallest plan, or that less is allowed. All memory was given
// back. The same work may be computed again when there is more memory; it goes on from the parts that are finished.
type MemoryError struct {
	Needs int   // bytes, the least that works; 0: not known
	Free  int   // bytes that there were for it; 0 too if neither is known
	Err   error // of the device or its host
}

func (e *MemoryError) Error() string {
	known, smaller := "", "use smaller volumes or fewer methods, "
	switch {
	case e.Needs > 0:
		known = fmt.Sprintf(": the least that works is %s, and there are %s", bytesize.FormatMiB(e.Needs), bytesize.FormatMiB(e.Free))
	case e.Free > 0:
		known = fmt.Sprintf(": there are %s", bytesize.FormatMiB(e.Free))
	default: // not even to prepare for volumes
		smaller = ""
	}
	return fmt.Sprintf("there is not enough memory%s; make room on the device (other programs hold the rest), %sor compute on the processor: %v",
		known, smaller, e.Err)
}

func (e *MemoryError) Unwrap() error { return e.Err }

// TransientError says that calls of the device failed again and again, also after all was given back and taken again. The same work may be
// computed again; a new context may help.
type TransientError struct {
	Tries int   // in a row
	Err   error // of the last one
}

func (e *TransientError) Error() string {
	return fmt.Sprintf("the device failed %d times in a row; make its context anew: %v", e.Tries, e.Err)
}

func (e *TransientError) Unwrap() error { return e.Err }

// ErrLost is wrapped when the device's context is gone with all that was on it, for as long as this process lives: another process, or a
// Model on another device, can explain the volume, from Request.Checkpoint on.
var ErrLost = errors.New("the device is lost, with all that was on it")

// ErrClosed is the error of using a model that was closed.
var ErrClosed = errors.New("the model is closed")

// SkippedError says that a volume was given up because there is not enough memory for any plan that the policy allows.
type SkippedError struct {
	Err error // a *MemoryError, or the *BudgetError of the processor
}

func (e *SkippedError) Error() string {
	return fmt.Sprintf("skipped: %v", e.Err)
}
func (e *SkippedError) Unwrap() error { return e.Err }

// Status returns the status of a volume with this error, StatusSkipped.
func (*SkippedError) Status() Status { return StatusSkipped }
