#!/usr/bin/env python3
"""Export a PyTorch model to ONNX so that voxcam can explain it: every layer stays a layer.

    # a checkpoint of weights (.ckpt of Lightning, .pt, .pth) and the code that builds the model
    python export_onnx.py best.ckpt --model mypackage.nets:build --kwargs '{"classes": 4}' \\
        --input-shape 1,192,256,256 -o model.onnx

    # any importable model with the weights it comes with
    python export_onnx.py --model torchvision.models.video:r3d_18 --kwargs '{"weights": "DEFAULT"}' \\
        --input-shape 3,16,112,112 -o r3d.onnx

    # TorchScript files need no code; modules pickled whole need theirs on the path, and --unsafe-load
    python export_onnx.py scripted.pt --input-shape 1,64,64,64 -o model.onnx

What it takes care of:
- The model is in evaluation mode, but BatchNorm is not fused into the convolution before it (as the exporters do when left
  alone): a fused convolution is no longer the layer that PyTorch knows, and a Grad-CAM taken there is another one.
- Swish as a custom autograd function (MemoryEfficientSwish of the EfficientNet packages) becomes x * sigmoid(x).
- Keys of a checkpoint that carry a prefix (`out.` of a LightningModule, `module.` of DataParallel, `_orig_mod.` of
  torch.compile) are matched to the model by themselves. Every parameter of the model must be found.
- Checkpoints are pickles, and a pickle can run any code when loaded. Only tensors and plain containers are taken out;
  everything else in the file (hyper-parameters, callbacks) is replaced by placeholders and never run. A module that was
  pickled whole cannot be loaded that way: for a file that you trust, --unsafe-load lifts the restriction.
- The file is compared with the model on another input by onnxruntime, if that is installed.
- Which value of the file is the output of which call of which module, and whether PyTorch overwrites it in place, is written into
  the file's metadata: exporters lose it, and voxcam would have to assume.

Needs torch; uses onnx and onnxruntime where they are installed (the dynamo exporter also needs onnxscript).
"""

import argparse
import ast
import collections
import importlib
import inspect
import json
import math
import os
import pickle
import re
import sys
import warnings
import weakref
import zipfile

import torch
from torch import nn


class ExportError(Exception):
    """A message for the user: what happened, to what, and what to do."""


# ---------------------------------------------------------------------------------------------------------------------
# Loading


