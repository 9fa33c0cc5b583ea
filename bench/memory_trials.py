"""Does harm on purpose to runs of voxcam on a GPU, and compares what they give with a run that was left alone.

    python3 bench/memory_trials.py VOXCAM MODEL.onnx OUT --layer NAME [--shape C,D,H,W] [--volumes 20] [--n-samples 50] TRIAL ...

Trials: hold:1GiB (another program leaves so much free), compete:SECONDS (another takes and gives at random), kill:N (N kills -9 of worker,
run, or both, at random moments), fault:SPEC (VOXCAM_CUDA_FAULT), budget:512MiB, shuttle:always, release (voxcam recover while it runs).
The first run, alone, is the reference. Heatmaps and maps are compared by the digests in the samples' records. One line of JSON a trial on
standard output, also in OUT/trials.jsonl. Needs numpy.
"""
import argparse
import collections
import glob
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))


def dataset(folder, shape, volumes):
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(7)
    axes = [np.linspace(0, 1, n, dtype=np.float32) for n in shape[1:]]
    with open(os.path.join(folder, "labels.csv"), "w") as table:
        table.write("caseID,label,split\n")
        for i in range(volumes):
            name = f"case{i:03d}"
            path = os.path.join(folder, name + ".npy")
            if not os.path.exists(path) and i >= 10:  # the same ones again
                os.link(os.path.join(folder, f"case{i % 10:03d}.npy"), path)
            if not os.path.exists(path):
                v = 0.15 * rng.random(shape, dtype=np.float32)
                for c in range(shape[0]):
                    for scale in (1, 2, 4, 8, 16):  # as in gpu_models.structured
                        k, phase = scale * (rng.random(3) + 0.5), 6.3 * rng.random(3)
                        x, y, z = (np.cos(6.3 * k[j] * axes[j] + phase[j]).astype(np.float32) for j in range(3))
                        v[c] += 0.085 * (1 + x[:, None, None] * y[None, :, None] * z[None, None, :])
                np.save(path, np.clip(255 * v, 0, 255).astype(np.uint8))
            table.write(f"{name},{i % 2},val\n")


def config(path, args, data):
    text = f"""[model]
file = {json.dumps(os.path.abspath(args.model))}
target_layer = {json.dumps(args.layer)}

[data]
folder = {json.dumps(os.path.abspath(data))}
labels = {json.dumps(os.path.abspath(os.path.join(data, "labels.csv")))}
axes = "CDHW"
scale = "div255"
dataset = "val"

[explain]
methods = {json.dumps(args.method.split(","))}
n_samples = {args.n_samples}
device = "{args.device}"
precision = "{args.precision}"

[explain.conventions]
"gradcam++" = "paper"

[output]
formats = ["{args.formats}"]
"""
    with open(path, "w") as f:
        f.write(text)


def records(session):
    out = {}
    for path in glob.glob(os.path.join(session, "heatmaps", "*", "*", "*", "*_metadata.json")):
        with open(path) as f:
            r = json.load(f)
        out[r["sample_id"]] = r
    return out


def digests(record):
    return {os.path.basename(f["path"]): f["sha256"] for f in record["files"]}


def difference(a, b):
    """The largest difference of two heatmap files relative to the largest value."""
    x, y = np.load(a), np.load(b)
    return float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-30))


def check_files(session):
    """Every file that a record names is there with its digest."""
    bad = []
    for r in records(session).values():
        for f in r["files"]:
            path = os.path.join(session, f["path"])
            if not os.path.exists(path) or hashlib.sha256(open(path, "rb").read()).hexdigest() != f["sha256"]:
                bad.append(f["path"])
    return bad


def command(args, conf, out, name, extra=()):
    return [args.voxcam, "run", "--config", conf, "--output-dir", out, "--session", name, "--log-format", "json", *extra]


def children(pid):
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):  # any thread may have started it
        try:
            with open(path) as f:
                found += [int(p) for p in f.read().split()]
        except OSError:
            pass
    return found


