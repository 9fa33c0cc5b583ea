"""Holds voxcam's layers against PyTorch: for published 3D architectures, every module by its path, in files of both exporters and several opsets.

    python3 tools/check_layers.py VOXCAM OUT [name ...] [--most 40] [--list] [--ts 13,17,20] [--dynamo 18,20,21]

For each module the signed Grad-CAM map of the last call, from forward hooks in float64, is compared with the map that `voxcam explain
--target-layer PATH` writes. Both the module's output as it was and as a later in-place operation left it count as right. OUT/layers.jsonl has one
line a module and file:

    right     the map is that of the module
    said      another map, or a part of it, and the record says so (a warning, or a method that is degraded)
    refused   no map, with a message
    unlike    the module has no output of its own to compare with (constant, not in space, gradient zero), and a map was written; looked at by hand
    SILENT    another map and nothing in the record: a fault

Models have random weights, unequal norm scales and BatchNorm statistics of passes in training mode. Needs torch, onnx, numpy, and of torchvision, monai, timm,
timm_3d, pytorchvideo, vit_pytorch, transformers, segmentation_models_pytorch_3d, dynamic_network_architectures and acsconv those whose models
are asked for. Exit status 1 if anything is SILENT.
"""
import argparse
import collections
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

warnings.filterwarnings("ignore")
HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = {}  # name -> (constructor, input shape, axes of the volume as it is stored)


def model(name, *shape, axes="CDHW"):
    def add(make):
        MODELS[name] = (make, (1, *shape), axes)
        return make
    return add


# --- architectures of torchvision ---

@model("tv_r3d_18", 3, 8, 32, 32)
def _():
    from torchvision.models.video import r3d_18
    return r3d_18(num_classes=4)


@model("tv_mc3_18", 3, 8, 32, 32)
def _():
    from torchvision.models.video import mc3_18
    return mc3_18(num_classes=4)


@model("tv_r2plus1d_18", 3, 8, 32, 32)
def _():
    from torchvision.models.video import r2plus1d_18
    return r2plus1d_18(num_classes=4)




@model("tv_swin3d", 3, 8, 64, 64)
def _():
    from torchvision.models.video.swin_transformer import PatchEmbed3d, SwinTransformer3d
    return SwinTransformer3d(patch_size=[2, 4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4, 4], num_classes=4, patch_embed=PatchEmbed3d)


# --- MONAI ---

@model("monai_densenet", 1, 32, 32, 32)
def _():
    from monai.networks.nets import DenseNet
    return DenseNet(3, 1, 4, init_features=16, growth_rate=8, block_config=(2, 3, 2))


@model("monai_resnet18", 1, 24, 32, 32)
def _():
    from monai.networks.nets import resnet18
    return resnet18(spatial_dims=3, n_input_channels=1, num_classes=4)


@model("monai_resnet50_A", 1, 24, 32, 32)
def _():
    from monai.networks.nets import ResNet
    return ResNet("bottleneck", [1, 1, 1, 1], [16, 32, 64, 128], n_input_channels=1, num_classes=4, shortcut_type="A", bias_downsample=False)


@model("monai_seresnet", 1, 32, 32, 32)
def _():
    from monai.networks.nets import SENet
    from monai.networks.blocks.squeeze_and_excitation import SEResNetBottleneck
    return SENet(3, 1, SEResNetBottleneck, [1, 1, 1, 1], groups=1, reduction=16, dropout_prob=None, inplanes=64, downsample_kernel_size=1,
                 input_3x3=False, num_classes=4)


@model("monai_efficientnet", 1, 32, 32, 32)
def _():
    from monai.networks.nets import EfficientNetBN
    return EfficientNetBN("efficientnet-b0", pretrained=False, spatial_dims=3, in_channels=1, num_classes=4)


@model("monai_vit_conv", 1, 16, 16, 16)
def _():
    from monai.networks.nets import ViT
    return ViT(1, (16, 16, 16), (8, 8, 4), hidden_size=48, mlp_dim=96, num_layers=3, num_heads=4, classification=True, num_classes=4, post_activation="")


@model("monai_vit_perceptron", 1, 16, 16, 16)
def _():
    from monai.networks.nets import ViT
    return ViT(1, (16, 16, 16), (8, 8, 4), hidden_size=48, mlp_dim=96, num_layers=2, num_heads=4, proj_type="perceptron", classification=True,
               num_classes=4, post_activation="")


