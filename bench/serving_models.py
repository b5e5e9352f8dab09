"""The models of the serving benches as bundles: `conv140(models)`, `wide140(models)`, `tiny140(models)`, `mlp512(models)`.

conv140 is what the server is for: sequences of 140 windows of 1000 samples, a strided 1-D CNN and context across windows, some
7 ms on one core; wide140 is the same with four times the channels, some fifteen times the work. tiny140 takes the same request
and computes next to nothing: what remains is transport. mlp512 is the other end: 256 bytes in, 512 labels out, some 10 us.
Weights are random with a seed; each bundle has a manifest and a policy.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from cutpoint.bundle import Input, LabelPrior, Loss, Manifest, Parity, Provenance, Windows, write_bundle, write_policy
from cutpoint.bundle.files import sha256_of
from cutpoint.calibration import Plan, Policy, Scores, fit_labels
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

WINDOWS, SAMPLES = 140, 1000
FEATURES, HIDDEN, WIDE, LABELS = 64, 256, 4096, 512
MOVING = 4
SHAPES: dict[str, tuple[int, ...]] = {
    "conv140": (WINDOWS, SAMPLES), "wide140": (WINDOWS, SAMPLES), "tiny140": (WINDOWS, SAMPLES), "mlp512": (FEATURES,),
    "wide512": (FEATURES,),
    "moving": (MOVING,),
}  # fmt: skip
CREATED = "2026-01-01T00:00:00+00:00"
OPSET, IR = 20, 10
# Channels in, channels out, kernel, stride of the layers over the samples of a window.
CONVOLUTIONS = ((1, 16, 7, 4), (16, 32, 5, 2), (32, 64, 5, 2), (64, 64, 3, 2))
CONTEXT = 5  # windows that a window's logit depends on


def rows(model: str, count: int, seed: int = 0) -> NDArray[np.float32]:
    """`count` rows for `model`, [count, ...] float32, the same ones for a seed."""
    return np.random.default_rng((seed, len(model))).normal(size=(count, *SHAPES[model])).astype(np.float32)


def conv140(models: Path, version: int = 1) -> Path:
    """The bundle of conv140: x [batch, 140, 1000] to logits [batch, 140, 1]."""
    return _convolutional(models, "conv140", version, 1)


def wide140(models: Path, version: int = 1) -> Path:
    """The bundle of wide140: conv140 with four times the channels, as large as a model must be for a GPU to matter."""
    return _convolutional(models, "wide140", version, 4)


def _convolutional(models: Path, name: str, version: int, width: int) -> Path:
    rng = np.random.default_rng(140)
    layers = [(1 if not i else width * a, width * b, kernel, stride) for i, (a, b, kernel, stride) in enumerate(CONVOLUTIONS)]
    last = layers[-1][1]
    weights: list[onnx.TensorProto] = [
        _integers("to_windows", [-1, 1, SAMPLES]), _integers("to_sequences", [-1, WINDOWS, last]),
    ]  # fmt: skip
    nodes = [helper.make_node("Reshape", ["x", "to_windows"], ["h0"])]
    for i, (channels, filters, kernel, stride) in enumerate(layers):
        weights += _filters(rng, f"c{i}", filters, channels, kernel)
        pads = [kernel // 2, kernel // 2]
        nodes.append(
            helper.make_node("Conv", [f"h{i}", f"c{i}", f"c{i}_bias"], [f"z{i}"], f"conv{i}", strides=[stride], pads=pads)
        )
        nodes.append(helper.make_node("Relu", [f"z{i}"], [f"h{i + 1}"], f"relu{i}"))
    weights += _filters(rng, "context", last, last, CONTEXT)
    weights += _filters(rng, "head", 1, last, 1)
    half = CONTEXT // 2
    nodes += [
        helper.make_node("GlobalAveragePool", [f"h{len(layers)}"], ["pooled"]),
        helper.make_node("Reshape", ["pooled", "to_sequences"], ["by_window"]),
        helper.make_node("Transpose", ["by_window"], ["by_channel"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["by_channel", "context", "context_bias"], ["z"], "context", pads=[half, half]),
        helper.make_node("Relu", ["z"], ["h"], "context_relu"),
        helper.make_node("Conv", ["h", "head", "head_bias"], ["out"], "head"),
        helper.make_node("Transpose", ["out"], ["logits"], perm=[0, 2, 1]),
    ]
    return _bundle(models, name, version, nodes, weights, ["batch", WINDOWS, 1])


def tiny140(models: Path, version: int = 1) -> Path:
    """The bundle of tiny140: x [batch, 140, 1000] to logits [batch, 140, 1], each window's maximum less its mean less 3."""
    weights = [_integers("axes", [2]), numpy_helper.from_array(np.array(3, np.float32), "three")]
    nodes = [
        helper.make_node("ReduceMax", ["x", "axes"], ["most"], keepdims=1),
        helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["most", "mean"], ["above"]),
        helper.make_node("Sub", ["above", "three"], ["logits"]),
    ]
    return _bundle(models, "tiny140", version, nodes, weights, ["batch", WINDOWS, 1])


def mlp512(models: Path, version: int = 1) -> Path:
    """The bundle of mlp512: x [batch, 64] to logits [batch, 512]."""
    return _dense(models, "mlp512", version, HIDDEN)


