package backendtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/voxcam/voxcam/internal/backend"
	"github.com/voxcam/voxcam/internal/ir"
	"github.com/voxcam/voxcam/internal/plan"
)

// RunResident holds a backend whose device has memory of its own to the promises of backend.Resident. Nothing is on the device before.
func RunResident(t *testing.T, b backend.Resident) {
	t.Run("usage", func(t *testing.T) { checkUsage(t, b) })
	t.Run("fields", func(t *testing.T) { checkFields(t, b) })
	t.Run("misuse", func(t *testing.T) { checkVacatedMisuse(t, b) })
	examples := Networks()
	for seed := range 3 {
		t.Run(fmt.Sprintf("network/%d", seed), func(t *testing.T) {
			s := examples.Example(seed)
			if err := s.differentiate(); err != nil {
				t.Fatal(err)
			}
			plans, err := Plans(s.Graph)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range slices.Sorted(maps.Keys(plans)) {
				if err := checkReturn(b, s, plans[name]); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			expect(t, b, 0, 0)
		})
	}
}

// expect compares allocated and reserved memory.
func expect(t *testing.T, b backend.Resident, allocated, reserved int) {
	t.Helper()
	u, err := b.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if u.Allocated != allocated || u.Reserved != reserved {
		t.Errorf("%d bytes are allocated and %d reserved, not %d and %d", u.Allocated, u.Reserved, allocated, reserved)
	}
	unused := u.Free + u.Reserved - u.Allocated
	if u.Free < 0 || u.Free+u.Reserved > u.Total || u.Largest > unused || u.Largest < u.Reserved-u.Allocated {
		t.Errorf("the figures do not go together: %+v", u)
	}
}

func newField(t *testing.T, b backend.Backend, n int, where backend.Place) backend.Field {
	t.Helper()
	f, err := b.NewField(n, where)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkUsage holds that closed memory stays for the next one, until Trim.
func checkUsage(t *testing.T, b backend.Resident) {
	expect(t, b, 0, 0)
	const n = 1 << 20
	one, three := b.FieldBytes(n, backend.OnDevice), b.FieldBytes(3*n, backend.OnDevice)
	f, g := newField(t, b, n, backend.OnDevice), newField(t, b, 3*n, backend.OnDevice)
	expect(t, b, one+three, one+three)
	must(t, g.Close())
	expect(t, b, one, one+three)
	g = newField(t, b, n, backend.OnDevice)
	expect(t, b, 2*one, one+three)
	must(t, f.Close())
	must(t, g.Close())
	expect(t, b, 0, one+three)

	a, err := b.NewArena(one + three)
	must(t, err)
	expect(t, b, a.Bytes(), one+three)
	must(t, a.Close())
	f = newField(t, b, n, backend.OnDevice)
	values := ramp(n)
	must(t, f.Write(values))
	if freed, err := b.Trim(0); err != nil || freed != three {
		t.Errorf("%d bytes were given back and not %d: %v", freed, three, err)
	}
	expect(t, b, one, one)
	got, err := f.Take()
	if err != nil || !slices.Equal(got, values) {
		t.Errorf("Trim took what a field held: %v", err)
	}
	must(t, f.Close())
	if freed, err := b.Trim(one); err != nil || freed != 0 {
		t.Errorf("%d bytes were given back of those to keep: %v", freed, err)
	}
	expect(t, b, 0, one)
	if freed, err := b.Trim(0); err != nil || freed != one {
		t.Errorf("%d bytes were given back: %v", freed, err)
	}
	expect(t, b, 0, 0)
}

func ramp(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i%4099) - 7
	}
	return x
}

// checkFields checks that kept fields, and fields on the host, keep their values, and that all can be closed in between.
func checkFields(t *testing.T, b backend.Resident) {
	const n = 1<<20 + 3
	kept, other, host := newField(t, b, n, backend.OnDevice), newField(t, b, n, backend.OnDevice), newField(t, b, n, backend.OnHost)
	values := ramp(n)
	for _, f := range []backend.Field{kept, other, host} {
		must(t, f.Write(values))
	}
	all := 2 * b.FieldBytes(n, backend.OnDevice)
	for round := range 2 {
		freed, err := b.Vacate(kept, host)
		must(t, err)
		if freed != all || !b.Vacated() {
			t.Errorf("%d bytes were given back and not %d", freed, all)
		}
		expect(t, b, 0, 0)
		if freed, err := b.Vacate(); freed != 0 || err != nil {
			t.Errorf("the second time: %d bytes, %v", freed, err)
		}
		if _, err := b.Trim(0); err != nil {
			t.Error(err)
		}
		must(t, b.Return())
		must(t, b.Return())
		expect(t, b, all, all)
		for i, f := range []backend.Field{kept, host} {
			if got, err := f.Take(); err != nil || !slices.Equal(got, values) {
				t.Errorf("round %d: field %d holds something else: %v", round, i, err)
			}
		}
		values[round] = -1 // so that the second round cannot live on the first
		must(t, kept.Write(values))
		must(t, host.Write(values))
	}
	must(t, other.Write(values))
	_, err := b.Vacate(kept)
	must(t, err)
	must(t, errors.Join(kept.Close(), host.Close()))
	must(t, b.Return())
	expect(t, b, all/2, all/2)
	must(t, other.Close())
	if _, err := b.Trim(0); err != nil {
		t.Error(err)
	}
	expect(t, b, 0, 0)
}