class Opaque:
    """Stands in for an object of a checkpoint that is not a tensor or a plain container. It accepts whatever a pickle does
    to it and does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass

    def __call__(self, *args, **kwargs):
        return Opaque()

    def __hash__(self):
        return id(self)


def _harmless():
    """The names that a pickle of tensors may refer to."""
    allowed = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
        ("builtins", "set"): set,
        ("builtins", "dict"): dict,
        ("builtins", "list"): list,
        ("builtins", "complex"): complex,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("torch.nn.parameter", "Parameter"): nn.Parameter,
    }
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"):
        if hasattr(torch._utils, name):
            allowed["torch._utils", name] = getattr(torch._utils, name)
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            allowed["torch", name] = value
    return allowed


class TensorsOnly:
    """A pickle module, in the sense of torch.load, that restores tensors and makes everything else Opaque."""

    __name__ = "tensors_only"
    Unpickler = None  # set below

    @staticmethod
    def load(file, **kwargs):
        return TensorsOnly.Unpickler(file, **kwargs).load()


class _Unpickler(pickle.Unpickler):
    allowed = _harmless()

    def find_class(self, module, name):
        found = self.allowed.get((module, name))
        return found if found is not None else type(name, (Opaque,), {"__module__": module})


TensorsOnly.Unpickler = _Unpickler


def is_torchscript(path):
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as z:
        return any(n.endswith("constants.pkl") or "/code/" in n for n in z.namelist())


def load_file(path, unsafe):
    """Returns a module (TorchScript, or pickled and unsafe) or the object that a checkpoint holds."""
    if not os.path.isfile(path):
        raise ExportError(f"{path}: no such file")
    try:
        if is_torchscript(path):
            return torch.jit.load(path, map_location="cpu")
        if unsafe:
            return torch.load(path, map_location="cpu", weights_only=False)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Something besides tensors is in it. torch offers to trust it by name; leaving it out is enough here.
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=TensorsOnly)
    except Exception as e:
        hint = "it is not a checkpoint of PyTorch, or it is damaged"
        if isinstance(e, (ModuleNotFoundError, AttributeError)):
            hint = "it refers to code that cannot be imported here: run where that code is, or add its folder with --path"
        raise ExportError(f"{path}: cannot be read ({type(e).__name__}: {first_line(e)}); {hint}") from e


STATE_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "ema_state_dict", "weights")


def find_state(obj, path, key=None):
    """The mapping from names to tensors in what a checkpoint file held."""
    if isinstance(obj, nn.Module):
        return obj.state_dict()
    if isinstance(obj, Opaque):
        raise ExportError(
            f"{path}: holds a pickled {type(obj).__module__}.{type(obj).__name__}, not weights; loading it runs code from "
            "the file. If you trust the file, pass --unsafe-load; better, save model.state_dict() and use --model"
        )
    if not isinstance(obj, dict):
        raise ExportError(f"{path}: holds a {type(obj).__name__}, not a checkpoint")
    if key is not None:
        if not isinstance(obj.get(key), dict):
            raise ExportError(f"{path}: has no weights under {key!r}; its keys are: {names(obj)}")
        obj = obj[key]
    else:
        for k in STATE_KEYS:
            if isinstance(obj.get(k), dict) and any(torch.is_tensor(v) for v in obj[k].values()):
                obj = obj[k]
                break
    state = {k: v for k, v in obj.items() if isinstance(k, str) and torch.is_tensor(v)}
    if not state:
        raise ExportError(f"{path}: no weights found; its keys are: {names(obj)}. Name the right one with --state-key")
    return state


def build(spec, kwargs):
    """Calls package.module:factory, a class or a function (or takes an instance), and returns the module."""
    module_name, sep, attr = spec.partition(":")
    if not sep or not attr:
        raise ExportError(f"--model {spec}: want package.module:factory, such as torchvision.models.video:r3d_18")
    try:
        found = importlib.import_module(module_name)
        for part in attr.split("."):
            found = getattr(found, part)
    except ImportError as e:
        raise ExportError(f"--model {spec}: cannot import {module_name}: {e}; add the folder of the code with --path") from e
    except AttributeError as e:
        raise ExportError(f"--model {spec}: {e}") from e
    if isinstance(found, nn.Module):
        return found
    try:
        model = found(**kwargs)
    except TypeError as e:
        try:
            signature = f"; its parameters are {inspect.signature(found)}"
        except (TypeError, ValueError):
            signature = ""
        raise ExportError(f"--model {spec}: {first_line(e)}{signature}; give them with --kwargs") from e
    if not isinstance(model, nn.Module):
        raise ExportError(f"--model {spec}: returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def parse_kwargs(text):
    """JSON; a string "@file.toml" or "@file.json" in it is replaced by what the file holds."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as e:
        raise ExportError(f"--kwargs: not JSON ({e}): {text}") from e
    if not isinstance(value, dict):
        raise ExportError(f"--kwargs: want an object such as {{\"classes\": 4}}, not {text}")
    return {k: _resolve(v) for k, v in value.items()}


def _resolve(value):
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    path = value[1:]
    try:
        with open(path, "rb") as f:
            if path.endswith(".toml"):
                import tomllib  # Python 3.11

                return tomllib.load(f)
            return json.load(f)
    except (OSError, ValueError, ImportError) as e:
        raise ExportError(f"--kwargs: {value}: {first_line(e)}") from e


def match(model_state, state, prefix=None):
    """Renames the keys of a checkpoint to those of the model: returns {key of the model: tensor}, the prefix, and the keys
    that were left over. The prefix is the one under which most keys fit, unless it is given."""
    state = {k.replace("_orig_mod.", ""): v for k, v in state.items()}
    if prefix is None:
        prefixes = {""}
        for k in state:
            parts = k.split(".")
            prefixes.update(".".join(parts[:i]) + "." for i in range(1, min(len(parts), 5)))
        # A tie goes to the shorter prefix: it says less.
        prefix = max(sorted(prefixes, key=lambda p: (len(p), p)), key=lambda p: _fits(model_state, state, p))
    renamed = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
    found = {k: v for k, v in renamed.items() if k in model_state}
    left = sorted(set(state) - {prefix + k for k in found})
    return found, prefix, left