@model("monai_classifier", 1, 16, 16, 16)
def _():
    from monai.networks.nets import Classifier
    return Classifier((1, 16, 16, 16), 4, (8, 16), (2, 2), act="PRELU")


@model("monai_highresnet_pooled", 1, 12, 16, 16)
def _():
    from monai.networks.nets import HighResNet
    return Pooled(HighResNet(3, 1, 8), 8)


@model("monai_segresnet_pooled", 1, 16, 16, 16)
def _():
    from monai.networks.nets import SegResNet
    return Pooled(SegResNet(3, 8, 1, 6, blocks_down=(1, 1, 1), blocks_up=(1, 1)), 6)


@model("monai_vnet_pooled", 1, 16, 16, 16)
def _():
    from monai.networks.nets import VNet
    return Pooled(VNet(3, 1, 4), 4)


@model("monai_unet_pooled", 1, 16, 16, 16)
def _():
    from monai.networks.nets import UNet
    return Pooled(UNet(3, 1, 6, (4, 8, 16), (2, 2), num_res_units=2), 6)


@model("monai_swinvit", 1, 32, 32, 32)
def _():
    from monai.networks.nets.swin_unetr import SwinTransformer

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.swinViT = SwinTransformer(1, 12, (4, 4, 4), (2, 2, 2), [2, 1, 1, 1], [2, 4, 4, 4], spatial_dims=3)
            self.fc = nn.Linear(192, 4)

        def forward(self, x):
            return self.fc(self.swinViT(x)[-1].mean((2, 3, 4)))
    return Net()


@model("monai_mil_att", 5, 3, 64, 64, axes="DCHW")
def _():
    from monai.networks.nets import MILModel
    return MILModel(4, mil_mode="att", pretrained=False, backbone="resnet18")


# --- timm in 3D ---

def _timm3d(name, shape, **options):
    @model("t3_" + name, *shape)
    def _():
        import timm_3d
        return timm_3d.create_model(name, pretrained=False, num_classes=4, in_chans=shape[0], **options)


_timm3d("resnet18", (1, 32, 32, 32))
_timm3d("seresnet18", (1, 32, 32, 32))
_timm3d("ecaresnet26t", (1, 32, 32, 32))
_timm3d("resnetblur18", (1, 32, 32, 32))
_timm3d("densenet121", (1, 32, 32, 32))
_timm3d("efficientnet_b0", (1, 32, 32, 32))
_timm3d("convnextv2_atto", (1, 64, 64, 32))
_timm3d("coatnet_pico_rw_224", (1, 64, 64, 64), img_size=(64, 64, 64))
_timm3d("maxvit_pico_rw_256", (1, 64, 64, 64), img_size=(64, 64, 64))


# --- pytorchvideo ---

@model("ptv_slow_r50", 3, 4, 64, 64)
def _():
    from pytorchvideo.models.resnet import create_resnet
    return create_resnet(model_depth=50, model_num_class=4, head_pool_kernel_size=(4, 2, 2), stem_dim_out=16)


@model("ptv_x3d", 3, 4, 64, 64)
def _():
    from pytorchvideo.models.x3d import create_x3d
    return create_x3d(input_clip_length=4, input_crop_size=64, model_num_class=4, head_activation=None)


@model("ptv_csn", 3, 4, 64, 64)
def _():
    from pytorchvideo.models.csn import create_csn
    return create_csn(model_depth=50, model_num_class=4, stem_dim_out=16, head_pool_kernel_size=(1, 2, 2))


# --- tokens ---

@model("vp_vit3d", 1, 16, 16, 16)
def _():
    from vit_pytorch.vit_3d import ViT
    return ViT(image_size=16, frames=16, image_patch_size=8, frame_patch_size=4, num_classes=4, dim=32, depth=2, heads=4, mlp_dim=64, channels=1)


@model("vp_simple_vit3d", 1, 16, 16, 16)
def _():
    from vit_pytorch.simple_vit_3d import SimpleViT
    return SimpleViT(image_size=16, frames=16, image_patch_size=8, frame_patch_size=4, num_classes=4, dim=36, depth=2, heads=4, mlp_dim=64, channels=1)


