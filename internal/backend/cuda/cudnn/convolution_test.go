package cudnn

import "testing"

func same(cin, cout, k int, size [3]int, p Precision) Convolution {
	return Convolution{Cin: cin, Cout: cout, Groups: 1, Kernel: [3]int{k, k, k}, Stride: [3]int{1, 1, 1}, Dilation: [3]int{1, 1, 1},
		Before: [3]int{k / 2, k / 2, k / 2}, After: [3]int{k / 2, k / 2, k / 2}, In: size, Out: size, Precision: p, Align: 16}
}

func TestExplore(t *testing.T) {
	h := imagine(t, load(t), h200)
	for _, p := range []Precision{Float32, TF32, BFloat16} {
		for _, back := range []bool{false, true} {
			for _, fuse := range []string{"", "bias", "bias relu", "residual", "relu", "all"} {
				c := same(64, 64, 3, [3]int{64, 128, 128}, p)
				c.Backward = back
				switch fuse {
				case "bias":
					c.Bias = true
				case "bias relu":
					c.Bias, c.Activation = true, "relu"
				case "residual":
					c.Residual = true
				case "relu":
					c.Activation = "relu"
				case "all":
					c.Bias, c.Activation, c.Residual = true, "relu", true
				}
				plans, err := h.Candidates(c, 256<<20)
				t.Log(c)
				if err != nil {
					t.Log(err)
				}
				for _, p := range plans {
					t.Log("    ", p.Engine, p.Workspace)
					p.Close()
				}
			}
		}
	}
}
