package phantom

// addLesions draws by lot the lesions that make the grade and, in advanced eyes, sometimes drusen, which do not.
func (a *anatomy) addLesions(r *random, g Grade) {
	switch g {
	case Early:
		for range r.count(2, 4) {
			a.addDome(r, smallDruse, true)
		}
	case Intermediate:
		for range r.count(2, 4) {
			a.addDome(r, largeDruse, true)
		}
	case Advanced:
		a.addAdvanced(r)
	}
}

// addAdvanced picks one or two of the four signs of advanced AMD.
func (a *anatomy) addAdvanced(r *random) {
	signs := [...]func(){
		func() { a.addDome(r, subretinalFluid, true) },
		func() { a.addCysts(r) },
		func() { a.addDome(r, detachment, true) },
		func() { a.addAtrophy(r) },
	}
	first := r.count(0, len(signs)-1)
	signs[first]()
	if r.chance(0.5) {
		signs[(first+r.count(1, len(signs)-1))%len(signs)]()
	}
	if r.chance(0.4) {
		a.addDome(r, smallDruse, false)
	}
}

// sizeRange is the range that a size is drawn from.
type sizeRange struct{ lo, hi float64 }

func (s sizeRange) draw(r *random) float64 { return r.between(s.lo, s.hi) }

// domeKind bounds the lot for one kind of dome; lengths are voxels of a 32x64x64 field.
type domeKind struct {
	radiusD, radiusW, height, content sizeRange
	plateau, underThePigment          bool
}

var (
	smallDruse = domeKind{
		radiusD: sizeRange{2.8, 3.6}, radiusW: sizeRange{4, 5.5}, height: sizeRange{3, 4}, content: sizeRange{120, 160}, underThePigment: true,
	}
	largeDruse = domeKind{
		radiusD: sizeRange{5, 7}, radiusW: sizeRange{8.5, 12}, height: sizeRange{5, 7.5}, content: sizeRange{110, 150}, underThePigment: true,
	}
	detachment = domeKind{
		radiusD: sizeRange{7, 10}, radiusW: sizeRange{12, 18}, height: sizeRange{9, 12}, content: sizeRange{26, 40}, plateau: true, underThePigment: true,
	}
	subretinalFluid = domeKind{radiusD: sizeRange{6, 10}, radiusW: sizeRange{10, 18}, height: sizeRange{4.5, 8}, plateau: true}
)

// place draws a centre that keeps a lesion of the given radii inside the field.
func (a *anatomy) place(r *random, radiusD, radiusW float64) (d, w float64) {
	d = lerp(mul(0.8, radiusD), float64(a.dims[0]-1)-mul(0.8, radiusD), r.unit())
	w = lerp(mul(0.8, radiusW), float64(a.dims[2]-1)-mul(0.8, radiusW), r.unit())
	return d, w
}

func (a *anatomy) addDome(r *random, k domeKind, makesTheGrade bool) {
	b := dome{
		radiusD: mul(k.radiusD.draw(r), a.sd),
		radiusW: mul(k.radiusW.draw(r), a.sw),
		height:  mul(k.height.draw(r), a.sh),
		content: k.content.draw(r),
		plateau: k.plateau, underThePigment: k.underThePigment, makesTheGrade: makesTheGrade,
	}
	b.d, b.w = a.place(r, b.radiusD, b.radiusW)
	a.domes = append(a.domes, b)
}

func (a *anatomy) addAtrophy(r *random) {
	b := dome{radiusD: mul(r.between(6, 9), a.sd), radiusW: mul(r.between(10, 16), a.sw)}
	b.d, b.w = a.place(r, b.radiusD, b.radiusW)
	a.atrophy = append(a.atrophy, b)
}

// addCysts places a cluster of intraretinal cysts in the inner and outer nuclear layers.
func (a *anatomy) addCysts(r *random) {
	centreD, centreW := a.place(r, mul(7, a.sd), mul(12, a.sw))
	for range r.count(3, 5) {
		c := cyst{
			d: centreD + mul(r.between(-4, 4), a.sd), w: centreW + mul(r.between(-9, 9), a.sw),
			radiusD: mul(r.between(2.2, 3.5), a.sd), radiusH: mul(r.between(2.4, 4), a.sh), radiusW: mul(r.between(3.2, 6), a.sw),
		}
		c.h = a.rpe(c.d, c.w) - mul(r.between(8, 13), a.sh)
		a.cysts = append(a.cysts, c)
	}
}

// drawCysts paints and marks the cysts over the finished layers.
func (a *anatomy) drawCysts(img *canvas) {
	for _, c := range a.cysts {
		for d := max(0, int(c.d-c.radiusD)); d < min(a.dims[0], int(c.d+c.radiusD)+2); d++ {
			for h := max(0, int(c.h-c.radiusH)); h < min(a.dims[1], int(c.h+c.radiusH)+2); h++ {
				for w := max(0, int(c.w-c.radiusW)); w < min(a.dims[2], int(c.w+c.radiusW)+2); w++ {
					x, y, z := (float64(d)-c.d)/c.radiusD, (float64(h)-c.h)/c.radiusH, (float64(w)-c.w)/c.radiusW
					t := smoothstep(-0.1, 0.25, 1-mul(x, x)-mul(y, y)-mul(z, z))
					i := img.index(d, h, w)
					img.level[i] = lerp(img.level[i], fluidLevel, t)
					if t > 0.5 {
						img.mask[i] = 1
					}
				}
			}
		}
	}
}
