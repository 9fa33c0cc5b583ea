"""Writes the cases of TestPlacement: networks that reorder, tile, split, roll or cut the axes of the volume, with the Grad-CAM map of a
layer in the volume's own axes, as PyTorch has it in float64. How the layer's axes lie is written here by hand, for each case.

    python make.py        (PyTorch, onnx)
"""

import json
import os
import warnings

import torch
from torch import nn

warnings.simplefilter("ignore")
torch.backends.mha.set_fastpath_enabled(False)
here = os.path.dirname(os.path.abspath(__file__))
D, H, W = 4, 8, 12
C = 6  # channels of layers
cases = []
volume = torch.randn((1, 1, D, H, W), generator=torch.Generator().manual_seed(1)).mul(1000).round().div(1000).double()


class Block(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.attn = nn.MultiheadAttention(c, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(c, 12), nn.GELU(), nn.Linear(12, c))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class Net(nn.Module):
    """before brings the volume to what net takes; after makes features of what net gives; the scores are linear in them."""

    def __init__(self, net, before, after, features=C):
        super().__init__()
        self.net, self.before, self.after, self.fc = net, before, after, nn.Linear(features, 3)

    def forward(self, x):
        return self.fc(self.after(self.net(self.before(x))))


def conv2d(channels=1):
    return nn.Sequential(nn.Conv2d(channels, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, C, 3, padding=1))


def conv3d():
    return nn.Sequential(nn.Conv3d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv3d(4, C, 3, padding=1))


def case(name, model, *checks, before=lambda v: v):
    """Writes a model, and what is expected of its layers. before brings the volume to the model's input."""
    torch.manual_seed(len(cases))
    for p in model.parameters():
        p.data = torch.randn(p.shape) * (0.5 if p.dim() > 1 else 0.2)
    model.eval()
    torch.onnx.export(model, (before(volume.float()),), f"{here}/{name}.onnx", dynamo=False, opset_version=17)
    layers = []
    for c in checks:
        place = c.pop("place", None)
        if place:
            kept = []
            hook = dict(model.named_modules())[c["layer"]].register_forward_hook(lambda m, i, o: kept.append(o))
            y = model.double()(before(volume).requires_grad_())
            hook.remove()
            g, = torch.autograd.grad(y[0, 1], kept[-1])
            m = place(kept[-1], g).detach()
            c["size"], c["map"] = list(m.shape), [float(f"{v:.9g}") for v in m.flatten()]
        layers.append(c)
    cases.append({"name": name, "layers": layers})


def at(layer, place, **more):
    """place brings a layer's map to [d, h, w], given its activation and gradient as the layer has them."""
    return {"layer": layer, "place": place, **more}


def refused(layer, error, **more):
    return {"layer": layer, "error": error, **more}


def cam(axes):
    """Grad-CAM where channels are the one axis that axes names C: weights are means over the others, which stay in their order."""

    def of(a, g):
        k = axes.index("C")
        others = [i for i in range(a.dim()) if i != k]
        return (a * g.mean(others, keepdim=True)).sum(k)

    return of


def then(axes, *steps):
    def of(a, g):
        m = cam(axes)(a, g)
        for step in steps:
            m = step(m)
        return m

    return of


pool2, pool3 = (lambda y: (y ** 2).mean((2, 3)).mean(0, keepdim=True)), (lambda y: (y ** 2).mean((2, 3, 4)))

# Slices along each axis as the batch of a network on images.
case("slices_d", Net(conv2d(), lambda x: x[0].movedim(1, 0), pool2), at("net.2", cam("DCHW")))
case("slices_h", Net(conv2d(), lambda x: x[0].movedim(2, 0), pool2), at("net.2", then("HCDW", lambda m: m.permute(1, 0, 2))))
case("slices_w", Net(conv2d(), lambda x: x[0].movedim(3, 0), pool2), at("net.2", then("WCDH", lambda m: m.permute(1, 2, 0))))
# Volumes in another order, there and back, backwards.
case("permuted", Net(conv3d(), lambda x: x.permute(0, 1, 4, 2, 3), pool3), at("net.2", then("NCWDH", lambda m: m[0].permute(1, 2, 0))))
case("permuted_back", Net(conv3d(), lambda x: x.permute(0, 4, 2, 3, 1).permute(0, 4, 2, 3, 1).squeeze(0).unsqueeze(0), pool3),
     at("net.2", then("NCDHW", lambda m: m[0])))
case("flipped", Net(conv3d(), lambda x: x.flip(2).flip(4), pool3), at("net.2", then("NCDHW", lambda m: m[0].flip(0).flip(2))))
# Slices under each other, and beside each other, in one image.
case("tiled", Net(conv2d(), lambda x: x.reshape(1, 1, D * H, W), pool2), at("net.2", then("NCHW", lambda m: m.reshape(D, H // 2, W // 2))))
case("beside", Net(conv2d(), lambda x: x.permute(0, 1, 3, 2, 4).reshape(1, 1, H, D * W), pool2),
     at("net.2", then("NCHW", lambda m: m.reshape(H // 2, D, W // 2).permute(1, 0, 2))))
case("tiled_2x2", Net(conv2d(), lambda x: x.reshape(1, 1, 2, 2, H, W).permute(0, 1, 2, 4, 3, 5).reshape(1, 1, 2 * H, 2 * W), pool2),
     refused("net.2", "channels along more than one axis"))
case("tiled_valid", Net(nn.Sequential(nn.Conv2d(1, C, 3)), lambda x: x.reshape(1, 1, D * H, W), pool2), refused("net.0", "cut across"))
# Slices, or groups of them, as channels.
case("channels", Net(conv2d(D), lambda x: x[:, 0], pool2), at("net.2", cam("NCHW")))
case("groups", Net(conv2d(2), lambda x: x.reshape(D // 2, 2, H, W), pool2), at("net.2", cam("DCHW")))
# Blocks of the volume as a batch: depth has two axes.
case("blocks", Net(conv3d(), lambda x: x.reshape(1, 2, D // 2, H, W).movedim(1, 0), lambda y: pool3(y).mean(0, keepdim=True)),
     at("net.2", then("DCPHW", lambda m: m[:, 0])))
case("blocks_of_rows", Net(conv3d(), lambda x: x.reshape(1, 1, D, 2, H // 2, W)[0].movedim(2, 0), lambda y: pool3(y).mean(0, keepdim=True)),
     refused("net.2", "what axis 3 stands for is lost"))
class Slicewise(nn.Module):
    """A transformer on each slice, with tokens in front."""

    def __init__(self, prefix, c=8):
        super().__init__()
        self.patch, self.first, self.position = nn.Conv2d(1, c, 4, 4), nn.Parameter(torch.zeros(1, prefix, c)), nn.Parameter(torch.zeros(1, 6 + prefix, c))
        self.blocks, self.fc = nn.Sequential(Block()), nn.Linear(c, 3)

    def forward(self, x):
        t = self.patch(x.transpose(1, 2).reshape(D, 1, H, W)).flatten(2).transpose(1, 2)
        t = torch.cat([self.first.expand(D, -1, -1), t], 1) + self.position
        return self.fc(self.blocks(t).mean(1).mean(0, keepdim=True))


def tokens(prefix, *sizes):
    """[B, prefix + tokens, C]: weights are means over the tokens in space."""

    def of(a, g):
        a, g = a[:, prefix:], g[:, prefix:]
        return (a * g.mean((0, 1))).sum(-1).reshape(*sizes)

    return of


case("slicewise", Slicewise(2), at("blocks.0.norm1", tokens(2, D, 2, 3)), at("blocks.0.norm1", tokens(2, D, 2, 3), grid=[D, 2, 3], prefix=2),
     at("blocks.0.norm1", tokens(2, D, 2, 3), grid=[1, 2, 3], prefix=2, layout="DTC"), refused("blocks.0.norm1", "4x2x3 cells by the graph", grid=[D, 3, 2]),
     refused("blocks.0.norm1", "2 tokens in front", prefix=1), refused("blocks.0.norm1", "2 in front", grid=[D, 2, 3], layout="DTC"),
     at("blocks.0.norm1", lambda a, g: tokens(2, D, 3, 2)(a, g), grid=[1, 3, 2], prefix=2, layout="DTC", warning="are .* in the graph"),
     refused("blocks.0.norm1", "batch of 4", layout="NTC", grid=[1, 2, 3], prefix=2), refused("blocks.0.norm1", "the option token_grid", layout="CTD"))
class Patches(nn.Module):
    """Patches by a linear layer, tokens in front and behind."""

    def __init__(self, order="dhw", front=1, behind=0, c=8):
        super().__init__()
        self.order, n = order, 2 * 2 * 3
        self.embed, self.first, self.last = nn.Linear(2 * 4 * 4, c), nn.Parameter(torch.zeros(1, front, c)), nn.Parameter(torch.zeros(1, behind, c))
        self.position, self.blocks, self.fc = nn.Parameter(torch.zeros(1, n + front + behind, c)), nn.Sequential(Block()), nn.Linear(c, 3)

    def forward(self, x):
        t = x.reshape(1, 2, 2, 2, 4, 3, 4)
        t = t.permute(0, *[1 + 2 * "dhw".index(l) for l in self.order], 2, 4, 6).reshape(1, 12, 32)
        parts = [self.first, self.embed(t)] + ([self.last] if self.last.numel() else [])
        return self.fc(self.blocks(torch.cat(parts, 1) + self.position)[:, 0])


case("linear_patches", Patches(), at("blocks.0.norm1", tokens(1, 2, 2, 3)))
case("linear_patches_hwd", Patches("hwd", 3), at("blocks.0.norm1", lambda a, g: tokens(3, 2, 3, 2)(a, g).permute(2, 0, 1)))
case("registers_behind", Patches("dhw", 1, 2), at("blocks.0.norm1", lambda a, g: tokens(1, 2, 2, 3)(a[:, :13], g[:, :13])))
class Frames(nn.Module):
    """Divided attention over time and space: tokens [h, w, t] behind a class token (TimeSformer)."""

    def __init__(self, c=8):
        super().__init__()
        self.patch, self.first, self.time, self.space, self.fc = nn.Conv2d(1, c, 4, 4), nn.Parameter(torch.zeros(1, 1, c)), Block(), Block(), nn.Linear(c, 3)
        self.norm = nn.LayerNorm(c)

    def forward(self, x):  # [1, T, C, H, W]
        t = self.patch(x.reshape(D, 1, H, W)).flatten(2).transpose(1, 2)  # [T, hw, c]
        t = t.reshape(1, D, 6, 8).permute(0, 2, 1, 3).reshape(1, 6 * D, 8)
        t = torch.cat([self.first, t], 1)
        first, t = t[:, :1], self.time(t[:, 1:].reshape(6, D, 8)).reshape(1, 6 * D, 8)
        s = torch.cat([first.repeat(D, 1, 1), t.reshape(1, 6, D, 8).permute(0, 2, 1, 3).reshape(D, 6, 8)], 1)
        s = self.space(s)
        first, s = s[:, 0].mean(0, keepdim=True).unsqueeze(1), s[:, 1:].reshape(1, D, 6, 8).permute(0, 2, 1, 3).reshape(1, 6 * D, 8)
        return self.fc(self.norm(torch.cat([first, s], 1)).mean(1))


def frames(v):
    """[N, T, C, H, W]"""
    return v.transpose(1, 2)

case("frames", Frames(), at("norm", lambda a, g: tokens(1, 2, 3, D)(a, g).permute(2, 0, 1)),
     at("time.norm2", lambda a, g: tokens(0, 2, 3, D)(a, g).permute(2, 0, 1)), before=frames)
case("video", Net(conv2d(), lambda x: x[0], pool2), at("net.2", cam("DCHW")), before=frames)
case("video_3d", Net(conv3d(), lambda x: x.permute(0, 2, 1, 3, 4), pool3), at("net.2", then("NCDHW", lambda m: m[0])), before=frames)
class Windows(nn.Module):
    """Attention in windows of 2 x 2 of an image of slices' patches, shifted by one (Swin), with patch merging behind."""

    def __init__(self, c=8):
        super().__init__()
        self.patch, self.inside, self.outside, self.merge, self.fc = nn.Conv2d(1, c, 2, 2), Block(), nn.LayerNorm(c), nn.Linear(4 * c, c), nn.Linear(c, 3)
        self.rolled, self.norm = nn.LayerNorm(c), nn.LayerNorm(c)

    def forward(self, x):
        t = self.patch(x[0].movedim(1, 0)).permute(0, 2, 3, 1)  # [D, 4, 6, c]
        t = self.rolled(torch.roll(t, (-1, -1), (1, 2)))
        t = t.reshape(D, 2, 2, 3, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(D * 6, 4, 8)
        t = self.inside(t).reshape(D, 2, 3, 2, 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(D, 4, 6, 8)
        t = self.outside(torch.roll(t, (1, 1), (1, 2)))
        t = torch.cat([t[:, 0::2, 0::2], t[:, 1::2, 0::2], t[:, 0::2, 1::2], t[:, 1::2, 1::2]], -1)
        return self.fc(self.norm(self.merge(t)).mean((1, 2)).mean(0, keepdim=True))


case("windows", Windows(), at("outside", cam("DHWC")), at("norm", cam("DHWC")), refused("inside.norm1", "rolled|more than one axis"),
     refused("rolled", "rolled"))
class Shuffle(nn.Module):
    """Space to depth and back (pixel shuffle) in three dimensions."""

    def __init__(self):
        super().__init__()
        self.deep, self.fine, self.fc = nn.Conv3d(8, 16, 3, padding=1), nn.Conv3d(2, C, 3, padding=1), nn.Linear(C, 3)

    def forward(self, x):
        t = x.reshape(1, 1, D // 2, 2, H // 2, 2, W // 2, 2).permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(1, 8, D // 2, H // 2, W // 2)
        t = self.deep(t).reshape(1, 2, 2, 2, 2, D // 2, H // 2, W // 2).permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(1, 2, D, H, W)
        return self.fc(pool3(self.fine(t)))


case("shuffle", Shuffle(), at("deep", then("NCDHW", lambda m: m[0])), at("fine", then("NCDHW", lambda m: m[0])))
# What the network cuts off.
case("middle_slice", Net(conv2d(), lambda x: x[:, :, D // 2], pool2), refused("net.2", "along depth it shows voxels 2 to 3 of 4 alone"))
case("half", Net(conv3d(), lambda x: x[:, :, :, :, : W // 2], pool3), refused("net.2", "along width it shows voxels 0 to 6 of 12 alone"))
case("margin", Net(nn.Sequential(nn.Conv3d(1, C, 3, padding=1)), lambda x: x[:, :, :, :, 1:-1], pool3),
     at("net.0", then("NCDHW", lambda m: m[0]), warning="along width it shows voxels 1 to 11 of 12 alone"))
case("padded", Net(conv3d(), lambda x: nn.functional.pad(x, (2, 2, 1, 1))[..., 1:-1, 2:-2], pool3), at("net.2", then("NCDHW", lambda m: m[0])))
case("folded", Net(conv3d(), lambda x: x + x.flip(4), pool3), refused("net.2", "put together"))
class Loop(nn.Module):
    """Slices one by one, joined behind the network."""

    def __init__(self):
        super().__init__()
        self.net, self.norm, self.fc = conv2d(), nn.LayerNorm(W // 2), nn.Linear(C, 3)

    def forward(self, x):
        return self.fc((self.norm(torch.stack([self.net(x[:, :, i]) for i in range(D)], 2)) ** 2).mean((2, 3, 4)))


case("loop", Loop(), at("norm", then("NCDHW", lambda m: m[0])))
class Mixer(nn.Module):
    """Patches mixed by a linear layer along them (MLP-Mixer)."""

    def __init__(self, c=8):
        super().__init__()
        self.patch, self.norm, self.along, self.out, self.fc = nn.Conv3d(1, c, 2, 2), nn.LayerNorm(c), nn.Linear(48, 48), nn.LayerNorm(c), nn.Linear(c, 3)

    def forward(self, x):
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = t + self.along(self.norm(t).transpose(1, 2)).transpose(1, 2)
        return self.fc((self.out(t) ** 2).mean(1))


case("mixer", Mixer(), at("out", tokens(0, 2, 4, 6)), refused("along", "mix the places"))
class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.weight, self.norm, self.fc = conv3d(), nn.Parameter(torch.zeros(C, 8)), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc((self.norm(torch.einsum("ncdhw,ck->nwhdk", self.net(x), self.weight)) ** 2).mean((1, 2, 3)))


case("einsum", Einsum(), at("norm", then("NWHDC", lambda m: m[0].permute(2, 1, 0))))
with open(f"{here}/cases.json", "w") as f:
    f.write(json.dumps({"shape": [1, D, H, W], "volume": volume.flatten().tolist()})[:-1] + ', "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")
