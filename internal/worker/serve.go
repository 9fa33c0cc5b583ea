package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/explain"
	"github.com/voxcam/voxcam/internal/input"
	"github.com/voxcam/voxcam/internal/instance"
	"github.com/voxcam/voxcam/internal/policy"
	"github.com/voxcam/voxcam/internal/volume/npy"
	"github.com/voxcam/voxcam/volume"
)

// Descriptors that a child starts with, behind the standard ones.
const (
	descriptorConn = 3 + iota
	descriptorIn
	descriptorOut
)

// Open makes the instance of a child.
type Open func(ctx context.Context, o instance.Options) (instance.Instance, error)

// Serve runs a child: it opens an instance when its parent asks for it, and answers the parent's calls, until the parent has closed the
// connection or is gone. The caller must end the process when Serve returns: calls to a driver may still be running. before, unless it is nil,
// is called before each message that is read or sent, for tests.
func Serve(open Open, before func()) error {
	if before == nil {
		before = func() {}
	}
	conn, in, out := os.NewFile(descriptorConn, "parent"), os.NewFile(descriptorIn, "in"), os.NewFile(descriptorOut, "out")
	if info, err := conn.Stat(); err != nil || info.Mode()&os.ModeSocket == 0 {
		return errors.New("this command is for voxcam run, which starts it with a connection to itself")
	}
	for _, f := range []*os.File{conn, in, out} {
		syscall.CloseOnExec(int(f.Fd()))
	}
	// A terminal, a batch system or pkill signal the parent, too, which decides: results may have to be fetched first.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	debug.SetGCPercent(10) // memory that a budget does not count should stay small
	offerToKiller()
	s := &server{open: open, before: before, pipe: newPipe(conn), in: in, out: &sharedMemory{file: out},
		calls: map[uint64]context.CancelFunc{}, works: map[uint64]*served{}}
	for {
		before()
		f, err := s.pipe.receive()
		switch {
		case err != nil && ended(err):
			return nil
		case err != nil:
			return err
		}
		if err := s.handle(f); err != nil {
			return err
		}
	}
}

// server is the child's side.
type server struct {
	open   Open
	before func()
	pipe   *pipe
	in     *os.File
	out    *sharedMemory

	mu        sync.Mutex
	instance  instance.Instance // nil until it is opened
	noise     cam.NoiseDraw
	calls     map[uint64]context.CancelFunc
	works     map[uint64]*served
	beginning int // volumes that are being brought to the device
	computing int // volumes that are computed, or wait for that
}

// served is a volume that has been begun.
type served struct {
	server *server
	id     uint64
	work   explain.Work
	result *cam.Result

	mu    sync.Mutex
	stage stage
	stop  context.CancelFunc // ends the context of the latest Compute, which is also used to compute lost maps again
	busy  bool               // a call uses the work
	kept  map[string]kept
	maps  []region // the parent may be reading them
	ended bool     // the parent does not need it any more
}

// stage is the progress of a served work.
type stage int

const (
	stageBegun    stage = iota // Compute may be called, for the first time or after an error
	stageComputed              // the result may be fetched
	stageFetched               // the result was fetched
	stageEnded
)

// kept is a state of unfinished points.
type kept struct {
	draws int
	state region
	ours  bool // it lies in the child's memory
}

// answers to calls.
var answers = map[kind]func(*server, context.Context, []byte) (any, error){
	callOpen:     asked((*server).answerOpen),
	callBind:     asked((*server).answerBind),
	callPrepare:  asked((*server).answerPrepare),
	callBegin:    asked((*server).answerBegin),
	callCompute:  asked((*server).answerCompute),
	callResult:   asked((*server).answerResult),
	callMaps:     asked((*server).answerMaps),
	callOrder:    asked((*server).answerOrder),
	callUsage:    func(s *server, ctx context.Context, _ []byte) (any, error) { return s.answerUsage(ctx) },
	callUseLeast: asked((*server).answerUseLeast),
	callClose:    func(s *server, _ context.Context, _ []byte) (any, error) { return s.answerClose() },
}

