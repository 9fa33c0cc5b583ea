"""Makes the model of heads_test.go (onnx 1.x): python make.py

outputs.onnx has outputs of many kinds behind one small network; a test chooses one by its name. inputs.onnx has two inputs, and clipped.onnx one
output that cannot be understood. images.onnx takes images with the channels last, and gives classes of their pixels in that order.
"""
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

os.chdir(os.path.dirname(os.path.abspath(__file__)))
rng = np.random.default_rng(0)
weights = {"w": rng.normal(size=(3, 1, 3, 3, 3)) / 3, "fc": 3 * rng.normal(size=(3, 3)), "fc1": rng.normal(size=(3, 1)), "head": rng.normal(size=(3, 3, 1, 1, 1)),
           "head1": rng.normal(size=(1, 3, 1, 1, 1)), "thirds": np.full([1, 3], 1 / 3), "deep": rng.normal(size=(6, 3, 3, 3, 3)) / 9,
           "fc2": rng.normal(size=(6, 3)), "hundred": np.array(100.0), "one": np.array(1.0), "low": np.array(0.001), "high": np.array(0.999)}
constants = [numpy_helper.from_array(np.asarray(w, np.float32), name) for name, w in weights.items()]
constants += [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in {"from": [1], "to": [2], "axis": [1]}.items()]
node = helper.make_node
nodes = [
    node("Identity", ["thirds"], ["always"]), node("Conv", ["x", "w"], ["conv"], pads=[1] * 6), node("Tanh", ["conv"], ["act"]), node("ReduceMean", ["act"], ["mean"], axes=[2, 3, 4], keepdims=0),
    node("MatMul", ["mean", "fc"], ["values"]), node("Softmax", ["values"], ["chances"], axis=1), node("Identity", ["chances"], ["softmax"]),
    node("Log", ["chances"], ["log"]), node("Mul", ["chances", "hundred"], ["percent"]), node("Slice", ["chances", "from", "to", "axis"], ["slice"]),
    node("Softmax", ["values"], ["wrong_axis"], axis=0), node("HardSigmoid", ["values"], ["hard"]),
    node("ArgMax", ["values"], ["argmax"], axis=1, keepdims=0), node("Floor", ["values"], ["floor"]),
    
    node("Conv", ["act", "deep"], ["conv2"], pads=[1] * 6, strides=[2, 2, 2]), node("Relu", ["conv2"], ["act2"]),
    node("ReduceMean", ["act2"], ["mean2"], axes=[2, 3, 4], keepdims=0), node("MatMul", ["mean2", "fc2"], ["values2"]),
    node("ArgMax", ["values2"], ["argmax2"], axis=1, keepdims=0), node("Cast", ["argmax2"], ["place"], to=TensorProto.FLOAT),
    node("MatMul", ["mean", "fc1"], ["one_value"]), node("Sigmoid", ["one_value"], ["sigmoid"]), node("Clip", ["sigmoid", "low", "high"], ["clipped"]),
    node("Sub", ["one", "sigmoid"], ["complement"]), node("Concat", ["complement", "sigmoid"], ["both"], axis=1),
    node("Conv", ["act", "head"], ["voxels"]), node("Softmax", ["voxels"], ["voxels_across"], axis=2), node("Log", ["voxels"], ["voxels_nan"]),
    node("Conv", ["act", "head1"], ["voxel"]), node("Sigmoid", ["voxel"], ["voxel_sigmoid"]), node("Clip", ["voxel_sigmoid", "low", "high"], ["voxel_clipped"]),
]
sizes = {"always": [1, 3], "values": [1, 3], "softmax": [1, 3], "log": [1, 3], "percent": [1, 3], "slice": [1, 1], "wrong_axis": [1, 3], "hard": [1, 3], "argmax": [1],
         "floor": [1, 3], "place": [1], "one_value": [1, 1], "sigmoid": [1, 1], "clipped": [1, 1], "complement": [1, 1], "both": [1, 2], "voxels": [1, 3, 4, 4, 4],
         "voxels_across": [1, 3, 4, 4, 4], "voxels_nan": [1, 3, 4, 4, 4], "voxel": [1, 1, 4, 4, 4], "voxel_sigmoid": [1, 1, 4, 4, 4], "voxel_clipped": [1, 1, 4, 4, 4]}
order = ["always", "argmax"] + [name for name in sizes if name not in ("always", "argmax")]
outputs = [helper.make_tensor_value_info(name, TensorProto.INT64 if name == "argmax" else TensorProto.FLOAT, sizes[name]) for name in order]
graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4, 4])], outputs, constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
model.ir_version = 8
onnx.checker.check_model(model)
onnx.save(model, "outputs.onnx")

nodes = [node("Conv", [x, "w"], [x + "_conv"], pads=[1] * 6) for x in ("ct", "mr")]
nodes += [node("Tanh", [x + "_conv"], [x + "_act"]) for x in ("ct", "mr")]
nodes += [node("Mul", ["ct_act", "mr_act"], ["product"]), node("ReduceMean", ["product"], ["mean"], axes=[2, 3, 4], keepdims=0), node("MatMul", ["mean", "fc"], ["values"])]
inputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, 1, 4, 4, 4]) for x in ("ct", "mr")]
used = [c for c in constants if c.name in ("w", "fc")]
graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("values", TensorProto.FLOAT, [1, 3])], used)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
model.ir_version = 8
onnx.checker.check_model(model)
onnx.save(model, "inputs.onnx")

nodes = [node("Conv", ["x", "w"], ["conv"], pads=[1] * 6), node("Tanh", ["conv"], ["act"]), node("Conv", ["act", "head1"], ["voxel"]),
         node("Sigmoid", ["voxel"], ["sigmoid"]), node("Clip", ["sigmoid", "low", "high"], ["clipped"])]
used = [c for c in constants if c.name in ("w", "head1", "low", "high")]
graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4, 4])],
                          [helper.make_tensor_value_info("clipped", TensorProto.FLOAT, [1, 1, 4, 4, 4])], used)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
model.ir_version = 8
onnx.checker.check_model(model)
onnx.save(model, "clipped.onnx")

images = [numpy_helper.from_array((rng.normal(size=s) / 3).astype(np.float32), name) for name, s in {"w": (4, 2, 3, 3), "head": (3, 4, 1, 1)}.items()]
nodes = [node("Transpose", ["x"], ["first"], perm=[0, 3, 1, 2]), node("Conv", ["first", "w"], ["conv"], pads=[1] * 4), node("Tanh", ["conv"], ["act"]),
         node("Conv", ["act", "head"], ["values"]), node("Transpose", ["values"], ["pixels"], perm=[0, 2, 3, 1])]
graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, 4, 2])],
                          [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 5, 4, 3])], images)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
model.ir_version = 8
onnx.checker.check_model(model)
onnx.save(model, "images.onnx")
