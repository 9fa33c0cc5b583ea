#!/usr/bin/env python3
"""Makes golden cases for many architectures: models as PyTorch exports them, a volume, and float64 reference values.

    python3 make_cases.py OUT [--only a,b] [--tiny] [--list] [--ops-only]

Each case is a folder with case.json, expected.npz, volume.npy and model.<form>.onnx, in the format of the golden cases
(tools/golden_check.py of the shared material runs over them). --tiny makes only the cases that are small enough to be
committed under testdata/cases, with stack traces taken out of the files. OUT/OPS.md lists the operations of every file.

Needs torch, torchvision, monai, onnx, onnxscript and onnxruntime. The models are in case_models.py.

What case.json holds beyond the golden cases:
    layer_layout       how the target's activation lies: channels-first, channels-last or tokens
    target_values      form -> the name of the ONNX value that equals the target module's output
    left_out           arrays for which that is above 3e-5
    float32_error      array -> error of PyTorch's own float32 result, relative to the maximum: what a float32 engine can reach
    exports.*.functions, exports.*.control_flow, exports.*.dynamic, exports.*.external
"""
import argparse, collections, json, os, re, shutil, sys, traceback, warnings

warnings.simplefilter("ignore")
import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import case_models

NOISE_LEVEL, NOISE_SAMPLES = 0.15, 3
LIMIT = 3e-5  # arrays that PyTorch's own float32 misses by more (of the maximum) say nothing about an engine, and are left out
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
AFFINE_NORMS = BATCH_NORMS + (nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm3d)


# --- models and volumes

def prepare(case):
    """Returns the case's model in eval mode: fixed weights, norms with unequal scales and shifts, fitted BatchNorm statistics."""
    torch.manual_seed(case.seed)
    model = case.make()
    g = torch.Generator().manual_seed(case.seed + 1)
    for m in model.modules():
        if isinstance(m, AFFINE_NORMS) and getattr(m, "weight", None) is not None:
            m.weight.data = torch.rand(m.weight.shape, generator=g) * 0.8 + 0.6
            if getattr(m, "bias", None) is not None:
                m.bias.data = torch.rand(m.bias.shape, generator=g) * 0.6 - 0.3
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase) and getattr(m, "track_running_stats", False)]
    if norms:
        for m in norms:
            m.momentum = None  # cumulative average
            m.reset_running_stats()
        model.train()
        for m in model.modules():
            if isinstance(m, (nn.Dropout, nn.Dropout2d, nn.Dropout3d)):
                m.eval()
        with torch.no_grad():
            for k in range(3):
                model(torch.cat([volume(case.shape, 100 + 10 * k + i) for i in range(4)]))
    return model.eval()


def volume(shape, seed):
    """A few smooth blobs on a gradient with noise, about zero mean: [1, C, D, H, W] float32."""
    rng = np.random.default_rng(seed)
    _, c, *size = shape
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij")
    out = rng.normal(0, 0.25, (1, c, *size))
    for ch in range(c):
        for _ in range(4):
            centre, width = rng.uniform(-0.8, 0.8, 3), rng.uniform(0.15, 0.5)
            out[0, ch] += rng.uniform(-1, 2) * np.exp(-sum((a - b) ** 2 for a, b in zip(grid, centre)) / (2 * width ** 2))
    return torch.from_numpy(out.astype(np.float32))


# --- references

def differentiate(model, x, layer, target):
    """Returns (outputs [classes], the target module's output, d score / d it, d score / d x)."""
    kept = []

    def hook(_, __, out):
        kept.append(out)  # what a hook sees: a later in-place activation changes it

    handle = model.get_submodule(layer).register_forward_hook(hook)
    x = x.clone().requires_grad_(True)
    try:
        out = model(x)
    finally:
        handle.remove()
    if len(kept) != 1:
        raise ValueError(f"{layer} ran {len(kept)} times")
    ga, gx = torch.autograd.grad(out[0, target], [kept[0], x])
    return out[0].detach(), kept[0].detach(), ga, gx[0]


