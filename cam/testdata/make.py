"""Makes formulas.json and interpolate.json: the formulas of every convention written once more, with PyTorch in float64, and
PyTorch's own trilinear interpolation in float32. Run with PyTorch 2.x installed: python make.py"""
import json
import numpy as np
import torch
import torch.nn.functional as F

torch.manual_seed(7)
other = torch.Generator().manual_seed(8)
relu = torch.relu


def layer_case(name, a, g, score):
    a, g = a.float().double(), g.float().double()  # [C, d, h, w], exact in float32
    at = (1, 2, 3)
    g2, g3 = g**2, g**3
    s = lambda t: t.sum(at, keepdim=True)
    weigh = lambda w: (w[:, None, None, None] * a).sum(0)
    want = {"gradcam/original": weigh(g.mean(at))}
    al = g2 / (2 * g2 + s(a * g3) + 1e-8)
    want["gradcam++/original"] = weigh((al * relu(g)).sum(at))
    den = 2 * g2 + s(a) * g3
    al = torch.where(den != 0, g2 / den, torch.zeros_like(g))
    want["gradcam++/paper"] = weigh((al * relu(g)).sum(at))
    al = torch.where(g != 0, g2 / (2 * g2 + s(a) * g3 + 1e-6), torch.zeros_like(g))
    want["gradcam++/pytorch-grad-cam"] = weigh((al * relu(g)).sum(at))
    den = 2 * g2 + s(a * g3)
    al = g2 / (torch.where(den != 0, den, torch.ones_like(den)) + 1e-7)
    want["gradcam++/monai"] = weigh((al * relu(torch.tensor(score).exp() * g)).sum(at))
    want["hirescam/original"] = (g * a).sum(0)
    want["gradcam-elementwise/original"] = relu(g * a).sum(0)
    want["layercam/original"] = (relu(g) * a).sum(0)
    want["xgradcam/original"] = weigh((g * a / (s(a) + 1e-7)).sum(at))
    x = a.reshape(a.shape[0], -1).T
    x = x - x.mean(0)
    v = torch.linalg.svd(x)[2][0]
    want["eigencam/original"] = x @ v * v.sum().sign()
    last = lambda t: t.permute(1, 2, 3, 0).reshape(-1).tolist()
    return {"name": name, "channels": a.shape[0], "score": score, "activation": last(a), "gradient": last(g),
            "maps": {k: v.reshape(-1).tolist() for k, v in want.items()}}


def draws_case(n, channels, voxels):
    g = (torch.randn(n, channels, voxels, dtype=torch.float64) * 0.3 + torch.randn(channels, voxels, dtype=torch.float64)).float().double()
    want = {
        "smoothgrad/original": g.mean(0).abs(),
        "smoothgrad/captum": g.abs().mean(0),
        "smoothgrad/monai": (g * g).sum(0) ** 0.5 / n,
        "smoothgrad-squared/original": (g * g).mean(0),
        "vargrad/original": g.var(0, unbiased=True),
        "vargrad/captum": (g * g).mean(0) - g.mean(0) ** 2,
    }
    return {"channels": channels, "draws": [d.permute(1, 0).reshape(-1).tolist() for d in g],
            "maps": {k: v.sum(0).tolist() for k, v in want.items()}}


def path_case(steps, channels, voxels, baseline):
    """Integrated gradients of S(x) = sum sin(w x), whose gradient at any point is known."""
    x, w = (torch.randn(channels, voxels, generator=other).double() for _ in range(2))
    t, weights = np.polynomial.legendre.leggauss(steps)
    t, weights = (1 + t) / 2, weights / 2
    points = [baseline + float(np.float32(s)) * (x - baseline) for s in t]
    g = [(w * torch.cos(w * p)).float().double() for p in points]
    want = (x - baseline) * sum(a * b for a, b in zip(weights, g))
    score = lambda p: float(torch.sin(w * p).sum())
    last = lambda a: a.permute(1, 0).reshape(-1).tolist()
    return {"channels": channels, "baseline": baseline, "steps": steps, "volume": last(x), "nodes": t.tolist(), "weights": weights.tolist(),
            "gradients": [last(p) for p in g], "score": score(x), "baselineScore": score(torch.full_like(x, baseline)),
            "maps": {"integrated-gradients/original": want.sum(0).tolist()}}


a, g = torch.randn(3, 2, 3, 2), torch.randn(3, 2, 3, 2)
dead = g.clone()
dead[1] = 0
dead[:, 0, 0, 0] = 0
small = g * 1e-6
json.dump({
    "layers": [layer_case("signed", a, g, 0.7), layer_case("relu", relu(a), dead, -3.0), layer_case("small gradient", a, small, 12.0),
               layer_case("one cell", a[:, :1, :1, :1], g[:, :1, :1, :1], 2.0)],
    "draws": [draws_case(5, 1, 7), draws_case(2, 3, 4)],
    "paths": [path_case(1, 1, 3, 0.0), path_case(4, 1, 7, 0.0), path_case(9, 3, 5, -0.5), path_case(50, 2, 4, 1.0)],
}, open("formulas.json", "w"))

cases = []
for src, dst in [((1, 1, 1), (3, 2, 4)), ((2, 3, 1), (5, 7, 4)), ((3, 4, 4), (6, 8, 10)), ((3, 4, 5), (3, 4, 5)), ((5, 6, 7), (3, 9, 2)),
                 ((1, 3, 2), (4, 3, 7)), ((7, 1, 3), (11, 1, 13))]:
    x = torch.randn(src)
    y = F.interpolate(x[None, None], size=dst, mode="trilinear", align_corners=False)[0, 0]
    cases.append({"from": src, "to": dst, "src": x.reshape(-1).tolist(), "dst": y.reshape(-1).tolist()})
json.dump(cases, open("interpolate.json", "w"))
