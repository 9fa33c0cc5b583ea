package driver

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/voxcam/voxcam/internal/dl"
)

// Module is a set of kernels in the memory of the device.
type Module struct {
	d      *Driver
	handle uintptr
}

// Function is a kernel.
type Function struct {
	d          *Driver
	handle     uintptr
	name       string
	paramBytes int // -1 where the driver does not tell
	registers  int
	stack      int
	maxThreads int
}

// Numbers of CUjit_option and CUfunction_attribute.
const (
	jitErrorLog      = 5
	jitErrorLogBytes = 6

	functionMaxThreads    = 0
	functionLocal         = 3
	functionRegisters     = 4
	functionDynamicShared = 8
)

// LoadModule loads compiled kernels: a cubin, a fat binary, or PTX, which the driver then compiles.
func (c *Context) LoadModule(image []byte) (*Module, error) {
	if len(image) == 0 {
		return nil, &Error{"cuModuleLoadData", CodeInvalidImage, meanings[CodeInvalidImage].name, "the image of the kernels is empty"}
	}
	image = append(image[:len(image):len(image)], 0) // PTX is a C string
	m := &Module{d: c.d}
	log := make([]byte, 8<<10)
	options := [2]int32{jitErrorLog, jitErrorLogBytes}
	values := struct {
		log   *byte
		bytes uintptr
	}{&log[0], uintptr(len(log))}
	err := c.d.moduleLoadDataEx.call(uintptr(unsafe.Pointer(&m.handle)), uintptr(unsafe.Pointer(&image[0])), uintptr(len(options)),
		uintptr(unsafe.Pointer(&options)), uintptr(unsafe.Pointer(&values)))
	if err == nil {
		return m, nil
	}
	if refused, ok := errors.AsType[*Error](err); ok {
		if text := strings.TrimSpace(cString(log)); text != "" {
			refused.Text += "; its compiler says: " + text
		}
	}
	return nil, err
}

// Unload gives the module back. Its functions are invalid afterwards.
func (m *Module) Unload() error { return m.d.moduleUnload.call(m.handle) }

// Function finds a kernel by its name.
func (m *Module) Function(name string) (*Function, error) {
	f := &Function{d: m.d, name: name, paramBytes: -1}
	text := append([]byte(name), 0)
	if err := m.d.moduleGetFunction.call(uintptr(unsafe.Pointer(&f.handle)), m.handle, uintptr(unsafe.Pointer(&text[0]))); err != nil {
		return nil, fmt.Errorf("kernel %s: %w", name, err)
	}
	for _, a := range []struct {
		number uintptr
		to     *int
	}{{functionMaxThreads, &f.maxThreads}, {functionRegisters, &f.registers}, {functionLocal, &f.stack}} {
		var v int32
		if err := m.d.funcGetAttribute.call(uintptr(unsafe.Pointer(&v)), a.number, f.handle); err != nil {
			return nil, fmt.Errorf("kernel %s: %w", name, err)
		}
		*a.to = int(v)
	}
	if m.d.funcGetParamInfo.at != 0 {
		var offset, size uint64
		err := m.d.funcGetParamInfo.call(f.handle, 0, uintptr(unsafe.Pointer(&offset)), uintptr(unsafe.Pointer(&size)))
		if err == nil {
			f.paramBytes = int(size)
		}
	}
	return f, nil
}

// Name returns the name of the kernel.
func (f *Function) Name() string { return f.name }

// Registers returns the number of registers of a thread.
func (f *Function) Registers() int { return f.registers }

// Stack returns the bytes of local memory of a thread.
func (f *Function) Stack() int { return f.stack }

// MaxThreads returns the largest number of threads of a block.
func (f *Function) MaxThreads() int { return f.maxThreads }

// SetDynamicShared allows launches with that many bytes of shared memory. Up to 48 KiB are allowed without.
func (f *Function) SetDynamicShared(bytes int) error {
	if err := f.d.funcSetAttribute.call(f.handle, functionDynamicShared, uintptr(bytes)); err != nil {
		return fmt.Errorf("kernel %s with %d bytes of shared memory: %w", f.name, bytes, err)
	}
	return nil
}

// Occupancy returns the number of blocks with that many threads and bytes of dynamic shared memory that a multiprocessor holds.
func (f *Function) Occupancy(threads, shared int) (blocks int, err error) {
	var n int32
	err = f.d.occupancyMaxActiveBlocks.call(uintptr(unsafe.Pointer(&n)), f.handle, uintptr(threads), uintptr(shared))
	return int(n), err
}

// Launch puts a kernel into the stream. Its only parameter is a structure of size bytes at params, which is read before Launch returns.
// Shared is the dynamic shared memory in bytes.
func (s *Stream) Launch(f *Function, grid, block [3]uint32, shared int, params unsafe.Pointer, size int) error {
	if f.paramBytes >= 0 && f.paramBytes != size {
		return fmt.Errorf("kernel %s takes %d bytes of parameters and was given %d: program and kernels are of different versions", f.name,
			f.paramBytes, size)
	}
	if p := &s.d.launchKernel; p.intercept != nil {
		if err := p.intercepted(); err != nil {
			return fmt.Errorf("kernel %s in %v blocks of %v threads: %w", f.name, grid, block, err)
		}
	}
	s.params = params
	s.args = [...]uintptr{f.handle, uintptr(grid[0]), uintptr(grid[1]), uintptr(grid[2]), uintptr(block[0]), uintptr(block[1]),
		uintptr(block[2]), uintptr(shared), s.handle, uintptr(unsafe.Pointer(&s.params)), 0}
	if err := s.d.launchKernel.check(dl.CallSlice(s.d.launchKernel.at, s.args[:])); err != nil {
		return fmt.Errorf("kernel %s in %v blocks of %v threads: %w", f.name, grid, block, err)
	}
	return nil
}
