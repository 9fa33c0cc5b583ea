"""The models of make_cases.py: small 3D classifiers that together use what PyTorch's exporters write. Random weights.

Every model takes one volume [N, C, D, H, W] and returns class scores [N, classes].
"""
import copy
import math
from dataclasses import dataclass
from typing import Callable

import torch
from torch import nn
from torch.nn import functional as F

CASES = []
ALL = (13, 14, 15, 16, 19, 20, 21)  # with 17 and 18, which every case has


@dataclass
class Case:
    name: str
    make: Callable
    shape: tuple           # [1, C, D, H, W]
    target: str            # the target layer's module path
    covers: str
    layout: str = "channels-first"
    grid: tuple = None     # token grid
    opsets: tuple = ()     # besides 17 (TorchScript) and 18 (dynamo)
    dynamic: tuple = None  # shape to export with when the sizes are dynamic
    external: bool = False
    odd: bool = False      # more ways to export: see make_cases.plan
    noise: bool = False
    tiny: str = ""         # small enough to be committed: "cam", or "all" with SmoothGrad and more forms
    target_class: int = 1
    seed: int = 0

    def double(self, model):
        return copy.deepcopy(model).double()


def case(name, shape, target, covers, **kw):
    def add(make):
        CASES.append(Case(name, make, (1, *shape), target, covers, **kw))
        return make
    return add


class Head(nn.Module):
    """Anything that maps a volume to features, with global average pooling and a linear layer behind it."""

    def __init__(self, body, channels, classes=4):
        super().__init__()
        self.body, self.fc = body, nn.Linear(channels, classes)

    def forward(self, x):
        y = self.body(x)
        y = y[0] if isinstance(y, (list, tuple)) else y
        return self.fc(y.mean((2, 3, 4)))


