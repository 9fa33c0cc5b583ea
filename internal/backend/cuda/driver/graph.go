package driver

import "unsafe"

// captureThreadLocal (CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) lets other threads make the calls that a capture forbids.
const captureThreadLocal = 1

// Graph is work of a stream that was recorded instead of run.
type Graph struct {
	d      *Driver
	handle uintptr
}

// Executable is a graph that is ready to run, any number of times.
type Executable struct {
	d      *Driver
	handle uintptr
}

// BeginCapture makes the stream record its work until EndCapture, which is called inside the same Do. Nothing may wait for the stream
// in between.
func (s *Stream) BeginCapture() error {
	return s.d.streamBeginCapture.call(s.handle, captureThreadLocal)
}

// EndCapture returns the recorded graph.
func (s *Stream) EndCapture() (*Graph, error) {
	g := &Graph{d: s.d}
	if err := s.d.streamEndCapture.call(s.handle, uintptr(unsafe.Pointer(&g.handle))); err != nil {
		return nil, err
	}
	return g, nil
}

// Instantiate makes the graph ready to run.
func (g *Graph) Instantiate() (*Executable, error) {
	x := &Executable{d: g.d}
	if err := g.d.graphInstantiate.call(uintptr(unsafe.Pointer(&x.handle)), g.handle, 0); err != nil {
		return nil, err
	}
	return x, nil
}

// Close gives the graph back. Executables made from it stay.
func (g *Graph) Close() error { return g.d.graphDestroy.call(g.handle) }

// Launch puts the whole graph into a stream. Launches of one executable follow one another.
func (x *Executable) Launch(s *Stream) error { return x.d.graphLaunch.call(x.handle, s.handle) }

// Close gives the executable back.
func (x *Executable) Close() error { return x.d.graphExecDestroy.call(x.handle) }