def competitor(*args):
    p = subprocess.Popen([sys.executable, os.path.join(HERE, "gpu_competitor.py"), *args], stdout=subprocess.PIPE, text=True)
    line = p.stdout.readline()
    if not line.startswith("free"):
        raise SystemExit(f"the competitor does not start: {line}")
    return p, line.strip()


def summarise(session, reference):
    got, want = records(session), records(reference)
    s = {"samples": len(want), "ok": 0, "equal": 0, "different": [], "levels": collections.Counter(), "devices": collections.Counter(),
         "incidents": collections.Counter(), "statuses": collections.Counter(), "worst": 0.0, "worst_of": {}}
    for name, w in want.items():
        r = got.get(name)
        if r is None:
            s["statuses"]["missing"] += 1
            continue
        s["statuses"][r["status"]] += 1
        s["ok"] += r["status"] == "ok"
        e = r.get("execution") or {}
        s["levels"][e.get("level", "?")] += 1
        s["devices"][e.get("device", "?")] += 1
        for i in e.get("incidents") or []:
            s["incidents"][i["kind"]] += 1
        a, b = digests(w), digests(r)
        if a == b:
            s["equal"] += 1
            continue
        for f in w["files"]:
            base = os.path.basename(f["path"])
            if b.get(base) != f["sha256"] and base in b and "heatmap" in base:
                other = next(g["path"] for g in r["files"] if os.path.basename(g["path"]) == base)
                d = difference(os.path.join(reference, f["path"]), os.path.join(session, other))
                method = base.removeprefix(name + "_").removesuffix("_volume_heatmap.npy")
                s["worst_of"][method] = max(s["worst_of"].get(method, 0), d)
                s["worst"] = max(s["worst"], d)
        s["different"].append(name)
    return s


