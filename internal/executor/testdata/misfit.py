"""Makes the models of misfit_test.go (onnx 1.x): python misfit.py

auxiliary.onnx has a second output that the class scores do not go through. one_size.onnx declares open sizes, and a matrix that fits
volumes of 3x4x3 voxels only.
"""
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

os.chdir(os.path.dirname(os.path.abspath(__file__)))
rng = np.random.default_rng(0)
weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in
           {"w": (4, 1, 3, 3, 3), "aux.w": (3, 4, 1, 1, 1), "fc.w": (4 * 1 * 2 * 1, 3)}.items()}


def save(path, dims, nodes, outputs):
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(w, name) for name, w in weights.items() if name in used])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)


conv = helper.make_node("Conv", ["x", "w"], ["a"], name="/body/conv/Conv")
save("auxiliary.onnx", [1, 1, 5, 6, 7],
     [conv, helper.make_node("Conv", ["a", "aux.w"], ["b"], name="/aux/conv/Conv"),
      helper.make_node("Sigmoid", ["b"], ["mask"], name="/aux/act/Sigmoid"),
      helper.make_node("GlobalAveragePool", ["a"], ["p"]), helper.make_node("Flatten", ["p"], ["scores"])], ["scores", "mask"])
save("one_size.onnx", [1, 1, "d", "h", "w"],
     [conv, helper.make_node("Flatten", ["a"], ["f"]), helper.make_node("MatMul", ["f", "fc.w"], ["scores"], name="/fc/MatMul")], ["scores"])
