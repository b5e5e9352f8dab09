"""Which layers of a graph make its work: to round the others would cost detection and gain nothing."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from cutpoint.trainer.export.precision import LAYERS
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from ..errors import BadBundle

SHARE = 0.05  # of the multiplications of all layers


def costly_layers(model: Path, x: NDArray[np.float32], share: float = SHARE) -> list[str]:
    """Names of the layers with weights that do at least a share of all layers' multiplications, in order.

    They are counted, not timed: the same graph gives the same answer on any machine, however busy.

    Args:
        model: a graph of one input, every node named.
        x: what it is run on, [row, ...].
        share: of the multiplications, 0 to 1.

    Raises:
        BadBundle: the graph cannot be run.
    """
    graph = onnx.load(model)
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    layers = [node for node in graph.graph.node if node.op_type in LAYERS and node.input[1] in weights]
    sizes = _output_sizes(graph, [node.output[0] for node in layers], x)
    counts = [sizes[node.output[0]] * _products(node, weights[node.input[1]]) for node in layers]
    return [node.name for node, count in zip(layers, counts, strict=True) if count >= share * sum(counts)]


def _products(layer: NodeProto, weights: tuple[int, ...]) -> int:
    """Multiplications that one number of a layer's output takes."""
    if layer.op_type in ("Conv", "ConvTranspose"):  # [filter, channel, ...]; transposed, [channel, filter, ...]
        return math.prod(weights[1:]) if layer.op_type == "Conv" else weights[0] * math.prod(weights[2:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in layer.attribute)
    return weights[-1] if transposed else weights[-2] if len(weights) > 1 else weights[0]


def _output_sizes(graph: onnx.ModelProto, names: list[str], x: NDArray[np.float32]) -> dict[str, int]:
    """How many numbers these tensors hold when the graph is run on `x`."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    given = {output.name for output in model.graph.output}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in given
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(names, {session.get_inputs()[0].name: x}) if names else []
    except Exception as error:  # onnxruntime raises a dozen classes without a common parent
        raise BadBundle(f"the graph cannot be run: {' '.join(str(error).split())[:300]}") from error
    return {name: array.size for name, array in zip(names, found, strict=True)}
