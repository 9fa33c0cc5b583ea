"""Full-size 3D classifiers for benchmarks, with random weights and fitted BatchNorm statistics.

    python3 bench/gpu_models.py OUT_DIR [name ...] [--size D,H,W] [--structured]      exports OUT_DIR/<name>.onnx

Needs torch, torchvision and onnx. Every model takes one volume [1, C, D, H, W] of float32 and returns logits [1, classes].

    effnet3d_b2   the original system's network: EfficientNet3D-b2 with a 1408-512-4 head, input [1, 1, 256, 256, 256],
                  target layer backbone.conv_head (a 1x1x1 convolution, before its BatchNorm and Swish)
    r3d_18        torchvision's video ResNet, input [1, 3, 256, 256, 256] (192 MiB), target layer layer4
    resnet50_3d   bottleneck ResNet-50 with 3x3x3 convolutions, input [1, 1, 256, 256, 256], target layer layer4
    densenet121_3d  DenseNet-121 (Huang et al. 2017, table 1), of many small kernels, input [1, 1, 192, 224, 192], target layer features
"""
import argparse
import math
import os
import sys

import torch
from torch import nn
from torch.nn import functional as F


class SamePadConv3d(nn.Conv3d):
    """Convolution with the zero padding that 'same' asks for at a nominal image size; it does not follow the real size."""

    def __init__(self, cin, cout, k, stride=1, groups=1, bias=False, nominal=260):
        super().__init__(cin, cout, k, stride=stride, groups=groups, bias=bias)
        total = max((math.ceil(nominal / stride) - 1) * stride + k - nominal, 0)
        self.pad = (total // 2, total - total // 2)

    def forward(self, x):
        return super().forward(F.pad(x, self.pad * 3) if sum(self.pad) else x)


class MBConv3d(nn.Module):
    def __init__(self, cin, cout, k, stride, expand):
        super().__init__()
        mid = cin * expand
        bn = lambda c: nn.BatchNorm3d(c, eps=1e-3, momentum=0.01)
        self.expand = nn.Sequential(SamePadConv3d(cin, mid, 1), bn(mid), nn.SiLU()) if expand > 1 else nn.Identity()
        self.depthwise = nn.Sequential(SamePadConv3d(mid, mid, k, stride, groups=mid), bn(mid), nn.SiLU())
        squeezed = max(1, int(cin * 0.25))
        self.squeeze, self.excite = nn.Conv3d(mid, squeezed, 1), nn.Conv3d(squeezed, mid, 1)
        self.project = nn.Sequential(SamePadConv3d(mid, cout, 1), bn(cout))
        self.skip = stride == 1 and cin == cout

    def forward(self, x):
        y = self.depthwise(self.expand(x))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool3d(y, 1)))))
        y = self.project(gate * y)
        return x + y if self.skip else y


class EfficientNet3D(nn.Module):
    # kernel, repeats, in, out, expand, stride at width 1.0 and depth 1.0
    STAGES = [(3, 1, 32, 16, 1, 2), (3, 2, 16, 24, 6, 2), (5, 2, 24, 40, 6, 2), (3, 3, 40, 80, 6, 2), (5, 3, 80, 112, 6, 1), (5, 4, 112, 192, 6, 2), (3, 1, 192, 320, 6, 1)]

    def __init__(self, width=1.1, depth=1.2, cin=1):
        super().__init__()

        def channels(c):
            c *= width
            rounded = max(8, int(c + 4) // 8 * 8)
            return int(rounded + 8 if rounded < 0.9 * c else rounded)

        stem = channels(32)
        self.stem = nn.Sequential(SamePadConv3d(cin, stem, 3, 2), nn.BatchNorm3d(stem, eps=1e-3), nn.SiLU())
        blocks = []
        for k, repeats, i, o, expand, stride in self.STAGES:
            for r in range(math.ceil(depth * repeats)):
                blocks.append(MBConv3d(channels(i) if r == 0 else channels(o), channels(o), k, stride if r == 0 else 1, expand))
        self.blocks = nn.Sequential(*blocks)
        self.out_channels = channels(1280)
        self.conv_head = SamePadConv3d(channels(320), self.out_channels, 1)
        self.bn_head = nn.BatchNorm3d(self.out_channels, eps=1e-3)

    def forward(self, x):
        return F.silu(self.bn_head(self.conv_head(self.blocks(self.stem(x)))))


class Classifier(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.backbone = EfficientNet3D()
        self.classifier = nn.Sequential(nn.Linear(self.backbone.out_channels, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, classes))

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool3d(self.backbone(x), 1).flatten(1))


class Bottleneck(nn.Module):
    def __init__(self, cin, planes, stride):
        super().__init__()
        out = planes * 4
        self.conv1, self.bn1 = nn.Conv3d(cin, planes, 1, bias=False), nn.BatchNorm3d(planes)
        self.conv2, self.bn2 = nn.Conv3d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm3d(planes)
        self.conv3, self.bn3 = nn.Conv3d(planes, out, 1, bias=False), nn.BatchNorm3d(out)
        self.down = nn.Sequential(nn.Conv3d(cin, out, 1, stride, bias=False), nn.BatchNorm3d(out)) if stride != 1 or cin != out else None

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.down is None else self.down(x)))


