package worker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/volume"
)

// kind names the message in a frame.
type kind uint8

const (
	// Calls of the parent. Each is answered by a frame of the same number, of kindReply or kindFault.
	callOpen     kind = 1 + iota // opening -> opened
	callBind                     // [4]int -> cam.Info
	callPrepare                  // []string
	callBegin                    // beginning
	callCompute                  // uint64, the work
	callResult                   // uint64, the work -> cam.Result without maps
	callMaps                     // wanted -> outputs, which stay until the next call for the work
	callOrder                    // policy.Order -> policy.Outcome
	callUsage                    // -> backend.Usage
	callUseLeast                 // int, bytes -> bool
	callClose

	// Other messages of the parent.
	sayCancel // the call of that number
	sayEnd    // uint64, the work: it is forgotten

	kindReply // the answer named at the call; empty for none
	kindFault // fault

	// Other messages of the child.
	tellTaken      // uint64, the work: its voxels have been read
	tellProgress   // progress
	tellEvent      // happened
	tellCheckpoint // checkpoint: complete when the frame is
	tellState      // stateMessage
	kinds
)

// frame is a message: on the wire its length behind the length, little-endian in four bytes, the kind in one, the number of the call
// in eight, and a body in gob.
type frame struct {
	kind kind
	call uint64
	body []byte
}

const (
	headLength = 9
	longest    = 16 << 20 // bytes of a frame: voxels never travel this way
)

// pipe is an end of the connection.
type pipe struct {
	r io.Reader

	mu sync.Mutex
	w  io.Writer
}

func newPipe(conn io.ReadWriter) *pipe { return &pipe{r: bufio.NewReader(conn), w: conn} }

// send writes a frame. A nil body is empty.
func (p *pipe) send(kind kind, call uint64, body any) error {
	b := bytes.NewBuffer(make([]byte, 4+headLength, 256))
	if body != nil {
		if err := gob.NewEncoder(b).Encode(body); err != nil {
			return fmt.Errorf("internal error, please report it: message %d: %w", kind, err)
		}
	}
	text := b.Bytes()
	if len(text)-4 > longest {
		return fmt.Errorf("internal error, please report it: message %d has %d bytes", kind, len(text))
	}
	binary.LittleEndian.PutUint32(text, uint32(len(text)-4))
	text[4] = byte(kind)
	binary.LittleEndian.PutUint64(text[5:], call)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.w.Write(text)
	return err
}

// receive reads the next frame. The error is io.EOF when the other side is gone.
func (p *pipe) receive() (frame, error) { return readFrame(p.r) }

func readFrame(r io.Reader) (f frame, err error) {
	var head [4 + headLength]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	f.kind, f.call = kind(head[4]), binary.LittleEndian.Uint64(head[5:])
	if n < headLength || n > longest || f.kind == 0 || f.kind >= kinds {
		return f, fmt.Errorf("a message of kind %d with %d bytes", f.kind, n)
	}
	var body bytes.Buffer
	if _, err := io.CopyN(&body, r, int64(n-headLength)); err != nil {
		return f, err
	}
	f.body = body.Bytes()
	return f, nil
}

// unpack reads a body.
func unpack[T any](body []byte) (v T, err error) { return v, unpackInto(body, &v) }

func unpackInto(body []byte, to any) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a message that cannot be decoded: %v", p)
		}
	}()
	if err := gob.NewDecoder(bytes.NewReader(body)).Decode(to); err != nil {
		return fmt.Errorf("a message that cannot be decoded: %w", err)
	}
	return nil
}

// Bodies. Options and states travel as JSON, which their types are made for.
type (
	opening struct {
		Options []byte // instance.Options
		Noise   Noise
		Pulse   int64 // nanoseconds from one state to the next
	}
	opened struct {
		Device instance.DeviceInfo
		Info   cam.Info
		State  stateMessage
	}
	stateMessage struct {
		State []byte // instance.Snapshot
		Pulse bool   // the instance loads, or has nothing to do
	}
	beginning struct {
		Work     uint64
		Shape    [4]int
		Voxels   region // of the parent's memory, until they are read
		Geometry volume.Geometry
		Axes     string
		Request  cam.Request  // as sendable returns it
		Noise    bool         // draws come from the file
		Kept     []checkpoint // in the parent's memory; stays until the work ends
	}
	checkpoint struct {
		Work  uint64
		Key   string
		Draws int
		State region
	}
	wanted struct {
		Work   uint64
		Method int
	}
	outputs struct {
		Map, Heatmap   region // of the child's memory
		Values, Voxels int    // of both; -1: nil
	}
	progress struct {
		Work        uint64
		Done, Total int
	}
	happened struct {
		Work  uint64
		Event cam.Event
	}
	fault struct {
		Text string
		Kind string // of knownErrors; "" for others
		Data []byte // of the error of that kind
	}
)