@model("hf_vivit", 4, 3, 16, 16, axes="DCHW")
def _():
    from transformers import VivitConfig, VivitForVideoClassification

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.vivit = VivitForVideoClassification(VivitConfig(image_size=16, num_frames=4, tubelet_size=[2, 8, 8], num_channels=3, hidden_size=32, num_hidden_layers=2,
                                                     num_attention_heads=4, intermediate_size=64, num_labels=4, attn_implementation="eager"))

        def forward(self, x):
            return self.vivit(x, return_dict=False)[0]
    return Net()


@model("hf_timesformer", 4, 3, 16, 16, axes="DCHW")
def _():
    from transformers import TimesformerConfig, TimesformerForVideoClassification

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = TimesformerForVideoClassification(TimesformerConfig(image_size=16, patch_size=8, num_frames=4, hidden_size=32, num_hidden_layers=2,
                                                          num_attention_heads=4, intermediate_size=64, num_labels=4))

        def forward(self, x):
            return self.body(x, return_dict=False)[0]
    return Net()


# --- encoders and decoders of segmentation, pooled ---

@model("smp3d_unet_pooled", 1, 32, 32, 32)
def _():
    import segmentation_models_pytorch_3d as smp
    return Pooled(smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=4, decoder_channels=(32, 16, 16, 8, 8)), 4)


@model("nnunet_resenc_pooled", 1, 16, 32, 32)
def _():
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    return Pooled(ResidualEncoderUNet(1, 3, (8, 16, 16), nn.Conv3d, 3, (1, 2, 2), (1, 1, 1), 4, (1, 1), conv_bias=True, norm_op=nn.InstanceNorm3d,
                  norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}), 4)


@model("acs_resnet18", 3, 16, 32, 32)
def _():
    from acsconv.converters import ACSConverter
    from torchvision.models import resnet18
    return ACSConverter(resnet18(num_classes=4)).model


# --- written after published descriptions ---

class Pooled(nn.Module):
    """A network for segmentation as a classifier."""

    def __init__(self, body, channels):
        super().__init__()
        self.body, self.fc = body, nn.Linear(channels, 4)

    def forward(self, x):
        y = self.body(x)
        return self.fc((y[0] if isinstance(y, (list, tuple)) else y).mean((2, 3, 4)))


@model("c3d", 1, 16, 32, 32)
def _():  # Tran et al. 2015, thin; nn.ReLU out of place, called after each convolution by one module
    class C3D(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.pool1 = nn.Conv3d(1, 8, 3, padding=1), nn.MaxPool3d((1, 2, 2))
            self.conv2, self.pool2 = nn.Conv3d(8, 16, 3, padding=1), nn.MaxPool3d(2)
            self.conv3a, self.conv3b, self.pool3 = nn.Conv3d(16, 16, 3, padding=1), nn.Conv3d(16, 16, 3, padding=1), nn.MaxPool3d(2)
            self.fc6, self.fc8 = nn.Linear(16 * 4 * 4 * 4, 32), nn.Linear(32, 4)
            self.relu, self.dropout = nn.ReLU(), nn.Dropout(0.5)

        def forward(self, x):
            x = self.pool1(self.relu(self.conv1(x)))
            x = self.pool2(self.relu(self.conv2(x)))
            x = self.pool3(self.relu(self.conv3b(self.relu(self.conv3a(x)))))
            return self.fc8(self.dropout(self.relu(self.fc6(x.flatten(1)))))
    return C3D()


@model("sfcn", 1, 32, 32, 32)
def _():  # Peng et al. 2021, thin: nn.ReLU out of place behind a pooling
    layers = []
    c = 1
    for i, n in enumerate((8, 16, 16, 8)):
        last = i == 3
        layers += [nn.Conv3d(c, n, 1 if last else 3, padding=0 if last else 1), nn.BatchNorm3d(n)] + ([] if last else [nn.MaxPool3d(2)]) + [nn.ReLU()]
        c = n
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Dropout(), nn.Conv3d(c, 4, 1), nn.Flatten())


@model("conv5_fc3", 1, 32, 32, 32)
def _():  # Wen et al. 2020 (clinicadl), thin
    layers, c = [], 1
    for n in (8, 8, 16, 16):
        layers += [nn.Conv3d(c, n, 3, padding=1), nn.BatchNorm3d(n), nn.ReLU(), nn.MaxPool3d(2)]
        c = n
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Dropout(), nn.Linear(16 * 8, 32), nn.ReLU(), nn.Linear(32, 4))


