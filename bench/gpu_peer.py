"""What PyTorch needs, in time and in GPU memory, for the attributions of a full-size model. Prints one JSON object a line.

    python3 bench/gpu_peer.py [effnet3d_b2 r3d_18 resnet50_3d] [--precision tf32|fp32] [--samples 4]

Each row: median seconds of the timed runs, the peak that PyTorch allocated and reserved (GiB, reset before the runs), and what
was allocated before them. Rows:
    forward          inference without gradients
    gradcam_plain    what most Grad-CAM code does: hooks, a full graph with weight gradients, backward to the input
    gradcam_best     weights frozen, no graph in front of the target layer, heatmap up-sampled on the GPU
    inputgrad_plain  one gradient of the class score with respect to the volume, weights requiring gradients
    inputgrad_best   the same with weights frozen
    forward_cl, inputgrad_cl   channels_last_3d memory format, weights frozen
"""
import argparse
import gc
import json
import time

import torch
from torch.nn import functional as F

import gpu_models as models

GIB = 1024 ** 3


def measure(fn, runs=5):
    fn()
    gc.collect(); torch.cuda.empty_cache(); torch.cuda.synchronize(); torch.cuda.reset_peak_memory_stats()
    before, times = torch.cuda.memory_allocated() / GIB, []
    for _ in range(runs):
        torch.cuda.synchronize(); start = time.perf_counter()
        fn()
        torch.cuda.synchronize(); times.append(time.perf_counter() - start)
    return dict(seconds=sorted(times)[len(times) // 2], fastest=min(times), peak_allocated=torch.cuda.max_memory_allocated() / GIB,
                peak_reserved=torch.cuda.max_memory_reserved() / GIB, before=before)


def cam(activation, gradient, size):
    weights = gradient.mean((2, 3, 4), keepdim=True)
    heat = F.interpolate(F.relu((weights * activation).sum(1, keepdim=True)), size=size, mode="trilinear", align_corners=False)
    low, high = heat.aminmax()
    return (heat - low) / (high - low + 1e-8)


def rows(name, precision):
    tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    model, shape, layer_name = models.build(name, "cuda")
    layer = dict(model.named_modules())[layer_name]
    x = torch.rand(shape, device="cuda")

    def forward():
        with torch.no_grad():
            return model(x)

    def gradcam(freeze):
        kept = {}

        def hook(_, __, out):
            kept["a"] = out.detach().requires_grad_(True) if freeze else out
            return kept["a"]

        handle = layer.register_forward_hook(hook)
        with torch.enable_grad():
            score = model(x if freeze else x.clone().requires_grad_(True))[0, 0]
        handle.remove()
        if freeze:
            g = torch.autograd.grad(score, kept["a"])[0]
        else:
            kept["a"].retain_grad(); score.backward(); g = kept["a"].grad; model.zero_grad(set_to_none=True)
        return cam(kept["a"].detach(), g, shape[2:])

    def inputgrad():
        z = x.clone().requires_grad_(True)
        return torch.autograd.grad(model(z)[0, 0], z)[0]

    def inputgrad_plain():
        z = x.clone().requires_grad_(True)
        model(z)[0, 0].backward(); model.zero_grad(set_to_none=True)
        return z.grad

    yield "forward", measure(forward)
    yield "gradcam_plain", measure(lambda: gradcam(False))
    yield "inputgrad_plain", measure(inputgrad_plain)
    for p in model.parameters():
        p.requires_grad_(False)
    yield "gradcam_best", measure(lambda: gradcam(True))
    yield "inputgrad_best", measure(inputgrad)
    model = model.to(memory_format=torch.channels_last_3d); x = x.to(memory_format=torch.channels_last_3d)
    yield "forward_cl", measure(forward)
    yield "inputgrad_cl", measure(inputgrad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(models.MODELS))
    parser.add_argument("--precision", default="tf32", choices=["tf32", "fp32"])
    args = parser.parse_args()
    for name in args.models:
        for row, figures in rows(name, args.precision):
            print(json.dumps(dict(model=name, precision=args.precision, row=row, **{k: round(v, 6) for k, v in figures.items()})), flush=True)
        gc.collect(); torch.cuda.empty_cache()
