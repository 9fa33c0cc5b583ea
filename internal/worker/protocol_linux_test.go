package worker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/voxcam/voxcam/cam"
	"github.com/voxcam/voxcam/internal/policy"
)

// memoryPipe is a connection to nobody.
type memoryPipe struct{ bytes.Buffer }

func sent(t testing.TB, kind kind, call uint64, body any) []byte {
	t.Helper()
	var b memoryPipe
	if err := newPipe(&b).send(kind, call, body); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var bodies = map[kind]any{
	callOpen:       opening{Options: []byte(`{"model":"m"}`), Noise: Noise{"n.npy", "5"}, Pulse: 5},
	callBind:       [4]int{1, 2, 3, 4},
	callPrepare:    []string{"gradcam", "vargrad"},
	callBegin:      beginning{Work: 3, Shape: [4]int{1, 2, 3, 4}, Voxels: region{1, 2}, Request: cam.Request{Seed: 1<<64 - 1, Convention: map[string]string{"a": "b"}}, Kept: []checkpoint{{Work: 3, Key: "k", Draws: 4, State: region{5, 6}}}},
	callCompute:    uint64(7),
	callMaps:       wanted{7, 1},
	callOrder:      policy.Order{Operation: policy.Release, For: time.Second},
	kindReply:      cam.Result{Methods: []cam.MethodResult{{Parameters: map[string]any{"seed": uint64(1) << 63, "n_samples": 5, "noise_level": 1.0, "convention": "c"}}}},
	kindFault:      faultOf(&cam.BudgetError{Budget: 1, Smallest: 2}),
	tellTaken:      uint64(7),
	tellProgress:   progress{7, 1, 2},
	tellEvent:      happened{7, cam.Event{Time: time.Unix(1, 2).UTC(), Kind: cam.EventSmaller, Text: "less"}},
	tellCheckpoint: checkpoint{7, "k", 3, region{0, 8}},
	tellState:      stateMessage{State: []byte("{}"), Pulse: true},
}

func TestFrames(t *testing.T) {
	for kind, body := range bodies {
		f, err := readFrame(bytes.NewReader(sent(t, kind, 9, body)))
		if err != nil || f.kind != kind || f.call != 9 {
			t.Fatalf("%v of call %d, %v", f.kind, f.call, err)
		}
		back := reflect.New(reflect.TypeOf(body))
		if err := unpackInto(f.body, back.Interface()); err != nil || !reflect.DeepEqual(back.Elem().Interface(), body) {
			t.Errorf("%+v came back as %+v, %v", body, back.Elem(), err)
		}
	}
	if err := newPipe(&memoryPipe{}).send(callOpen, 1, opening{Options: make([]byte, longest)}); err == nil {
		t.Error("a message was sent that nobody reads")
	}
	whole := sent(t, callCompute, 1, uint64(5))
	for n := range whole {
		if _, err := readFrame(bytes.NewReader(whole[:n])); !ended(err) {
			t.Errorf("%d bytes of a message: %v", n, err)
		}
	}
	for _, bad := range []struct {
		at    int
		value byte
	}{{4, 0}, {4, byte(kinds)}, {3, 0xff}, {0, 1}} {
		text := bytes.Clone(whole)
		if text[bad.at] = bad.value; bad.at == 0 {
			binary.LittleEndian.PutUint32(text, headLength-1)
		}
		if _, err := readFrame(bytes.NewReader(text)); err == nil || ended(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// FuzzFrames: nothing that comes through the connection breaks who reads it, and no more memory is taken than came.
func FuzzFrames(f *testing.F) {
	for kind, body := range bodies {
		f.Add(sent(f, kind, 9, body))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r := bytes.NewReader(text)
		for {
			fr, err := readFrame(r)
			if err != nil {
				return
			}
			for _, body := range bodies {
				unpackInto(fr.body, reflect.New(reflect.TypeOf(body)).Interface())
			}
			if v, err := unpack[fault](fr.body); err == nil && v.error().Error() != v.Text {
				t.Errorf("the error %q says %q", v.Text, v.error())
			}
			again := frame{kind: fr.kind, call: fr.call}
			if fr.kind == 0 || fr.kind >= kinds || again.call != fr.call {
				t.Errorf("a message of kind %d", fr.kind)
			}
		}
	})
}

func TestTail(t *testing.T) {
	var s tail
	if s.summary() != "" {
		t.Errorf("nothing was said: %q", s.summary())
	}
	for range 1000 {
		io.WriteString(&s, strings.Repeat("x", 999)+"\n")
	}
	if len(s.text) > 2*tailLength {
		t.Errorf("%d bytes are kept", len(s.text))
	}
	if g := s.summary(); len(g) > 620 || !strings.HasPrefix(g, "xxx") {
		t.Errorf("%d bytes: %.50s", len(g), g)
	}
	io.WriteString(&s, "\nfatal error: out of memory\n\ngoroutine 1:\n\tmain.go\n")
	if g := s.summary(); g != "fatal error: out of memory" {
		t.Errorf("the gist is %q", g)
	}
}

func TestArena(t *testing.T) {
	file, err := newShared("test")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	a := &sharedMemory{file: file}
	values := make([]float32, 100_000)
	for i := range values {
		values[i] = float32(i)
	}
	var regions []region
	for n := range 4 {
		r, err := a.put(values[n : 80_000+n])
		if err != nil {
			t.Fatal(err)
		}
		regions = append(regions, r)
	}
	before := blocks(t, file)
	for _, i := range []int{1, 2} {
		if err := a.release(regions[i]); err != nil {
			t.Fatal(err)
		}
	}
	if now := blocks(t, file); now > before/2+128 {
		t.Errorf("%d blocks of %d are left", now, before)
	}
	big, err := a.put(values) // larger than one hole, smaller than both
	if err != nil || big.Offset != regions[1].Offset {
		t.Errorf("it lies at %d instead of %d, %v", big.Offset, regions[1].Offset, err)
	}
	for i, c := range []struct {
		arena *sharedMemory
		at    region
		first int
		count int
	}{{a, regions[0], 0, 80_000}, {a, big, 0, 100_000}, {a, regions[3], 3, 80_000}} {
		got, err := get(c.arena.file, c.at, c.count)
		if err != nil || got[0] != float32(c.first) || got[c.count-1] != float32(c.first+c.count-1) {
			t.Errorf("region %d: %v", i, err)
		}
	}
	for _, bad := range []struct {
		at    region
		count int
	}{{region{-4, 4}, 1}, {region{0, 4}, 2}, {region{1 << 40, 4}, 1}, {region{0, 1 << 40}, 1 << 38}, {region{0, -4}, -1}, {region{}, 1 << 62}} {
		if _, err := get(file, bad.at, bad.count); err == nil {
			t.Errorf("%v was read", bad)
		}
	}
	for _, r := range []region{regions[0], big, regions[3]} {
		if err := errors.Join(a.release(r), a.release(r)); err != nil {
			t.Error(err)
		}
	}
	if now := blocks(t, file); now != 0 {
		t.Errorf("%d blocks are left", now)
	}
}

// Whatever is taken and given back in whatever order: regions share no byte, begin at multiples of the page, and hold what was put there.
func TestArenaRegionsAreDisjoint(t *testing.T) {
	type held struct {
		at     region
		values []float32
	}
	rapid.Check(t, func(t *rapid.T) {
		file, err := newShared("test")
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		a := &sharedMemory{file: file}
		var all []held
		count := rapid.OneOf(rapid.IntRange(0, 50), rapid.IntRange(0, 3*page/4), rapid.SampledFrom([]int{page/4 - 1, page / 4, page/4 + 1, page / 2}))
		for step := range rapid.IntRange(1, 30).Draw(t, "steps") {
			if len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "release") == 0 {
				i := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				if err := a.release(all[i].at); err != nil {
					t.Fatal(err)
				}
				all = slices.Delete(all, i, i+1)
			} else {
				values := make([]float32, count.Draw(t, "values"))
				for i := range values {
					values[i] = float32(1000*step + i%1000)
				}
				r, err := a.put(values)
				if err != nil {
					t.Fatal(err)
				}
				if r.Length != 4*int64(len(values)) || r.Offset%page != 0 {
					t.Fatalf("%d values lie in %+v", len(values), r)
				}
				all = append(all, held{r, values})
			}
			for i, h := range all {
				got, err := get(file, h.at, len(h.values))
				if err != nil || !slices.Equal(got, h.values) {
					t.Fatalf("step %d: %+v does not hold what was put there, %v", step, h.at, err)
				}
				for _, other := range all[:i] {
					if h.at.Offset < other.at.Offset+other.at.Length && other.at.Offset < h.at.Offset+h.at.Length {
						t.Fatalf("step %d: %+v and %+v overlap", step, h.at, other.at)
					}
				}
			}
		}
	})
}

// A hole is used again, also the first and one that fits exactly; a smaller one is passed over.
func TestArenaUsesHoles(t *testing.T) {
	a := &sharedMemory{}
	for _, length := range []int64{2 * page, page, 3 * page, 1} {
		a.allocate(length)
	}
	for i, offset := range []int64{0, 2 * page, 3 * page, 6 * page} {
		if a.used[i].Offset != offset {
			t.Fatalf("region %d lies at %d, not %d", i, a.used[i].Offset, offset)
		}
	}
	a.used = append(a.used[:0], a.used[1], a.used[3]) // holes: [0, 2 pages), [3 pages, 6 pages)
	for _, c := range []struct{ length, offset int64 }{{2*page + 1, 3 * page}, {2 * page, 0}, {1, 7 * page}} {
		if r := a.allocate(c.length); r != (region{c.offset, c.length}) {
			t.Errorf("%d bytes lie at %d, not %d", c.length, r.Offset, c.offset)
		}
	}
}

// No field of a request is lost on the way to the child, but those that cannot be sent.
func TestRequestsAreSentWhole(t *testing.T) {
	notSent := map[string]string{
		"Noise":      "the child reads the file of draws itself",
		"Checkpoint": "states of points are kept in memory that parent and child share",
		"Progress":   "a function",
		"OnEvent":    "a function",
	}
	req := cam.Request{
		Noise: noDraws{}, Checkpoint: noStates{}, Progress: func(int, int) {}, OnEvent: func(cam.Event) {},
	}
	fields := reflect.VisibleFields(reflect.TypeOf(req))
	for _, f := range fields {
		if v := reflect.ValueOf(&req).Elem().FieldByIndex(f.Index); notSent[f.Name] == "" {
			fill(t, f.Name, v)
		}
	}
	var wire bytes.Buffer
	p := newPipe(&wire)
	if err := p.send(callBegin, 1, beginning{Request: sendable(req)}); err != nil {
		t.Fatal(err)
	}
	f, err := p.receive()
	if err != nil {
		t.Fatal(err)
	}
	b, err := unpack[beginning](f.body)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fields {
		want, got := reflect.ValueOf(req).FieldByIndex(f.Index), reflect.ValueOf(b.Request).FieldByIndex(f.Index)
		switch lost := notSent[f.Name] != ""; {
		case lost != got.IsZero():
			t.Errorf("%s: %v arrived", f.Name, got)
		case !lost && !reflect.DeepEqual(want.Interface(), got.Interface()):
			t.Errorf("%s: %v arrived instead of %v", f.Name, got, want)
		}
	}
}

type noDraws struct{}

func (noDraws) Draw(int, []float32) error { return nil }
func (noDraws) Len() int                  { return 0 }

// noStates keeps nothing.
type noStates struct{}

func (noStates) Latest(string) ([]float32, int)    { return nil, 0 }
func (noStates) Keep(string, []float32, int) error { return nil }

// blocks returns the memory that a file of shared memory takes, in blocks of 512 bytes.
func blocks(t *testing.T, f *os.File) int64 {
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks
}

// fill gives v, and all in it, values that are not zero.
func fill(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(2)
	case reflect.Uint8:
		v.SetUint(255)
	case reflect.Uint64:
		v.SetUint(1<<64 - 1)
	case reflect.Float64, reflect.Float32:
		v.SetFloat(0.1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, name, v.Index(0))
	case reflect.Array:
		for i := range v.Len() {
			fill(t, name, v.Index(i))
		}
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, name, key)
		fill(t, name, value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, name+"."+v.Type().Field(i).Name, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, name, v.Elem())
	default:
		t.Fatalf("%s is a %v: it cannot be sent, or this test is to learn how to fill it", name, v.Kind())
	}
}
