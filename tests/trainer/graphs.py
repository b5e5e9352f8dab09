"""Float32 graphs as an exporter makes them, built by hand: no torch, and every tensor has a name that tests can ask for."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 18, 10


def save_graph(path: Path, nodes: list, weights: dict, x: list, logits: list) -> Path:
    """A checked graph from `x` to `logits` of these shapes, the types of its inner tensors inferred."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, logits)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def node(op: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    """A node called as its output is."""
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def rows_graph(path: Path, features: int = 4, hidden: tuple[int, ...] = (16, 12), labels: int = 2, seed: int = 0) -> Path:
    """log(|x| + floor) normalised, linear layers with ReLU, less the shift: [batch, feature] to [batch, label]."""
    rng = np.random.default_rng(seed)
    nodes = [
        node("Abs", "x", "abs"), node("Add", "abs floor", "positive"), node("Log", "positive", "log"),
        node("Sub", "log mean", "centred"), node("Div", "centred std", "z0"),
    ]  # fmt: skip
    figures = {"floor": 1e-3, "mean": 0.25, "std": 1.5, "shift": rng.normal(size=labels)}
    weights = {name: np.float32(value) for name, value in figures.items()}
    sizes = (features, *hidden, labels)
    for i, (wide, narrow) in enumerate(pairwise(sizes)):
        weights[f"w{i}"] = (rng.normal(size=(wide, narrow)) / np.sqrt(wide)).astype(np.float32)
        weights[f"b{i}"] = rng.normal(size=narrow).astype(np.float32)
        last = i == len(hidden)
        nodes.append(node("Gemm", f"z{i} w{i} b{i}", "raw" if last else f"layer{i}"))
        if not last:
            nodes.append(node("Relu", f"layer{i}", f"z{i + 1}"))
    nodes.append(node("Sub", "raw shift", "logits"))
    return save_graph(path, nodes, weights, ["batch", features], ["batch", labels])


def windows_graph(path: Path, channels: int = 8, seed: int = 0) -> Path:
    """Three convolutions over [batch, 1, sample], their mean and maximum, a linear layer: [batch, label]."""
    rng = np.random.default_rng(seed)
    weights, nodes, wide = {"std": np.float32(2)}, [node("Div", "x std", "z0")], 1
    for i in range(3):
        weights[f"w{i}"] = (rng.normal(size=(channels, wide, 5)) / np.sqrt(5 * wide)).astype(np.float32)
        weights[f"b{i}"] = rng.normal(size=channels).astype(np.float32)
        nodes.append(node("Conv", f"z{i} w{i} b{i}", f"layer{i}", pads=[2, 2], strides=[2]))
        nodes.append(node("Relu", f"layer{i}", f"z{i + 1}"))
        wide = channels
    weights["last"] = np.array([-1], np.int64)
    weights["w3"] = (rng.normal(size=(2 * channels, 3)) / 4).astype(np.float32)
    nodes += [
        node("ReduceMean", "z3 last", "mean", keepdims=0), node("ReduceMax", "z3 last", "max", keepdims=0),
        node("Concat", "mean max", "features", axis=-1), node("MatMul", "features w3", "logits"),
    ]  # fmt: skip
    return save_graph(path, nodes, weights, ["batch", 1, "sample"], ["batch", 3])


def run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    """The logits in onnxruntime, one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(path, options).run(["logits"], {"x": x})[0]
