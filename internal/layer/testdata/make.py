"""Makes modules.*.onnx and modules.json: a network whose modules exporters tell badly, and which values of each file equal the output
of which call of which module. Needs torch, onnx, onnxscript and onnxruntime: python make.py"""

import copy
import json
import os
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "..", "tools"))
import export_onnx as tool  # noqa: E402


class Block(nn.Module):
    """A residual block with one ReLU for two places."""

    def __init__(self, c):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(c, c, 3, padding=1, bias=False), nn.BatchNorm3d(c)
        self.conv2 = nn.Sequential(nn.Conv3d(c, c, 1, bias=False), nn.BatchNorm3d(c))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.bn1(self.conv1(x)))) + x)


class Branch(nn.Module):
    """Entered by a method call, so that the TorchScript exporter loses its name."""

    def __init__(self, c):
        super().__init__()
        self.conv, self.act, self.pool = nn.Conv3d(c, c, 1), nn.ReLU(), nn.MaxPool3d(2, 1)
        self.seq = nn.Sequential(nn.Conv3d(c, c, 1), nn.SiLU())

    def features(self, x):
        return self.seq(self.pool(self.act(self.conv(x))))


class Net(nn.Module):
    def __init__(self, c=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(1, c, 3, stride=2, padding=1, bias=False), nn.BatchNorm3d(c), nn.ReLU(inplace=True), nn.Dropout(0.1))
        self.layer = nn.Sequential(Block(c), Block(c))
        # A container that ends in a convolution, the norm of which is outside.
        self.pair, self.norm = nn.Sequential(nn.Conv3d(c, c, 1), nn.Tanh(), nn.Conv3d(c, c, 1, bias=False)), nn.BatchNorm3d(c)
        self.relu, self.relu_1 = nn.ReLU(), nn.ReLU()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv3d(c, c, 1), nn.GroupNorm(1, c), nn.ELU()) for _ in range(2)])
        self.shared = nn.Sequential(nn.Conv3d(c, c, 1), nn.LeakyReLU())
        self.a, self.b, self.act = Branch(c), Branch(c), nn.Tanh()
        self.fc = nn.Linear(c, 3)

    def forward(self, x):
        x = self.layer(self.stem(x))
        x = self.relu(self.norm(self.pair(x)))
        x = self.relu_1(self.shared(x) - self.shared(-x))
        for b in self.blocks:
            x = b(x)
        x = self.relu(x + 0.1)
        return self.fc(self.act(self.b.features(self.a.features(x))).mean((2, 3, 4)))


def outputs(model, x):
    """Of each module, the outputs of its calls, before and after what overwrites them."""
    calls, hooks = {}, []
    for name, m in model.named_modules():
        if name:
            hooks.append(m.register_forward_hook(lambda m, a, out, name=name: calls.setdefault(name, []).append((out.clone(), out))))
    with torch.no_grad():
        model(x)
    for h in hooks:
        h.remove()
    return {n: [(a.numpy(), b.numpy()) for a, b in c] for n, c in calls.items()}


def values(path, x):
    graph = onnx.load(path)
    names = [o for n in graph.graph.node for o in n.output]
    known = {o.name for o in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    wanted = [o.name for o in session.get_outputs()]
    return dict(zip(wanted, session.run(wanted, {session.get_inputs()[0].name: x.numpy()})))


def equal(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


def main():
    warnings.simplefilter("ignore")
    torch.manual_seed(7)
    model = Net()
    for _ in range(3):
        model(torch.randn(4, 1, 8, 10, 12) * 2 + 1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm3d):
            nn.init.uniform_(m.weight, 0.6, 1.4)
            nn.init.uniform_(m.bias, -0.4, 0.4)
    model.eval()
    x = torch.randn(1, 1, 8, 10, 12)
    calls = outputs(model, x)
    found = {}
    for form, opset in (("torchscript", 17), ("dynamo", 18), ("tool_torchscript", 17), ("tool_dynamo", 18)):
        path = os.path.join(HERE, f"modules.{form}.onnx")
        if form.startswith("tool"):
            tool.export(copy.deepcopy(model), x, path, opset, form[5:])
            tool.record_modules(model, x, path)
        elif form == "dynamo":
            torch.onnx.export(copy.deepcopy(model), (x,), path, dynamo=True, opset_version=opset, external_data=False, verbose=False)
        else:
            torch.onnx.export(copy.deepcopy(model), (x,), path, dynamo=False, opset_version=opset)
        graph = onnx.load(path)
        for n in graph.graph.node:  # source lines and paths of this machine
            for p in [p for p in n.metadata_props if p.key not in ("pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")]:
                n.metadata_props.remove(p)
        for info in (graph.graph.value_info, graph.graph.metadata_props):
            del info[:]
        onnx.save(graph, path)
        have = values(path, x)
        found[form] = {name: [[n for n, v in have.items() if any(equal(v, t) for t in pair)] for pair in c] for name, c in calls.items()}
    with open(os.path.join(HERE, "modules.json"), "w") as f:
        json.dump({"modules": [n for n, _ in model.named_modules() if n], "values": found}, f, separators=(",", ":"))
        f.write("\n")


main()
