package phantom

// Reflectivities on the display scale of an OCT (log-compressed, 0 to 255) before gain and speckle.
const (
	fluidLevel   = 22.0
	scleraLevel  = 80.0
	rpeLevel     = 215.0
	ezLevel      = 185.0
	atrophyLevel = 85.0 // in the area without photoreceptors and RPE
)

// innerLayers lists the retina from the vitreous to the photoreceptors: reflectivity, and nominal thickness in voxels of a
// 64-voxel axial field away from the fovea and in the foveal pit.
var innerLayers = [...]struct{ level, away, pit float64 }{
	{160, 3.0, 0.4}, // nerve fibre layer
	{118, 6.5, 1.0}, // ganglion cells and inner plexiform layer
	{72, 3.2, 0.8},  // inner nuclear layer
	{122, 2.2, 0.8}, // outer plexiform layer
	{62, 6.0, 8.5},  // outer nuclear layer
}

const (
	ezThickness      = 1.6 // bright line of the photoreceptors' ellipsoid zone
	gapThickness     = 1.0 // outer segments, between that line and the pigment epithelium
	gapLevel         = 105.0
	rpeThickness     = 2.6 // retinal pigment epithelium (RPE)
	choroidThickness = 13.0
)

// dome is a smooth elevation with an elliptic base.
type dome struct {
	d, w            float64 // centre, voxels
	radiusD         float64 // voxels
	radiusW         float64
	height          float64
	content         float64 // reflectivity beneath
	makesTheGrade   bool
	plateau         bool // flat top with steep sides, as a detachment has
	underThePigment bool // lifts the RPE (drusen, PED) or only the retina above it (subretinal fluid)
}

// at is the elevation at an A-scan.
func (b *dome) at(d, w float64) float64 {
	u := b.inside(d, w)
	if u <= 0 {
		return 0
	}
	if b.plateau {
		return mul(b.height, 1-mul(mul(1-u, 1-u), mul(1-u, 1-u)))
	}
	return mul(b.height, mul(u, 2-u))
}

// inside is 1 at the centre, 0 on the rim of the base and negative beyond.
func (b *dome) inside(d, w float64) float64 {
	x, y := (d-b.d)/b.radiusD, (w-b.w)/b.radiusW
	return 1 - mul(x, x) - mul(y, y)
}

// cyst is an ellipsoid of fluid within the retina.
type cyst struct{ d, h, w, radiusD, radiusH, radiusW float64 }

// vessel is a retinal vessel that runs across the B-scans and casts a shadow.
type vessel struct{ w, slope, bend, width, shade float64 }

// anatomy holds all that was drawn by lot for one eye.
type anatomy struct {
	dims   [3]int
	sd     float64 // scale of the B-scan axis against 32 voxels
	sh, sw float64 // scale of the others against 64 voxels

	base, tiltD, tiltW, bow  float64 // RPE surface: depth at the centre, slopes, curvature
	foveaD, foveaW           float64
	pitD, pitW               float64 // radii of the foveal pit
	thickness                float64 // factor on the inner layers
	gain, attenuation, noise float64
	vitreous                 float64
	choroid                  *lattice
	vessels                  []vessel

	domes   []dome
	cysts   []cyst
	atrophy []dome // height unused: patches without RPE
}

func newAnatomy(r *random, dims [3]int) *anatomy {
	a := &anatomy{dims: dims, sd: float64(dims[0]) / 32, sh: float64(dims[1]) / 64, sw: float64(dims[2]) / 64}
	a.base = mul(r.between(38, 43), a.sh)
	a.tiltD = mul(r.between(-2, 2), a.sh) // rise from the centre to the rim
	a.tiltW = mul(r.between(-3, 3), a.sh)
	a.bow = mul(r.between(-1, 2.5), a.sh)
	a.foveaD = mul(float64(dims[0]), r.between(0.42, 0.58))
	a.foveaW = mul(float64(dims[2]), r.between(0.42, 0.58))
	a.pitD = mul(r.between(6, 9), a.sd)
	a.pitW = mul(r.between(12, 18), a.sw)
	a.thickness = mul(r.between(0.9, 1.1), a.sh)
	a.gain = r.between(0.88, 1.12)
	a.attenuation = r.between(0.1, 0.3) // loss of signal along the axial field
	a.noise = r.between(0.8, 1.2)
	a.vitreous = r.between(14, 26)
	a.choroid = newLattice(r, dims, [3]float64{mul(3.5, a.sd), mul(4, a.sh), mul(5, a.sw)})
	for range r.count(1, 3) {
		a.vessels = append(a.vessels, vessel{
			w: mul(float64(dims[2]), r.unit()), slope: mul(r.between(-0.5, 0.5), a.sw/a.sd),
			bend: mul(r.between(-4, 4), a.sw), width: mul(r.between(1, 1.8), a.sw), shade: r.between(0.2, 0.45),
		})
	}
	return a
}

// rpe is the depth of the undisturbed RPE's inner side (the later Bruch's membrane lies one RPE thickness deeper).
func (a *anatomy) rpe(d, w float64) float64 {
	x := (d - float64(a.dims[0])/2) / float64(a.dims[0]) * 2
	y := (w - float64(a.dims[2])/2) / float64(a.dims[2]) * 2
	return a.base + mul(a.tiltD, x) + mul(a.tiltW, y) - mul(a.bow, mul(x, x)+mul(y, y))
}

