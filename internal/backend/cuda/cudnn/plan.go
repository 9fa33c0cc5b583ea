package cudnn

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/voxcam/voxcam/internal/backend/cuda/driver"
	"github.com/voxcam/voxcam/internal/dl"
)

// Plan is one engine, set up to compute one convolution.
type Plan struct {
	Problem   Convolution
	Engine    string // number and settings of the engine, for Rebuild; they mean something for one version of the library only
	Workspace int    // bytes that Run needs beside the tensors, at a multiple of 256

	handle *Handle
	graph  *graph
	maker  maker // the engine, its configuration, the plan
	d      descriptor

	// The last set of addresses: steps that run again and again mostly have the same ones.
	bound Addresses
	pack  descriptor
}

// Addresses are those of a plan's tensors on the device; 0 for a tensor that the problem does not have.
type Addresses struct {
	X, W, Y, Bias, Residual, Workspace driver.Ptr
}

// The library sorts candidates by the time that it expects. Engines that are compiled when their plan is made take up to a second each.
const (
	mostCandidates = 8
	mostCompiled   = 3
)

// Candidates returns at most 8 ways to compute a convolution, those that the library expects to be the fastest first. Left out are engines
// that need more workspace (bytes), whose results differ from run to run, and for Float32 those that compute with less than float32.
// Nothing is computed and no device memory is taken but for code. The error is there only if there is no candidate.
func (h *Handle) Candidates(c Convolution, maxWorkspace int) ([]*Plan, error) {
	g, err := h.graph(c)
	if err != nil {
		return nil, err
	}
	g.users = 1 // this function, until it returns
	defer g.release()

	var plans []*Plan
	var refused []string
	why := func(engine string, reason any) {
		if len(refused) < 6 {
			refused = append(refused, fmt.Sprintf("%s: %v", engine, reason))
		}
	}
	seen := map[string]bool{}
	compiled := 0
	for _, mode := range []int32{heuristicB, heuristicA, heuristicFallback} {
		if len(plans) > 2 && mode == heuristicFallback {
			break
		}
		found := maker{lib: h.lib}
		configs := h.suggest(&found, g, mode)
		if found.err != nil {
			why(fmt.Sprintf("heuristic %d", mode), found.err)
		}
		for _, config := range configs {
			if len(plans) == mostCandidates {
				break
			}
			s, err := h.describe(config)
			if err != nil {
				why("a suggestion", err)
				continue
			}
			name := s.engine.String()
			if seen[name] || s.compiles && compiled == mostCompiled {
				continue
			}
			seen[name] = true
			p, err := h.take(g, s, maxWorkspace)
			if err != nil {
				why(name, err)
				continue
			}
			plans = append(plans, p)
			if s.compiles {
				compiled++
			}
		}
		found.close()
	}
	if len(plans) == 0 {
		return nil, fmt.Errorf("cuDNN %s has no engine for the convolution %v within a workspace of %d bytes (%s)", versionText(h.lib.version), c,
			maxWorkspace, strings.Join(refused, "; "))
	}
	return plans, nil
}

// suggest asks a heuristic for engine configurations, which found owns.
func (h *Handle) suggest(found *maker, g *graph, mode int32) []descriptor {
	heuristic := found.create(kindHeuristic)
	found.refer(heuristic, attrHeuristicGraph, g.d)
	put(found, heuristic, attrHeuristicMode, typeHeuristicMode, mode)
	if h.device != 0 {
		found.refer(heuristic, attrHeuristicDevice, h.device)
	}
	found.finalize(heuristic)
	if found.err != nil {
		return nil
	}
	n, err := h.lib.get(heuristic, attrHeuristicResults, typeDescriptor, 0, nil)
	if err != nil {
		found.err = err
		return nil
	}
	configs := make([]descriptor, n)
	for i := range configs {
		configs[i] = found.create(kindEngineConfig)
	}
	if found.err != nil || n == 0 {
		return nil
	}
	n, found.err = h.lib.get(heuristic, attrHeuristicResults, typeDescriptor, n, unsafe.Pointer(&configs[0]))
	return configs[:min(n, len(configs))]
}

// suggestion is an engine configuration that a heuristic proposes.
type suggestion struct {
	engine    engine
	notes     []note
	compiles  bool // when its plan is made
	workspace int  // bytes, or 0 where only the plan knows them
}

