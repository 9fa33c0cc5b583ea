package cudnn

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/voxcam/voxcam/internal/dl"
)

// descriptor is a cudnnBackendDescriptor_t: an object of the library, whose attributes are set, and which is then finalized (checked and
// frozen). 0 is none.
type descriptor uintptr

func (l *Library) release(d descriptor) {
	if d != 0 {
		dl.Call(l.destroyDescriptor, uintptr(d)) // there is nothing to do about a failure
	}
}

// set copies count elements from values into an attribute. The library keeps no pointer to them.
func (l *Library) set(d descriptor, a attribute, t kindOfValue, count int, values unsafe.Pointer) uintptr {
	return dl.Call(l.setAttribute, uintptr(d), uintptr(a), uintptr(t), uintptr(count), uintptr(values))
}

// get reads at most room elements of an attribute and returns their number, which can be larger. With room 0 it only counts.
func (l *Library) get(d descriptor, a attribute, t kindOfValue, room int, values unsafe.Pointer) (int, error) {
	var count int64
	status := dl.Call(l.getAttribute, uintptr(d), uintptr(a), uintptr(t), uintptr(room), uintptr(unsafe.Pointer(&count)), uintptr(values))
	if int32(status) != 0 {
		return 0, l.check(status, fmt.Sprintf("cudnnBackendGetAttribute(%d)", a))
	}
	return int(count), nil
}

// getInt reads an attribute of one 64-bit integer.
func (l *Library) getInt(d descriptor, a attribute) (int, error) {
	var v int64
	_, err := l.get(d, a, typeInt64, 1, unsafe.Pointer(&v))
	return int(v), err
}

// maker makes descriptors and owns them. Its first error stops it: later calls do nothing, and err has the error.
type maker struct {
	lib  *Library
	made []made
	err  error
}

type made struct {
	d    descriptor
	kind kind
}

// close destroys all descriptors, the last one first.
func (m *maker) close() {
	for i := len(m.made) - 1; i >= 0; i-- {
		m.lib.release(m.made[i].d)
	}
	m.made = nil
}

func (m *maker) create(k kind) descriptor {
	if m.err != nil {
		return 0
	}
	var d descriptor
	status := dl.Call(m.lib.createDescriptor, uintptr(k), uintptr(unsafe.Pointer(&d)))
	if m.err = m.lib.check(status, "cudnnBackendCreateDescriptor("+kindNames[k]+")"); m.err != nil {
		return 0
	}
	m.made = append(m.made, made{d, k})
	return d
}

func (m *maker) finalize(d descriptor) {
	if m.err == nil {
		m.err = m.lib.check(dl.Call(m.lib.finalizeDescriptor, uintptr(d)), "cudnnBackendFinalize("+m.name(d)+")")
	}
}

func (m *maker) name(d descriptor) string {
	for _, made := range m.made {
		if made.d == d {
			return kindNames[made.kind]
		}
	}
	return "?"
}

// put sets an attribute from a slice whose element type is the C type of t.
func put[T any](m *maker, d descriptor, a attribute, t kindOfValue, values ...T) {
	if m.err != nil {
		return
	}
	status := m.lib.set(d, a, t, len(values), unsafe.Pointer(unsafe.SliceData(values)))
	runtime.KeepAlive(values)
	if int32(status) != 0 {
		m.err = m.lib.check(status, fmt.Sprintf("cudnnBackendSetAttribute(%s, %d)", m.name(d), a))
	}
}

func (m *maker) ints(d descriptor, a attribute, values ...int64) { put(m, d, a, typeInt64, values...) }

func (m *maker) refer(d descriptor, a attribute, values ...descriptor) {
	put(m, d, a, typeDescriptor, values...)
}