// asked makes an entry of answers from a method for questions of type T.
func asked[T any](answer func(*server, context.Context, T) (any, error)) func(*server, context.Context, []byte) (any, error) {
	return func(s *server, ctx context.Context, body []byte) (any, error) {
		question, err := unpack[T](body)
		if err != nil {
			return nil, err
		}
		return answer(s, ctx, question)
	}
}

// handle begins to carry out a message. The error is about a message that cannot be decoded.
func (s *server) handle(f frame) error {
	switch f.kind {
	case sayCancel:
		s.mu.Lock()
		cancel := s.calls[f.call]
		s.mu.Unlock()
		if cancel != nil {
			cancel()
		}
		return nil
	case sayEnd:
		id, err := unpack[uint64](f.body)
		if err == nil {
			s.forgetWork(id)
		}
		return err
	}
	answer := answers[f.kind]
	if answer == nil {
		return fmt.Errorf("a message of kind %d is nothing to ask", f.kind)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	s.calls[f.call] = cancel
	s.mu.Unlock()
	go func() { // ends with the process
		value, err := answer(s, ctx, f.body)
		s.mu.Lock()
		delete(s.calls, f.call)
		s.mu.Unlock()
		cancel()
		if err != nil {
			s.send(kindFault, f.call, faultOf(err))
		} else {
			s.send(kindReply, f.call, value)
		}
	}()
	return nil
}

// send sends the parent a message. A parent that is gone is noticed when reading.
func (s *server) send(kind kind, call uint64, body any) {
	s.before()
	if err := s.pipe.send(kind, call, body); err != nil && !broken(err) {
		s.pipe.send(kindFault, call, fault{Text: err.Error()})
	}
}

// opened returns the instance.
func (s *server) opened() (instance.Instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.instance == nil {
		return nil, errors.New("internal error, please report it: the instance is not open")
	}
	return s.instance, nil
}

func (s *server) answerOpen(ctx context.Context, o opening) (any, error) {
	var options instance.Options
	if err := json.Unmarshal(o.Options, &options); err != nil {
		return nil, err
	}
	if o.Noise.Path != "" {
		draws, err := npy.Open(ctx, o.Noise.Path)
		if err != nil {
			return nil, err
		}
		if o.Noise.SHA256 != "" && o.Noise.SHA256 != draws.SHA256() {
			return nil, errors.Join(&input.ChangedError{Path: o.Noise.Path}, draws.Close())
		}
		s.noise = draws
	}
	e, err := s.open(ctx, options)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.instance = e
	s.mu.Unlock()
	answer := opened{Device: e.Device(), Info: e.Info()}
	if answer.State, err = s.describe(e); err != nil {
		return nil, err
	}
	go s.pulse(e, time.Duration(o.Pulse))
	return answer, nil
}

// describe returns the state of the instance, with the pulse, which the parent takes for progress: there is one while nothing can hang in a
// driver. That is so on the processor, and while a volume that is being begun waits for others before it.
func (s *server) describe(e instance.Instance) (t stateMessage, err error) {
	s.mu.Lock()
	inDriver := s.computing > 0 || s.beginning > 0 && len(s.works) == 0
	s.mu.Unlock()
	t.Pulse = !inDriver || e.Device().Processor
	t.State, err = json.Marshal(e.State())
	return t, err
}

// pulse sends the state of the instance to the parent at intervals, as long as the process lives. An instance that hangs does not answer, and
// has no pulse.
func (s *server) pulse(e instance.Instance, every time.Duration) {
	for range time.Tick(every) {
		s.sendState(e)
	}
}

func (s *server) sendState(e instance.Instance) {
	if t, err := s.describe(e); err == nil {
		s.send(tellState, 0, t)
	}
}

func (s *server) answerBind(ctx context.Context, shape [4]int) (any, error) {
	e, err := s.opened()
	if err != nil {
		return nil, err
	}
	if err := e.Bind(ctx, shape); err != nil {
		return nil, err
	}
	return e.Info(), nil
}

func (s *server) answerPrepare(ctx context.Context, methods []string) (any, error) {
	e, err := s.opened()
	if err != nil {
		return nil, err
	}
	return nil, e.Prepare(ctx, methods)
}

func (s *server) answerOrder(ctx context.Context, o policy.Order) (any, error) {
	e, err := s.opened()
	if err != nil {
		return nil, err
	}
	outcome, err := e.Order(ctx, o)
	s.sendState(e)
	return outcome, err
}

func (s *server) answerUsage(ctx context.Context) (any, error) {
	e, err := s.opened()
	if err != nil {
		return nil, err
	}
	return e.Usage(ctx)
}

func (s *server) answerUseLeast(ctx context.Context, bytes int) (any, error) {
	e, err := s.opened()
	if err != nil {
		return nil, err
	}
	return e.UseLeast(ctx, bytes)
}

func (s *server) answerClose() (any, error) {
	e, err := s.opened()
	if err != nil {
		return nil, nil
	}
	return nil, e.Close()
}

func (s *server) answerBegin(ctx context.Context, b beginning) (any, error) {
	e, err := s.opened()
	if err != nil {
		return nil, err
	}
	w := &served{server: s, id: b.Work, kept: map[string]kept{}, stop: func() {}}
	for _, k := range b.Kept {
		w.kept[k.Key] = kept{draws: k.Draws, state: k.State}
	}
	v := &volume.Volume{Channels: b.Shape[0], Depth: b.Shape[1], Height: b.Shape[2], Width: b.Shape[3], Geometry: b.Geometry, Axes: b.Axes}
	if v.Data, err = get(s.in, b.Voxels, int(b.Voxels.Length/4)); err != nil {
		return nil, err
	}
	s.send(tellTaken, 0, w.id)
	req := b.Request
	req.Checkpoint = w
	req.Progress = func(done, total int) { s.send(tellProgress, 0, progress{w.id, done, total}) }
	req.OnEvent = func(e cam.Event) { s.send(tellEvent, 0, happened{w.id, e}) }
	if b.Noise {
		req.Noise = s.noise
	}
	s.mu.Lock()
	s.beginning++
	s.mu.Unlock()
	w.work, err = e.Begin(ctx, v, req)
	if err == nil && ctx.Err() != nil { // the parent may have given it up, and then it ends it no more
		w.work.Drop()
		err = ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beginning--
	if err != nil {
		return nil, err
	}
	s.works[w.id] = w
	return nil, nil
}

func (s *server) served(id uint64) (*served, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.works[id]; w != nil {
		return w, nil
	}
	return nil, fmt.Errorf("internal error, please report it: volume %d has not been begun", id)
}

func (s *server) answerCompute(ctx context.Context, id uint64) (any, error) {
	w, err := s.served(id)
	if err != nil {
		return nil, err
	}
	work := w.use(stageBegun)
	if work == nil {
		return nil, fmt.Errorf("internal error, please report it: volume %d is not to be explained", id)
	}
	alive, stop := context.WithCancel(context.Background())
	w.mu.Lock()
	w.stop = stop
	w.mu.Unlock()
	s.mu.Lock()
	s.computing++
	s.mu.Unlock()
	defer context.AfterFunc(ctx, stop)()
	err = work.Compute(alive)
	s.mu.Lock()
	s.computing--
	s.mu.Unlock()
	if err != nil {
		stop()
		w.used(stageBegun)
		return nil, err
	}
	w.used(stageComputed)
	e, err := s.opened()
	if err != nil {
		return nil, err
	}
	s.sendState(e)
	return e.Info(), nil
}

func (s *server) answerResult(ctx context.Context, id uint64) (any, error) {
	w, err := s.served(id)
	if err != nil {
		return nil, err
	}
	work := w.use(stageComputed)
	if work == nil {
		return nil, fmt.Errorf("internal error, please report it: volume %d is not explained", id)
	}
	stop := context.AfterFunc(ctx, w.stop)
	w.result, err = work.Result()
	stop()
	if err != nil {
		w.used(stageBegun)
		return nil, err
	}
	w.used(stageFetched)
	r := *w.result
	r.Methods = append([]cam.MethodResult(nil), r.Methods...)
	for i := range r.Methods {
		r.Methods[i].Map, r.Methods[i].Heatmap = nil, nil
	}
	return r, nil
}

// use returns the work, if it is at that stage, for a call that may take long; until used is called, other callers get nil.
func (w *served) use(at stage) explain.Work {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stage != at || w.busy {
		return nil
	}
	w.busy = true
	return w.work
}

// used ends the use of the work, and sets its stage.
func (w *served) used(now stage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stage, w.busy = now, false
	if w.ended {
		w.free()
	}
}

// answerMaps hands the maps of a method over, and keeps no copy.
func (s *server) answerMaps(_ context.Context, q wanted) (any, error) {
	w, err := s.served(q.Work)
	if err != nil {
		return nil, err
	}
	if w.result == nil || q.Method < 0 || q.Method >= len(w.result.Methods) {
		return nil, fmt.Errorf("internal error, please report it: method %d has no result", q.Method)
	}
	m := &w.result.Methods[q.Method]
	answer := outputs{Values: -1, Voxels: -1}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.freeMaps(); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		values *[]float32
		count  *int
		at     *region
	}{{&m.Map, &answer.Values, &answer.Map}, {&m.Heatmap, &answer.Voxels, &answer.Heatmap}} {
		if *part.values == nil {
			continue
		}
		if *part.at, err = s.out.put(*part.values); err != nil {
			return nil, err
		}
		w.maps = append(w.maps, *part.at)
		*part.count, *part.values = len(*part.values), nil
	}
	return answer, nil
}

// freeMaps takes back the memory of maps that the parent has read. w.mu is held.
func (w *served) freeMaps() error {
	var errs []error
	for _, r := range w.maps {
		errs = append(errs, w.server.out.release(r))
	}
	w.maps = nil
	return errors.Join(errs...)
}

// forgetWork forgets a volume, if there is one of that number.
func (s *server) forgetWork(id uint64) {
	s.mu.Lock()
	w := s.works[id]
	delete(s.works, id)
	s.mu.Unlock()
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended = true; !w.busy {
		w.free()
	}
}

// free gives back all memory of a work. w.mu is held.
func (w *served) free() {
	w.stop()
	switch w.stage {
	case stageBegun:
		w.work.Drop()
	case stageComputed:
		go w.work.Result() // the result is not needed
	}
	w.stage = stageEnded
	w.freeMaps() // an error is that of a system that gives no memory back
	for key := range w.kept {
		w.freeState(key)
	}
}

// freeState takes back the memory of a state. w.mu is held.
func (w *served) freeState(key string) {
	if k := w.kept[key]; k.ours {
		w.server.out.release(k.state)
	}
	delete(w.kept, key)
}

// Latest implements cam.Checkpoint.
func (w *served) Latest(key string) ([]float32, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k, found := w.kept[key]
	if !found {
		return nil, 0
	}
	file := w.server.in
	if k.ours {
		file = w.server.out.file
	}
	values, err := get(file, k.state, int(k.state.Length/4))
	if err != nil {
		return nil, 0 // begin with the first draw
	}
	return values, k.draws
}

// Keep implements cam.Checkpoint. When the state is complete, a message goes to the parent, which arrives even if this process ends at once;
// so the earlier state can be freed.
func (w *served) Keep(key string, state []float32, draws int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil
	}
	r, err := w.server.out.put(state)
	if err != nil {
		return err
	}
	w.server.send(tellCheckpoint, 0, checkpoint{w.id, key, draws, r})
	w.freeState(key)
	w.kept[key] = kept{draws, r, true}
	return nil
}
