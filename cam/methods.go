package cam

// Citations of conventions that are those of a program rather than of a paper are in the convention's name.
const (
	citeGradCAM    = "Selvaraju et al. 2017, arXiv:1610.02391"
	citeGradCAMPP  = "Chattopadhyay et al. 2018, arXiv:1710.11063"
	citeHiResCAM   = "Draelos and Carin 2020, arXiv:2011.08891"
	citeLayerCAM   = "Jiang et al. 2021, doi:10.1109/TIP.2021.3089943"
	citeXGradCAM   = "Fu et al. 2020, arXiv:2008.02312"
	citeSmoothGrad = "Smilkov et al. 2017, arXiv:1706.03825"
	citeVarGrad    = "Adebayo et al. 2018, arXiv:1810.03292"
	citeSaliency   = "Simonyan et al. 2014, arXiv:1312.6034"
	citeTimesInput = "Shrikumar et al. 2016, arXiv:1605.01713"
	citeSquared    = "Hooker et al. 2019, arXiv:1806.10758"
	citeEigenCAM   = "Muhammad and Yeasin 2020, arXiv:2008.00299"
	citeIntegrated = "Sundararajan et al. 2017, arXiv:1703.01365"
)

// table holds every method. "sum_v" runs over the voxels of the layer, "sum_c" over the channels of the input. Channels of the
// input are summed in every convention, also in those of libraries that leave them apart.
var table = []Method{
	{
		Name: "gradcam", Citation: citeGradCAM, Groups: []string{"both", "all"}, Positive: true,
		Conventions: []Convention{
			{Name: "original", rule: ofLayer{gradCAM}, Formula: "w_k = mean_v g_k; sum_k w_k A_k"},
		},
	},
	{
		Name: "gradcam++", Citation: citeGradCAMPP, Groups: []string{"both", "all"}, Positive: true,
		Conventions: []Convention{
			{
				Name: "original", rule: ofLayer{gradCAMPlusOriginal},
				Formula: "a = g^2 / (2 g^2 + sum_v(A g^3) + 1e-8); w_k = sum_v a ReLU(g); sum_k w_k A_k",
			},
			{
				Name: "paper", rule: ofLayer{gradCAMPlusPaper},
				Formula: "a = g^2 / (2 g^2 + (sum_v A) g^3), 0 where the denominator is 0; w_k = sum_v a ReLU(g); sum_k w_k A_k; " +
					"the factor exp(S) of the paper cancels in the heatmap and is left out",
			},
			{
				Name: "pytorch-grad-cam", rule: ofLayer{gradCAMPlusPytorch},
				Formula: "a = g^2 / (2 g^2 + (sum_v A) g^3 + 1e-6), 0 where g = 0; w_k = sum_v a ReLU(g); sum_k w_k A_k",
			},
			{
				Name: "monai", rule: ofLayer{gradCAMPlusMonai},
				Formula: "a = g^2 / (den + 1e-7), den = 2 g^2 + sum_v(A g^3), 1 where it is 0; w_k = sum_v a ReLU(exp(S) g); sum_k w_k A_k",
			},
		},
	},
	{
		Name: "smoothgrad", Citation: citeSmoothGrad, Groups: []string{"all"},
		Conventions: []Convention{
			{
				Name: "original", rule: ofNoise{make: smoothGrad, keep: keepMean, least: 1},
				Formula: "sum_c abs(mean_n dS/dx(x + sigma z_n))",
			},
			{
				Name: "captum", rule: ofNoise{make: smoothGradCaptum, keep: keepAbs, least: 1},
				Formula: "sum_c mean_n abs(dS/dx(x + sigma z_n))",
			},
			{
				Name: "monai", rule: ofNoise{make: smoothGradMonai, keep: keepSquare, least: 1, overRange: true},
				Formula: "sum_c sqrt(sum_n dS/dx(x + sigma z_n)^2) / n; sigma = level (max x - min x)",
			},
		},
	},
	{
		Name: "vargrad", Citation: citeVarGrad, Groups: []string{"all"},
		Conventions: []Convention{
			{
				Name: "original", rule: ofNoise{make: varGrad, keep: keepMean | keepM2, least: 2},
				Formula: "sum_c var_n dS/dx(x + sigma z_n), divisor n - 1",
			},
			{
				Name: "captum", rule: ofNoise{make: varGradCaptum, keep: keepMean | keepM2, least: 1},
				Formula: "sum_c var_n dS/dx(x + sigma z_n), divisor n",
			},
		},
	},
	{
		Name: "smoothgrad-squared", Citation: citeSquared,
		Conventions: []Convention{
			{
				Name: "original", rule: ofNoise{make: smoothGradSquared, keep: keepSquare, least: 1},
				Formula: "sum_c mean_n dS/dx(x + sigma z_n)^2",
			},
		},
	},
	{
		Name: "hirescam", Citation: citeHiResCAM, Positive: true,
		Conventions: []Convention{{Name: "original", rule: ofLayer{hiResCAM}, Formula: "sum_k g_k A_k"}},
	},
	{
		Name: "gradcam-elementwise", Citation: "pytorch-grad-cam, GradCAMElementWise", Positive: true,
		Conventions: []Convention{{Name: "original", rule: ofLayer{gradCAMElementwise}, Formula: "sum_k ReLU(g_k A_k)"}},
	},
	{
		Name: "layercam", Citation: citeLayerCAM, Positive: true,
		Conventions: []Convention{{Name: "original", rule: ofLayer{layerCAM}, Formula: "sum_k ReLU(g_k) A_k"}},
	},
	{
		Name: "xgradcam", Citation: citeXGradCAM, Positive: true,
		Conventions: []Convention{
			{Name: "original", rule: ofLayer{xGradCAM}, Formula: "w_k = sum_v(g_k A_k) / (sum_v A_k + 1e-7); sum_k w_k A_k"},
		},
	},
	{
		Name: "eigencam", Citation: citeEigenCAM, Positive: true,
		Conventions: []Convention{
			{
				Name: "original", rule: ofActivation{eigenCAM},
				Formula: "v = first principal component of A over voxels, with sum_k v_k > 0; sum_k v_k (A_k - mean_v A_k); the class has no influence",
			},
		},
	},
	{
		Name: "saliency", Citation: citeSaliency,
		Conventions: []Convention{{Name: "original", rule: ofInput{make: saliency}, Formula: "sum_c abs(dS/dx)"}},
	},
	{
		Name: "input-x-gradient", Citation: citeTimesInput,
		Conventions: []Convention{{Name: "original", rule: ofInput{make: inputTimesGradient, volume: true}, Formula: "sum_c x dS/dx"}},
	},
	{
		Name: "integrated-gradients", Citation: citeIntegrated,
		Conventions: []Convention{
			{
				Name: "original", rule: ofPath{integratedGradients},
				Formula: "sum_c (x - b) sum_n w_n dS/dx(b + t_n (x - b)), t_n and w_n of the quadrature, b the baseline; sums to S(x) - S(b)",
			},
		},
	},
}
