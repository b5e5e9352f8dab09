"""A graph from elsewhere, and what it says about itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import TensorProto

from ..bundle import Precision
from ..errors import BadBundle, BadConfig

Scores = Literal["logits", "probabilities"]

OLDEST_OPSET = 8  # of the default domain: since then Max broadcasts
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
_MOVES = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"}  # values stay what they were
_LINEAR = {"Gemm", "MatMul", "Add", "LogSoftmax", "Conv"}
_QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger"}


@dataclass(frozen=True)
class Output:
    """An output that may hold scores.

    Attributes:
        name: in the graph.
        tensor: of the tensor of scores: the output itself, or what a ZipMap makes maps of.
        classes: keys of the maps, in the order of the tensor's last axis; empty where the output is a tensor.
        scores: what it holds, as far as the graph says; None where it does not.
    """

    name: str
    tensor: str
    classes: tuple[Any, ...]
    scores: Scores | None


@dataclass(frozen=True)
class Source:
    """A graph with one input of floats.

    Attributes:
        path: the file.
        model: the whole of it, external data included.
        input: name of the input.
        element: TensorProto type of the input: float32, float64 or float16.
        shape: of the input, the batch first; -1 where the graph takes any size or does not say.
        outputs: those that may hold scores, in the graph's order.
        classes: names of the classes, where they are text and the graph has kept them; empty otherwise.
        precision: of weights and arithmetic.
    """

    path: Path
    model: onnx.ModelProto
    input: str
    element: int
    shape: tuple[int, ...]
    outputs: tuple[Output, ...]
    classes: tuple[str, ...]
    precision: Precision

    def choose(self, name: str | None) -> Output:
        """The output of this name, the only one when None; BadConfig where that is none or several."""
        names = [output.name for output in self.outputs]
        if name is None and len(names) == 1:
            return self.outputs[0]
        if name not in names:
            raise BadConfig.of("--output", name or "missing", f"one of {names}, the outputs of {self.path} that may be scores")
        return self.outputs[names.index(name)]


def read_source(path: Path) -> Source:
    """Read an ONNX file.

    Raises:
        BadBundle: no ONNX file, weights in files that are missing or outside its folder, an opset before `OLDEST_OPSET`, not
            exactly one input, an input that is not of floats or whose batch is of one size, no output of floats.
    """
    try:
        model = onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's and onnx's own; of external data that is missing or lies elsewhere too
        raise BadBundle(f"{path} cannot be read as ONNX: {' '.join(str(error).split())[:300]}") from error
    graph = model.graph
    if not graph.node or not graph.output:
        raise BadBundle.of(str(path), "without nodes or outputs", "an ONNX model")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is not None and opset < OLDEST_OPSET:
        raise BadBundle.of(f"{path}: opset", opset, f"{OLDEST_OPSET} or newer; convert it again with a newer target opset")
    constants = {tensor.name for tensor in graph.initializer}  # before IR 4 these are listed as inputs as well
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise BadBundle.of(
            f"{path}: inputs", [value.name for value in inputs] or "none",
            "one tensor of all features; for a data frame's columns convert with one FloatTensorType([None, n])",
        )  # fmt: skip
    tensor = inputs[0].type.tensor_type
    if inputs[0].type.WhichOneof("value") != "tensor_type" or tensor.elem_type not in _FLOATS:
        raise BadBundle.of(f"{path}: type of input '{inputs[0].name}'", _type_name(inputs[0]), "float32, float64 or float16")
    shape = tuple(size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else -1 for size in tensor.shape.dim)
    if len(shape) < 2:
        raise BadBundle.of(f"{path}: shape of input '{inputs[0].name}'", list(shape), "[batch, ...], the batch first")
    if shape[0] != -1:
        raise BadBundle.of(
            f"{path}: batch of input '{inputs[0].name}'", shape[0], "any size; export it with a dynamic first axis"
        )
    outputs = tuple(output for value in graph.output if (output := _output(graph, value)) is not None)
    if not outputs:
        found = [f"{value.name} ({_type_name(value)})" for value in graph.output]
        raise BadBundle.of(f"{path}: outputs", found, "one of floats: logits or probabilities")
    return Source(path, model, inputs[0].name, tensor.elem_type, shape, outputs, _class_names(graph), _precision(graph))


def _output(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> Output | None:
    maker = _maker(graph, value.name)
    if maker is not None and maker.op_type == "ZipMap":
        classes = next(
            (a.ints or [s.decode() for s in a.strings] for a in maker.attribute if a.name.startswith("classlabels")), []
        )
        return Output(value.name, maker.input[0], tuple(classes), "probabilities")
    if value.type.WhichOneof("value") != "tensor_type" or value.type.tensor_type.elem_type not in _FLOATS:
        return None
    return Output(value.name, value.name, (), _scores_of(graph, value.name))


def _scores_of(graph: onnx.GraphProto, name: str) -> Scores | None:
    """What a tensor holds, by its name, or by the operator that it comes from."""
    if "prob" in name.lower():
        return "probabilities"
    if "logit" in name.lower():
        return "logits"
    maker = _maker(graph, name)
    while maker is not None and maker.op_type in _MOVES:
        maker = _maker(graph, maker.input[0])
    if maker is None:
        return None
    return "probabilities" if maker.op_type in ("Sigmoid", "Softmax") else "logits" if maker.op_type in _LINEAR else None


def _maker(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    return next((node for node in graph.node if name in node.output), None)


def _class_names(graph: onnx.GraphProto) -> tuple[str, ...]:
    """The classes that an output of text, the predicted class, is one of."""
    if not any(_is_text(value) for value in graph.output):
        return ()
    kept = ("classlabels_strings", "classlabels_string")
    named = [a.strings for node in graph.node for a in node.attribute if a.name in kept and a.strings]
    named += [t.string_data for t in graph.initializer if t.data_type == TensorProto.STRING and len(t.dims) == 1]
    return tuple(name.decode() for name in next(iter(named), []))


def _is_text(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    if kind == "sequence_type":
        return value.type.sequence_type.elem_type.map_type.key_type == TensorProto.STRING
    return kind == "tensor_type" and value.type.tensor_type.elem_type == TensorProto.STRING


def _precision(graph: onnx.GraphProto) -> Precision:
    if any(node.op_type in _QUANTIZED for node in graph.node):
        return "int8"
    types = {tensor.data_type for tensor in graph.initializer} | {value.type.tensor_type.elem_type for value in graph.input}
    return "fp16" if TensorProto.FLOAT16 in types else "bf16" if TensorProto.BFLOAT16 in types else "fp32"


def _type_name(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value") or "unknown"
    return TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower() if kind == "tensor_type" else kind
