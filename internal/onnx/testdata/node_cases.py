"""Writes the test vectors of ONNX's conformance suite (python package onnx) into a folder, for TestNodes:

    python node_cases.py FOLDER && VOXCAM_NODES=FOLDER go test ./internal/onnx -run Nodes

Each case becomes a folder with const.onnx (all inputs constant), runtime.onnx and in.npy (the first input left open, where it
holds float32) and out0.npy, out1.npy, ... in float64.
"""
import pathlib
import sys

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases


def freeze(model, names, values, keep):
    """Returns the model with its inputs from number keep on made constants."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.input[keep:]
    for name, value in list(zip(names, values))[keep:]:
        out.graph.initializer.append(numpy_helper.from_array(value, name))
    return out


def main(folder):
    cases = collect_testcases(None) if collect_testcases.__code__.co_argcount else collect_testcases()
    written = 0
    for case in cases:
        if not case.data_sets:
            continue
        inputs, outputs = case.data_sets[0]
        if not all(isinstance(x, np.ndarray) or np.isscalar(x) for x in [*inputs, *outputs]):
            continue  # sequences and optionals
        inputs, outputs = [np.asarray(x) for x in inputs], [np.asarray(x) for x in outputs]
        names = [i.name for i in case.model.graph.input]
        to = pathlib.Path(folder) / case.name
        try:
            frozen = freeze(case.model, names, inputs, 0)
            results = [o.astype(np.float64) for o in outputs if o.size]
        except (TypeError, ValueError):
            continue  # element types that NumPy lacks
        to.mkdir(parents=True, exist_ok=True)
        onnx.save(frozen, to / "const.onnx")
        if inputs and inputs[0].dtype == np.float32 and inputs[0].ndim > 0 and inputs[0].size > 0:
            onnx.save(freeze(case.model, names, inputs, 1), to / "runtime.onnx")
            np.save(to / "in.npy", inputs[0])
        for i, o in enumerate(results):
            np.save(to / f"out{i}.npy", o)
        written += 1
    print(written, "cases")


if __name__ == "__main__":
    main(sys.argv[1])
