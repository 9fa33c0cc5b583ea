"""Self-test of export_onnx.py: python -m unittest discover -s tools -p 'test_*.py'. Skipped without torch."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import unittest

try:
    import torch
    from torch import nn
except ImportError:
    torch = None

try:
    import onnx
except ImportError:
    onnx = None

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

# A network in the manner of EfficientNet3D as the original system uses it: padding by nn.ZeroPad2d with six values, Swish as
# an autograd function, squeeze-and-excitation, and a backbone that is entered by a method call.
NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F

class SwishFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)
    @staticmethod
    def backward(ctx, grad):
        x, = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s * (1 + x * (1 - s)))

class MemoryEfficientSwish(nn.Module):
    def forward(self, x):
        return SwishFunction.apply(x)

class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)

class SamePadConv(nn.Conv3d):
    def __init__(self, *args, pad, **kwargs):
        super().__init__(*args, **kwargs)
        self.static_padding = nn.ZeroPad2d(pad)
    def forward(self, x):
        x = self.static_padding(x)
        return F.conv3d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

class Backbone(nn.Module):
    def __init__(self, settable):
        super().__init__()
        self._conv_stem = SamePadConv(1, 8, 3, stride=2, bias=False, pad=(0, 1, 0, 1, 0, 1))
        self._bn0 = nn.BatchNorm3d(8, eps=1e-3)
        self._se_reduce = nn.Conv3d(8, 2, 1)
        self._se_expand = nn.Conv3d(2, 8, 1)
        self._conv_head = nn.Conv3d(8, 16, 1, bias=False)
        self._bn1 = nn.BatchNorm3d(16, eps=1e-3)
        self._swish = MemoryEfficientSwish()
        self._fc = nn.Linear(16, 10)
        if settable:
            self.set_swish = self._set_swish
    def _set_swish(self, memory_efficient=True):
        self._swish = MemoryEfficientSwish() if memory_efficient else Swish()
    def extract_features(self, x):
        x = self._swish(self._bn0(self._conv_stem(x)))
        s = F.adaptive_avg_pool3d(x, 1)
        x = torch.sigmoid(self._se_expand(self._swish(self._se_reduce(s)))) * x
        return self._swish(self._bn1(self._conv_head(x)))

class Classifier(nn.Module):
    def __init__(self, classes=4, settable=False):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.backbone1 = Backbone(settable)
        self.classifier = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, classes))
    def forward(self, x):
        return self.classifier(self.pool(self.backbone1.extract_features(x)).flatten(1))

class NetModule(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.out = Classifier(config["n_class"])
    def forward(self, x):
        return self.out(x)

class HyperParameters(dict):
    pass

class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the checkpoint was run')",)

def not_a_module():
    return 3
"""