class First(nn.Module):
    """Drops what a model returns beside the scores."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)[0]


def conv_bn(i, o, k=3, s=1, p=1, act=nn.ReLU, **kw):
    return nn.Sequential(nn.Conv3d(i, o, k, s, p, bias=False, **kw), nn.BatchNorm3d(o), act())


# --- torchvision

def video_resnet(block, makers, stem):
    from torchvision.models.video import resnet as r

    class Thin(r.VideoResNet):
        def _make_layer(self, block, conv_builder, planes, blocks, stride=1):
            return super()._make_layer(block, conv_builder, planes // 8, blocks, stride)

    m = Thin(getattr(r, block), [getattr(r, k) for k in makers], [1, 1, 2, 1], getattr(r, stem))
    m.fc = nn.Linear(64 * m.layer4[0].expansion, 5)
    return m


S, N2, P = "Conv3DSimple", "Conv3DNoTemporal", "Conv2Plus1D"
case("tv_r3d", (3, 9, 33, 39), "layer4", "torchvision r3d, thin", opsets=(13, 20), dynamic=(1, 3, 11, 40, 35), noise=True)(
    lambda: video_resnet("BasicBlock", [S] * 4, "BasicStem"))
case("tv_mc3", (3, 7, 30, 35), "layer4.0.conv3.0", "torchvision mc3 with bottlenecks; target before its last BatchNorm", opsets=(15, 21))(
    lambda: video_resnet("Bottleneck", [S, N2, N2, N2], "BasicStem"))
case("tv_r2plus1d", (3, 9, 28, 31), "layer4", "torchvision r2plus1d, thin", opsets=(13,), external=True)(
    lambda: video_resnet("BasicBlock", [P] * 4, "R2Plus1dStem"))


@case("tv_s3d", (3, 16, 64, 64), "features.14", "torchvision s3d: separable Inception blocks")
def s3d():
    from torchvision.models.video import s3d as make
    m = make(num_classes=4)
    m.avgpool = nn.AvgPool3d((2, 2, 2), stride=1)
    return m


def swin(**kw):
    from torchvision.models.video.swin_transformer import SwinTransformer3d
    return SwinTransformer3d(patch_size=[2, 4, 4], embed_dim=12, depths=[2, 2], num_heads=[2, 4], window_size=[2, 3, 3], num_classes=4, **kw)


case("tv_swin", (3, 8, 28, 36), "features.2", "torchvision swin3d: shifted windows, padding to windows, channels-last", layout="channels-last",
     opsets=(13, 20), noise=True)(swin)
case("tv_swin_norm", (3, 9, 26, 30), "norm", "torchvision swin3d, odd sizes; target the last LayerNorm", layout="channels-last", opsets=(15, 21))(swin)


@case("tv_mvit", (3, 8, 32, 32), "blocks.2.norm1", "torchvision mvit v2: pooling attention, relative positions, class token", layout="tokens", grid=(4, 4, 4),
      opsets=(13, 20))
def mvit():
    from torchvision.models.video.mvit import MViT, MSBlockConfig as B
    blocks = [B(1, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 4, 4]), B(2, 16, 32, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
              B(2, 32, 32, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2])]
    return MViT((32, 32), 8, blocks, residual_pool=True, residual_with_cls_embed=False, rel_pos_embed=True, proj_after_attn=True, num_classes=4)


# --- MONAI

@case("monai_densenet", (1, 34, 37, 40), "features.norm5", "MONAI DenseNet", opsets=(13, 20), dynamic=(1, 1, 40, 35, 44), noise=True)
def monai_densenet():
    from monai.networks.nets import DenseNet
    return DenseNet(3, 1, 4, init_features=8, growth_rate=4, block_config=(2, 2, 2))


@case("monai_senet", (2, 33, 35, 34), "layer4", "MONAI SE-ResNeXt: grouped bottlenecks, squeeze and excitation by linear layers", opsets=(13, 21))
def monai_senet():
    from monai.networks.blocks.squeeze_and_excitation import SEResNeXtBottleneck
    from monai.networks.nets.senet import SENet

    class Thin(SENet):
        def _make_layer(self, block, planes, blocks, groups, reduction, **kw):
            return super()._make_layer(block, planes // 4, blocks, groups, reduction, **kw)

    m = Thin(3, 2, SEResNeXtBottleneck, [1, 1, 1, 1], groups=8, reduction=8, dropout_prob=0.1, inplanes=16, num_classes=4)
    m.last_linear = nn.Linear(512, 4)
    return m


@case("monai_efficientnet", (1, 33, 40, 36), "_conv_head", "MONAI EfficientNet, swish, static same padding", opsets=(15,))
def monai_efficientnet():
    from monai.networks.nets import EfficientNet
    return EfficientNet(["r1_k3_s22_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25", "r1_k5_s22_e6_i24_o40_se0.25"], 3, 1, 4, width_coefficient=0.3, image_size=36)


@case("monai_vit", (1, 16, 24, 20), "blocks.1", "MONAI ViT with tanh head; class token", layout="tokens", grid=(2, 3, 5), opsets=(13, 20), noise=True)
def monai_vit():
    from monai.networks.nets import ViT
    m = ViT(1, (16, 24, 20), (8, 8, 4), hidden_size=24, mlp_dim=48, num_layers=3, num_heads=3, classification=True, num_classes=4, qkv_bias=True)
    nn.init.normal_(m.cls_token, std=0.3)
    return First(m)


CASES[-1].target = "body.blocks.1"


@case("monai_unet_encoder", (2, 17, 22, 26), "body.1", "MONAI residual UNet's own encoder: PReLU, InstanceNorm", opsets=(13,), dynamic=(1, 2, 20, 25, 23), noise=True)
def monai_unet():
    from monai.networks.nets import UNet
    u = UNet(3, 2, 3, channels=(6, 12, 20), strides=(2, 2), num_res_units=2, norm=("instance", {"affine": True}))
    down = u.model
    return Head(nn.Sequential(down[0], down[1].submodule[0], down[1].submodule[1].submodule), 20)


@case("monai_basic_unet", (1, 34, 35, 33), "body.upcat_1.convs", "MONAI BasicUNet whole: transposed convolutions, pads to the skip's odd size, concat", opsets=(13, 20))
def monai_basic_unet():
    from monai.networks.nets import BasicUNet
    return Head(BasicUNet(3, 1, 6, features=(4, 4, 8, 8, 12, 6)), 6)


@case("monai_segresnet", (1, 16, 24, 16), "body.conv_final.0", "MONAI SegResNet whole; the target is a GroupNorm, trilinear upsampling", opsets=(13, 21), noise=True)
def monai_segresnet():
    from monai.networks.nets import SegResNet
    return Head(SegResNet(3, 8, 1, 6, blocks_down=(1, 1, 2), blocks_up=(1, 1)), 6)


@case("monai_mednext", (1, 16, 20, 24), "body.bottleneck", "MONAI MedNeXt: depthwise, GroupNorm by channel, GELU, transposed convolutions", opsets=(13, 20))
def monai_mednext():
    from monai.networks.nets import MedNeXt
    return Head(MedNeXt(3, 4, 1, 5, kernel_size=3, blocks_down=(1, 1), blocks_bottleneck=1, blocks_up=(1, 1)), 5)


@case("monai_resnet_a", (1, 20, 33, 27), "layer3", "MONAI ResNet with shortcut type A: strided average pooling and zero channels", opsets=(13,))
def monai_resnet_a():
    from monai.networks.nets import ResNet
    return ResNet("basic", [1, 1, 1, 1], [8, 12, 16, 20], 3, 1, conv1_t_size=5, conv1_t_stride=2, shortcut_type="A", num_classes=4)


@case("monai_swin_unetr", (1, 32, 32, 64), "body.encoder10", "MONAI SwinUNETR whole", opsets=(13, 20))
def monai_swin_unetr():
    from monai.networks.nets import SwinUNETR
    return Head(SwinUNETR(1, 4, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), feature_size=12, window_size=4), 4)


@case("monai_attention_unet", (1, 16, 20, 24), "body.model.1.merge", "MONAI AttentionUnet: sigmoid gates", opsets=(15,))
def monai_attention_unet():
    from monai.networks.nets import AttentionUnet
    return Head(AttentionUnet(3, 1, 4, channels=(4, 8, 12), strides=(2, 2)), 4)


@case("monai_highresnet", (1, 12, 16, 14), "body.blocks.3", "MONAI HighResNet: dilated residual blocks, channel padding", opsets=(15,))
def monai_highresnet():
    from monai.networks.nets import HighResNet
    layers = ({"name": "conv_0", "n_features": 4, "kernel_size": 3}, {"name": "res_1", "n_features": 4, "kernels": (3, 3), "repeat": 1},
              {"name": "res_2", "n_features": 6, "kernels": (3, 3), "repeat": 1}, {"name": "res_3", "n_features": 8, "kernels": (3, 3), "repeat": 1},
              {"name": "conv_1", "n_features": 8, "kernel_size": 1}, {"name": "conv_2", "kernel_size": 1})
    return Head(HighResNet(3, 1, 4, layer_params=layers), 4)


@case("monai_dynunet", (1, 16, 24, 20), "body.bottleneck", "MONAI DynUNet: anisotropic strides, LeakyReLU, InstanceNorm", opsets=(13,), noise=True)
def monai_dynunet():
    from monai.networks.nets import DynUNet
    return Head(DynUNet(3, 1, 4, kernel_size=[3, 3, (1, 3, 3)], strides=[1, 2, (1, 2, 2)], upsample_kernel_size=[2, (1, 2, 2)], filters=[4, 8, 12], res_block=True), 4)


@case("monai_classifier", (1, 15, 18, 17), "net.layer_2", "MONAI Classifier: residual units, PReLU, softmax at the end", opsets=(13,))
def monai_classifier():
    from monai.networks.nets import Classifier
    return Classifier((1, 15, 18, 17), 3, (4, 8, 8), (2, 2, 2), last_act="softmax")


# --- own networks

class Convs(nn.Module):
    """Strides, dilation, groups and kernels that differ by axis; ReLU6 and LeakyReLU."""

    def __init__(self, cin=1):
        super().__init__()
        self.stem = conv_bn(cin, 6, (3, 5, 3), (1, 2, 2), (1, 2, 1), nn.ReLU6)
        self.grouped = nn.Conv3d(6, 12, 3, (2, 1, 2), (1, 0, 2), groups=3)
        self.bn = nn.BatchNorm3d(12)
        self.dilated = nn.Conv3d(12, 10, (2, 3, 3), padding=(1, 2, 3), dilation=(1, 2, 3), groups=2, bias=False)
        self.act = nn.LeakyReLU(0.15)
        self.depthwise = nn.Conv3d(10, 20, (1, 3, 2), padding=(0, 1, 1), groups=10)
        self.fc = nn.Linear(20, 4)

    def forward(self, x):
        y = self.act(self.dilated(F.relu(self.bn(self.grouped(self.stem(x))))))
        return self.fc(F.adaptive_avg_pool3d(torch.tanh(self.depthwise(y)), 1).flatten(1))


case("convs", (1, 11, 14, 12), "dilated", "grouped, dilated, strided, depthwise convolutions with unequal kernels; ReLU6, LeakyReLU", opsets=(13, 21),
     dynamic=(1, 1, 14, 19, 17), external=True, noise=True, tiny="all")(Convs)
case("convs_before_bn", (2, 11, 17, 13), "grouped", "the same with two channels; the target is followed by BatchNorm, so it is gone where that is fused", opsets=(15, 20),
     external=True)(lambda: Convs(2))
case("convs_bn", (3, 10, 15, 16), "bn", "the same with three channels; the target is a BatchNorm that may be fused", odd=True, opsets=(13,))(lambda: Convs(3))


@case("deconv", (1, 11, 16, 13), "up2", "encoder-decoder: transposed convolutions with output_padding, groups, dilation", opsets=(13, 20), dynamic=(1, 1, 17, 22, 15), noise=True, tiny="cam")
class Deconv(nn.Module):
    def __init__(self):
        super().__init__()
        self.d1, self.d2 = conv_bn(1, 6, s=2), conv_bn(6, 8, s=(1, 2, 2))
        self.up1 = nn.ConvTranspose3d(8, 6, 3, (1, 2, 2), 1, output_padding=(0, 1, 0), groups=2)
        self.bn = nn.BatchNorm3d(6)
        self.up2 = nn.ConvTranspose3d(6, 4, (3, 2, 4), (2, 2, 2), (1, 0, 1), output_padding=(1, 0, 0), bias=False)
        self.up3 = nn.ConvTranspose3d(4, 4, 3, padding=1, dilation=(1, 2, 1), groups=4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        y = F.relu(self.bn(self.up1(self.d2(self.d1(x)))))
        return self.fc(F.gelu(self.up3(F.relu(self.up2(y)))).mean((2, 3, 4)))


@case("paddings", (1, 9, 14, 11), "c3", "asymmetric constant, reflect, replicate and circular padding, negative padding, padding='same' with even kernels", odd=True, opsets=(13, 20), noise=True, tiny="cam")
class Paddings(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv3d(1, 4, 3, padding=1, padding_mode="replicate")
        self.reflect, self.replicate = nn.ReflectionPad3d((1, 2, 0, 1, 2, 1)), nn.ReplicationPad3d((0, 2, 1, 0, 1, 1))
        self.c2, self.c3 = nn.Conv3d(4, 6, 3, 2), nn.Conv3d(6, 8, (2, 4, 3), padding="same")
        self.c4 = nn.Conv3d(8, 6, 3, padding=1, padding_mode="circular")
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        y = F.silu(self.c1(F.pad(x, (1, 0, 2, 1, 0, 3), value=-0.5)))
        y = torch.tanh(self.c3(F.pad(self.c2(self.reflect(y)), (1, 1, 0, 2, 1, 0))))
        y = F.silu(self.c4(self.replicate(y)))
        return self.fc(F.pad(y, (-1, 0, 0, -2, 0, 0)).mean((2, 3, 4)))


@case("pools", (1, 11, 14, 13), "c2", "max and average pooling with ceil_mode, dilation, count_include_pad both ways, divisors; adaptive pools", opsets=(13, 20), noise=True, tiny="cam")
class Pools(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv3d(1, 6, 3, padding=1), nn.Conv3d(6, 8, 3, padding=1), nn.Conv3d(8, 8, 1)
        self.p1 = nn.MaxPool3d(3, 2, 1, ceil_mode=True)
        self.p2 = nn.AvgPool3d((2, 3, 3), (1, 2, 2), (0, 1, 1), ceil_mode=True, count_include_pad=False)
        self.p3 = nn.MaxPool3d((2, 3, 2), 1, (0, 1, 1), dilation=(1, 2, 2))
        self.p4 = nn.AvgPool3d(3, 2, 1, ceil_mode=True, count_include_pad=True)
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        y = F.softplus(self.c1(x))
        y = F.elu(self.c2(self.p2(self.p1(y))))
        y = self.c3(self.p3(y))
        return self.fc(torch.cat([F.adaptive_avg_pool3d(self.p4(y), 1), F.adaptive_max_pool3d(y, 1)], 1).flatten(1))


@case("adaptive_pool", (1, 16, 24, 12), "body.2.0", "adaptive average pool to (2, 2, 2) before a two-layer head with BatchNorm1d", opsets=(13, 21), noise=True)
class AdaptivePool(nn.Module):
    def __init__(self, pool=nn.AdaptiveAvgPool3d((2, 2, 2))):
        super().__init__()
        self.body = nn.Sequential(conv_bn(1, 6), nn.MaxPool3d(2), conv_bn(6, 8, act=nn.SiLU))
        self.pool = pool
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 4, bias=False), nn.BatchNorm1d(4))

    def forward(self, x):
        return self.head(self.pool(self.body(x)))


case("bn1d_head", (1, 16, 24, 12), "body.2", "the same with a fixed pool, which the dynamo exporter can write", opsets=(13, 20), noise=True)(
    lambda: AdaptivePool(nn.AvgPool3d((4, 6, 3))))


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of a channels-first tensor, written out."""

    def __init__(self, c):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(c) + 0.5), nn.Parameter(torch.rand(c) - 0.5)

    def forward(self, x):
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        return (x - u) / torch.sqrt(s + 1e-6) * self.weight[:, None, None, None] + self.bias[:, None, None, None]