// take makes a plan of a suggestion, or returns why it is not used.
func (h *Handle) take(g *graph, s suggestion, maxWorkspace int) (*Plan, error) {
	if reason := unwanted(s.notes, g.problem.Precision); reason != "" {
		return nil, errors.New(reason)
	}
	if s.workspace > maxWorkspace {
		return nil, fmt.Errorf("it needs a workspace of %d bytes", s.workspace)
	}
	// The plan is built from the description, not from the configuration, so that Rebuild is known to give the same one.
	p, err := h.build(g, s.engine)
	if err != nil {
		return nil, err
	}
	if p.Workspace > maxWorkspace {
		p.Close()
		return nil, fmt.Errorf("it needs a workspace of %d bytes", p.Workspace)
	}
	return p, nil
}

// unwanted returns the reason not to use an engine with these notes, or "".
func unwanted(notes []note, p Precision) string {
	for _, n := range notes {
		switch n {
		case noteNondeterministic:
			return "its results differ from run to run"
		case noteTensorCore, noteDownConvertInputs, noteReducedPrecisionReduction:
			if p == Float32 {
				return "it computes with less than float32"
			}
			if n == noteReducedPrecisionReduction {
				return "its sums are less than float32"
			}
		case noteWinograd6, noteWinograd13, noteFFT:
			// Transforms of large tiles lose more digits than the precision allows, or need a workspace beyond measure.
			return "it transforms large tiles"
		}
	}
	return ""
}

// engine is the index and the knobs of an engine, from which an execution plan is made.
type engine struct {
	index int
	knobs []knob // sorted by number
}

type knob struct {
	number int32
	value  int64
}

func (e engine) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", e.index)
	for _, k := range e.knobs {
		fmt.Fprintf(&b, ",%d=%d", k.number, k.value)
	}
	return b.String()
}

func parseEngine(text string) (engine, error) {
	head, rest, more := strings.Cut(text, ",")
	index, err := strconv.Atoi(head)
	if err != nil || index < 0 {
		return engine{}, fmt.Errorf("%q does not name an engine", text)
	}
	e := engine{index: index}
	for more {
		var item string
		item, rest, more = strings.Cut(rest, ",")
		left, right, ok := strings.Cut(item, "=")
		number, err1 := strconv.ParseInt(left, 10, 32)
		value, err2 := strconv.ParseInt(right, 10, 64)
		if !ok || err1 != nil || err2 != nil || len(e.knobs) == knobTypes {
			return engine{}, fmt.Errorf("%q does not name an engine", text)
		}
		e.knobs = append(e.knobs, knob{int32(number), value})
	}
	return e, nil
}

// describe reads a configuration. A descriptor inside another is read by giving an empty one, which the library fills.
func (h *Handle) describe(config descriptor) (suggestion, error) {
	m := maker{lib: h.lib}
	defer m.close()
	var s suggestion
	d := m.create(kindEngine)
	choices := make([]descriptor, knobTypes)
	for i := range choices {
		choices[i] = m.create(kindKnobChoice)
	}
	if m.err != nil {
		return s, m.err
	}
	var err error
	if _, err = h.lib.get(config, attrConfigEngine, typeDescriptor, 1, unsafe.Pointer(&d)); err != nil {
		return s, err
	}
	if s.engine.index, err = h.lib.getInt(d, attrEngineIndex); err != nil {
		return s, err
	}
	if s.notes, err = list[note](h.lib, d, attrEngineNotes, typeNumericalNote); err != nil {
		return s, err
	}
	behaviours, err := list[behaviour](h.lib, d, attrEngineBehaviour, typeBehaviourNote)
	if err != nil {
		return s, err
	}
	s.compiles = slices.Contains(behaviours, behaviourCompiles)
	// Not all versions know the workspace of a configuration. Where they do, too large a workspace shows without building a plan.
	if s.workspace, err = h.lib.getInt(config, attrConfigWorkspace); err != nil {
		s.workspace = 0
	}

	n, err := h.lib.get(config, attrConfigKnobs, typeDescriptor, len(choices), unsafe.Pointer(&choices[0]))
	if err != nil {
		return s, err
	}
	for _, c := range choices[:min(n, len(choices))] {
		var k knob
		if _, err := h.lib.get(c, attrKnobType, typeKnobType, 1, unsafe.Pointer(&k.number)); err != nil {
			return s, err
		}
		if _, err := h.lib.get(c, attrKnobValue, typeInt64, 1, unsafe.Pointer(&k.value)); err != nil {
			return s, err
		}
		s.engine.knobs = append(s.engine.knobs, k)
	}
	slices.SortFunc(s.engine.knobs, func(a, b knob) int { return int(a.number) - int(b.number) })
	return s, nil
}

// list reads an attribute of several values of a C enumeration.
func list[T ~int32](l *Library, d descriptor, a attribute, t kindOfValue) ([]T, error) {
	values := make([]T, 32) // more than any version has
	n, err := l.get(d, a, t, len(values), unsafe.Pointer(&values[0]))
	return values[:min(n, len(values))], err
}