def _fits(model_state, state, prefix):
    return sum(prefix + k in state and state[prefix + k].shape == v.shape for k, v in model_state.items())


def load_weights(model, state, path, prefix=None):
    want = model.state_dict()
    found, prefix, left = match(want, state, prefix)
    # A counter of training steps, absent from old checkpoints, does not matter in evaluation mode.
    missing = [k for k in want if k not in found and not k.endswith("num_batches_tracked")]
    if missing:
        raise ExportError(
            f"{path}: lacks {len(missing)} of the model's {len(want)} parameters and buffers (prefix {prefix!r}):"
            f" {names(missing)}. It has: {names(left or state)}. Check --model and --kwargs, or set --strip-prefix"
        )
    wrong = [f"{k} {tuple(v.shape)} (model: {tuple(want[k].shape)})" for k, v in found.items() if v.shape != want[k].shape]
    if wrong:
        raise ExportError(f"{path}: {len(wrong)} shapes differ from the model's: {names(wrong)}. Check --kwargs")
    model.load_state_dict(found, strict=False)
    note(f"weights: {len(found)} tensors from {path}" + (f", prefix {prefix!r} stripped" if prefix else ""))
    if left:
        note(f"weights: {len(left)} tensors of the file are not used by this model: {names(left)}")


# ---------------------------------------------------------------------------------------------------------------------
# Preparing


class Swish(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x)


class Mish(nn.Module):
    def forward(self, x):
        return x * torch.tanh(nn.functional.softplus(x))


def prepare(model):
    """Evaluation mode, float32, CPU, and activations that the exporters know. Changes the model; returns what was replaced."""
    model.eval().float().cpu()
    for p in model.parameters():
        p.requires_grad_(False)
    replaced = []
    for name, module in list(model.named_modules()):
        if callable(getattr(module, "set_swish", None)):
            try:
                module.set_swish(memory_efficient=False)
                replaced.append(f"{name or 'model'}.set_swish(memory_efficient=False)")
            except TypeError:
                pass  # another function of that name
    for name, module in list(model.named_modules()):
        twin = plain_twin(module)
        if name and twin is not None:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], twin.eval())
            replaced.append(f"{name}: {type(module).__name__} -> {type(twin).__name__}")
    return replaced


def plain_twin(module):
    """The exportable equal of an activation that may be a custom autograd function, told by its values."""
    if type(module).__module__.startswith("torch.") or any(True for _ in module.children()) or isinstance(module, (Swish, Mish)):
        return None
    if not any(word in type(module).__name__.lower() for word in ("swish", "silu", "mish")):
        return None
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return None
    x = torch.linspace(-8, 8, 65).reshape(1, 1, 1, 5, 13)
    try:
        y = module(x.clone())
    except Exception:
        return None
    for twin in (Swish(), Mish()):
        if torch.is_tensor(y) and y.shape == x.shape and torch.allclose(y, twin(x), atol=1e-6):
            return twin
    return None


# ---------------------------------------------------------------------------------------------------------------------
# Exporting


def export(model, x, path, opset=17, exporter="torchscript", dynamic=False):
    """Writes the ONNX file. Layers keep their names and stay apart."""
    common = dict(opset_version=opset, input_names=["volume"], output_names=["logits"])
    axes = {i: n for i, n in zip(range(2, x.dim()), ("depth", "height", "width"))} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if exporter == "torchscript":
                # PRESERVE keeps the exporter's fusion of convolution and BatchNorm away; the model is in evaluation mode, so
                # nothing else differs. Without constant folding weights keep their names.
                torch.onnx.export(
                    model, (x,), path, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
                    dynamic_axes={"volume": axes} if axes else None, **_known(dict(dynamo=False)), **common,
                )
            else:
                # The optimizer of this exporter is what fuses BatchNorm, so only its folding of constants is used.
                sizes = {i: torch.export.Dim.DYNAMIC for i in axes} if axes else None
                program = torch.onnx.export(
                    model, (x,), dynamo=True, optimize=False, verbose=False,
                    dynamic_shapes=(sizes,) if sizes else None, **common,
                )
                fold_constants(program.model)
                program.save(path)
        except Exception as e:
            other = "dynamo" if exporter == "torchscript" else "torchscript"
            raise ExportError(
                f"the {exporter} exporter of torch {torch.__version__} failed: {type(e).__name__}: {first_line(e)}."
                f" Try --exporter {other} or another --opset"
            ) from e


