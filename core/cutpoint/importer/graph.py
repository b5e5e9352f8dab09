"""The graph rewritten: float32 `x` in, float32 `logits` out, everything between as it was."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .source import Output, Scores, Source

Columns = Literal["label", "none", "classes"]

TINY = np.finfo(np.float32).tiny  # what a probability is raised to: log-odds end at +-87.3
_PREFIX = "imported/"
_OPSET = 18  # where a graph uses no operator of the default domain, as XGBoost's


@dataclass(frozen=True)
class Form:
    """How scores are to be read.

    Attributes:
        scores: "logits", or "probabilities", whose log-odds are taken, each probability no less than `TINY`.
        columns: "label" for [..., label], "none" for [...] of the one label, "classes" for [..., 2]: of two classes.
        positive: which of two classes is the label.
    """

    scores: Scores
    columns: Columns
    positive: int = 1


def log_odds(found: NDArray[Any], form: Form) -> NDArray[np.float64]:
    """What the rewritten graph computes from the original's scores, in float64: [..., label]."""
    found = found.astype(np.float32)
    if form.columns == "none":
        found = found[..., None]
    if form.columns == "classes":
        positive, negative = (found[..., i : i + 1].astype(np.float64) for i in (form.positive, 1 - form.positive))
    elif form.scores == "logits":
        return found.astype(np.float64)
    else:
        positive, negative = found.astype(np.float64), (np.float32(1) - found).astype(np.float64)
    if form.scores == "logits":
        return np.asarray(positive - negative)
    return np.asarray(np.log(np.maximum(positive, TINY)) - np.log(np.maximum(negative, TINY)))


def rewrite(source: Source, output: Output, form: Form, shape: tuple[int, ...], logits: tuple[int, ...]) -> onnx.ModelProto:
    """The model with input `x` and output `logits`; other outputs go, all weights stay.

    The operators added are the same in every opset since `OLDEST_OPSET`: graphs of converters have old ones.

    Args:
        source: the graph.
        output: of it, that holds the scores.
        form: of the scores.
        shape: of `x`, -1 for any size.
        logits: shape of `logits`, likewise.
    """
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    kept = [node for node in model.graph.node if node.op_type != "ZipMap"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    # Nothing of the graph is then called as what is added.
    model = onnx.compose.add_prefix(model, _PREFIX)
    graph, name = model.graph, _PREFIX + output.tensor
    head = helper.make_node("Cast", ["x"], [_PREFIX + source.input], name="x", to=source.element)
    nodes = [head, *graph.node, *_tail(name, form, len(logits))]
    del graph.node[:]
    graph.node.extend(nodes)
    constants = [value for value in graph.input if value.name != _PREFIX + source.input]
    del graph.input[:], graph.output[:]
    graph.input.extend([helper.make_tensor_value_info("x", TensorProto.FLOAT, _axes(shape)), *constants])
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, _axes(logits)))
    # skl2onnx states a domain twice; where the default one is missing, what is added needs it.
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in reversed(model.opset_import)}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(*entry) for entry in {"": _OPSET, **opsets}.items())
    onnx.checker.check_model(model)
    return model


def _tail(name: str, form: Form, rank: int) -> list[onnx.NodeProto]:
    """From the scores `name` to `logits` of `rank` axes."""
    nodes = []

    def add(operator: str, *inputs: str, out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [out], name=out, **attributes))
        return out

    def constant(out: str, value: NDArray[Any]) -> str:
        return add("Constant", out=out, value=numpy_helper.from_array(value, out))

    found = add("Cast", name, out="scores_float32", to=TensorProto.FLOAT)
    if form.columns == "none":
        kept = constant("scores_shape", np.array([0] * (rank - 1) + [1], np.int64))  # 0 keeps a size
        found = add("Reshape", found, kept, out="scores_column")
    if form.columns == "classes":
        pair = [
            add("Gather", found, constant(f"{which}_index", np.array([i], np.int64)), out=which, axis=rank - 1)
            for which, i in (("negative", 1 - form.positive), ("positive", form.positive))
        ]
    elif form.scores == "logits":
        add("Identity", found, out="logits")
        return nodes
    else:
        pair = [add("Sub", constant("one", np.array(1, np.float32)), found, out="negative"), found]
    if form.scores == "probabilities":
        tiny = constant("tiny", np.array(TINY))
        pair = [
            add("Log", add("Max", each, tiny, out=f"{which}_raised"), out=f"{which}_log")
            for each, which in zip(pair, ("negative", "positive"), strict=True)
        ]
    add("Sub", pair[1], pair[0], out="logits")
    return nodes


def _axes(shape: tuple[int, ...]) -> list[int | str]:
    names = {0: "batch", 1: "window" if len(shape) > 2 else "feature"}
    return [size if size > 0 else names.get(i, f"axis_{i}") for i, size in enumerate(shape)]