@case("norms", (1, 11, 14, 12), "c4", "GroupNorm, InstanceNorm (affine, with running statistics), LayerNorm over all axes and over channels, affine-free BatchNorm",
      odd=True, opsets=ALL, noise=True)
class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3, self.c4 = nn.Conv3d(1, 8, 3, 2, 1), nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(8, 6, 3, padding=1), nn.Conv3d(6, 6, 1)
        self.gn, self.inorm, self.run = nn.GroupNorm(4, 8), nn.InstanceNorm3d(8, affine=True), nn.InstanceNorm3d(8, track_running_stats=True)
        self.bn, self.whole, self.ln = nn.BatchNorm3d(6, affine=False), nn.LayerNorm([6, 6, 7, 6]), ChannelLayerNorm(6)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        y = self.run(F.gelu(self.inorm(self.c2(F.silu(self.gn(self.c1(x)))))))
        y = self.ln(self.whole(F.relu(self.bn(self.c3(y)))))
        return self.fc(F.silu(self.c4(y)).mean((2, 3, 4)))


@case("rms_norm", (1, 11, 14, 12), "c2", "RMSNorm over channels, local response normalisation, affine LayerNorm without bias", opsets=(13, 20, 21))
class RMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv3d(1, 8, 3, 2, 1), nn.Conv3d(8, 6, 3, padding=1), nn.Linear(6, 4)
        self.rms, self.ln, self.lrn = nn.RMSNorm(8, eps=1e-5), nn.LayerNorm(6, bias=False), nn.LocalResponseNorm(3, alpha=0.3)

    def forward(self, x):
        y = self.rms(self.lrn(self.c1(x)).movedim(1, -1)).movedim(-1, 1)
        return self.fc(self.ln(F.silu(self.c2(y)).mean((2, 3, 4))))


class Activations(nn.Module):
    def __init__(self, acts, last):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv3d(1 if i == 0 else 6, 6, 3, 2 if i == 0 else 1, 1) for i in range(len(acts))])
        self.acts = nn.ModuleList(acts)
        self.last, self.fc = last, nn.Linear(6, 3)
        for i, c in enumerate(self.convs):
            nn.init.normal_(c.weight, std=(0.5 if i == 0 else 0.13))

    def forward(self, x):
        for c, a in zip(self.convs, self.acts):
            x = a(c(x) * 1.3)
        return self.fc(self.last(x).mean((2, 3, 4)))


def prelu():
    m = nn.PReLU(6)
    nn.init.uniform_(m.weight, -0.3, 0.5)
    return m