@model("squeezenet", 1, 32, 32, 32)
def _():  # Iandola et al. 2016 in 3D, thin: a convolution gives the scores
    class Fire(nn.Module):
        def __init__(self, cin, s, e):
            super().__init__()
            self.squeeze, self.squeeze_bn = nn.Conv3d(cin, s, 1), nn.BatchNorm3d(s)
            self.expand1, self.expand3, self.bn = nn.Conv3d(s, e, 1), nn.Conv3d(s, e, 3, padding=1), nn.BatchNorm3d(2 * e)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.relu(self.squeeze_bn(self.squeeze(x)))
            return self.relu(self.bn(torch.cat([self.expand1(y), self.expand3(y)], 1)))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv3d(1, 16, 3, 2, 1), nn.BatchNorm3d(16), nn.ReLU(inplace=True), nn.MaxPool3d(3, 2, 1), Fire(16, 4, 8), Fire(16, 4, 8),
                                          nn.MaxPool3d(3, 2, 1), Fire(16, 8, 16))
            self.classifier = nn.Sequential(nn.Dropout(), nn.Conv3d(32, 4, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool3d(1))

        def forward(self, x):
            return self.classifier(self.features(x)).flatten(1)
    return Net()


@model("shufflenet", 1, 16, 32, 32)
def _():  # Zhang et al. 2018 in 3D, thin: channel shuffle
    class Unit(nn.Module):
        def __init__(self, c, g):
            super().__init__()
            self.g = g
            self.conv1, self.bn1 = nn.Conv3d(c, c, 1, groups=g, bias=False), nn.BatchNorm3d(c)
            self.conv2, self.bn2 = nn.Conv3d(c, c, 3, padding=1, groups=c, bias=False), nn.BatchNorm3d(c)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.relu(self.bn1(self.conv1(x)))
            b, c, d, h, w = y.shape
            y = y.view(b, self.g, c // self.g, d, h, w).permute(0, 2, 1, 3, 4, 5).contiguous().view(b, c, d, h, w)
            return self.relu(self.bn2(self.conv2(y)) + x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv3d(1, 12, 3, 2, 1), nn.BatchNorm3d(12), nn.ReLU(inplace=True))
            self.units, self.fc = nn.Sequential(Unit(12, 3), Unit(12, 3)), nn.Linear(12, 4)

        def forward(self, x):
            return self.fc(F.adaptive_avg_pool3d(self.units(self.stem(x)), 1).flatten(1))
    return Net()


@model("groupnorm", 1, 16, 24, 24)
def _():
    layers, c = [], 1
    for n in (8, 16):
        layers += [nn.Conv3d(c, n, 3, 2, 1), nn.GroupNorm(4, n), nn.SiLU()]
        c = n
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, 4))


@model("siamese", 2, 12, 16, 16)
def _():  # one encoder for both channels, called twice
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 8, 3, 2, 1), nn.ReLU())
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            a, b = self.enc(x[:, :1]), self.enc(x[:, 1:])
            return self.fc(torch.cat([a, b], 1).mean((2, 3, 4)))
    return Net()


def _slices(name, shape, axis, pool):
    @model(name, *shape)
    def _():  # a 2D network on each slice, and attention or the mean over slices
        from torchvision.models import resnet18

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.backbone = resnet18()
                self.backbone.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
                self.backbone.fc = nn.Identity()
                self.attention, self.fc = nn.Sequential(nn.Linear(512, 16), nn.Tanh(), nn.Linear(16, 1)), nn.Linear(512, 4)

            def forward(self, x):
                y = self.backbone(x[0].movedim(axis, 0))
                w = torch.softmax(self.attention(y), 0) if pool == "attention" else torch.full_like(y[:, :1], 1 / y.shape[0])
                return self.fc((w * y).sum(0, keepdim=True))
        return Net()


_slices("slices_mean", (1, 5, 64, 64), 1, "mean")
_slices("slices_attention_last", (1, 64, 64, 5), 3, "attention")


@model("permuted", 1, 16, 20, 12)
def _():  # slices along the last axis become the depth
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2)), nn.Conv3d(8, 8, 3, (1, 2, 2), 1), nn.ReLU())
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            return self.fc(self.body(x.permute(0, 1, 4, 2, 3)).mean((2, 3, 4)))
    return Net()


# --- comparison ---

