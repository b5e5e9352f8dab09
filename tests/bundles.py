"""Small bundles that need neither torch nor training: onnx graphs whose answers can be worked out by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cutpoint.bundle import Input, LabelPrior, Loss, Manifest, Parity, Provenance, Windows, sha256_of, write_bundle
from cutpoint.calibration import Counts, LabelPolicy, Policy, expected_at
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 20, 10


def linear_onnx(path: Path, weights: np.ndarray, shape: list[int | str], output: str = "logits") -> Path:
    """`logits = x @ weights` for x of `shape`, whose last axis is the feature."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], [output])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [*shape[:-1], weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def simple_onnx(path: Path) -> Path:
    """Triton's `simple`: INPUT0, INPUT1 int32 [N,16] to OUTPUT0 their sum and OUTPUT1 their difference."""
    shape = ["N", 16]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        "simple",
        [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name in ("INPUT0", "INPUT1")],
        [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name in ("OUTPUT0", "OUTPUT1")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)
    return path


def manifest(name: str, labels: tuple[str, ...], shape: tuple[int, ...], version: int = 1) -> Manifest:
    """A manifest for a graph of `shape` (batch first, -1 for any)."""
    return Manifest(
        name=name,
        version=version,
        task="windows" if len(shape) == 3 else "binary" if len(labels) == 1 else "multilabel",
        labels=labels,
        input=Input(shape=shape),
        windows=Windows(count=None, samples=shape[-1]) if len(shape) == 3 else None,
        loss=Loss(name="weighted_bce"),
        priors=tuple(LabelPrior(rate=0.1, sampled_rate=0.1, pos_weight=1, shift=0) for _ in labels),
        parity=Parity(max_abs_difference=0, tolerance=1e-4, batch_sizes=(1,), rows=1),
        provenance=Provenance(
            created="2026-01-01T00:00:00+00:00",
            data_digest="0",
            config_digest="0",
            seed=0,
            versions={},
            opset=OPSET,
            ir_version=IR,
        ),
        digests={},
    )


def linear_bundle(
    models: Path,
    name: str = "linear",
    labels: tuple[str, ...] = ("a", "b"),
    features: int = 4,
    windows: bool = False,
    version: int = 1,
) -> Path:
    """A bundle with a manifest whose logit of label i is feature i (feature 0 where there are fewer features)."""
    weights = np.zeros((features, len(labels)), np.float32)
    weights[np.arange(len(labels)) % features, np.arange(len(labels))] = 1
    shape: list[int | str] = ["batch", "window", features] if windows else ["batch", features]
    scratch = linear_onnx(models.parent / f"scratch-{name}-{version}.onnx", weights, shape)
    sizes = (-1, -1, features) if windows else (-1, features)
    return write_bundle(models, manifest(name, labels, sizes, version), scratch)


def policy(path: Path, thresholds: Mapping[str, float | None], **fields: Any) -> Policy:
    """A policy for the bundle at `path` with these thresholds by label; every decided label expects 10 % alerts of 100 rows."""
    digest = sha256_of(path / "model.onnx")
    counts = Counts(positives=10, negatives=90, tp=5, fp=5)
    labels = tuple(
        LabelPolicy(
            label=label,
            objective="max_fbeta=1",
            status="INSUFFICIENT" if threshold is None else "OK",
            threshold=None if threshold is None else float(np.float32(threshold)),
            reason="too few" if threshold is None else "",
            counts=counts,
            expected=None if threshold is None else expected_at(counts),
        )
        for label, threshold in thresholds.items()
    )
    given: dict[str, Any] = {
        "model": path.parent.name,
        "model_version": int(path.name),
        "model_digest": digest,
        "created": "2026-01-01T00:00:00+00:00",
        "author": "test",
        "data_digest": "0",
        "labels": labels,
    }
    return Policy(**{**given, **fields})


def slow_onnx(path: Path, trips: int) -> Path:
    """`logits = x` for x float32 [batch, 2], after a loop that changes nothing: takes time, not memory.

    The loop has `trips` rounds for each 1 in the largest number of x: how long a run takes is for the caller to say, so that a
    deadline is missed on any machine and the model is loaded soon all the same.
    """
    value, condition = TensorProto.FLOAT, TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", condition, []),
            helper.make_tensor_value_info("v", value, ["batch", 2]),
        ],
        [helper.make_tensor_value_info("go_on", condition, []), helper.make_tensor_value_info("w", value, ["batch", 2])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Mul", ["largest", "pairs"], ["wanted"]),
            helper.make_node("Cast", ["wanted"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "two"], ["trips"]),  # an even number: each round turns the sign
            helper.make_node("Loop", ["trips", "yes", "x"], ["logits"], body=body),
        ],
        "slow",
        [helper.make_tensor_value_info("x", value, ["batch", 2])],
        [helper.make_tensor_value_info("logits", value, ["batch", 2])],
        [
            numpy_helper.from_array(np.array(trips // 2, np.float32), "pairs"),
            numpy_helper.from_array(np.array(2), "two"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    return _saved(path, graph)


def text_onnx(path: Path) -> Path:
    """`o = s` for text [N]."""
    shape = [("s", ["N"]), ("o", ["N"])]
    (s,), (o,) = ([helper.make_tensor_value_info(name, TensorProto.STRING, sizes)] for name, sizes in shape)
    return _saved(path, helper.make_graph([helper.make_node("Identity", ["s"], ["o"])], "text", [s], [o]))


def nan_onnx(path: Path) -> Path:
    """`logits = log(x)` for x float32 [batch, 1]: NaN for a negative number, -inf for 0."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1])
    return _saved(path, helper.make_graph([helper.make_node("Log", ["x"], ["logits"])], "nan", [x], [logits]))


def mean_onnx(path: Path) -> Path:
    """`logits = mean of all rows`, [1, 2] whatever the batch, though the graph says [rows, 2]: a graph that is no row map."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 2])
    axes = numpy_helper.from_array(np.array([0]), "axes")
    return _saved(
        path, helper.make_graph([helper.make_node("ReduceMean", ["x", "axes"], ["logits"])], "mean", [x], [logits], [axes])
    )


def _saved(path: Path, graph: onnx.GraphProto) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)
    return path
