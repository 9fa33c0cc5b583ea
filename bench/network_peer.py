"""Times PyTorch on whole networks on the CPU: Grad-CAM (no graph in front of the target layer, weights frozen) and one gradient with
respect to the volume, and exports the same models for our own benchmark.

    python3 bench/network_peer.py OUT [--export-only] [--threads 2] [--size 64,128,128]
    VOXCAM_MODELS=OUT go test -run '^$' -bench Networks -benchtime 5x ./internal/explain

Networks: EfficientNet3D-b2 (the original system's) and a 3D ResNet-18, random weights, volume [1, 1, size]. Run both on an otherwise idle
machine, one after the other. Needs torch; the export needs what torch.onnx needs.
"""
import argparse
import math
import os
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Same(nn.Conv3d):
    """Zero padding on the far side as TensorFlow's 'same' has it for even sizes."""

    def forward(self, x):
        pads = []
        for k, s in zip(reversed(self.kernel_size), reversed(self.stride)):
            total = max(k - s, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


class MBConv(nn.Module):
    def __init__(self, cin, cout, kernel, stride, expand):
        super().__init__()
        mid, squeezed = cin * expand, max(1, cin // 4)
        self.expand = nn.Sequential(Same(cin, mid, 1, bias=False), nn.BatchNorm3d(mid), nn.SiLU()) if expand > 1 else nn.Identity()
        self.depthwise = nn.Sequential(Same(mid, mid, kernel, stride, groups=mid, bias=False), nn.BatchNorm3d(mid), nn.SiLU())
        self.reduce, self.excite = nn.Conv3d(mid, squeezed, 1), nn.Conv3d(squeezed, mid, 1)
        self.project = nn.Sequential(Same(mid, cout, 1, bias=False), nn.BatchNorm3d(cout))
        self.skip = stride == 1 and cin == cout

    def forward(self, x):
        y = self.depthwise(self.expand(x))
        y = self.project(y * torch.sigmoid(self.excite(F.silu(self.reduce(F.adaptive_avg_pool3d(y, 1))))))
        return x + y if self.skip else y


def efficientnet_b2():
    stages = [(3, 1, 16, 1, 2), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2), (5, 3, 112, 6, 1), (5, 4, 192, 6, 2), (3, 1, 320, 6, 1)]
    width = lambda c: int(c * 1.1 + 4) // 8 * 8
    layers, cin = [Same(1, 32, 3, 2, bias=False), nn.BatchNorm3d(32), nn.SiLU()], 32
    for kernel, repeats, cout, expand, stride in stages:
        for i in range(math.ceil(1.2 * repeats)):
            layers.append(MBConv(cin, width(cout), kernel, stride if i == 0 else 1, expand))
            cin = width(cout)
    layers += [Same(cin, 1408, 1, bias=False), nn.BatchNorm3d(1408), nn.SiLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1408, 4)]
    return nn.Sequential(*layers), len(layers) - 6


class Basic(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm3d(cout)
        self.conv2, self.bn2 = nn.Conv3d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm3d(cout)
        self.down = nn.Sequential(nn.Conv3d(cin, cout, 1, stride, bias=False), nn.BatchNorm3d(cout)) if stride != 1 or cin != cout else nn.Identity()

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.down(x))


def resnet_18():
    layers, cin = [nn.Conv3d(1, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), nn.BatchNorm3d(64), nn.ReLU()], 64
    for cout, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        layers.append(Basic(cin, cout, stride))
        cin = cout
    layers += [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(512, 4)]
    return nn.Sequential(*layers), len(layers) - 4


def gradcam(model, layer, x):
    with torch.no_grad():
        for m in model[: layer + 1]:
            x = m(x)
    a = x.detach().requires_grad_(True)
    y = a
    for m in model[layer + 1:]:
        y = m(y)
    g, = torch.autograd.grad(y[0, 0], a)
    heat = F.relu((g.mean((2, 3, 4), keepdim=True) * a.detach()).sum(1, keepdim=True))
    return F.interpolate(heat, size=(64, 128, 128), mode="trilinear", align_corners=False)


def gradient(model, _, x):
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(model(x)[0, 0], x)[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("--time-only", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="64,128,128")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    os.makedirs(args.out, exist_ok=True)
    shape = (1, 1, *map(int, args.size.split(",")))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, volume {list(shape)}")
    for name, make in (("efficientnet_b2", efficientnet_b2), ("resnet_18", resnet_18)):
        model, layer = make()
        model.train()
        with torch.no_grad():
            model(torch.rand(2, 1, 64, 64, 64))  # so that the norms have seen something
        model.eval()
        for p in model.parameters():
            p.requires_grad_(False)
        x = torch.rand(shape)
        if not args.time_only:
            torch.onnx.export(model, (x,), os.path.join(args.out, name + ".onnx"), input_names=["volume"], output_names=["logits"], opset_version=17,
                              training=torch.onnx.TrainingMode.PRESERVE, **({"dynamo": False} if torch.__version__ >= "2.5" else {}))
            model.eval()
        if args.export_only:
            continue
        for what, run in (("gradcam", gradcam), ("saliency", gradient)):
            run(model, layer, x)
            times = []
            for _ in range(5):
                start = time.perf_counter()
                run(model, layer, x)
                times.append(time.perf_counter() - start)
            print(f"{name}/{what}: minimum {min(times):.3f} s, median {statistics.median(times):.3f} s", flush=True)


if __name__ == "__main__":
    main()