def wide512(models: Path, version: int = 1) -> Path:
    """The bundle of wide512: mlp512 with 16 times the hidden units, so that a row takes some hundreds of microseconds."""
    return _dense(models, "wide512", version, WIDE)


def _dense(models: Path, name: str, version: int, hidden: int) -> Path:
    rng = np.random.default_rng(512)
    sizes = (FEATURES, hidden, LABELS)
    weights = [_normal(rng, f"w{i}", sizes[i : i + 2], sizes[i]) for i in range(2)]
    weights += [_normal(rng, f"b{i}", sizes[i + 1 : i + 2], sizes[i]) for i in range(2)]
    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["z"], "hidden"),
        helper.make_node("Relu", ["z"], ["h"], "relu"),
        helper.make_node("Gemm", ["h", "w1", "b1"], ["logits"], "head"),
    ]
    return _bundle(models, name, version, nodes, weights, ["batch", LABELS])


def int8(bundle: Path, models: Path, calibration_rows: int = 8) -> Path:
    """The bundle at `bundle` quantised as the trainer's export does it, as the same version of the same model in `models`.

    The policy is calibrated on the quantised graph. Imports torch, as the exporter does.
    """
    from cutpoint.bundle import read_bundle
    from cutpoint.trainer.export.precision import lower_precision

    source = read_bundle(bundle)
    assert source.manifest is not None
    with TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.onnx"
        lower_precision(source.model_path, target, "int8", rows(source.name, calibration_rows, seed=2)[:, None])
        written = write_bundle(models, source.manifest, target)
    _calibrate(written, source.manifest.labels)
    return written


def moving(models: Path, version: int, variant: int = 0) -> Path:
    """A bundle without a policy whose logits are `version` times x, [batch, 4]: an answer says which version gave it.

    Variants are other files that compute the same.
    """
    weights = [numpy_helper.from_array(np.array(version, np.float32), "version")]
    steps = ["x", *(f"h{i}" for i in range(variant))]
    nodes = [helper.make_node("Identity", [steps[i]], [steps[i + 1]]) for i in range(variant)]
    nodes.append(helper.make_node("Mul", [steps[variant], "version"], ["logits"]))
    return _bundle(models, "moving", version, nodes, weights, ["batch", MOVING])


BUILDERS = {"conv140": conv140, "tiny140": tiny140, "mlp512": mlp512}


def _bundle(
    models: Path, name: str, version: int, nodes: list[NodeProto], weights: list[onnx.TensorProto], logits: Sequence[int | str]
) -> Path:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *SHAPES[name]])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, list(logits))
    graph = helper.make_graph(nodes, name, [x], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model)
    labels = ("event",) if logits[-1] == 1 else tuple(f"label {i}" for i in range(int(logits[-1])))
    windows = len(SHAPES[name]) == 2
    manifest = Manifest(
        name=name,
        version=version,
        task="windows" if windows else "multilabel",
        labels=labels,
        input=Input(shape=(-1, *SHAPES[name])),
        windows=Windows(count=WINDOWS, samples=SAMPLES) if windows else None,
        loss=Loss(name="weighted_bce"),
        priors=tuple(LabelPrior(rate=0.1, sampled_rate=0.1, pos_weight=1, shift=0) for _ in labels),
        parity=Parity(max_abs_difference=0, tolerance=1e-4, batch_sizes=(1,), rows=1),
        provenance=Provenance(
            created=CREATED, data_digest="0", config_digest="0", seed=0, versions={}, opset=OPSET, ir_version=IR
        ),
        digests={},
    )
    with TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.onnx"
        onnx.save(model, file)
        written = write_bundle(models, manifest, file)
    if name != "moving":
        _calibrate(written, labels)
    return written


def _calibrate(bundle: Path, labels: tuple[str, ...]) -> None:
    """Ship a policy: cuts on the logits of random rows, about one in ten positive."""
    name, version = bundle.parent.name, int(bundle.name)
    session = ort.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"x": rows(name, 1000 if name.endswith("512") else 24, seed=1)})[0]
    noise = np.random.default_rng(1).normal(scale=logits.std(), size=logits.shape)
    noisy = logits + noise.astype(np.float32)
    targets = (noisy > np.quantile(noisy, 0.9)).astype(np.uint8)
    fitted = fit_labels(Scores(logits, targets, labels), Plan.of("max_fbeta=1", calibrator="platt"))
    policy = Policy(
        model=name, model_version=version, model_digest=sha256_of(bundle / "model.onnx"), created=CREATED, author="bench",
        data_digest="0", labels=fitted,
    )  # fmt: skip
    write_policy(bundle, policy)


def _filters(rng: np.random.Generator, name: str, filters: int, channels: int, kernel: int) -> list[onnx.TensorProto]:
    fan_in = channels * kernel
    return [_normal(rng, name, (filters, channels, kernel), fan_in), _normal(rng, f"{name}_bias", (filters,), fan_in)]


def _normal(rng: np.random.Generator, name: str, shape: Sequence[int], fan_in: int) -> onnx.TensorProto:
    return numpy_helper.from_array((rng.normal(size=shape) * (2 / fan_in) ** 0.5).astype(np.float32), name)


def _integers(name: str, values: list[int]) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)
