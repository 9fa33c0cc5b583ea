"""Writes the models of TestInputAxes: the same small network, with inputs in other orders than N C D H W, as Keras, JAX and video
models have them.

    python make.py        (onnx)
"""

import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

here = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(3)
D, H, W = 4, 6, 8
node = helper.make_node


def save(name, dims, nodes, channels, out=3):
    """The nodes bring the input x to t, [N, C, D, H, W] or images [N, C, H, W]; then follow a convolution, c, pooling, and scores."""
    images = channels < 0
    w = rng.uniform(0.5, 1, size=(4, abs(channels), *([1] * (2 if images else 3)))).astype("f4")
    f = rng.uniform(0.5, 1, size=(4, out)).astype("f4")
    more = [node("Conv", ["t", "w"], ["c0"]), node("Relu", ["c0"], ["c"], name="layer"), node("GlobalAveragePool", ["c"], ["g"]),
            node("Flatten", ["g"], ["v"])]
    if images:
        more += [node("ReduceMean", ["v"], ["m"], axes=[0], keepdims=1), node("MatMul", ["m", "f"], ["y"])]
    else:
        more += [node("MatMul", ["v", "f"], ["y"])]
    graph = helper.make_graph(nodes + more, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                              [numpy_helper.from_array(w, "w"), numpy_helper.from_array(f, "f"), numpy_helper.from_array(np.array([-1, abs(channels), H, W]), "images")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    onnx.save(model, f"{here}/{name}.onnx")


def move(*perm, out="t", src="x"):
    return node("Transpose", [src], [out], perm=list(perm))


save("ndhwc", ["n", D, H, W, 2], [move(0, 4, 1, 2, 3)], 2)
save("ndhwc_open", ["n", None, None, None, 1], [move(0, 4, 1, 2, 3)], 1)
save("ndchw", [1, D, 2, H, W], [move(0, 2, 1, 3, 4)], 2)
save("ndchw_images", [1, D, 2, H, W], [node("Reshape", ["x", "images"], ["t"])], -2)
save("ncdhw_images", [1, 2, D, H, W], [move(0, 2, 1, 3, 4, out="s"), node("Reshape", ["s", "images"], ["t"])], -2)
save("nhwc", [1, H, W, 2], [move(0, 3, 1, 2)], -2)
save("dchw", [D, 2, H, W], [node("Identity", ["x"], ["t"])], -2)
save("ndhw", [1, D, H, W], [move(1, 0, 2, 3)], -1)
# Sizes that the file leaves open, but that its scores fix.
for name, dims, nodes, channels in (("open", ["n", 1, None, None, None], [], 1), ("open_last", ["n", None, None, None, 1], [move(0, 4, 1, 2, 3)], 1)):
    w, f = rng.uniform(0.5, 1, size=(1, 1, 1, 1, 1)).astype("f4"), rng.uniform(0.5, 1, size=(D * H * W, 3)).astype("f4")
    more = [node("Conv", ["t" if nodes else "x", "w"], ["c"], name="layer"), node("Flatten", ["c"], ["v"]), node("MatMul", ["v", "f"], ["y"])]
    graph = helper.make_graph(nodes + more, name, [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(w, "w"), numpy_helper.from_array(f, "f")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    onnx.save(model, f"{here}/{name}.onnx")
# No operation tells channels from places.
for name, dims in (("linear", [1, 2, D, H, W]), ("linear_last", [1, D, H, W, 2])):
    f = rng.normal(size=(2 * D * H * W, 3)).astype("f4")
    graph = helper.make_graph([node("Flatten", ["x"], ["v"]), node("MatMul", ["v", "f"], ["y"])], name,
                              [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [numpy_helper.from_array(f, "f")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)])
    model.ir_version = 8
    onnx.save(model, f"{here}/{name}.onnx")
