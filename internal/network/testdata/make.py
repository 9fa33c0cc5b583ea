"""Makes the model of inspect_test.go (onnx 1.x): python make.py

shuffled.onnx takes its voxels by a list, as windows that are cut out by hand do, so that nothing says where its tokens lie.
"""
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

os.chdir(os.path.dirname(os.path.abspath(__file__)))
rng = np.random.default_rng(0)
weights = {"flat": np.array([1, 64]), "tokens": np.array([1, 8, 8]), "list": rng.permutation(64),
           "w": rng.normal(size=(8, 4)).astype(np.float32), "fc": rng.normal(size=(4, 3)).astype(np.float32)}
nodes = [helper.make_node("Reshape", ["x", "flat"], ["f"]), helper.make_node("Gather", ["f", "list"], ["g"], axis=1),
         helper.make_node("Reshape", ["g", "tokens"], ["t"]), helper.make_node("MatMul", ["t", "w"], ["h"]), helper.make_node("Relu", ["h"], ["act"]),
         helper.make_node("ReduceMean", ["act"], ["p"], axes=[1], keepdims=0), helper.make_node("MatMul", ["p", "fc"], ["scores"])]
graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4, 4])],
                          [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3])],
                          [numpy_helper.from_array(w, name) for name, w in weights.items()])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
model.ir_version = 8
onnx.save(model, "shuffled.onnx")