def build(name):
    make, shape, _ = MODELS[name]
    torch.manual_seed(0)
    net = make()
    generator = torch.Generator().manual_seed(1)
    norms = [m for m in net.modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm3d))]
    for m in norms:
        if getattr(m, "weight", None) is not None:
            with torch.no_grad():
                m.weight.copy_(0.5 + torch.rand(m.weight.shape, generator=generator))
                m.bias.copy_(0.3 * torch.randn(m.bias.shape, generator=generator))
    net.train()
    for m in net.modules():
        if isinstance(m, (nn.Dropout, nn.Dropout2d, nn.Dropout3d)) or type(m).__name__ in ("StochasticDepth", "DropPath"):
            m.eval()
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(shape, generator=generator).repeat_interleave(2, 0)
            x[1] = torch.randn(shape[1:], generator=generator)
            try:
                net(x)
            except Exception:
                net(x[:1])
    return net.eval(), torch.randn(shape, generator=generator)


def maps(net, x):
    """For each module path, the signed Grad-CAM maps of its last call: as it was, and as later in-place operations left it."""
    net, x = net.double(), x.double()
    kept = {}

    def hook(path):
        def keep(_, __, y):
            y = y[0] if isinstance(y, (list, tuple)) and len(y) else y
            if isinstance(y, torch.Tensor) and y.is_floating_point() and y.requires_grad:
                kept.setdefault(path, []).append((y, y.detach().clone(), y._version))
        return keep
    found = {}
    paths = [p for p, _ in net.named_modules() if p]
    hooks = [module.register_forward_hook(hook(path)) for path, module in net.named_modules() if path]
    scores = net(x.clone().requires_grad_())
    scores = scores[0] if isinstance(scores, (list, tuple)) else scores
    target = int(scores.flatten().argmax())
    for h in hooks:
        h.remove()
    live = {p: k[-1] for p, k in kept.items()}
    order = list(live)
    grads = torch.autograd.grad(scores.flatten()[target], [live[p][0] for p in order], allow_unused=True, retain_graph=True)
    for p, g in zip(order, grads):
        y, before, version = live[p]
        if g is None:
            continue
        found[p] = [(y.detach().numpy(), g.numpy(), len(kept[p]))]
        if y._version != version:  # overwritten later: the module's own output needs a gradient of its own
            found[p].append(own(net, x, p, len(kept[p]), target))
    return target, scores.detach().flatten().numpy(), found, paths


def own(net, x, path, calls, target):
    """The output of a module's last call and its gradient, where a later operation works on a copy."""
    seen, kept = [0], []

    def hook(_, __, y):
        seen[0] += 1
        first = y[0] if isinstance(y, (list, tuple)) else y
        if seen[0] == calls:
            kept.append(first)
            return first.clone() if first is y else type(y)([first.clone(), *y[1:]])
    handle = net.get_submodule(path).register_forward_hook(hook)
    scores = net(x.clone().requires_grad_())
    scores = scores[0] if isinstance(scores, (list, tuple)) else scores
    g, = torch.autograd.grad(scores.flatten()[target], [kept[0]])
    handle.remove()
    return kept[0].detach().numpy(), g.numpy(), calls


def views(y, g, shape):
    """Grad-CAM maps of an activation under each way of reading its axes, with tokens in front or without, whose map has that many cells."""
    cells = int(np.prod(shape))
    y, g = np.squeeze(y), np.squeeze(g)
    for channel in range(y.ndim):
        a, b = np.moveaxis(y, channel, -1), np.moveaxis(g, channel, -1)
        space = tuple(range(a.ndim - 1))
        if int(np.prod(a.shape[:-1])) == cells:
            yield (a * b.mean(space)).sum(-1)
        for axis in space:
            others = int(np.prod(a.shape[:-1])) // a.shape[axis]
            front = a.shape[axis] - cells // others
            if 0 < front < a.shape[axis] and (a.shape[axis] - front) * others == cells:
                c, d = (np.delete(v, range(front), axis) for v in (a, b))
                yield (c * d.mean(space)).sum(-1)
                yield (c * b.mean(space)).sum(-1)  # weights over all tokens


def like(got, want):
    """The least difference over the largest value, whichever axis of the volume comes first in the activation."""
    best = np.inf
    for order in itertools.permutations(range(got.ndim)):
        w = want.reshape([got.shape[i] for i in order]).transpose(np.argsort(order))
        best = min(best, np.abs(w - got).max() / max(np.abs(w).max(), 1e-30))
    return best