case("acts_a", (1, 9, 10, 11), "convs.4", "PReLU per channel and shared, ELU, SELU, CELU, HardSigmoid, HardSwish, SiLU", opsets=(13, 20), noise=True)(
    lambda: Activations([prelu(), nn.PReLU(), nn.ELU(0.7), nn.SELU(), nn.CELU(1.3), nn.Hardswish(), nn.SiLU()], nn.Hardsigmoid()))
case("acts_b", (1, 11, 12, 13), "convs.3", "Mish, GELU exact and tanh, Softplus, Tanh, ReLU6, Hardtanh, Softsign, LogSigmoid", odd=True, opsets=ALL, noise=True)(
    lambda: Activations([nn.Mish(), nn.GELU(approximate="tanh"), nn.Softplus(beta=2), nn.Tanh(), nn.GELU(), nn.ReLU6(), nn.Hardtanh(-0.7, 0.9), nn.Softsign()], nn.LogSigmoid()))
case("acts_c", (1, 11, 12, 13), "convs.2", "Softshrink, Hardshrink, Tanhshrink, quick GELU, LeakyReLU", opsets=(13,))(
    lambda: Activations([nn.Softshrink(0.1), nn.Hardshrink(0.05), QuickGELU(), nn.LeakyReLU(), QuickGELU()], nn.Tanhshrink()))


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


@case("resizes", (1, 11, 14, 13), "smooth", "feature pyramid: nearest and trilinear resizing by size and by factor, align_corners both ways, down too", odd=True, opsets=ALL,
      dynamic=(1, 1, 12, 17, 15), noise=True)
class Resizes(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = conv_bn(1, 6, s=2), conv_bn(6, 6, s=2), conv_bn(6, 6)
        self.smooth, self.up = nn.Conv3d(6, 6, 3, padding=1), nn.Upsample(scale_factor=2, mode="nearest")
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        a = self.c1(x)
        b = self.c2(a)
        c = self.c3(F.interpolate(b, scale_factor=(2, 1, 2), mode="nearest"))
        up = F.interpolate(b, size=a.shape[2:], mode="trilinear", align_corners=False) + F.interpolate(c, size=a.shape[2:], mode="trilinear", align_corners=True)
        y = self.smooth(a + up + F.interpolate(c, size=a.shape[2:], mode="nearest"))
        z = F.interpolate(self.up(torch.tanh(y)), scale_factor=0.5, mode="trilinear", align_corners=False)
        w = F.interpolate(F.relu(y), scale_factor=1.5, mode="trilinear", align_corners=True, recompute_scale_factor=True)
        return self.fc(torch.cat([z.mean((2, 3, 4)), w.square().mean((2, 3, 4))], 1))


class Patches(nn.Module):
    """Patch embedding with position embedding and, on request, a class token."""

    def __init__(self, c, grid, patch=4, cls=False):
        super().__init__()
        self.proj = nn.Conv3d(1, c, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, c)) if cls else None
        self.pos_embed = nn.Parameter(torch.randn(1, math.prod(grid) + cls, c) * 0.5)

    def forward(self, x):
        x = self.proj(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)
        return x + self.pos_embed