def train_a_little(model):
    """Gives BatchNorm statistics and weights that are not those of a new network."""
    torch.manual_seed(0)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(4, 1, 8, 16, 16) * 3 + 1)
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@unittest.skipIf(torch is None, "torch is not installed")
class ExportTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.dir = cls.folder.name
        with open(os.path.join(cls.dir, "toynet.py"), "w") as f:
            f.write(textwrap.dedent(NETWORK))
        sys.path.insert(0, cls.dir)
        global export_onnx, toynet
        import export_onnx
        import toynet

        cls.net = train_a_little(toynet.NetModule({"n_class": 4}))
        cls.ckpt = os.path.join(cls.dir, "net-fold=5-epoch=003-val_loss=0.1.ckpt")
        torch.save(
            {
                "state_dict": cls.net.state_dict(),
                "epoch": 3,
                "hyper_parameters": toynet.HyperParameters(config={"n_class": 4}),
                "callbacks": {"checkpoint": toynet.Bomb()},
            },
            cls.ckpt,
        )

    @classmethod
    def tearDownClass(cls):
        sys.path.remove(cls.dir)
        cls.folder.cleanup()

    def path(self, name):
        return os.path.join(self.dir, name)

    def export(self, *argv, shape="1,8,16,16", out="m.onnx"):
        """Runs the tool; returns what it printed and the path of the file."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            export_onnx.run([*argv, "--input-shape", shape, "-o", self.path(out)])
        return printed.getvalue(), self.path(out)

    def fails(self, message, *argv, **kwargs):
        with self.assertRaisesRegex(export_onnx.ExportError, message):
            self.export(*argv, **kwargs)

    def operators(self, path):
        model = onnx.load(path)
        nodes = list(model.graph.node) + [n for f in model.functions for n in f.node]
        return [n.op_type for n in nodes], {i.name for i in model.graph.initializer}

    def check(self, printed, path, norms):
        if onnx is None:
            return
        ops, initializers = self.operators(path)
        self.assertEqual(ops.count("BatchNormalization"), norms, printed)
        self.assertNotIn("Dropout", ops)
        self.assertFalse([o for o in ops if "Swish" in o or "Python" in o], ops)
        return initializers

    def test_lightning_checkpoint(self):
        for opset in ("17", "18"):
            printed, path = self.export(self.ckpt, "--model", "toynet:Classifier", "--opset", opset)
            self.assertIn("prefix 'out.' stripped", printed)
            self.assertIn("backbone1._conv_head", printed)
            self.assertIn("MemoryEfficientSwish -> Swish", printed)
            initializers = self.check(printed, path, 2)
            if initializers:
                self.assertIn("backbone1._conv_head.weight", initializers)

    def test_lightning_module_with_its_configuration(self):
        with open(self.path("c.json"), "w") as f:
            json.dump({"n_class": 4}, f)
        kwargs = json.dumps({"config": "@" + self.path("c.json")})
        printed, path = self.export(self.ckpt, "--model", "toynet:NetModule", "--kwargs", kwargs, "--submodule", "out")
        self.check(printed, path, 2)
        self.assertIn("  backbone1._conv_head", printed)

    def test_dynamo(self):
        try:
            import onnxscript  # noqa: F401
        except ImportError:
            self.skipTest("onnxscript is not installed")
        printed, path = self.export(self.ckpt, "--model", "toynet:Classifier", "--exporter", "dynamo")
        self.check(printed, path, 2)
        self.export(self.ckpt, "--model", "toynet:Classifier", "--exporter", "dynamo", "--dynamic")
        self.fails("writes 18 and newer", "--model", "toynet:Classifier", "--exporter", "dynamo", "--opset", "17")

    def test_numbers(self):
        """The weights of the checkpoint, not those of a new network, are in the file."""
        try:
            import onnxruntime
        except ImportError:
            self.skipTest("onnxruntime is not installed")
        _, path = self.export(self.ckpt, "--model", "toynet:Classifier")
        x = torch.rand(1, 1, 8, 16, 16)
        got = onnxruntime.InferenceSession(path).run(None, {"volume": x.numpy()})[0]
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(got), self.net(x), rtol=1e-4, atol=1e-5)

    def test_record_of_modules(self):
        """Which value is the output of which call, and what is overwritten in place, is in the file."""
        try:
            import onnxruntime  # noqa: F401
        except ImportError:
            self.skipTest("onnxruntime is not installed")
        if onnx is None:
            self.skipTest("onnx is not installed")

        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b, self.relu, self.drop = nn.Conv3d(1, 2, 1), nn.Conv3d(2, 2, 1), nn.ReLU(), nn.Dropout()
                self.over, self.lists, self.fc = nn.ReLU(inplace=True), nn.ModuleList([nn.Tanh()]), nn.Linear(2, 3)

            def forward(self, x):
                x = self.over(self.b(self.relu(self.a(x))))
                return self.fc(self.lists[0](self.drop(self.relu(-x))).mean((2, 3, 4)))

        torch.manual_seed(0)
        model, x = Twice().eval(), torch.randn(1, 1, 4, 5, 6)
        with contextlib.redirect_stdout(io.StringIO()):
            export_onnx.export(model, x, self.path("t.onnx"))
            export_onnx.record_modules(model, x, self.path("t.onnx"))
        record = {p.key: json.loads(p.value) for p in onnx.load(self.path("t.onnx")).metadata_props}[export_onnx.RECORD]
        relu = ["/relu/Relu_output_0", "/relu_1/Relu_output_0"]
        self.assertEqual(record["relu"], [{"value": v} for v in relu])
        self.assertEqual(record["a"], [{"value": "/a/Conv_output_0"}])
        self.assertEqual(record["b"], [{"value": "/b/Conv_output_0", "in_place": True}])
        self.assertEqual(record["drop"], [{"value": relu[1]}])  # the same tensor in evaluation mode
        self.assertEqual(record["lists.0"], [{"value": "/lists.0/Tanh_output_0"}])
        self.assertNotIn("lists", record)

    def test_check_finds_a_wrong_file(self):
        try:
            import onnxruntime  # noqa: F401
        except ImportError:
            self.skipTest("onnxruntime is not installed")
        _, path = self.export(self.ckpt, "--model", "toynet:Classifier")
        model = toynet.Classifier()
        export_onnx.prepare(model)
        with self.assertRaisesRegex(export_onnx.ExportError, "differs from the model"):
            export_onnx.check_numbers(model, torch.rand(1, 1, 8, 16, 16), path)

    def test_dynamic_sizes(self):
        try:
            import onnxruntime
        except ImportError:
            self.skipTest("onnxruntime is not installed")
        _, path = self.export(self.ckpt, "--model", "toynet:Classifier", "--dynamic")
        x = torch.rand(1, 1, 12, 20, 14)
        got = onnxruntime.InferenceSession(path).run(None, {"volume": x.numpy()})[0]
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(got), self.net(x), rtol=1e-4, atol=1e-5)

    def test_set_swish(self):
        model = toynet.Classifier(settable=True)
        self.assertIn("backbone1.set_swish(memory_efficient=False)", export_onnx.prepare(model))
        self.assertNotIsInstance(model.backbone1._swish, toynet.MemoryEfficientSwish)

    def test_state_dict_with_two_prefixes(self):
        state = {"module._orig_mod." + k: v for k, v in self.net.out.state_dict().items()}
        torch.save(state, self.path("state.pt"))
        printed, _ = self.export(self.path("state.pt"), "--model", "toynet:Classifier")
        self.assertIn("prefix 'module.' stripped", printed)

    def test_torchscript(self):
        torch.jit.script(nn.Sequential(nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
                                       nn.Linear(4, 3)).eval()).save(self.path("script.pt"))
        printed, path = self.export(self.path("script.pt"))
        self.check(printed, path, 1)

    def test_pickled_module(self):
        torch.save(self.net.out, self.path("whole.pt"))
        self.fails("holds a pickled toynet.Classifier.*--unsafe-load", self.path("whole.pt"))
        printed, path = self.export(self.path("whole.pt"), "--unsafe-load")
        self.check(printed, path, 2)

    def test_factory_alone(self):
        printed, path = self.export("--model", "toynet:Classifier", "--kwargs", '{"classes": 7}')
        self.assertIn("7 classes", printed)

    def test_complaints(self):
        self.fails("nothing to export")
        self.fails("no such file", self.path("absent.ckpt"))
        self.fails("no code; name what builds", self.ckpt)
        self.fails("cannot import nowhere.*--path", self.ckpt, "--model", "nowhere:net")
        self.fails("has no attribute 'Net'", self.ckpt, "--model", "toynet:Net")
        self.fails("want package.module:factory", self.ckpt, "--model", "toynet")
        self.fails("not JSON", self.ckpt, "--model", "toynet:Classifier", "--kwargs", "{")
        self.fails("its parameters are .*classes", self.ckpt, "--model", "toynet:Classifier", "--kwargs", '{"n": 1}')
        self.fails("returned a int", "--model", "toynet:not_a_module")
        self.fails("shapes differ.*classifier.3.weight", self.ckpt, "--model", "toynet:Classifier", "--kwargs", '{"classes": 5}')
        self.fails("lacks .* parameters", self.ckpt, "--model", "toynet:Classifier", "--strip-prefix", "net.")
        self.fails("want C,D,H,W", "--model", "toynet:Classifier", shape="64")
        self.fails("does not take an input", "--model", "toynet:Classifier", shape="3,8,16,16")
        self.fails("voxcam needs class scores", "--model", "torch.nn:Identity")
        with open(self.path("junk.ckpt"), "wb") as f:
            f.write(b"junk" * 100)
        self.fails("not a checkpoint of PyTorch", self.path("junk.ckpt"), "--model", "toynet:Classifier")
        self.assertEqual([n for n in os.listdir(self.dir) if n.endswith(".partial")], [])

    def test_exit_status(self):
        done = subprocess.run([sys.executable, os.path.join(HERE, "export_onnx.py"), "absent.pt", "--input-shape", "1,8,8,8"],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("export_onnx: absent.pt: no such file", done.stderr)


if __name__ == "__main__":
    unittest.main()
