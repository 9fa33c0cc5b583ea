package tensor

import "syscall"

// forget is advice: nothing is lost when it is not taken.
func forget(pages []byte) { _ = syscall.Madvise(pages, syscall.MADV_DONTNEED) }