class EinsumBlock(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, c // self.heads).unbind(2)
        att = torch.einsum("bihd,bjhd->bhij", q, k) * (c // self.heads) ** -0.5
        x = x + self.proj(torch.einsum("bhij,bjhd->bihd", att.softmax(-1), v).reshape(b, n, c))
        return x + self.mlp(self.norm2(x))


class MHABlock(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.norm1, self.norm2, self.att = nn.LayerNorm(c), nn.LayerNorm(c), nn.MultiheadAttention(c, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(approximate="tanh"), nn.Linear(2 * c, c))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.att(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class SDPABlock(nn.Module):
    def __init__(self, c, heads, n=None):
        super().__init__()
        self.heads, self.norm, self.q, self.kv, self.proj = heads, nn.LayerNorm(c), nn.Linear(c, c, bias=False), nn.Linear(c, 2 * c), nn.Linear(c, c)
        self.gamma = nn.Parameter(torch.full((c,), 0.7))
        self.register_buffer("mask", torch.triu(torch.ones(n, n), 3).bool().logical_not() if n else None)

    def forward(self, x):
        b, n, c = x.shape
        y = self.norm(x)
        k, v = self.kv(y).chunk(2, -1)
        split = lambda t: t.view(b, n, self.heads, c // self.heads).transpose(1, 2)
        out = F.scaled_dot_product_attention(split(self.q(y)), split(k), split(v), attn_mask=self.mask)
        return x + self.gamma * self.proj(out.transpose(1, 2).reshape(b, n, c))


class Tokens(nn.Module):
    def __init__(self, grid, blocks, c=16, cls=False):
        super().__init__()
        self.embed = Patches(c, grid, cls=cls)
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head, self.cls = nn.LayerNorm(c), nn.Linear(c, 4), cls

    def forward(self, x):
        x = self.norm(self.blocks(self.embed(x)))
        return self.head(x[:, 0] if self.cls else x.mean(1))


TOK = dict(layout="tokens", grid=(3, 4, 3))
case("att_einsum", (1, 12, 16, 12), "blocks.0", "einsum attention over tokens, mean pooling", odd=True, opsets=(13, 20), noise=True, **TOK)(
    lambda: Tokens((3, 4, 3), [EinsumBlock(16, 4), EinsumBlock(16, 2)]))
case("att_mha", (1, 12, 16, 12), "blocks.1.norm1", "nn.MultiheadAttention with a class token", opsets=(14, 21), noise=True, tiny="cam", **TOK)(
    lambda: Tokens((3, 4, 3), [MHABlock(16, 4), MHABlock(16, 2)], cls=True))
case("att_sdpa", (1, 12, 16, 12), "blocks.0", "scaled_dot_product_attention, with and without a boolean mask", opsets=(15, 20, 21), **TOK)(
    lambda: Tokens((3, 4, 3), [SDPABlock(16, 2), SDPABlock(16, 4, 36)]))


def encoder(norm_first, act):
    return nn.TransformerEncoderLayer(16, 4, 32, 0.1, act, batch_first=True, norm_first=norm_first)


case("att_encoder", (1, 12, 16, 12), "blocks.0", "nn.TransformerEncoderLayer, norm last with ReLU and norm first with GELU, class token", opsets=(14, 20), noise=True, **TOK)(
    lambda: Tokens((3, 4, 3), [encoder(False, "relu"), encoder(True, "gelu")], cls=True))
case("att_encoder_conv", (1, 12, 16, 12), "embed.proj", "the same; the target is the patch embedding's convolution", opsets=(15,))(
    lambda: Tokens((3, 4, 3), [encoder(True, "relu"), encoder(True, "gelu")]))


class ConvNeXtBlock(nn.Module):
    def __init__(self, c, k=7):
        super().__init__()
        self.dwconv, self.norm = nn.Conv3d(c, c, k, padding=k // 2, groups=c), nn.LayerNorm(c, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.gamma = nn.Parameter(torch.rand(c))

    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 4, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 4, 1, 2, 3)


class ConvNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.downs = nn.ModuleList([nn.Sequential(nn.Conv3d(1, 8, 3, (1, 2, 2), 1), ChannelLayerNorm(8)), nn.Sequential(ChannelLayerNorm(8), nn.Conv3d(8, 16, 2, 2))])
        self.stages = nn.ModuleList([nn.Sequential(ConvNeXtBlock(8)), nn.Sequential(ConvNeXtBlock(16), ConvNeXtBlock(16, 5))])
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x):
        for d, s in zip(self.downs, self.stages):
            x = s(d(x))
        return self.head(self.norm(x.mean([-3, -2, -1])))


case("convnext", (1, 10, 25, 22), "stages.1", "ConvNeXt: depthwise 7x7x7, LayerNorm over channels both ways, layer scale", opsets=ALL, dynamic=(1, 1, 12, 30, 26), noise=True)(ConvNeXt)
case("convnext_norm", (1, 10, 18, 22), "stages.1.0.norm", "the same; the target is a channels-last LayerNorm inside a block", layout="channels-last", opsets=(13, 20))(ConvNeXt)


class WindowBlock(nn.Module):
    def __init__(self, c, window, shift):
        super().__init__()
        self.w, self.s, self.norm, self.qkv, self.proj = window, shift, nn.LayerNorm(c), nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.bias = nn.Parameter(torch.randn(window ** 3, window ** 3))

    def forward(self, x):  # [b, d, h, w, c]
        b, d, h, w, c = x.shape
        k = self.w
        y = torch.roll(self.norm(x), (-self.s,) * 3, (1, 2, 3)) if self.s else self.norm(x)
        y = y.view(b, d // k, k, h // k, k, w // k, k, c).permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, k ** 3, c)
        q, kk, v = self.qkv(y).reshape(-1, k ** 3, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        y = ((q @ kk.transpose(-2, -1)) / math.sqrt(c // 2) + self.bias).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, k ** 3, c))
        y = y.view(b, d // k, h // k, w // k, k, k, k, c).permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, d, h, w, c)
        return x + (torch.roll(y, (self.s,) * 3, (1, 2, 3)) if self.s else y)


@case("windows", (1, 12, 16, 8), "blocks.0", "own shifted windows: roll, window partition by reshape and permute", layout="channels-last", odd=True, opsets=(13, 20), noise=True, tiny="cam")
class Windows(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.blocks = nn.Conv3d(1, 12, 2, 2), nn.ModuleList([WindowBlock(12, 2, 0), WindowBlock(12, 2, 1)])
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 4, 1)
        for b in self.blocks:
            x = b(x)
        return self.head(F.relu(x).mean((1, 2, 3)))


@case("indexing", (2, 8, 11, 10), "c2", "split, chunk, unbind, stack, index by lists, index_select, flip, where, masked_fill, expand, repeat, squeeze, slices with steps",
      opsets=(13, 20), noise=True, tiny="cam")
class Indexing(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv3d(2, 8, 3, padding=1), nn.Conv3d(9, 6, 3, padding=1)
        self.register_buffer("order", torch.tensor([3, 0, 2, 1]))
        self.register_buffer("keep", (torch.arange(10) % 3 != 1))
        self.fc = nn.Linear(18, 4)

    def forward(self, x):
        a, b, c = torch.split(F.silu(self.c1(x)), [3, 1, 4], 1)
        a = a[:, [2, 0, 0]] * b.expand(-1, 3, -1, -1, -1)
        c = c.index_select(1, self.order).masked_fill(~self.keep, 0.25)
        p, q = c.chunk(2, 1)
        y = torch.cat([a, torch.where(p > 0.1, q, p * 0.5), torch.stack(q.unbind(1), 1).flip(2, 4), b.repeat(1, 2, 1, 1, 1)], 1)
        y = torch.tanh(self.c2(y[:, :, ::2, 1:, :-1]))
        z = y[:, :, -1, ..., 2:5].mean((2, 3))
        return self.fc(torch.cat([z, y[:, :, 1].amax((2, 3)), y[..., :1].squeeze(-1).mean((2, 3))], 1))


@case("reductions", (1, 9, 12, 11), "c2", "sum, mean, amax, amin, max with indices, norm, std, logsumexp, prod of means, over several axes", opsets=ALL, noise=True)
class Reductions(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv3d(1, 5, 3, 2, 1), nn.Conv3d(5, 6, 3, padding=1), nn.Linear(44, 4)

    def forward(self, x):
        y = F.silu(self.c2(torch.tanh(self.c1(x))))
        parts = [y.sum((2, 3, 4)) * 0.01, y.mean((2, 3, 4)), y.amax((2, 3, 4)), y.flatten(2).norm(dim=2), y.std((2, 3, 4)), torch.logsumexp(y, (2, 3, 4)),
                 y.max(4).values.max(3).values.max(2)[0] - y.amin((2, 3, 4)), (y.mean((3, 4)) + 1).prod(2)[:, :2]]
        return self.fc(torch.cat(parts, 1))


@case("arithmetic", (1, 9, 12, 11), "c2", "pow, sqrt, div, exp, log, abs, sign, maximum, minimum, clamp, reciprocal, sin, cos, erf, rsqrt, floor; scalars on either side", opsets=(13, 20), noise=True)
class Arithmetic(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3, self.fc = nn.Conv3d(1, 6, 3, 2, 1), nn.Conv3d(6, 6, 3, padding=1), nn.Conv3d(6, 6, 1), nn.Linear(6, 3)
        self.register_buffer("shift", torch.linspace(-0.5, 0.5, 6)[:, None, None, None])

    def forward(self, x):
        x = (x - x.mean((2, 3, 4), keepdim=True)) / (x.std((2, 3, 4), keepdim=True) + 1e-5)
        y = self.c1(x)
        y = torch.sqrt(y.pow(2) + 0.5) - 1 / (2 + y.abs()) + torch.exp(-y) * 0.1 + torch.log1p(y.square()) + torch.sign(y) * 0.1
        y = self.c2(torch.minimum(torch.maximum(y, self.shift), 2 - self.shift))
        y = y.sin() + (0.5 * y).cos() + torch.erf(y) + torch.rsqrt(y * y + 1) + (y.clamp(min=-1) + 1.5).log() + (y.abs() + 1) ** 1.5 + (-y) - y.floor() * 0.0
        y = y.clamp(0.3, 6.0) / (1 + self.c3(y).abs().add(0.2).reciprocal().clamp(0.1, 4.0))
        return self.fc(y.clamp(min=1e-3).pow(3).mean((2, 3, 4)).pow(1 / 3))


@case("attention_pool", (1, 11, 14, 12), "features.2", "softmax attention pooling, generalised mean pooling, L2 normalisation, cosine head", opsets=(13, 20), dynamic=(1, 1, 13, 18, 15), noise=True)
class AttentionPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv_bn(1, 6, s=2), conv_bn(6, 8), nn.Conv3d(8, 8, 3, padding=1))
        self.score, self.p, self.w = nn.Conv3d(8, 1, 1), nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.randn(4, 16))

    def forward(self, x):
        y = F.softplus(self.features(x))
        a = torch.softmax(self.score(y).flatten(2), -1)
        att = (y.flatten(2) * a).sum(-1)
        gem = y.clamp(min=1e-6).pow(self.p).mean((2, 3, 4)).pow(1.0 / self.p)
        return 8 * F.linear(F.normalize(torch.cat([att, gem], 1)), F.normalize(self.w))


@case("shuffles", (1, 12, 16, 12), "c2", "space to depth and back by reshape and permute, channel shuffle, 2D pixel shuffle on folded depth, unfold", opsets=(13, 20), noise=True)
class Shuffles(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3, self.fc = nn.Conv3d(8, 16, 3, padding=1, groups=2), nn.Conv3d(16, 16, 3, padding=1, groups=4), nn.Conv3d(2, 4, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        b, c, d, h, w = x.shape
        y = x.view(b, c, d // 2, 2, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, c * 8, d // 2, h // 2, w // 2)
        y = F.silu(self.c1(y))
        y = y.view(b, 2, 8, *y.shape[2:]).transpose(1, 2).flatten(1, 2)
        y = torch.tanh(self.c2(y))
        z = y.view(b, 2, 2, 2, 2, d // 2, h // 2, w // 2).permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, 2, d, h, w)
        u = F.pixel_shuffle(y.transpose(1, 2).flatten(0, 1), 2).unflatten(0, (b, d // 2)).transpose(1, 2)
        return self.fc(torch.cat([F.relu(self.c3(z)).mean((2, 3, 4)), u.unfold(3, 3, 2).square().mean((2, 3, 4, 5))], 1))


class NormedWeights(nn.Module):
    def __init__(self, live):
        super().__init__()
        from torch.nn.utils import parametrizations as par, parametrize
        self.c1, self.c2 = par.weight_norm(nn.Conv3d(1, 6, 3, 2, 1)), par.spectral_norm(nn.Conv3d(6, 6, 3, padding=1))
        self.c3, self.fc = nn.Conv3d(6, 6, 3, padding=1), par.weight_norm(nn.Linear(6, 4))
        if not live:
            self.eval()
            parametrize.remove_parametrizations(self.c2, "weight")

    def forward(self, x):
        w = self.c3.weight
        w = (w - w.mean((1, 2, 3, 4), keepdim=True)) / (w.std((1, 2, 3, 4), keepdim=True) + 1e-5) * 0.1
        y = F.silu(self.c2(F.relu(self.c1(x))))
        return self.fc(F.relu(F.conv3d(y, w, self.c3.bias, padding=1)).mean((2, 3, 4)))


case("normed_weights", (1, 10, 13, 12), "c2", "weight norm and weight standardisation computed in the graph, spectral norm folded", odd=True, opsets=(13, 20), noise=True)(lambda: NormedWeights(False))
case("spectral_norm", (1, 10, 13, 12), "c2", "the same with spectral norm in the graph", opsets=(15, 21))(lambda: NormedWeights(True))


class EndsWith(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.stem, self.conv, self.fc, self.end = conv_bn(1, 6, s=2), nn.Conv3d(6, 8, 3, padding=1), nn.Linear(8, 4), end

    def forward(self, x):
        return self.end(self.fc(F.relu(self.conv(self.stem(x))).mean((2, 3, 4))))


case("ends_log_softmax", (1, 10, 13, 12), "conv", "log_softmax at the end: the score is the output", opsets=(13,))(lambda: EndsWith(nn.LogSoftmax(1)))
case("ends_softmax", (1, 10, 13, 12), "conv", "softmax at the end", opsets=(13, 20), noise=True)(lambda: EndsWith(nn.Softmax(-1)))
case("ends_sigmoid", (1, 10, 13, 12), "conv", "sigmoid at the end (several labels)", opsets=(15,))(lambda: EndsWith(nn.Sigmoid()))


@case("slices2d", (1, 7, 20, 18), "mix", "2.5D: 2D convolutions on depth folded into the batch, then 3D; BatchNorm2d, 2D pools, Conv1d over depth", opsets=(13, 20), noise=True)
class Slices2D(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.mix = nn.Conv3d(8, 8, 3, padding=1)
        self.along, self.fc = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x):
        b, c, d, h, w = x.shape
        y = self.net(x.transpose(1, 2).reshape(b * d, c, h, w))
        y = F.silu(self.mix(y.view(b, d, *y.shape[1:]).permute(0, 2, 1, 3, 4)))
        return self.fc(F.relu(self.along(y.mean((3, 4)))).amax(2))


@case("slices_attention", (1, 6, 16, 14), "net.1", "2.5D with attention over slices: the target's batch axis is the depth", opsets=(13,), layout="slices")
class SlicesAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.att, self.fc = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, padding=1)), nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x):
        y = F.relu(self.net(x[0].transpose(0, 1))).mean((2, 3))
        return self.fc((torch.softmax(self.att(y), 0) * y).sum(0, keepdim=True))


@case("methods", (1, 12, 16, 14), "backbone.head_conv", "modules reached by method calls and by index, a shared activation, in-place ReLU behind the target", opsets=(13, 20), noise=True, tiny="all")
class Methods(nn.Module):
    class Backbone(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.Sequential(conv_bn(1, 4, s=2, act=nn.Identity), conv_bn(4, 6, act=nn.Identity))
            self.head_conv, self.head_bn, self.act = nn.Conv3d(6, 8, 1, bias=False), nn.BatchNorm3d(8), nn.ReLU(inplace=True)

        def extract_features(self, x):
            for i in range(len(self.stages)):
                x = self.act(self.stages[i](x))
            return self.act(self.head_bn(self.head_conv(x)))

    def __init__(self):
        super().__init__()
        self.backbone, self.neck, self.fc = self.Backbone(), nn.Conv3d(8, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        y = self.backbone.act(self.neck(self.backbone.extract_features(x)))
        return self.fc(y.mean((2, 3, 4)))


case("methods_neck", (1, 12, 16, 14), "neck", "the same; in-place ReLU behind the target", odd=True, opsets=(13,))(Methods)
case("methods_stage", (1, 12, 16, 14), "backbone.stages.1.1", "the same; the target is a BatchNorm inside a Sequential, with in-place ReLU behind it", opsets=(15, 21))(Methods)


class Squeeze(nn.Module):
    def __init__(self, c, r=2):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(c, c // r, bias=False), nn.ReLU(True), nn.Linear(c // r, c, bias=False), nn.Sigmoid())

    def forward(self, x):
        b, c = x.shape[:2]
        return x * self.fc(F.adaptive_avg_pool3d(x, 1).view(b, c)).view(b, c, 1, 1, 1).expand_as(x)


@case("cbam", (2, 12, 15, 14), "c2", "squeeze and excitation with views and expand_as, spatial attention from channel mean and maximum, coordinate channels", opsets=(13, 20),
      dynamic=(1, 2, 14, 17, 13), noise=True)
class CBAM(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.se, self.c2, self.spatial, self.fc = nn.Conv3d(5, 8, 3, 2, 1), Squeeze(8), nn.Conv3d(8, 8, 3, padding=1), nn.Conv3d(2, 1, 7, padding=3), nn.Linear(8, 4)

    def forward(self, x):
        b, _, d, h, w = x.shape
        axis = lambda n, i: (torch.arange(n, dtype=x.dtype) * 2 / (n - 1) - 1).view([n if k == i else 1 for k in range(3)]).expand(d, h, w)
        x = torch.cat([x, torch.stack([axis(d, 0), axis(h, 1), axis(w, 2)])[None].expand(b, -1, -1, -1, -1)], 1)
        y = F.relu(self.c2(self.se(F.relu(self.c1(x)))))
        y = y * torch.sigmoid(self.spatial(torch.cat([y.mean(1, True), y.max(1, keepdim=True)[0]], 1)))
        return self.fc(y.mean((-1, -2, -3)))


@case("aspp", (1, 13, 16, 18), "project", "dilated pyramid with an upsampled global branch, blur pooling by a constant depthwise kernel", opsets=(13,), dynamic=(1, 1, 15, 18, 22))
class ASPP(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_bn(1, 6)
        k = torch.tensor([1.0, 2, 1])
        self.register_buffer("blur", (k[:, None, None] * k[:, None] * k / 64).expand(6, 1, 3, 3, 3).contiguous())
        self.branches = nn.ModuleList([conv_bn(6, 4, 1, 1, 0)] + [conv_bn(6, 4, 3, 1, d, dilation=d) for d in (2, 3)])
        self.image, self.project, self.fc = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Conv3d(6, 4, 1), nn.ReLU()), nn.Conv3d(16, 8, 1), nn.Linear(8, 4)

    def forward(self, x):
        y = F.conv3d(F.pad(self.stem(x), (1,) * 6, mode="reflect"), self.blur, stride=2, groups=6)
        parts = [b(y) for b in self.branches] + [F.interpolate(self.image(y), size=y.shape[-3:], mode="trilinear", align_corners=False)]
        return self.fc(F.gelu(self.project(torch.cat(parts, 1))).mean((2, 3, 4)))


@case("gated", (1, 11, 14, 13), "glu_conv", "GLU, maxout, gates, bilinear pooling by matmul, non-local block", opsets=(13, 20), noise=True)
class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.glu_conv, self.maxout = nn.Conv3d(1, 8, 3, 2, 1), nn.Conv3d(8, 16, 3, padding=1), nn.Conv3d(8, 12, 1)
        self.theta, self.phi, self.g, self.out, self.fc = nn.Conv3d(6, 3, 1), nn.Conv3d(6, 3, 1), nn.Conv3d(6, 3, 1), nn.Conv3d(3, 6, 1), nn.Linear(36, 4)

    def forward(self, x):
        y = F.glu(self.glu_conv(torch.tanh(self.c1(x))), 1)
        b, _, *s = y.shape
        y = self.maxout(y).view(b, 6, 2, *s).amax(2)
        att = torch.bmm(self.theta(y).flatten(2).transpose(1, 2), self.phi(y).flatten(2)).softmax(-1)
        y = y + self.out(torch.bmm(self.g(y).flatten(2), att.transpose(1, 2)).view(b, 3, *s))
        f = y.flatten(2)
        z = (torch.matmul(f, f.transpose(-2, -1)) / f.shape[-1]).flatten(1)
        return self.fc(F.normalize(torch.sign(z) * torch.sqrt(z.abs() + 1e-3)))


@case("mixer", (1, 12, 16, 12), "blocks.1", "MLP-Mixer over tokens and positions as channels-last grid with 1D and 3D layers", layout="tokens", grid=(3, 4, 3), opsets=(13, 20))
class Mixer(nn.Module):
    class Block(nn.Module):
        def __init__(self, n, c):
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(c), nn.LayerNorm(c)
            self.tokens, self.channels = nn.Sequential(nn.Conv1d(n, 24, 1), nn.GELU(), nn.Conv1d(24, n, 1)), nn.Sequential(nn.Linear(c, 24), nn.GELU(), nn.Linear(24, c))

        def forward(self, x):
            x = x + self.tokens(self.n1(x))
            return x + self.channels(self.n2(x))

    def __init__(self):
        super().__init__()
        self.embed, self.blocks, self.norm, self.head = nn.Conv3d(1, 16, 4, 4), nn.Sequential(*[self.Block(36, 16) for _ in range(3)]), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.embed(x).flatten(2).permute(0, 2, 1))).amax(1))


@case("topk", (1, 10, 13, 12), "c2", "top-k pooling, cumulative sum, comparison masks, argmax-free hard gating", opsets=(13, 20))
class TopK(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.fc = nn.Conv3d(1, 6, 3, 2, 1), nn.Conv3d(6, 6, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x):
        y = F.silu(self.c2(F.silu(self.c1(x))))
        top = y.flatten(2).topk(7, dim=2).values.mean(2)
        gate = ((y > 0.2) & (y < 2.0)).to(y.dtype)
        return self.fc(torch.cat([top, (y * gate).cumsum(2).mean((2, 3, 4))], 1))


@case("input_layout", (3, 10, 14, 12), "c1", "the model permutes and scales its input itself (mean and deviation per channel), depthwise-separable stem", opsets=(13, 21), noise=True)
class InputLayout(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, 0.2, -0.1]).view(1, 3, 1, 1, 1))
        self.register_buffer("std", torch.tensor([0.5, 0.7, 0.9]).view(1, 3, 1, 1, 1))
        self.c1, self.c2, self.fc = nn.Sequential(nn.Conv3d(3, 3, 3, padding=1, groups=3), nn.Conv3d(3, 8, 1)), nn.Conv3d(8, 8, 3, (1, 2, 1), 1), nn.Linear(8, 4)

    def forward(self, x):
        x = ((x - self.mean) / self.std).permute(0, 1, 4, 2, 3)
        return self.fc(F.relu(self.c2(F.relu(self.c1(x)))).mean((2, 3, 4)))


@case("tiny_stage", (1, 12, 16, 14), "layer2", "residual stages with squeeze and excitation; the target is a stage", odd=True, opsets=(13, 20), dynamic=(1, 1, 14, 15, 18), external=True, noise=True)
class TinyStage(nn.Module):
    class Block(nn.Module):
        def __init__(self, i, o, s):
            super().__init__()
            self.conv1, self.conv2, self.se = conv_bn(i, o, s=s), conv_bn(o, o, act=nn.Identity), Squeeze(o)
            self.down = nn.Sequential(nn.AvgPool3d(s, s, ceil_mode=True), nn.Conv3d(i, o, 1, bias=False), nn.BatchNorm3d(o)) if s != 1 or i != o else nn.Identity()

        def forward(self, x):
            return F.relu(self.se(self.conv2(self.conv1(x))) + self.down(x), inplace=True)

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 6), nn.MaxPool3d(3, 2, 1))
        self.layer1, self.layer2 = nn.Sequential(self.Block(6, 6, 1)), nn.Sequential(self.Block(6, 10, 2), self.Block(10, 10, 1))
        self.fc = nn.Linear(10, 4)

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool3d(self.layer2(self.layer1(self.stem(x))), 1), 1))


class CrossAttention(nn.Module):
    """Learned queries that attend to the voxels of a feature map, sequence first."""

    def __init__(self):
        super().__init__()
        self.body, self.pos = nn.Sequential(conv_bn(1, 8, s=2), nn.Conv3d(8, 12, 3, 2, 1)), nn.Parameter(torch.randn(36, 1, 12) * 0.3)
        self.queries, self.att, self.norm, self.fc = nn.Parameter(torch.randn(3, 1, 12)), nn.MultiheadAttention(12, 3), nn.LayerNorm(12), nn.Linear(36, 4)

    def forward(self, x):
        y = torch.relu(self.body(x)).flatten(2).permute(2, 0, 1)
        q = self.queries.repeat(1, x.shape[0], 1)
        y = self.att(q, y + self.pos, y)[0]
        return self.fc(self.norm(q + y).transpose(0, 1).flatten(1))


case("att_cross", (1, 10, 16, 12), "body.1", "cross attention of learned queries, sequence first, with averaged weights computed too", opsets=(14, 20), noise=True)(CrossAttention)


@case("hybrid", (1, 12, 16, 20), "encoder.layers.0", "convolutional stem, nn.TransformerEncoder over its voxels, back to a map, transposed convolution", layout="tokens", grid=(3, 4, 5), opsets=(15, 21), noise=True)
class Hybrid(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 8, s=2, act=nn.GELU), nn.Conv3d(8, 16, 2, 2))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, activation=F.gelu, batch_first=True, norm_first=True), 2, enable_nested_tensor=False)
        self.up, self.fc = nn.ConvTranspose3d(16, 8, 2, 2), nn.Linear(8, 4)

    def forward(self, x):
        y = self.stem(x)
        t = self.encoder(y.flatten(2).transpose(1, 2))
        return self.fc(F.gelu(self.up(y + t.transpose(1, 2).view_as(y))).mean((2, 3, 4)))


@case("odd_shapes", (1, 9, 14, 12), "c2", "squeeze without axes, reshape to one axis, unsqueeze, 2D layers on a collapsed depth, Conv1d, a scalar in the middle", opsets=(13, 20), dynamic=(1, 1, 11, 16, 15), odd=True, noise=True)
class OddShapes(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.flat, self.line = nn.Conv3d(1, 6, 3, (1, 2, 2), 1), nn.Conv3d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2), nn.Conv1d(8, 8, 3, padding=1)
        self.bn, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x):
        y = F.silu(self.c2(F.relu(self.c1(x))))
        y = y * (1 + y.mean().abs())
        z = F.relu(self.bn(self.flat(y.sum(2, keepdim=True).squeeze(2))))
        z = self.line(z.amax(3, keepdim=True).squeeze(3)).mean(2).unsqueeze(-1)
        return self.fc(z.reshape(x.shape[0], -1))


@case("monai_unetr", (1, 32, 48, 32), "body.vit.blocks.0", "MONAI UNETR whole", layout="tokens", grid=(2, 3, 2), opsets=(15, 20))
def monai_unetr():
    from monai.networks.nets import UNETR
    return Head(UNETR(1, 4, (32, 48, 32), feature_size=4, hidden_size=24, mlp_dim=32, num_heads=3), 4)


@case("mobilenet", (1, 16, 21, 19), "features.3", "inverted residuals with HardSwish and squeeze and excitation by 1x1x1 convolutions and HardSigmoid", opsets=(13, 20), dynamic=(1, 1, 19, 24, 22), noise=True)
class MobileNet(nn.Module):
    class Block(nn.Module):
        def __init__(self, i, o, s, k):
            super().__init__()
            m = 3 * i
            self.expand, self.depth = conv_bn(i, m, 1, 1, 0, nn.Hardswish), conv_bn(m, m, k, s, k // 2, nn.Hardswish, groups=m)
            self.se = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Conv3d(m, 4, 1), nn.ReLU(), nn.Conv3d(4, m, 1), nn.Hardsigmoid())
            self.project, self.skip = nn.Sequential(nn.Conv3d(m, o, 1, bias=False), nn.BatchNorm3d(o)), s == 1 and i == o

        def forward(self, x):
            y = self.depth(self.expand(x))
            y = self.project(y * self.se(y))
            return x + y if self.skip else y

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv_bn(1, 6, s=2, act=nn.Hardswish), self.Block(6, 6, 1, 3), self.Block(6, 8, 2, 5), self.Block(8, 8, 1, 3))
        self.head = nn.Sequential(nn.Linear(8, 12), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(12, 4))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3, 4)))


@case("shufflenet", (2, 14, 18, 16), "stage.1", "channel split and shuffle, grouped pointwise convolutions, concatenated branches", opsets=(13, 20), noise=True)
class ShuffleNet(nn.Module):
    class Unit(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.branch = nn.Sequential(conv_bn(c // 2, c // 2, 1, 1, 0), conv_bn(c // 2, c // 2, groups=c // 2, act=nn.Identity), conv_bn(c // 2, c // 2, 1, 1, 0))
            self.shuffle = nn.ChannelShuffle(2)

        def forward(self, x):
            a, b = x.chunk(2, dim=1)
            return self.shuffle(torch.cat((a, self.branch(b)), 1))

    def __init__(self):
        super().__init__()
        self.stem, self.pool, self.stage, self.fc = conv_bn(2, 8, s=2), nn.MaxPool3d(3, 2, 1), nn.Sequential(self.Unit(8), self.Unit(8)), nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.stage(self.pool(self.stem(x))).mean([2, 3, 4]))


class Residual(nn.Module):
    """The target's output has several readers, and its activation is the input of a later sum."""

    def __init__(self):
        super().__init__()
        self.stem, self.bn1, self.conv1, self.bn2, self.conv2 = nn.Conv3d(1, 8, 3, 2, 1), nn.BatchNorm3d(8), nn.Conv3d(8, 8, 3, padding=1), nn.BatchNorm3d(8), nn.Conv3d(8, 8, 3, padding=1)
        self.drop, self.fc = nn.Dropout3d(0.2), nn.Linear(16, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        z = self.drop(x + y)
        return self.fc(torch.cat([F.relu(z).mean((2, 3, 4)), x.amax((2, 3, 4)) * y.mean((2, 3, 4))], 1))


case("several_readers", (1, 11, 14, 13), "stem", "pre-activation residual block; the target's output is read three times", opsets=(13, 20), noise=True)(Residual)
case("target_pool", (1, 13, 18, 15), "p1", "the pools again; the target is a max pooling", opsets=(15,), target_class=3)(Pools)