def spatial(a, case):
    """The layer's output or gradient as [C, d, h, w]."""
    if case.layout == "tokens":
        n = int(np.prod(case.grid))
        return a[0, a.shape[1] - n:].T.reshape(a.shape[2], *case.grid)
    if case.layout == "slices":  # depth in the batch axis
        return a.transpose(0, 1)
    return a[0].permute(3, 0, 1, 2) if case.layout == "channels-last" else a[0]


def minmax(m):
    return (m - m.min()) / (m.max() - m.min() + 1e-8)


def heatmap(m, size):
    return minmax(F.interpolate(m.clamp(min=0)[None, None], size=size, mode="trilinear", align_corners=False)[0, 0])


def cams(a, g, size):
    """gradcam and gradcam++ (convention `original`): signed maps at layer resolution and heatmaps."""
    axes = (1, 2, 3)
    cam = (g.mean(axes, keepdim=True) * a).sum(0)
    alpha = g ** 2 / (2 * g ** 2 + (a * g ** 3).sum(axes, keepdim=True) + 1e-8)
    plus = ((alpha * g.clamp(min=0)).sum(axes, keepdim=True) * a).sum(0)
    return {"gradcam.map": cam, "gradcam.heatmap": heatmap(cam, size), "gradcam++.map": plus, "gradcam++.heatmap": heatmap(plus, size)}


def references(model, x, case, noise):
    """All reference arrays, in the model's precision."""
    out, act, grad, gx = differentiate(model, x, case.target, case.target_class)
    a, g = spatial(act, case), spatial(grad, case)
    e = {"logits": out, "activation": a, "gradient": g, "input_gradient": gx, **cams(a, g, x.shape[2:])}
    if noise is not None:
        draws = torch.stack([differentiate(model, x + NOISE_LEVEL * z[None].to(x.dtype), case.target, case.target_class)[3] for z in noise])
        e["smoothgrad.map"], e["vargrad.map"] = draws.mean(0).abs().sum(0), draws.var(0).sum(0)
        e["smoothgrad_sq.map"] = (draws ** 2).mean(0).sum(0)
        e["smoothgrad.heatmap"], e["vargrad.heatmap"] = minmax(e["smoothgrad.map"]), minmax(e["vargrad.map"])
    return e, act


def relative_error(got, want):
    return float((got.double() - want).abs().max() / want.abs().max().clamp(min=1e-30))


def well_conditioned(case, model, exact, samples):
    """Looks for a volume on which float32 itself agrees with float64 (no near ties of a maximum, no ReLU at its kink)."""
    best = None
    for seed in range(case.seed, case.seed + 8):
        x = volume(case.shape, seed)
        noise = torch.randn(samples, *x.shape[1:], generator=torch.Generator().manual_seed(seed)) if samples else None
        want, act = references(exact, x.double(), case, noise)
        got, _ = references(model, x, case, noise)
        dead = [k for k in want if not torch.isfinite(want[k]).all() or want[k].abs().max() < 1e-12]
        errors = {k: relative_error(got[k], want[k]) for k in want}
        score = 1e9 if dead else max(errors.values())
        if best is None or score < best[0]:
            best = (score, x, noise, want, act, errors, dead)
        if score < 1e-5:
            break
    if best[0] >= 1e9:
        raise ValueError(f"zero or not finite: {best[6]}")
    return best[1:6]


# --- exports

