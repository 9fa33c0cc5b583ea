//go:build !linux

package worker

import (
	"errors"
	"os"
)

// Supported tells whether this system can run an instance in a process of its own.
const Supported = false

// Usable returns the reason why this process cannot hand volumes to a child.
func Usable() error { return errSystem }

var errSystem = errors.New("a worker process needs Linux: compute in this process")

func newShared(string) (*os.File, error)          { return nil, errSystem }
func punch(*os.File, region) error                { return errSystem }
func newPair() (ours, theirs *os.File, err error) { return nil, nil, errSystem }
func program() (string, error)                    { return "", errSystem }
func offerToKiller()                              {}
func outOfMemoryKills() int                       { return -1 }
