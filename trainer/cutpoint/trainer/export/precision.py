"""A float32 graph in a lower precision: which layers may have it, and float16 and bfloat16 of them.

What stays float32, in every precision: everything before the first layer with weights (normalisation, logarithm, a spectrum:
raw inputs span decades) and from the last one on (the logits, and the prior that is undone: log-odds are differences that
rounding would move, and a cut needs more than the few values that a rounded logit can take). Between them, whatever is no plain
sum of products or choice among values. Input and logits are float32, so that nothing outside the graph sees its precision.
"""

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import onnx
import torch
from cutpoint.bundle import Precision
from cutpoint.errors import BadBundle
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from .quantize import quantize_graph

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Defined for float16 and harmless in it; all others stay float32.
_HALF_TOO = LAYERS | {
    "Add", "AveragePool", "Clip", "Concat", "Dropout", "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu",
    "MaxPool", "Mul", "Pad", "ReduceMax", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Slice", "Squeeze", "Sub", "Tanh",
    "Transpose", "Unsqueeze",
}  # fmt: skip


def lower_precision(
    source: Path,
    target: Path,
    precision: Precision,
    rows: Iterable[NDArray[np.float32]] = (),
    *,
    only: Collection[str] | None = None,
    weight_bits: int = 7,
) -> None:
    """Write `source`, a float32 graph, to `target` in another precision; batch and window axes stay free.

    fp16: weights and arithmetic of the layers but the last, and of what lies between them; a provider without float16 kernels
        (onnxruntime's on x86) computes in float32 on the rounded weights.
    bf16: weights alone, each cast to float32 where it is used, since onnxruntime's CPU provider has no bfloat16 arithmetic:
        half the file, the same speed.
    int8: static, per channel, calibrated on `rows`; see `quantize_graph`.

    Args:
        source: a single-file graph.
        target: the file to write.
        precision: any but "fp32".
        rows: batches of training rows, for int8.
        only: for int8, names of the layers that are worth it; None for all.
        weight_bits: for int8, 7 or 8; see `quantize_graph`.

    Raises:
        BadBundle: the graph has no layer but its last, or a weight is too large for float16.
    """
    model = onnx.load(source)
    _name_nodes(model.graph)
    inner = inner_nodes(model.graph)
    weighted = [node for node in inner if node.op_type in LAYERS]
    if not weighted:
        raise BadBundle.of(f"precision {precision}", "no layer with weights but the last", "a model with more, or fp32 alone")
    if precision == "int8":
        quantize_graph(model, weighted, [node for node in inner if node.op_type == "Relu"], target, rows, only, weight_bits)
        return
    if precision == "fp16":
        _to_float16(model, {node.name for node in inner if node.op_type in _HALF_TOO})
    else:
        _store_bfloat16(model.graph, {node.name for node in weighted})
    onnx.checker.check_model(model)
    onnx.save(model, target)


def inner_nodes(graph: GraphProto) -> list[NodeProto]:
    """The nodes from the first layers with weights on that another such layer comes after: all but the last ones.

    What a logarithm is taken of is no layer, but a front-end (a spectrum by convolutions, a filter bank), if layers follow.
    """
    begun: set[str] = set()
    since = []
    for node in graph.node:
        if node.op_type in LAYERS or not begun.isdisjoint(node.input):
            begun.update(node.output)
            since.append(node)
    before = _feeding(graph, {node.name for node in graph.node if node.op_type in LAYERS})
    logs = {node.name for node in graph.node if node.op_type == "Log"} & before
    return [node for node in since if node.name in before - logs - _feeding(graph, logs)]


def _feeding(graph: GraphProto, names: set[str]) -> set[str]:
    """Names of the nodes whose output goes, through others or at once, into one of these nodes."""
    wanted: set[str] = set()
    found: set[str] = set()
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            found.add(node.name)
        if node.name in names or node.name in found:
            wanted.update(name for name in node.input if name)
    return found


def _to_float16(model: ModelProto, chosen: set[str]) -> None:
    graph, floats = model.graph, _float_tensors(model)
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves: dict[str, str] = {}  # a float32 tensor: the float16 one of the same values
    singles = set(floats)  # float32 tensors that exist so far
    nodes: list[NodeProto] = []

    def cast(name: str, half: bool) -> None:
        ends, to = ([name], [halves[name]]), TensorProto.FLOAT16
        if not half:
            ends, to = ([halves[name]], [name]), TensorProto.FLOAT
        nodes.append(helper.make_node("Cast", *ends, name=f"{ends[1][0]}_cast", to=to))

    for node in graph.node:
        if node.name in chosen:
            for i, name in enumerate(node.input):
                if name not in floats:
                    continue
                if name not in halves:
                    halves[name] = f"{name}_fp16"
                    if name in weights:
                        graph.initializer.append(_float16(weights[name], halves[name]))
                    else:
                        cast(name, half=True)
                node.input[i] = halves[name]
            for i, name in enumerate(node.output):
                if name in floats:
                    halves[name] = node.output[i] = f"{name}_fp16"
                    singles.discard(name)
        else:
            for name in _used_by(node):
                if name in floats and name not in singles:
                    cast(name, half=False)
                    singles.add(name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)


def _store_bfloat16(graph: GraphProto, chosen: set[str]) -> None:
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    casts: dict[str, NodeProto] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if node.name not in chosen or name not in weights or len(weights[name].dims) < 2:
                continue  # biases are few
            if name not in casts:
                values = torch.from_numpy(numpy_helper.to_array(weights[name]).copy()).to(torch.bfloat16)
                raw = values.view(torch.int16).numpy().tobytes()
                graph.initializer.append(helper.make_tensor(f"{name}_bf16", TensorProto.BFLOAT16, values.shape, raw, raw=True))
                casts[name] = helper.make_node(
                    "Cast", [f"{name}_bf16"], [f"{name}_of_bf16"], name=f"{name}_cast", to=TensorProto.FLOAT
                )
            node.input[i] = casts[name].output[0]
    nodes = [*casts.values(), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)


def _float16(tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise BadBundle.of(f"weight {tensor.name}", f"up to {largest:.3g}", "at most 65504 for precision fp16; bf16 takes any")
    with np.errstate(under="ignore"):
        return numpy_helper.from_array(values.astype(np.float16), name)


def _float_tensors(model: ModelProto) -> set[str]:
    """Names of the float32 tensors of a graph, by shape inference."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name for value in known if value.type.tensor_type.elem_type == TensorProto.FLOAT} | {
        tensor.name for tensor in inferred.initializer if tensor.data_type == TensorProto.FLOAT
    }


def _used_by(node: NodeProto) -> list[str]:
    """What a node reads, in graphs inside it too."""
    graphs = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return [*node.input, *(name for graph in graphs for inside in graph.node for name in _used_by(inside))]


def _name_nodes(graph: GraphProto) -> None:
    for i, node in enumerate(graph.node):
        node.name = node.name or f"node {i}"


def _drop_unused(graph: GraphProto) -> None:
    """Drop weights that nothing reads any more, and the noted types of tensors inside."""
    used = {name for node in graph.node for name in _used_by(node)} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