def plan(case, model, tiny):
    """Form name -> how to export it."""
    ts = lambda opset, keep=True, **kw: dict(dynamo=False, opset_version=opset, **({"training": torch.onnx.TrainingMode.PRESERVE} if keep else {}), **kw)
    dy = lambda opset, **kw: dict(dynamo=True, opset_version=opset, **kw)
    has_bn = any(isinstance(m, BATCH_NORMS) for m in model.modules())
    forms = {"torchscript": ts(17), "dynamo": dy(18), "dynamo_raw": dy(18, optimize=False)}
    if has_bn:
        forms["torchscript_fused"] = ts(17, keep=False)
    if tiny:
        del forms["dynamo_raw"]
    for o in [o for o in case.opsets if o == 13] if tiny else case.opsets:
        forms[f"torchscript_op{o}" if o < 18 else f"dynamo_op{o}"] = ts(o) if o < 18 else dy(o)
    if case.odd and not tiny:
        forms["torchscript_unfolded"] = ts(17, do_constant_folding=False)
        forms["torchscript_inputs"] = ts(15, keep_initializers_as_inputs=True)  # initializers are listed as inputs too
        forms["torchscript_typed"] = ts(17, typed=True)
        forms["torchscript_scripted"] = ts(17, scripted=True)
    if case.dynamic and tiny != "cam":
        forms["torchscript_dynamic"] = ts(17, dynamic=True)
        forms["dynamo_dynamic"] = dy(18, dynamic=True)
    if case.external and tiny != "cam":
        forms["torchscript_external"] = ts(17, external=True)
        if not tiny:
            forms["dynamo_external"] = dy(18, external=True)
    return forms


def export(model, x, path, case, dynamo, opset_version, training=None, dynamic=False, external=False, optimize=True, typed=False, scripted=False, **more):
    kw = dict(input_names=["volume"], output_names=["logits"], opset_version=opset_version, dynamo=dynamo, **more)
    if dynamic:
        x = volume(case.dynamic, 7)  # another size than the volume's: a file that froze it would fail
    if dynamo:
        kw.update(external_data=external, verbose=False, optimize=optimize)
        if dynamic:
            kw["dynamic_shapes"] = ({a: torch.export.Dim.DYNAMIC for a in (2, 3, 4)},)
    else:
        if training is not None:
            kw["training"] = training
        if dynamic:
            kw["dynamic_axes"] = {"volume": {0: "batch", 2: "depth", 3: "height", 4: "width"}, "logits": {0: "batch"}}
    with torch.no_grad():
        torch.onnx.export(torch.jit.script(model) if scripted else model, (x,), path, **kw)
    if typed:  # weights in typed fields instead of raw_data
        m = onnx.load(path)
        for t in m.graph.initializer:
            a = onnx.numpy_helper.to_array(t)
            t.CopyFrom(onnx.helper.make_tensor(t.name, t.data_type, a.shape, a.ravel().tolist()))
        onnx.save(m, path)
    if external and not dynamo:  # in one file beside the model
        m = onnx.load(path)
        onnx.save_model(m, path, save_as_external_data=True, all_tensors_to_one_file=True, location=os.path.basename(path) + ".data", size_threshold=256)


def scrub(path):
    """Takes stack traces and documentation strings (paths of the machine that exported), and node listings, out of a file."""
    m = onnx.load(path)

    def clean(nodes):
        for n in nodes:
            n.doc_string = ""
            kept = [p for p in n.metadata_props if "stack_trace" not in p.key and "fx_node" not in p.key]
            del n.metadata_props[:]
            n.metadata_props.extend(kept)

    clean(m.graph.node)
    for f in m.functions:
        clean(f.node)
    onnx.save(m, path)


def census(m):
    """Operations with counts, functions and control flow included."""
    ops = collections.Counter()

    def walk(nodes):
        for n in nodes:
            ops[n.op_type if n.domain in ("", "ai.onnx") else f"{n.domain}::{n.op_type}"] += 1
            for a in n.attribute:
                if a.type == onnx.AttributeProto.GRAPH:
                    walk(a.g.node)

    walk(m.graph.node)
    for f in m.functions:
        walk(f.node)
    return dict(ops)


def run(path, x, every_value, optimised=False):
    """Runs a file, without graph optimisation at first, and returns (logits, value name -> float array); on request of every top-level value."""
    m = onnx.load(path)
    have = {o.name for o in m.graph.output}
    for n in m.graph.node if every_value else []:
        for o in n.output:
            if o and o not in have:
                m.graph.output.append(onnx.ValueInfoProto(name=o))
                have.add(o)
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    s = ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in s.get_outputs()]
    values = dict(zip(names, s.run(None, {"volume": x.numpy()})))
    return values[m.graph.output[0].name], {k: v for k, v in values.items() if isinstance(v, np.ndarray) and v.dtype == np.float32}