class ResNet50_3D(nn.Module):
    def __init__(self, cin=1, classes=4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(cin, 64, 7, 2, 3, bias=False), nn.BatchNorm3d(64), nn.ReLU(), nn.MaxPool3d(3, 2, 1))
        c = 64
        for n, (planes, repeats, stride) in enumerate([(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)], 1):
            layers = []
            for r in range(repeats):
                layers.append(Bottleneck(c, planes, stride if r == 0 else 1))
                c = planes * 4
            setattr(self, f"layer{n}", nn.Sequential(*layers))
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.fc(F.adaptive_avg_pool3d(x, 1).flatten(1))


class DenseLayer(nn.Sequential):
    def __init__(self, cin, growth, bottleneck):
        super().__init__(nn.BatchNorm3d(cin), nn.ReLU(), nn.Conv3d(cin, bottleneck * growth, 1, bias=False),
                         nn.BatchNorm3d(bottleneck * growth), nn.ReLU(), nn.Conv3d(bottleneck * growth, growth, 3, padding=1, bias=False))

    def forward(self, x):
        return torch.cat([x, super().forward(x)], 1)


class DenseNet121_3D(nn.Module):
    def __init__(self, cin=1, classes=4, growth=32, blocks=(6, 12, 24, 16)):
        super().__init__()
        c = 2 * growth
        parts = [nn.Conv3d(cin, c, 7, 2, 3, bias=False), nn.BatchNorm3d(c), nn.ReLU(), nn.MaxPool3d(3, 2, 1)]
        for n, layers in enumerate(blocks):
            if n > 0:
                parts += [nn.BatchNorm3d(c), nn.ReLU(), nn.Conv3d(c, c // 2, 1, bias=False), nn.AvgPool3d(2)]
                c //= 2
            parts += [DenseLayer(c + i * growth, growth, 4) for i in range(layers)]
            c += layers * growth
        self.features = nn.Sequential(*parts, nn.BatchNorm3d(c))
        self.fc = nn.Linear(c, classes)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool3d(F.relu(self.features(x)), 1).flatten(1))


def _r3d_18():
    from torchvision.models.video import r3d_18
    return r3d_18(num_classes=4)


# name -> (constructor, input shape, target layer)
MODELS = {
    "effnet3d_b2": (Classifier, (1, 1, 256, 256, 256), "backbone.conv_head"),
    "r3d_18": (_r3d_18, (1, 3, 256, 256, 256), "layer4"),
    "resnet50_3d": (ResNet50_3D, (1, 1, 256, 256, 256), "layer4"),
    "densenet121_3d": (DenseNet121_3D, (1, 1, 192, 224, 192), "features"),
}


def structured(shape, generator):
    """Volumes [N, C, D, H, W] in [0, 1] that differ from one another on every scale, as real ones do: waves of random lengths, and noise."""
    axes = [torch.linspace(0, 1, n) for n in shape[2:]]
    out = 0.15 * torch.rand(shape, generator=generator)
    for n in range(shape[0]):
        for c in range(shape[1]):
            for scale in (1, 2, 4, 8, 16):
                k, phase = scale * (torch.rand(3, generator=generator) + 0.5), 6.3 * torch.rand(3, generator=generator)
                waves = [torch.cos(6.3 * k[i] * axes[i] + phase[i]) for i in range(3)]
                out[n, c] += 0.17 * (1 + waves[0][:, None, None] * waves[1][None, :, None] * waves[2][None, None, :]) / 2
    return out


def build(name, device="cpu", seed=0, fit_structured=False):
    """Returns (model in eval mode, input shape, target layer name); the same seed gives the same weights. BatchNorm is fitted to small
    volumes of noise, or to structured ones of the full size, with and without noise: deep layers hardly vary with noise alone, have other
    statistics with small volumes, and vary little without noise, so that a network that is fitted to only one kind multiplies rounding
    errors with the others."""
    make, shape, layer = MODELS[name]
    torch.manual_seed(seed)
    model = make().to(device)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    for m in norms:
        m.momentum = None  # cumulative average, so that activations keep an ordinary scale in eval mode
        m.reset_running_stats()
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.eval()
    with torch.no_grad():
        for _ in range(4 if fit_structured else 2):
            if fit_structured:
                volumes = structured((2, *shape[1:]), generator)
                volumes[1] += 0.15 * torch.randn(shape[1:], generator=generator)  # as SmoothGrad draws them
                model(volumes.to(device))
            else:
                model(torch.rand(2, shape[1], 96, 128, 128, generator=generator).to(device))
    model.eval()
    if fit_structured:  # scores as apart as those of a trained network, so that gradients are not tiny
        with torch.no_grad():
            scores = model(structured((1, *shape[1:]), generator).to(device))
            last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
            factor = 5 / (scores - scores.mean()).abs().max()
            last.weight *= factor
            last.bias *= factor
    return model, shape, layer


def export(name, folder, device="cpu", size=None, fit_structured=False):
    model, shape, _ = build(name, device, fit_structured=fit_structured)
    if size:
        shape = shape[:2] + size
    path = os.path.join(folder, name + ".onnx")
    # PRESERVE keeps BatchNorm apart from the convolution before it, so that the target layer's output exists in the file.
    torch.onnx.export(model, (torch.rand(shape, device=device),), path, input_names=["volume"], output_names=["logits"],
                      opset_version=17, dynamo=False, training=torch.onnx.TrainingMode.PRESERVE)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--size", help="depth,height,width of the volume, instead of 256,256,256")
    parser.add_argument("--structured", action="store_true", help="fit BatchNorm to volumes with structure, with and without noise, and the scores to a common size")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for n in args.models:
        print(export(n, args.out, "cuda" if torch.cuda.is_available() else "cpu", args.size and tuple(map(int, args.size.split(","))),
                     args.structured))