def fold_constants(model):
    """What is left of the dynamo exporter's optimizer without its fusions (model is its intermediate form)."""
    from onnxscript import optimizer

    optimizer.fold_constants(model)
    for node in model.graph:
        # A convolution without bias is written with a bias of zeros, which not every version gives the right shape.
        if node.op_type == "Conv" and len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = node.inputs[2].const_value
            if bias is not None and not bias.numpy().any():
                node.replace_input_with(2, None)
    optimizer.remove_unused_nodes(model)


def _known(options):
    parameters = inspect.signature(torch.onnx.export).parameters
    return {k: v for k, v in options.items() if k in parameters}


def check_layers(model, x, path):
    """Compares the BatchNorms that ran with those in the file. Returns the number that was lost, None without onnx."""
    try:
        import onnx
    except ImportError:
        note("check: onnx is not installed, so it was not checked that BatchNorm stayed apart")
        return None
    graph = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(path)
    ran = []
    hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in _plain_modules(model)
             if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        model(x)
    for h in hooks:
        h.remove()
    kept = sum(n.op_type == "BatchNormalization" for n in _nodes(graph))
    lost = max(0, len(ran) - kept)
    if lost:
        note(f"WARNING: {lost} of {len(ran)} BatchNorm layers were fused into the layer before them; the output of such a layer "
             "is not in the file any more. Use --exporter torchscript")
    elif ran:
        note(f"check: all {len(ran)} BatchNorm layers are in the file")
    return lost


def _nodes(model):
    yield from model.graph.node
    for f in model.functions:
        yield from f.node


def check_numbers(model, x, path, tolerance=1e-4):
    """Compares onnxruntime with the model on another input. Returns the error relative to the largest output, None without
    onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        note("check: onnxruntime is not installed, so the file was not compared with the model")
        return None
    probe = torch.rand(x.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        want = _only_tensor(model(probe))
    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: probe.numpy()})[0])
    if got.shape != want.shape:
        raise ExportError(f"{path}: its output is {tuple(got.shape)}, the model's {tuple(want.shape)}")
    error = ((got - want).abs().max() / want.abs().max().clamp_min(1e-6)).item()
    if not error <= tolerance:
        raise ExportError(
            f"{path}: differs from the model by {error:.2g} of the largest output on a second input (allowed {tolerance:g}):"
            " the model probably decides by values or draws random numbers in forward"
        )
    note(f"check: onnxruntime agrees with the model to {error:.1e} of the largest output")
    return error


RECORD = "voxcam.modules"  # key of the file's metadata


def record_modules(model, x, path):
    """Writes into the file's metadata which value is the output of each call of each module: {path: [{"value": name,
    "in_place": whether a later operation overwrites it}, ...]}, "" for an output that no value of the file equals. They are told by
    their numbers, since names and scopes of exporters are incomplete. Returns what was written, None without onnx and onnxruntime."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError:
        note("modules: onnx or onnxruntime is not installed, so the file does not say which value belongs to which module")
        return None
    probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    calls = watch(model, probe)
    if not calls:
        return None
    try:
        values = fingerprints(path, probe)
    except Exception as e:
        note(f"modules: onnxruntime cannot say which value belongs to which module: {type(e).__name__}: {first_line(e)}")
        return None
    by_size = collections.defaultdict(list)
    for v in values:
        by_size[math.prod(v.shape)].append(v)
    modules, at = {}, 0
    for call in calls:
        equal = [v for v in by_size[math.prod(call.shape)] if _equal(v.numbers, call.numbers)]
        # Of several that are equal (a layer that scales by nearly nothing) scope, shape and order tell which it is.
        found = min(equal, key=lambda v: (-_kinship(v.scope, call.names), v.shape != call.shape, v.index < at, v.index), default=None)
        at = found.index if found else at
        entry = {"value": found.name if found else "", **({"in_place": True} if call.overwritten() else {})}
        for name in call.names:
            modules.setdefault(name, []).append(entry)
    graph = onnx.load(path, load_external_data=False)
    entry = next((p for p in graph.metadata_props if p.key == RECORD), None) or graph.metadata_props.add(key=RECORD)
    entry.value = json.dumps(modules, separators=(",", ":"))
    onnx.save(graph, path)
    lost = [n for n, c in modules.items() if not all(e["value"] for e in c)]
    note(f"modules: the file knows the outputs of {len(modules) - len(lost)} of {len(modules)} modules"
         + (f"; the others are merged into other operations: {names(lost)}" if lost else ""))
    return modules