// checkVacatedMisuse checks that uses of vacated memory are errors and no crashes, and change nothing.
func checkVacatedMisuse(t *testing.T, b backend.Resident) {
	ctx, s := context.Background(), chain(t, 2)
	p := plan.Make(s.Graph)
	program, err := b.Load(ctx, p, nil)
	must(t, err)
	x := s.Graph.Inputs[0]
	data := make([]float32, x.Shape().Elements())
	f, onHost := newField(t, b, len(data), backend.OnDevice), newField(t, b, len(data), backend.OnHost)
	inside, err := program.Field(x)
	must(t, err)
	for what, field := range map[string]backend.Field{"another backend": struct{ backend.Field }{}, "an arena": inside} {
		if _, err := b.Vacate(f, field); err == nil || b.Vacated() {
			t.Errorf("a field of %s to be kept: %v", what, err)
		}
	}
	must(t, f.Write(data))
	_, err = b.Vacate(f)
	must(t, err)
	refused := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s is not an error", what)
		} else if got := b.Class(err); got != backend.Fault {
			t.Errorf("%s is trouble %d: %v", what, got, err)
		}
	}
	refused("running", program.Run(ctx, 0, len(p.Steps)))
	refused("writing a value", program.Write(x, data))
	refused("reading a value", program.Read(x, data))
	refused("writing a field", f.Write(data))
	refused("reading a field", f.Read(data))
	refused("reading an arena", inside.Read(data))
	refused("uploading", b.Upload(f, data, 1))
	refused("copying", b.Copy(onHost, f))
	_, err = b.NewField(3, backend.OnDevice)
	refused("a new field", err)
	_, err = b.NewArena(3)
	refused("a new arena", err)
	_, err = b.Load(ctx, p, nil)
	refused("loading", err)
	must(t, b.Return())
	must(t, f.Read(data))
	_, err = b.Vacate()
	must(t, err)
	must(t, errors.Join(program.Close(), f.Close(), onHost.Close()))
	must(t, b.Return())
	expect(t, b, 0, 0)
}

// checkReturn runs a plan, often enough for all that is prepared by running, and again after the memory was away.
func checkReturn(b backend.Resident, s *Example, p *plan.Plan) (err error) {
	ctx := context.Background()
	a, err := b.NewArena(p.Peak)
	if err != nil {
		return err
	}
	program, err := b.Load(ctx, p, a)
	if err != nil {
		return errors.Join(err, a.Close())
	}
	var fields []backend.Field
	defer func() {
		for _, f := range fields {
			err = errors.Join(err, f.Close())
		}
		_, trim := b.Trim(0)
		err = errors.Join(err, trim)
	}()
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, program.Close(), a.Close())
		}
	}()
	if fields, err = bindFields(b, program, p, backend.OnDevice); err != nil {
		return err
	}
	run := func(write func(v *ir.Value) bool) (out [][]float32, err error) {
		for _, v := range p.Graph.Inputs {
			if !write(v) {
				continue
			}
			if err := program.Write(v, floats(s.Data[v])); err != nil {
				return nil, err
			}
		}
		if err := program.Run(ctx, 0, len(p.Steps)); err != nil {
			return nil, err
		}
		for _, v := range p.Graph.Outputs {
			values := make([]float32, v.Shape().Elements())
			if err := program.Read(v, values); err != nil {
				return nil, err
			}
			out = append(out, values)
		}
		return out, nil
	}
	of := p.BufferOf()
	everything := func(*ir.Value) bool { return true }
	inArena := func(v *ir.Value) bool { return !p.Buffers[of[v]].External } // the others are kept
	want, err := run(everything)
	if err != nil {
		return err
	}
	for round := range 3 {
		if round > 0 {
			if _, err := b.Vacate(fields...); err != nil {
				return err
			}
			if err := b.Return(); err != nil {
				return err
			}
		}
		for range 2 { // as it is, and as it was recorded
			got, err := run(inArena)
			if err != nil {
				return err
			}
			for i := range want {
				if !slices.Equal(got[i], want[i]) {
					return fmt.Errorf("round %d: %s is not what it was", round, origin(p.Graph.Outputs[i]))
				}
			}
		}
	}
	if _, err := b.Vacate(); err != nil {
		return err
	}
	closed = true
	if err := errors.Join(program.Close(), a.Close()); err != nil {
		return err
	}
	return b.Return()
}
