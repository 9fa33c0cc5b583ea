"""Writes shared.json: Grad-CAM maps in float64 of the models in the shared folder cases/architectures, whose scripts define them. The
weights are those of the files as long as PyTorch draws the same numbers, which onnxruntime checks.

    python shared.py FOLDER        (PyTorch, onnxruntime)
"""

import json
import os
import sys
import warnings

import numpy as np
import onnxruntime
import torch

warnings.simplefilter("ignore")
folder, here = sys.argv[1], os.path.dirname(os.path.abspath(__file__))
cases = []


def volume(shape):
    """The volume of TestSharedPlacement."""
    i = np.arange(np.prod(shape))
    return torch.tensor((i * 7919 % 1009 / 1009 - 0.5).astype(np.float32)).reshape(1, 1, *shape)


def definitions(script, until):
    """What a script defines before it begins to work."""
    text = open(f"{folder}/{script}").read()
    scope = {"__file__": script}
    sys.argv = [script]
    exec(text[: text.index(until)], scope)
    return scope


def case(files, model, layer, shape, place):
    x = volume(shape)
    kept = []
    hook = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, o: kept.append(o))
    y = model.double()(x.double().requires_grad_())
    hook.remove()
    g, = torch.autograd.grad(y[0, 1], kept[-1])
    m = place(kept[-1], g).detach()
    for f in files:
        got = onnxruntime.InferenceSession(f"{folder}/{f}").run(None, {onnxruntime.InferenceSession(f"{folder}/{f}").get_inputs()[0].name: x.numpy()})[0]
        assert np.abs(got - y.detach().numpy()).max() < 1e-5, f
        cases.append({"name": f, "shape": list(shape), "layer": layer, "size": list(m.shape), "map": [float(f"{v:.9g}") for v in m.flatten()]})


def tokens(prefix, *sizes):
    def of(a, g):
        a, g = a[:, prefix:], g[:, prefix:]
        return (a * g.mean((0, 1))).sum(-1).reshape(*sizes)

    return of


s = definitions("repro_slicewise_vit.py", "m = SliceViT()")
case(["slicewise_vit.ts17.onnx", "slicewise_vit.dynamo.onnx"], s["SliceViT"]().eval(), "blocks.1.norm1", (5, 24, 32), tokens(0, 5, 3, 4))

s = definitions("repro_class_token_linear_patches.py", "for how, prefix")
for how, prefix in (("conv", 1), ("linear", 1), ("conv", 2)):
    m = s["ViT"](how, prefix).eval()
    torch.randn(1, 1, 24, 24, 24)  # as the script draws
    case([f"cls_{how}_{prefix}.onnx"], m, "blocks.1.norm1", (24, 24, 24), tokens(prefix, 3, 3, 3))

s = definitions("repro_default_layer_slices_transformer.py", "for kind in")
for kind in ("transformer", "attention with LayerNorm", "ConvNeXt head", "tiled (SLIViT)"):
    m = (s["Tiled"]() if "SLIViT" in kind else s["Net"](kind)).eval()
    torch.randn(1, 1, 6, 16, 20)
    if "SLIViT" in kind:
        place = lambda a, g: (a * g.mean((0, 2, 3), keepdim=True)).sum(1).reshape(6, 4, 5)
    else:
        place = lambda a, g: (a * g.mean((0, 2, 3), keepdim=True)).sum(1)
    case([f"slices_{kind.split()[0]}.{form}.onnx" for form in ("ts17", "dynamo")], m, "net", (6, 16, 20), place)

with open(f"{here}/shared.json", "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