// Rebuild makes the plan of an engine that Candidates chose before, with the same library and device, for the same problem or for one that
// differs in depth. There the same knobs mean the same tiles, so that sums are made in the same order unless the engine splits them by
// the problem's size: only a test can show that.
func (h *Handle) Rebuild(c Convolution, engine string) (*Plan, error) {
	e, err := parseEngine(engine)
	if err != nil {
		return nil, err
	}
	g, err := h.graph(c)
	if err != nil {
		return nil, err
	}
	g.users = 1
	defer g.release()
	p, err := h.build(g, e)
	if err != nil {
		return nil, fmt.Errorf("convolution %v with engine %s: %w", c, engine, err)
	}
	return p, nil
}

func (h *Handle) build(g *graph, e engine) (*Plan, error) {
	p := &Plan{Problem: g.problem, Engine: e.String(), handle: h, graph: g, maker: maker{lib: h.lib}}
	m := &p.maker
	d := m.create(kindEngine)
	m.refer(d, attrEngineGraph, g.d)
	m.ints(d, attrEngineIndex, int64(e.index))
	if h.device != 0 {
		m.refer(d, attrEngineDevice, h.device)
	}
	m.finalize(d)

	var choices []descriptor
	for _, k := range e.knobs {
		c := m.create(kindKnobChoice)
		put(m, c, attrKnobType, typeKnobType, k.number)
		m.ints(c, attrKnobValue, k.value)
		m.finalize(c)
		choices = append(choices, c)
	}
	config := m.create(kindEngineConfig)
	m.refer(config, attrConfigEngine, d)
	if len(choices) > 0 {
		m.refer(config, attrConfigKnobs, choices...)
	}
	m.finalize(config)

	p.d = m.create(kindPlan)
	m.refer(p.d, attrPlanConfig, config)
	if h.device != 0 {
		m.refer(p.d, attrPlanDevice, h.device)
	} else {
		put(m, p.d, attrPlanHandle, typeHandle, h.handle)
	}
	m.finalize(p.d)
	if m.err == nil {
		p.Workspace, m.err = h.lib.getInt(p.d, attrPlanWorkspace)
	}
	if m.err != nil {
		m.close()
		return nil, m.err
	}
	g.users++
	return p, nil
}

// Run starts the convolution on the handle's stream and does not wait for it.
func (p *Plan) Run(a Addresses) error {
	if p.d == 0 {
		return errors.New("cuDNN: a plan was run after it was closed")
	}
	if p.pack == 0 || a != p.bound {
		if err := p.bind(a); err != nil {
			return err
		}
	}
	lib := p.handle.lib
	status := dl.Call(lib.executePlan, p.handle.handle, uintptr(p.d), uintptr(p.pack))
	if int32(status) == 0 {
		return nil
	}
	return fmt.Errorf("convolution %v with engine %s: %w", p.Problem, p.Engine, lib.check(status, "cudnnBackendExecute"))
}

// bind replaces the variant pack: addresses by tensor. A pack is frozen when it is finalized, so that other addresses need another one.
func (p *Plan) bind(a Addresses) error {
	m := maker{lib: p.handle.lib}
	ids := []int64{idX, idW, idY}
	at := []driver.Ptr{a.X, a.W, a.Y}
	if p.Problem.Bias {
		ids, at = append(ids, idBias), append(at, a.Bias)
	}
	if p.Problem.Residual {
		ids, at = append(ids, idResidual), append(at, a.Residual)
	}
	for i, address := range at {
		if address == 0 || int(address)%p.Problem.Align != 0 {
			return fmt.Errorf("convolution %v: the address %#x of tensor %d is not one of its alignment", p.Problem, address, ids[i])
		}
	}
	if a.Workspace == 0 && p.Workspace > 0 {
		return fmt.Errorf("convolution %v with engine %s: no address for the workspace of %d bytes", p.Problem, p.Engine, p.Workspace)
	}
	d := m.create(kindVariantPack)
	m.ints(d, attrPackIDs, ids...)
	put(&m, d, attrPackPointers, typePointer, at...)
	put(&m, d, attrPackWorkspace, typePointer, a.Workspace)
	m.finalize(d)
	if m.err != nil {
		m.close()
		return fmt.Errorf("convolution %v: %w", p.Problem, m.err)
	}
	p.handle.lib.release(p.pack)
	p.pack, p.bound = d, a
	return nil
}

// Close gives the plan's descriptors back. Work that was started goes on.
func (p *Plan) Close() {
	if p.d == 0 {
		return
	}
	p.handle.lib.release(p.pack)
	p.pack, p.d = 0, 0
	p.maker.close()
	p.graph.release()
}
