"""Small bundles that need neither torch nor training: onnx graphs whose answers can be worked out by hand."""

from pathlib import Path

import numpy as np
import onnx
from cutpoint.bundle import Input, LabelPrior, Loss, Manifest, Parity, Provenance, Windows, write_bundle
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