class Call:
    """A call of a module (names: all its paths) as it was watched: the numbers of its output, and whether that was overwritten."""

    def __init__(self, paths, out):
        self.names, self.shape, self.numbers = paths, tuple(out.shape), _numbers(out)
        self.out, self.version, self.seen = weakref.ref(out), out._version, out._version

    def look(self):
        out = self.out()
        if out is not None:
            self.seen = out._version
        return out is not None

    def overwritten(self):
        self.look()
        return self.seen != self.version


def watch(model, x):
    """The calls of all modules that return one tensor of numbers, in the order in which they end."""
    if isinstance(model, torch.jit.ScriptModule):
        return []
    paths = {}
    for name, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(name)
    calls, alive, plural = [], [], set()

    def look(*_):
        alive[:] = [c for c in alive if c.look()]

    def keep(module, args, out):
        look()
        if torch.is_tensor(out) and out.is_floating_point() and out.numel():
            calls.append(Call(paths[module], out))
            alive.append(calls[-1])
        else:
            plural.add(module)

    hooks = []
    for module in paths:
        if paths[module] != [""]:
            hooks += [module.register_forward_pre_hook(look), module.register_forward_hook(keep)]
    with torch.no_grad():
        model(x)
    for h in hooks:
        h.remove()
    plural = {n for m in plural for n in paths[m]}
    return [c for c in calls if not plural.intersection(c.names)]


Value = collections.namedtuple("Value", "name index scope shape numbers")


