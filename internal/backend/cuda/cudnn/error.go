package cudnn

import (
	"fmt"
	"strings"
	"unsafe"

	"github.com/voxcam/voxcam/internal/dl"
)

// Error is a call that cuDNN refused.
type Error struct {
	Call   string // the function, and its object
	Status int32  // a cudnnStatus_t; the thousands are the category: 2000 bad parameters, 3000 not supported, 4000 internal, 5000 execution
	Text   string // the status's name, and the library's text about the last error of the thread
}

func (e *Error) Error() string {
	return fmt.Sprintf("cuDNN: %s: status %d, %s", e.Call, e.Status, e.Text)
}

// Unsupported reports whether the library does not support the problem, as opposed to failing at it.
func (e *Error) Unsupported() bool { return e.Status/1000 == 3 }

// Statuses (cudnnStatus_t) for memory of the host and of the device that the library did not get.
const (
	statusHostAllocation   = 4003
	statusDeviceAllocation = 4004
)

// OutOfMemory reports whether the library did not get the memory it needs.
func (e *Error) OutOfMemory() bool {
	return e.Status == statusHostAllocation || e.Status == statusDeviceAllocation
}

// check turns a status into an error. It is called on the thread of the call, since the library keeps the last error for each.
func (l *Library) check(status uintptr, call string) error {
	code := int32(status)
	if code == 0 {
		return nil
	}
	text := cString(dl.Call(l.getErrorString, uintptr(uint32(code))))
	last := make([]byte, 1024)
	dl.Call(l.getLastErrorString, uintptr(unsafe.Pointer(&last[0])), uintptr(len(last)))
	if s := upToZero(last); s != "" {
		text += ": " + s
	}
	return &Error{call, code, text}
}

// cString copies a constant text that the library owns.
func cString(at uintptr) string {
	if at == 0 {
		return "no text"
	}
	var b strings.Builder
	p := *(*unsafe.Pointer)(unsafe.Pointer(&at)) // C's memory, which Go's collector does not move
	for i := 0; i < 256; i++ {
		c := *(*byte)(unsafe.Add(p, i))
		if c == 0 {
			break
		}
		b.WriteByte(c)
	}
	return b.String()
}

func upToZero(text []byte) string {
	s, _, _ := strings.Cut(string(text), "\x00")
	return strings.TrimSpace(s)
}