// fovea is 1 in the middle of the pit and 0 away from it.
func (a *anatomy) fovea(d, w float64) float64 {
	x, y := (d-a.foveaD)/a.pitD, (w-a.foveaW)/a.pitW
	return 1 / (1 + mul(mul(x, x)+mul(y, y), 1+mul(x, x)+mul(y, y)))
}

// shade is the factor that vessels leave of the light below them, and whether the A-scan lies in the core of one.
func (a *anatomy) shade(d, w float64) (factor float64, core bool) {
	factor = 1
	t := d / float64(a.dims[0])
	for _, v := range a.vessels {
		x := (w - v.w - mul(v.slope, d) - mul(v.bend, mul(mul(4, t), 1-t))) / v.width
		if f := 1 - mul(v.shade, 1-smoothstep(0.5, 1.5, max(x, -x))); f < factor {
			factor = f
			core = x > -0.6 && x < 0.6
		}
	}
	return factor, core
}

// column is one A-scan on its way to the canvas.
type column struct {
	canvas *canvas
	d, w   int
	at     float64 // depth reached so far
}

// layer paints down to depth to; mask marks the painted voxels.
func (c *column) layer(to, level float64, mask bool) {
	if to <= c.at {
		return
	}
	c.canvas.paint(c.d, c.w, c.at, to, level, mask)
	c.at = to
}

// draw paints all layers, A-scan by A-scan, from the vitreous down.
func (a *anatomy) draw(img *canvas) {
	for d := range a.dims[0] {
		for w := range a.dims[2] {
			a.drawColumn(&column{canvas: img, d: d, w: w}, float64(d), float64(w))
		}
	}
}

func (a *anatomy) drawColumn(c *column, d, w float64) {
	bruch := a.rpe(d, w) // where the RPE would be
	var lift, content, fluid float64
	var liftMask, fluidMask bool
	for i := range a.domes {
		b := &a.domes[i]
		e := b.at(d, w)
		switch {
		case e <= 0:
		case !b.underThePigment:
			if e > fluid {
				fluid, fluidMask = e, b.makesTheGrade
			}
		case e > lift:
			lift, content, liftMask = e, b.content, b.makesTheGrade
		}
	}
	var lost, sunk float64 // share of the RPE that atrophy has taken; how far the layers above have sunk, wider and softer
	for i := range a.atrophy {
		u := a.atrophy[i].inside(d, w)
		lost = max(lost, smoothstep(0, 0.35, u))
		sunk = max(sunk, smoothstep(-1, 1, u))
	}
	rpe := bruch - lift
	bottom := rpe - fluid - mul(ezThickness+gapThickness, a.sh) // lower side of the inner layers

	// The surface of the retina follows a lesion below it only in part: the layers between are squeezed.
	f := a.fovea(d, w)
	var nominal float64
	var thick [len(innerLayers)]float64
	for i, l := range innerLayers {
		thick[i] = mul(lerp(l.away, l.pit, f), a.thickness)
		if i == len(innerLayers)-1 {
			thick[i] = mul(thick[i], 1-mul(0.3, sunk))
		}
		nominal += thick[i]
	}
	squeeze := clamp((nominal-mul(0.55, lift)-mul(0.15, fluid))/nominal, 0.35, 1)
	shade, core := a.shade(d, w)
	c.layer(max(bottom-mul(nominal, squeeze), 0), a.vitreous, false)
	for i, l := range innerLayers {
		level := mul(l.level, shade)
		if i == 0 {
			level = l.level
			if core {
				level = 200
			}
		}
		c.layer(c.at+mul(thick[i], squeeze), level, false)
	}
	c.layer(bottom+mul(ezThickness, a.sh), mul(lerp(ezLevel, atrophyLevel, lost), shade), lost > 0.5)
	c.layer(rpe-fluid, mul(lerp(gapLevel, atrophyLevel, lost), shade), lost > 0.5)
	c.layer(rpe, fluidLevel, fluidMask)
	marked := liftMask && lift > mul(1, a.sh)
	c.layer(rpe+mul(rpeThickness, a.sh), mul(lerp(rpeLevel, atrophyLevel, lost), shade), marked || lost > 0.5)
	c.layer(bruch+mul(rpeThickness, a.sh), mul(content, shade), marked)
	a.drawChoroid(c, shade, lost)
}

// drawChoroid paints the layers below Bruch's membrane. Where the RPE is lost, light reaches deeper (hypertransmission).
func (a *anatomy) drawChoroid(c *column, shade, lost float64) {
	end := c.at + mul(choroidThickness, a.sh)
	for h := int(c.at); h < a.dims[1]; h++ {
		level := scleraLevel
		if float64(h) < end {
			level = lerp(62, 140, smoothstep(0.3, 0.6, a.choroid.at(c.d, h, c.w)))
		}
		level += mul(lost, lerp(75, 45, clamp((float64(h)-c.at)/20, 0, 1)))
		c.layer(float64(h+1), mul(level, shade), lost > 0.5)
	}
}