def fingerprints(path, x):
    """The values that the nodes of a file compute for an input, each with the numbers that tell it from others."""
    import onnx
    import onnxruntime

    graph = onnx.load(path, load_external_data=False)
    operations = ("Shape", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceMin", "ReduceMax")
    found, extra = [], []
    for i, n in enumerate(graph.graph.node):
        if n.op_type in ("Constant", "Shape", "ConstantOfShape", "If", "Loop"):
            continue
        for out in filter(None, n.output):
            k = len(found)
            found.append((out, i, _scope(n)))
            # Cast drops what is no number: shapes, masks.
            extra.append(onnx.helper.make_node("Cast", [out], [f"voxcam_{k}"], to=onnx.TensorProto.FLOAT))
            for op in operations:
                attributes = {} if op == "Shape" else {"keepdims": 0}
                extra.append(onnx.helper.make_node(op, [f"voxcam_{k}"], [f"voxcam_{k}_{op}"], **attributes))
                graph.graph.output.append(onnx.ValueInfoProto(name=f"voxcam_{k}_{op}"))
    graph.graph.node.extend(extra)
    probe = path + ".probe"  # beside the file, where weights may lie in other files
    try:
        onnx.save(graph, probe)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        onnxruntime.set_default_logger_severity(4)
        session = onnxruntime.InferenceSession(probe, options, providers=["CPUExecutionProvider"])
        wanted = [f"voxcam_{k}_{op}" for k in range(len(found)) for op in operations]
        results = session.run(wanted, {session.get_inputs()[0].name: x.numpy()})
    finally:
        if os.path.exists(probe):
            os.remove(probe)
    step, out = len(operations), []
    for k, f in enumerate(found):
        shape, *numbers = results[k * step:][:step]
        out.append(Value(*f, tuple(int(d) for d in shape), [float(r) for r in numbers]))
    return out


def _numbers(t):
    t = t.detach().double()
    return [t.sum().item(), t.abs().sum().item(), t.square().sum().sqrt().item(), t.min().item(), t.max().item()]


def _equal(a, b, tolerance=5e-4):
    top = max(abs(b[3]), abs(b[4]))
    scales = (b[1], b[1], b[2], top, top)
    return all(abs(p - q) <= tolerance * max(s, 1e-30) for p, q, s in zip(a, b, scales))


def _scope(node):
    """The path of the module that a node says it is in."""
    for p in node.metadata_props:
        if p.key == "pkg.torch.onnx.name_scopes":
            return "".join(ast.literal_eval(p.value)[-2:-1])
    path = []
    for part in node.name.split("/")[1:-1]:
        if path and part.startswith(path[-1] + "."):
            path.pop()  # a member of a Sequential repeats the name of its parent
        path.append(part)
    return re.sub(r"_\d+$", "", ".".join(path))


def _kinship(scope, paths):
    """How well a node's scope fits a module: the names at the end of its path that the scope is in. Those before may be lost."""
    def common(path):
        tails = [path.split(".")[k:] for k in range(path.count(".") + 1)]
        return max((len(t) for t in tails if (scope + ".").startswith(".".join(t) + ".")), default=0)

    return max(map(common, paths))


def _only_tensor(y):
    if isinstance(y, dict) and y:
        y = next(iter(y.values()))
    while isinstance(y, (tuple, list)) and y:
        y = y[0]
    if not torch.is_tensor(y):
        raise ExportError(f"the model returns a {type(y).__name__}; voxcam needs a tensor of class scores [1, classes]")
    return y


def _plain_modules(model):
    return [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]


Candidate = collections.namedtuple("Candidate", "name kind shape cell")


def candidates(model, x):
    """The modules whose output has spatial extent ([1, C, d, h, w] with more than one cell, or tokens [1, L, C]), in the order
    in which they ran, as the user of --target-layer would name them."""
    found, hooks = [], []

    def hook(name):
        def keep(module, args, out):
            if not torch.is_tensor(out) or out.dim() not in (3, 5) or out.numel() == 0:
                return
            shape = tuple(out.shape)
            if out.dim() == 5 and max(shape[2:]) > 1:
                first, last = ([round(a / b, 2) for a, b in zip(x.shape[2:], s)] for s in (shape[2:], shape[1:4]))
                # Cells smaller than a voxel mean that the axes are not what they seem.
                channels_last = min(first) < 1 <= min(last)
                found.append(Candidate(name, type(module).__name__, shape, tuple(last if channels_last else first)))
            elif out.dim() == 3 and shape[1] > 1:
                found.append(Candidate(name, type(module).__name__, shape, None))

        return keep

    if not isinstance(model, torch.jit.ScriptModule):
        hooks = [m.register_forward_hook(hook(n)) for n, m in model.named_modules() if n]
    with torch.no_grad():
        y = _only_tensor(model(x))
    for h in hooks:
        h.remove()
    while y.dim() > 2 and y.shape[-1] == 1:
        y = y.squeeze(-1)  # a convolution as the last layer leaves [1, classes, 1, 1, 1]
    if y.dim() != 2 or y.shape[0] != 1:
        raise ExportError(f"the model returns {tuple(y.shape)}; voxcam needs class scores [1, classes]")
    last = {c.name: c for c in found}  # a module that runs again counts where it ran last
    return [c for c in found if last[c.name] is c], y


def print_candidates(found, limit=12):
    if not found:
        note("candidate target layers: ask `voxcam inspect` (modules of this kind cannot be watched from here)")
        return
    note("candidate target layers (--target-layer), the deepest last:")
    shown = found[-limit:]
    width = max(len(c.name) for c in shown)
    for c in shown:
        cell = "tokens" if c.cell is None else "cell " + " x ".join(f"{s:g}" for s in c.cell) + " voxels"
        print(f"  {c.name:{width}}  {c.kind:18}  {'x'.join(map(str, c.shape[1:])):18}  {cell}")


# ---------------------------------------------------------------------------------------------------------------------


def names(items, limit=6):
    items = [str(i) for i in items]
    return ", ".join(items[:limit]) + (f", ... ({len(items)} in all)" if len(items) > limit else "")


def first_line(e):
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def note(text):
    print(text, flush=True)


def parse_shape(text):
    try:
        shape = [int(s) for s in text.replace("x", ",").split(",")]
    except ValueError:
        shape = []
    if len(shape) == 3:
        shape = [1] + shape
    if len(shape) != 4 or min(shape) < 1:
        raise ExportError(f"--input-shape {text}: want C,D,H,W such as 1,192,256,256")
    return shape


def arguments(argv):
    p = argparse.ArgumentParser(
        description="Export a PyTorch model to ONNX so that voxcam can explain it.", epilog=__doc__.split("\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("checkpoint", nargs="?", help=".ckpt, .pt, .pth: weights, TorchScript, or a pickled module")
    p.add_argument("-o", "--output", default="model.onnx")
    p.add_argument("--model", help="package.module:factory that builds the model")
    p.add_argument("--kwargs", default="{}", help='its arguments as JSON; "@file.toml" stands for what the file holds')
    p.add_argument("--path", action="append", default=[], help="folder to import from; may be repeated")
    p.add_argument("--submodule", help="export only this part, after loading: `out` drops that prefix from layer names")
    p.add_argument("--state-key", help="entry of the checkpoint that holds the weights")
    p.add_argument("--strip-prefix", help="prefix of the checkpoint's keys (default: the one that fits)")
    p.add_argument("--input-shape", required=True, help="C,D,H,W of the volume as the network sees it")
    p.add_argument("--opset", type=int, choices=range(13, 22), metavar="N",
                   help="13 to 21; default: 17, or 18 of the dynamo exporter, which writes nothing older")
    p.add_argument("--exporter", choices=("torchscript", "dynamo"), default="torchscript")
    p.add_argument("--dynamic", action="store_true", help="leave depth, height and width open")
    p.add_argument("--unsafe-load", action="store_true", help="trust the file: loading it may run any code")
    p.add_argument("--no-check", action="store_true", help="skip the comparison with onnxruntime")
    return p.parse_args(argv)


def load_model(args):
    """The model that the arguments name, with its weights."""
    obj = load_file(args.checkpoint, args.unsafe_load) if args.checkpoint else None
    if args.model:
        model = build(args.model, parse_kwargs(args.kwargs))
        if obj is not None:
            load_weights(model, find_state(obj, args.checkpoint, args.state_key), args.checkpoint, args.strip_prefix)
        else:
            note("weights: those that the factory gives, since no checkpoint was named")
    elif isinstance(obj, nn.Module):
        model = obj
    elif obj is None:
        raise ExportError("nothing to export: name a checkpoint, a model (--model), or both")
    else:
        state = find_state(obj, args.checkpoint, args.state_key)
        raise ExportError(
            f"{args.checkpoint}: holds {len(state)} tensors ({names(state, 3)}) but no code; name what builds the model with"
            " --model package.module:factory"
        )
    if args.submodule:
        try:
            model = model.get_submodule(args.submodule)
        except AttributeError as e:
            children = names(n for n, _ in model.named_children())
            raise ExportError(f"--submodule {args.submodule}: {e}; the model has: {children}") from e
    return model


def run(argv=None):
    args = arguments(argv)
    sys.path[:0] = [os.getcwd(), *args.path]
    shape = parse_shape(args.input_shape)
    oldest = 18 if args.exporter == "dynamo" else 13
    opset = args.opset or max(17, oldest)
    if opset < oldest:
        raise ExportError(f"--opset {opset}: the dynamo exporter writes {oldest} and newer; use that or --exporter torchscript")
    model = load_model(args)
    replaced = prepare(model)
    if replaced:
        note(f"replaced: {names(replaced)}")
    x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1))
    try:
        found, y = candidates(model, x)
    except ExportError:
        raise
    except Exception as e:
        raise ExportError(
            f"the model does not take an input of shape {tuple(x.shape)}: {type(e).__name__}: {first_line(e)}"
        ) from e

    partial = args.output + ".partial"
    try:
        export(model, x, partial, opset, args.exporter, args.dynamic)
        check_layers(model, x, partial)
        record_modules(model, x, partial)
        if not args.no_check:
            check_numbers(model, x, partial)
        os.replace(partial, args.output)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    size = os.path.getsize(args.output) / 2**20
    note(f"wrote {args.output}: {size:.1f} MiB, opset {opset}, {y.shape[1]} classes, input {'x'.join(map(str, shape))}")
    print_candidates(found)


def main():
    try:
        run()
    except ExportError as e:
        print(f"export_onnx: {e}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
