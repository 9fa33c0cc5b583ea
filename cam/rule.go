package cam

// Kind names the tensor that a convention looks at.
type Kind uint8

const (
	AtLayer Kind = iota + 1 // the activation of the target layer, and the gradient of the score by it
	AtInput                 // the gradient of the score by the volume, at one or more points
)

func (k Kind) String() string {
	if k == AtLayer {
		return "layer"
	}
	return "input"
}

// Sampling says at which points a convention has the network evaluated. Choice.Points lists them.
type Sampling uint8

const (
	Once  Sampling = iota + 1 // at the volume itself
	Noisy                     // at copies of the volume with noise: Request.NSamples of them
	Path                      // on the straight line from a baseline to the volume: Request.Steps points, and the baseline itself
)

func (s Sampling) String() string {
	return map[Sampling]string{Once: "the volume", Noisy: "noisy copies", Path: "a path from the baseline"}[s]
}

// rule is the arithmetic of a convention. Its type fixes the tensor that it looks at and the points, so that a row of the table cannot say one
// thing and compute another.
type rule interface {
	kind() Kind
	sampling() Sampling
}

// ofLayer is a map from the activation of the target layer and its gradient.
type ofLayer struct {
	make func(LayerPoint) []float64
}

// ofActivation is a map from the activation of the target layer alone.
type ofActivation struct {
	make func(LayerPoint) ([]float64, error)
}

// ofInput is a map from the gradient at the volume.
type ofInput struct {
	make   func(InputPoint) []float64
	volume bool // it looks at the values of the volume, too
}

// ofNoise is a map from the gradients at noisy copies of the volume.
type ofNoise struct {
	make      func(*Moments) []float64
	keep      keep
	least     int  // number of copies with a defined result
	overRange bool // the noise level is a fraction of the volume's range of values
}

// ofPath is a map from the mean of the gradients on a path, each with the weight that the quadrature gives it.
type ofPath struct {
	make func(Gathered) []float64
}

func (ofLayer) kind() Kind      { return AtLayer }
func (ofActivation) kind() Kind { return AtLayer }
func (ofInput) kind() Kind      { return AtInput }
func (ofNoise) kind() Kind      { return AtInput }
func (ofPath) kind() Kind       { return AtInput }

func (ofLayer) sampling() Sampling      { return Once }
func (ofActivation) sampling() Sampling { return Once }
func (ofInput) sampling() Sampling      { return Once }
func (ofNoise) sampling() Sampling      { return Noisy }
func (ofPath) sampling() Sampling       { return Path }

// Kind returns the tensor that the convention looks at.
func (c Convention) Kind() Kind { return c.rule.kind() }

// UsesGradient reports whether the convention looks at the gradient of the score, and not at the activation of the layer alone.
func (c Convention) UsesGradient() bool {
	_, activation := c.rule.(ofActivation)
	return !activation
}

// Sampling says at which points the convention has the network evaluated.
func (c Convention) Sampling() Sampling { return c.rule.sampling() }

// MinDraws is the least number of noisy copies with a defined result; 0 for conventions without noise.
func (c Convention) MinDraws() int {
	n, _ := c.rule.(ofNoise)
	return n.least
}

// gathers returns the moments that a convention needs of the gradients at its points, and its arithmetic; false if it has no points of its own.
func (c Convention) gathers() (keep, func(Gathered) []float64, bool) {
	switch r := c.rule.(type) {
	case ofNoise:
		return r.keep, func(g Gathered) []float64 { return r.make(g.Moments) }, true
	case ofPath:
		return keepMean, r.make, true
	}
	return 0, nil, false
}