def find_value(values, act):
    """The first ONNX value that holds the target's output in any order of axes (same numbers, sorted), preferring its own shape."""
    want = np.sort(act.numpy().ravel())
    scale = np.abs(want).max()
    hits = [k for k, v in values.items() if v.size == want.size and np.abs(np.sort(v.ravel()) - want).max() <= 1e-4 * scale]
    same = [k for k in hits if values[k].shape == tuple(act.shape) and np.abs(values[k] - act.numpy()).max() <= 1e-4 * scale]
    return (same or hits or [None])[0]


def names_layer(m, layer):
    """Whether any name in a file could lead to a module: its path from the last part that is a word, as the exporters spell it."""
    parts = layer.split(".")
    start = max(i for i, p in enumerate(parts) if not p.isdigit())
    tail = parts[start:]
    # TorchScript: /a/a.0/a.0.1/Conv or, scripted, /a/0/1/Conv; parameters: x.a.0.1.weight; dynamo: ['', 'x.a', 'x.a.0.1', ...]
    pattern = re.compile("(^|[/.'])(" + "|".join(re.escape(sep.join(tail)) for sep in "./") + r")($|[/.'])")
    texts = [t.name for t in m.graph.initializer]
    for n in m.graph.node:
        texts += [n.name, *n.output, *(p.value for p in n.metadata_props if "name_scopes" in p.key)]
    return any(pattern.search(t) for t in texts)


def make(case, folder, tiny):
    model = prepare(case)
    exact = case.double(model)
    x, noise, want, act, errors = well_conditioned(case, model, exact, NOISE_SAMPLES - bool(tiny) if case.noise and tiny != "cam" else 0)
    left_out = [k for k, e in errors.items() if e > LIMIT and k not in ("logits", "activation", "gradient")]
    want = {k: v for k, v in want.items() if k not in left_out}
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    np.save(os.path.join(folder, "volume.npy"), x.numpy())
    arrays = {k: v.numpy().astype(np.float32 if v.numel() > 64 else np.float64) for k, v in want.items()}
    if noise is not None:
        arrays["noise"] = noise.numpy()
    np.savez_compressed(os.path.join(folder, "expected.npz"), **arrays)

    exports, values_of, failures, notes = {}, {}, {}, []
    for form, how in plan(case, model, tiny).items():
        path = os.path.join(folder, f"model.{form}.onnx")
        try:
            export(model, x, path, case, **how)
            if tiny and not how.get("external"):
                scrub(path)
            try:
                logits, values = run(path, x, every_value=False)
            except Exception:  # some files run only when their constant conditions are folded
                logits, values = run(path, x, every_value=False, optimised=True)
            error = float(np.abs(logits[0] - want["logits"].numpy()).max())
            if not error <= 1e-3 * float(want["logits"].abs().max()):
                raise ValueError(f"the file computes something else: off by {error:.2e}")
            if not names_layer(onnx.load(path, load_external_data=False), case.target):
                raise ValueError("left out: the target's name is nowhere in the file")
            try:
                values = run(path, x, every_value=True)[1]
            except Exception:  # shapes that an exporter wrote down wrongly
                notes.append(f"{form}: its inner values could not be read, so whether it has the target is unknown")
        except Exception as problem:  # an exporter that fails on one model must not stop the rest
            failures[form] = f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:200] if str(problem).strip() else ''}"
            for p in (path, path + ".data"):
                if os.path.exists(p):
                    os.remove(p)
            continue
        m = onnx.load(path, load_external_data=False)
        ops = census(m)
        data = [p for p in (path + ".data",) if os.path.exists(p)]
        exports[form] = {"opset": next(o.version for o in m.opset_import if o.domain in ("", "ai.onnx")), "ops": ops,
                         "bytes": sum(os.path.getsize(p) for p in [path] + data), "ort_max_abs_err": error,
                         "has_batchnorm": "BatchNormalization" in ops, "functions": len(m.functions),
                         "control_flow": sum(ops.get(o, 0) for o in ("If", "Loop", "Scan")), "dynamic": bool(how.get("dynamic")),
                         "external": [os.path.basename(p) for p in data]}
        name = find_value(values, act)
        if name is not None:
            values_of[form] = name
    if not exports:
        raise ValueError(f"no exporter works: {failures}")
    about = {"case": case.name, "covers": case.covers, "target_layer": case.target, "target_class": case.target_class,
             "token_grid": list(case.grid) if case.grid else None, "layer_layout": case.layout, "input_shape": list(case.shape)}
    if noise is not None:
        about.update(noise_level=NOISE_LEVEL, noise_samples=len(noise))
    about.update(activation_shape=list(act.shape), exports=exports, failed_exports=failures, left_out=left_out, notes=notes, keys={k: list(v.shape) for k, v in sorted(arrays.items())},
                 forms_with_target=sorted(values_of), target_values=values_of, float32_error={k: float(f"{v:.2e}") for k, v in errors.items()})
    with open(os.path.join(folder, "case.json"), "w") as f:
        json.dump(about, f, indent=1)
        f.write("\n")
    return about