// sendable returns a request without the parts that cannot be sent: the source of draws and the checkpoint, for which this package has its own,
// and functions, which are called here for messages of the child.
func sendable(r cam.Request) cam.Request {
	r.Noise, r.Checkpoint, r.Progress, r.OnEvent = nil, nil, nil, nil
	return r
}

// remoteError is an error of the child: its text, and the known error in it.
type remoteError struct {
	text  string
	cause error // may be nil
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.cause }

// knownError is a type of error that callers distinguish.
type knownError struct {
	kind   string
	pack   func(err error) (data []byte, ok bool)
	unpack func(data []byte) (error, error)
}

// typed are errors of type *T, whose fields travel.
func typed[T any, P interface {
	*T
	error
}](kind string) knownError {
	return knownError{kind,
		func(err error) ([]byte, bool) {
			var found P
			if !errors.As(err, &found) {
				return nil, false
			}
			var b bytes.Buffer
			encodeErr := gob.NewEncoder(&b).Encode(found)
			return b.Bytes(), encodeErr == nil
		},
		func(data []byte) (error, error) {
			v, err := unpack[T](data)
			return P(&v), err
		}}
}

// value is an error that is compared.
func value(kind string, is error) knownError {
	return knownError{kind,
		func(err error) ([]byte, bool) { return nil, errors.Is(err, is) },
		func([]byte) (error, error) { return is, nil }}
}

// nested is an error of type P, made of some figures and of another error.
func nested[P error](kind string, take func(P) ([2]int, error), put func([2]int, error) error) knownError {
	type packed struct {
		Figures [2]int
		Err     fault
	}
	return knownError{kind,
		func(err error) ([]byte, bool) {
			var found P
			if !errors.As(err, &found) {
				return nil, false
			}
			figures, inner := take(found)
			if inner == nil {
				return nil, false
			}
			var b bytes.Buffer
			encodeErr := gob.NewEncoder(&b).Encode(packed{figures, faultOf(inner)})
			return b.Bytes(), encodeErr == nil
		},
		func(data []byte) (error, error) {
			v, err := unpack[packed](data)
			if err != nil {
				return nil, err
			}
			return put(v.Figures, v.Err.error()), nil
		}}
}

// knownErrors are all of them; of several in one error, the first counts.
func knownErrors() []knownError {
	return []knownError{
		nested("skipped", func(e *cam.SkippedError) ([2]int, error) { return [2]int{}, e.Err },
			func(_ [2]int, err error) error { return &cam.SkippedError{Err: err} }),
		value("lost", cam.ErrLost),
		nested("transient", func(e *cam.TransientError) ([2]int, error) { return [2]int{e.Tries}, e.Err },
			func(f [2]int, err error) error { return &cam.TransientError{Tries: f[0], Err: err} }),
		nested("memory", func(e *cam.MemoryError) ([2]int, error) { return [2]int{e.Needs, e.Free}, e.Err },
			func(f [2]int, err error) error { return &cam.MemoryError{Needs: f[0], Free: f[1], Err: err} }),
		typed[cam.BudgetError]("budget"),
		typed[volume.NonFiniteError]("non-finite"),
		typed[input.ChangedError]("changed"),
		value("cancelled", context.Canceled),
		value("deadline", context.DeadlineExceeded),
	}
}

func faultOf(err error) fault {
	f := fault{Text: err.Error()}
	for _, k := range knownErrors() {
		if data, ok := k.pack(err); ok {
			f.Kind, f.Data = k.kind, data
			break
		}
	}
	return f
}

// error is the error that f was made of.
func (f fault) error() error {
	e := &remoteError{text: f.Text}
	for _, k := range knownErrors() {
		if k.kind == f.Kind {
			if cause, err := k.unpack(f.Data); err == nil {
				e.cause = cause
			}
		}
	}
	return e
}