def explain(voxcam, onnx, volume, axes, path, folder):
    command = [voxcam, "explain", volume, "--axes", axes, "--model", onnx, "--out", folder, "--method", "gradcam", "--save", "npy", "--device", "cpu", "--threads", "1"]
    if path:
        command += ["--target-layer", path]
    p = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if p.returncode:
        return None, None, p.stderr.strip()[-400:]
    with open(os.path.join(folder, "result.json")) as f:
        record = json.load(f)
    return record, np.load(os.path.join(folder, "gradcam.map.npy")), ""


def said(record):
    layer = record.get("layer") or {}
    return bool(record.get("warnings") or layer.get("warnings")) or any(m["status"] == "degraded" for m in record["methods"])


def check(voxcam, out, name, files, x, target, found, chosen, log):
    volume = os.path.join(out, name + ".npy")
    np.save(volume, x[0].float().numpy())
    counts = collections.Counter()
    for kind, onnx in files:
        for path in chosen:
            with tempfile.TemporaryDirectory() as folder:
                record, got, message = explain(voxcam, onnx, volume, MODELS[name][2], path, folder)
            line = {"model": name, "file": kind, "layer": path}
            if record is None:
                line.update(verdict="refused", message=message)
            else:
                wants = [w for y, g, _ in found.get(path, []) for w in views(y, g, got.shape)]
                usable = [w for w in wants if np.abs(w).max() > 1e-12]
                error = min((like(got, w) for w in usable), default=np.inf)
                line.update(error=None if error == np.inf else float(error), shape=list(got.shape), calls=found[path][0][2] if path in found else 0,
                            warnings=record.get("warnings"), reason=record["methods"][0].get("reason"), layer_record=record.get("layer"))
                if error < 2e-2:
                    line["verdict"] = "right"
                elif said(record):
                    line["verdict"] = "said"
                elif path not in found or not usable and not wants or wants and not usable:
                    line["verdict"] = "unlike"
                else:
                    line["verdict"] = "SILENT"
            counts[line["verdict"]] += 1
            log.write(json.dumps(line) + "\n")
        log.flush()
    return counts


def export(net, x, path, kind, opset):
    if kind == "ts":
        torch.onnx.export(net, (x,), path, dynamo=False, opset_version=opset)
    else:
        torch.onnx.export(net, (x,), path, dynamo=True, opset_version=opset, external_data=False, verbose=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voxcam")
    parser.add_argument("out")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--most", type=int, default=40, help="modules of a model at most, drawn at random")
    parser.add_argument("--ts", default="13,17,20", help="opsets of the TorchScript exporter")
    parser.add_argument("--dynamo", default="18,20,21", help="opsets of the dynamo exporter")
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_intermixed_args()
    if args.list:
        print("\n".join(MODELS))
        return 0
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(1)
    all_counts = collections.Counter()
    with open(os.path.join(args.out, "layers.jsonl"), "a") as log:
        for name in args.names or MODELS:
            try:
                net, x = build(name)
            except Exception as e:
                print(name, "is not built:", repr(e)[:200], flush=True)
                continue
            files = []
            for kind, opset in [("ts", o) for o in args.ts.split(",") if o] + [("dynamo", o) for o in args.dynamo.split(",") if o]:
                path = os.path.join(args.out, f"{name}.{kind}{opset}.onnx")
                failed = path + ".failed"
                if not os.path.exists(path) and not os.path.exists(failed):
                    try:
                        with warnings.catch_warnings(), open(os.devnull, "w") as null:
                            sys.stdout, stdout = null, sys.stdout
                            try:
                                export(net, x, path, kind, int(opset))
                            finally:
                                sys.stdout = stdout
                    except Exception as e:
                        with open(failed, "w") as f:
                            f.write(repr(e)[:2000])
                if os.path.exists(path):
                    files.append((kind + opset, path))
                else:
                    print(name, kind, opset, "is not exported:", open(failed).read()[:120].replace("\n", " "), flush=True)
            if args.export_only:
                print(name, [k for k, _ in files], flush=True)
                continue
            target, scores, found, paths = maps(net, x)
            chosen = sorted(random.Random(0).sample(paths, min(args.most, len(paths))), key=paths.index)
            counts = check(args.voxcam, args.out, name, files, x, target, found, chosen, log)
            all_counts += counts
            print(name, dict(counts), flush=True)
    print("all:", dict(all_counts))
    return 1 if all_counts["SILENT"] else 0


if __name__ == "__main__":
    sys.exit(main())
