"""Bundles of small graphs for signals: windows that see so many of their neighbours, or the whole sequence."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from bundles import IR, OPSET, manifest, policy
from cutpoint.bundle import Windows, read_bundle, write_bundle
from onnx import TensorProto, helper, numpy_helper

LABELS = ("thump", "hiss")


def windows_onnx(path: Path, samples: int, channels: int | None, count: int | None, whole: bool, reach: int = 3) -> Path:
    """`logits` float32 [batch, window, 2] of x [batch, window, (channel,) sample], by random weights.

    Two convolutions across windows, with zeros at the edges, so that a window sees `reach` either way; with `whole`, the mean
    over the sequence is taken off first.
    """
    rng = np.random.default_rng(5)
    axes: list[int | str] = ["batch", count or "window", *([channels] if channels else []), samples]
    inner, half = (channels or 1) * samples, reach // 2
    rest = reach - half
    weights = {
        "shape": np.array([0, 0, inner]),
        "w": (rng.normal(size=(inner, 4)) / np.sqrt(inner)).astype(np.float32),
        "a": rng.normal(size=(4, 4, 2 * half + 1)).astype(np.float32),
        "b": rng.normal(size=(2, 4, 2 * rest + 1)).astype(np.float32) / 2,
        "axes": np.array([1]),
    }
    centred = [
        helper.make_node("ReduceMean", ["z0", "axes"], ["mean"]),
        helper.make_node("Sub", ["z0", "mean"], ["z"]),
    ]
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z0"]),
        *(centred if whole else []),
        helper.make_node("Transpose", ["z" if whole else "z0"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "a"], ["c"], pads=[half, half]),
        helper.make_node("Tanh", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["d"], pads=[rest, rest]),
        helper.make_node("Transpose", ["d"], ["logits"], perm=[0, 2, 1]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "windows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", count or "window", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items() if whole or name != "axes"],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def signal_bundle(
    models: Path,
    name: str,
    *,
    samples: int = 8,
    channels: int | None = None,
    count: int | None = None,
    whole: bool = False,
    trained: int | None = 12,
    rate_hz: float | None = 100.0,
    thresholds: tuple[float | None, float | None] | None = (0.5, 1.0),
) -> Path:
    """A bundle for signals; its policy has these thresholds, None for no policy."""
    scratch = windows_onnx(models.parent / f"{name}.onnx", samples, channels, count, whole)
    shape = (-1, count or -1, *([channels] if channels else []), samples)
    windows = Windows(
        count=count, samples=samples, channels=channels or 1, rate_hz=rate_hz, trained_count=trained,
        context=None if whole or count else 3,
    )  # fmt: skip
    document = manifest(name, LABELS, (-1, -1, samples))
    document = document.model_copy(update={"windows": windows, "input": document.input.model_copy(update={"shape": shape})})
    path = write_bundle(models, document, scratch)
    if thresholds is not None:
        made = policy(path, dict(zip(LABELS, thresholds, strict=True)))
        (path / "policy.json").write_text(made.to_json())
    return path


def whole_recording(path: Path, recording: np.ndarray, sequence: int | None = None) -> np.ndarray:
    """Logits [window, label] of all whole windows of a recording [sample, channel], by plain onnxruntime.

    At once, or, with `sequence`, in sequences of so many; where the graph takes no other number, the last one ends at the end.
    """
    document = read_bundle(path).manifest
    assert document is not None and document.windows is not None
    samples, channels = document.windows.samples, document.windows.channels
    count = len(recording) // samples
    x = recording[: count * samples].reshape(count, samples, channels).astype(np.float32)
    x = x.transpose(0, 2, 1) if len(document.input.shape) == 4 else x[..., 0]
    session = onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    found = []
    step = sequence or max(count, 1)
    for at in range(0, count, step):
        start = at
        if document.windows.count and at + step > count:
            start = count - step
            if start < 0:
                break
        (logits,) = session.run(["logits"], {"x": x[None, start : at + step]})
        found.append(logits[0, at - start :])
    return np.concatenate(found) if found else np.empty((0, 2), np.float32)