# --- the list of operations

def write_ops(out):
    cases = [json.load(open(os.path.join(out, c, "case.json"))) for c in sorted(os.listdir(out)) if os.path.exists(os.path.join(out, c, "case.json"))]
    union, lines = collections.defaultdict(lambda: [0, 0, set()]), []
    for c in cases:
        lines.append(f"\n## {c['case']}\n{c['covers']}. Input {c['input_shape']}, target `{c['target_layer']}` {c['activation_shape']} ({c['layer_layout']}).\n")
        for form, e in c["exports"].items():
            for o, n in e["ops"].items():
                u = union[o]
                u[0] += n
                u[1] += 1
                u[2].add(e["opset"])
            marks = [k for k in ("functions", "control_flow", "dynamic", "external") if e[k]]
            target = c["target_values"].get(form)
            lines.append(f"- **{form}** opset {e['opset']}{' (' + ', '.join(marks) + ')' if marks else ''}; target {f'`{target}`' if target else 'ABSENT'}: "
                         + ", ".join(f"{o} {n}" for o, n in sorted(e["ops"].items())))
        for form, why in c["failed_exports"].items():
            lines.append(f"- {form} FAILED: {why}")
    head = [f"# Operations of {len(cases)} cases, {sum(len(c['exports']) for c in cases)} files\n\n## Union\n", "| op | nodes | files | opsets |", "|---|---|---|---|"]
    head += [f"| {o} | {n} | {k} | {', '.join(map(str, sorted(s)))} |" for o, (n, k, s) in sorted(union.items())]
    with open(os.path.join(out, "OPS.md"), "w") as f:
        f.write("\n".join(head + lines) + "\n")
    return sorted(union)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("out")
    p.add_argument("--only", help="names of cases, with commas")
    p.add_argument("--tiny", action="store_true", help="only the cases to be committed")
    p.add_argument("--new", action="store_true", help="skip cases that are there already")
    p.add_argument("--list", action="store_true", help="list the cases and stop")
    p.add_argument("--ops-only", action="store_true", help="write OPS.md again and stop")
    a = p.parse_args()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operation has no ONNX counterpart
    only = set(a.only.split(",")) if a.only else None
    cases = [c for c in case_models.CASES if (only is None or c.name in only) and (c.tiny or not a.tiny)]
    if a.list:
        for c in cases:
            print(c.name, "-", c.covers)
        return
    failed = {}
    for c in cases if not a.ops_only else []:
        folder = os.path.join(a.out, c.name)
        if a.new and os.path.exists(os.path.join(folder, "case.json")):
            continue
        try:
            r = make(c, folder, c.tiny if a.tiny else "")
            print(c.name, {f: e["bytes"] for f, e in r["exports"].items()}, "without target:", sorted(set(r["exports"]) - set(r["forms_with_target"])),
                  "failed:", r["failed_exports"], "left out:", r["left_out"], f"float32 {max(r['float32_error'].values()):.1e}", flush=True)
        except Exception:
            failed[c.name] = traceback.format_exc(limit=-3)
            print(c.name, "FAILED", failed[c.name], flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    if not a.tiny:
        print("operations:", " ".join(write_ops(a.out)))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
