//go:build !linux || !(amd64 || arm64) || nogpu

package dl

import "errors"

// errUnsupported is the reason why every library is missing.
var errUnsupported = errors.New("this build cannot load shared libraries; it can on Linux with amd64 or arm64, without the tag nogpu")

func open(string) (uintptr, error) { return 0, errUnsupported }

func symbol(uintptr, string) (uintptr, error) { return 0, errUnsupported }

func locate(_ uintptr, name string) string { return name }

// Call is never reached here: no library can be opened.
//
//go:uintptrescapes
func Call(uintptr, ...uintptr) uintptr { return ^uintptr(0) }

// CallSlice is not reached either.
func CallSlice(uintptr, []uintptr) uintptr { return ^uintptr(0) }
