// Command _generate writes the assembly of package kernel. It is a module of its own, so that its dependencies never reach the program.
package main

import (
	"flag"
	"go/types"
	"os"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/buildtags"
	"github.com/mmcloughlin/avo/gotypes"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// asm is the file under construction.
type asm struct {
	*build.Context
	pkg    *types.Package
	consts map[uint32]operand.Mem
	isa
	labels int
}

// isa is one vector instruction set.
type isa struct {
	wide bool   // AVX-512
	tag  string // suffix of the function names
}

var (
	avx512 = isa{true, "512"}
	avx2   = isa{false, "256"}
)

func (i isa) lanes() int {
	if i.wide {
		return 16
	}
	return 8
}

func (i isa) bytes() int { return 4 * i.lanes() }

func main() {
	set := flag.NewFlagSet("generate", flag.ExitOnError) // avo takes the default one
	flags := build.NewFlags(set)
	_ = set.Parse(os.Args[1:]) // exits on error
	a := &asm{Context: build.NewContext(), consts: map[uint32]operand.Mem{}}
	a.pkg = types.NewPackage("github.com/voxcam/voxcam/internal/backend/cpu/kernel", "kernel")
	a.params("gemmParams", "m", "taps", "kc", "tapStep", "aStride", "cStride", "cols", "acc")
	a.params("depthwiseParams", "n", "shift", "stride", "srcStep", "dstStep", "cols", "acc")
	a.Constraints(buildtags.And(buildtags.Opt(buildtags.Term("amd64")), buildtags.Opt(buildtags.Not("noasm"))))
	for _, a.isa = range []isa{avx512, avx2} {
		a.gemms()
		a.depthwises()
		a.pools()
		a.rowCopies()
		a.elementwise()
		a.channels()
		a.reductions()
	}
	build.Main(flags.Config(), a.Context)
}

// params declares a struct of ints as the package under generation does.
func (a *asm) params(name string, fields ...string) {
	var vars []*types.Var
	for _, f := range fields {
		vars = append(vars, types.NewField(0, a.pkg, f, types.Typ[types.Int], false))
	}
	obj := types.NewTypeName(0, a.pkg, name, nil)
	types.NewNamed(obj, types.NewStruct(vars, nil), nil)
	a.pkg.Scope().Insert(obj)
}

// text starts a function.
func (a *asm) text(name, signature, doc string) {
	sig, err := gotypes.ParseSignatureInPackage(a.pkg, signature)
	if err != nil {
		panic(err)
	}
	a.Function(name)
	a.Attributes(attr.NOSPLIT)
	a.Signature(sig)
	a.Doc(name + " " + doc)
	a.Pragma("noescape")
	a.labels = 0
}

// arg is a parameter in memory.
func (a *asm) arg(c gotypes.Component) operand.Mem {
	b, err := c.Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}

func (a *asm) base(name string) operand.Mem   { return a.arg(a.Param(name).Base()) }
func (a *asm) length(name string) operand.Mem { return a.arg(a.Param(name).Len()) }
func (a *asm) param(name string) operand.Mem  { return a.arg(a.Param(name)) }
func (a *asm) field(name string) operand.Mem  { return a.arg(a.Param("p").Field(name)) }

// label makes a name unique within the function.
func (a *asm) label(name string) string {
	a.labels++
	return name + string(rune('a'+a.labels/26/26%26)) + string(rune('a'+a.labels/26%26)) + string(rune('a'+a.labels%26))
}

func (a *asm) vec() reg.VecVirtual {
	if a.wide {
		return a.ZMM()
	}
	return a.YMM()
}

func (a *asm) vecs(n int) []reg.VecVirtual {
	v := make([]reg.VecVirtual, n)
	for i := range v {
		v[i] = a.vec()
	}
	return v
}

func (a *asm) zero(v reg.VecVirtual) {
	if a.wide {
		a.VPXORD(v, v, v)
	} else {
		a.VXORPS(v, v, v)
	}
}

func (a *asm) ret() {
	a.VZEROUPPER()
	a.RET()
}

func (a *asm) jump(name string) operand.LabelRef { return operand.LabelRef(name) }

func mem(base, index reg.Register, scale uint8, disp int) operand.Mem {
	return operand.Mem{Base: base, Index: index, Scale: scale, Disp: disp}
}

func at(base reg.Register, disp int) operand.Mem { return operand.Mem{Base: base, Disp: disp} }

// mask selects the first n lanes of some vectors.
type mask struct {
	k []reg.OpmaskVirtual // AVX-512
	y []reg.VecVirtual    // AVX2
}

// masks makes masks for v vectors of which cols lanes count in all.
func (a *asm) masks(v int, cols operand.Op) (m mask) {
	if a.wide {
		n, bits := a.GP64(), a.GP64()
		a.MOVQ(cols, n)
		a.MOVQ(operand.I32(-1), bits)
		a.BZHIQ(n, bits, bits)
		for i := range v {
			k := a.K()
			a.KMOVW(bits.As32(), k)
			m.k = append(m.k, k)
			if i+1 < v {
				a.SHRQ(operand.Imm(16), bits)
			}
		}
		return m
	}
	n := a.GP64()
	a.MOVQ(cols, n)
	x := a.XMM()
	b := a.YMM()
	a.MOVQ(n, x)
	a.VPBROADCASTD(x, b)
	for i := range v {
		y := a.YMM()
		a.VPCMPGTD(a.iota(i), b, y)
		m.y = append(m.y, y)
	}
	return m
}

// load reads vector i under the mask; lanes outside become 0.
func (a *asm) load(m mask, i int, src operand.Mem, dst reg.VecVirtual) {
	if a.wide {
		a.VMOVUPS_Z(src, m.k[i], dst)
	} else {
		a.VMASKMOVPS(src, m.y[i], dst)
	}
}

func (a *asm) store(m mask, i int, src reg.VecVirtual, dst operand.Mem) {
	if a.wide {
		a.VMOVUPS(src, m.k[i], dst)
	} else {
		a.VMASKMOVPS(src, m.y[i], dst)
	}
}

// imm is an immediate of the arithmetic instructions.
func imm(n int) operand.Constant { return operand.I32(int32(n)) }