def flat(session):
    """What the session held of the GPU once its first tenth was done, and at the end: least and most of each figure."""
    with open(os.path.join(session, "reports", "memory_timeline.jsonl")) as f:
        looks = [json.loads(line).get("figures", {}) for line in f]
    looks = [look for look in looks if look.get("allocated_bytes")]
    looks = looks[len(looks) // 10:]
    return {k: [min(look.get(k, 0) for look in looks), max(look.get(k, 0) for look in looks)]
            for k in ("gpu_used_bytes", "reserved_bytes", "allocated_bytes", "overhead_bytes", "worker_resident_bytes", "resident_bytes")} if looks else {}


def trial(args, conf, out, reference, spec):
    kind, _, value = spec.partition(":")
    name = spec.replace(":", "_").replace(",", "_").replace("/", "_")
    session, extra, env = os.path.join(out, "session_" + name), [], dict(os.environ)
    shutil.rmtree(session, ignore_errors=True)
    other, note = None, {}
    if kind == "hold":
        other, note["competitor"] = competitor("hold", "--free", value)
    if kind == "compete":
        other, note["competitor"] = competitor("compete", "--low", args.low, "--high", args.high)
    if kind == "budget":
        extra = ["--memory-budget", value]
    if kind == "shuttle":
        extra = ["--shuttle", value]
    if kind == "fault":
        env["VOXCAM_CUDA_FAULT"] = value
    started = time.monotonic()
    log = open(os.path.join(out, name + ".log"), "w")
    rounds = 0
    if kind == "kill":
        rng, kills = random.Random(3), collections.Counter()
        while True:
            p = subprocess.Popen(command(args, conf, out, name, extra), stdout=log, stderr=log, env=env)
            while p.poll() is None and sum(kills.values()) < int(value):
                time.sleep(rng.uniform(0.1, args.kill_every))
                if p.poll() is not None:
                    break
                whom = rng.choice(["worker", "run", "both"])
                workers = children(p.pid)
                victims = (workers if whom != "run" else []) + ([p.pid] if whom != "worker" else [])
                if not victims:
                    continue
                for pid in victims:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
                kills[whom] += 1
                if whom != "worker":
                    p.wait()
                    deadline = time.monotonic() + 10
                    while any(os.path.exists(f"/proc/{w}") and "zombie" not in open(f"/proc/{w}/status").read() for w in workers):
                        if time.monotonic() > deadline:
                            note["orphans"] = note.get("orphans", 0) + 1
                            break
                        time.sleep(0.02)
            code = p.wait()
            rounds += 1
            if sum(kills.values()) >= int(value) and code >= 0:
                break
            note["logged"] = {k: open(log.name).read().count(f'"incident":"{k}"') for k in ("restarted", "resumed", "cpu", "failed")}
            if code == 0 and len(records(session)) >= args.volumes:  # all done before all kills: begin again
                if summarise(session, reference)["equal"] < args.volumes:
                    break
                shutil.rmtree(session)
        note["kills"], note["rounds"] = kills, rounds
    else:
        while True:
            p = subprocess.Popen(command(args, conf, out, name, extra), stdout=log, stderr=log, env=env)
            if kind == "release":
                while p.poll() is None:
                    time.sleep(float(value or 2))
                    r = subprocess.run([args.voxcam, "recover", "--json", "--for", "1s"], capture_output=True, text=True)
                    note.setdefault("recover", []).append(r.stdout[-600:] or r.stderr[-300:])
            code = p.wait()
            rounds += 1
            if kind != "compete" or time.monotonic() - started > float(value):
                break
            s = summarise(session, reference)
            note.setdefault("rounds_ok", []).append([s["ok"], s["equal"], s["worst"], dict(s["levels"]), dict(s["incidents"])])
            if s["ok"] < s["samples"] or s["worst"] > args.tolerance:
                break
            shutil.rmtree(session)
    note["seconds"], note["exit"] = round(time.monotonic() - started, 1), code
    if other:
        other.terminate()
        changes = other.stdout.read().count("held")
        note["changes"] = changes
        other.wait()
    result = {"trial": spec, **note, **summarise(session, reference)}
    if kind == "kill":
        result["bad_files"] = check_files(session)
        result["left_over"] = [f for f in glob.glob(os.path.join(session, "**", ".*"), recursive=True) if os.path.isfile(f) and "lock" not in f]
    print(json.dumps(result), flush=True)
    with open(os.path.join(out, "trials.jsonl"), "a") as f:
        f.write(json.dumps(result) + "\n")
    if not args.keep:
        shutil.rmtree(os.path.join(session, "heatmaps"), ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voxcam")
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("trials", nargs="*")
    parser.add_argument("--layer", required=True)
    parser.add_argument("--shape", default="1,256,256,256")
    parser.add_argument("--volumes", type=int, default=20)
    parser.add_argument("--method", default="all")
    parser.add_argument("--n-samples", type=int, default=50)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--low", default="300MiB")
    parser.add_argument("--high", default="3GiB")
    parser.add_argument("--kill-every", type=float, default=4)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    parser.add_argument("--formats", default="npy", help="of the results; only of npy maps are compared")
    parser.add_argument("--keep", action="store_true", help="the sessions' heatmaps")
    args = parser.parse_intermixed_args()
    args.voxcam = os.path.abspath(args.voxcam)
    args.shape = [int(n) for n in args.shape.split(",")]
    data, conf = os.path.join(args.out, "data"), os.path.join(args.out, "run.toml")
    dataset(data, args.shape, args.volumes)
    config(conf, args, data)
    reference = os.path.join(args.out, "session_reference")
    started = time.monotonic()
    with open(os.path.join(args.out, "reference.log"), "w") as log:
        code = subprocess.run(command(args, conf, args.out, "reference"), stdout=log, stderr=log).returncode
    s = summarise(reference, reference)
    s["flat"] = flat(reference)
    print(json.dumps({"trial": "reference", "seconds": round(time.monotonic() - started, 1), "exit": code, **s}), flush=True)
    for spec in args.trials:
        try:
            trial(args, conf, args.out, reference, spec)
        except Exception as e:
            print(json.dumps({"trial": spec, "error": repr(e)}), flush=True)


if __name__ == "__main__":
    main()
