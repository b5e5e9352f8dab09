"""Static int8 quantisation of the layers in the middle of a graph, with onnxruntime's own tool."""

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from cutpoint.dataset import Dataset
from cutpoint.errors import BadBundle
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from ..score import batch_size_of

CALIBRATION_ROWS = 512
CALIBRATION_BYTES = 32 << 20  # of float32 input
_INTEGER = ("Conv", "Gemm", "MatMul")  # that onnxruntime's CPU provider has integer kernels for
_PREPARED = "onnx.quant.pre_process"  # that the tool looks for, lest it warn


def quantize_graph(
    model: ModelProto,
    weighted: list[NodeProto],
    between: list[NodeProto],
    target: Path,
    rows: Iterable[NDArray[np.float32]],
    only: Collection[str] | None = None,
    weight_bits: int = 7,
) -> None:
    """Write `model` with 8-bit layers: weights per channel, activations by the range they have on `rows`.

    Ranges are the least and the largest value: percentiles and entropy clip the tails, where rare events are. Weights have 7
    bits, so that processors without VNNI, whose 16-bit sums would saturate, give the same logits. Layers that no
    other comes before stay float32 unless they hold most of the weights: they see raw values, and over raw samples they take
    next to no time.

    Args:
        model: float32, its nodes named.
        weighted: its layers that may be quantised, in order.
        between: activations that may be folded into them.
        target: the file to write.
        rows: batches of training rows.
        only: names of the layers that are worth it: others stay float32; None for all.
        weight_bits: 7, or 8 for processors with VNNI alone.

    Raises:
        BadBundle: no layer is left to quantise.
    """
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    held = {node.name: max((sizes.get(name, 0) for name in node.input), default=0) for node in weighted}
    layers = [node.name for node in weighted if node.op_type in _INTEGER and held[node.name]]
    first = _first_of(model, layers)
    if sum(held[name] for name in first) < sum(held[name] for name in layers) / 2:
        layers = [name for name in layers if name not in first]
    if only is not None:
        layers = [name for name in layers if name in only]
        outputs = {output for node in weighted if node.name in layers for output in node.output}
        between = [node for node in between if not outputs.isdisjoint(node.input)]
    if not layers:
        raise BadBundle.of(
            "precision int8", "no layer before the last that has integer kernels", f"one of {', '.join(_INTEGER)}"
        )
    entry = model.metadata_props.add()
    entry.key, entry.value = _PREPARED, "cutpoint"
    with _silent():
        quantize_static(
            model,
            target,
            _Batches(model.graph.input[0].name, iter(rows)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=weight_bits == 7,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[*layers, *(node.name for node in between)],
            calibrate_method=CalibrationMethod.MinMax,
        )
    written = onnx.load(target)
    del written.metadata_props[:]
    onnx.save(written, target)


def calibration_batches(dataset: Dataset, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Batches of up to 512 of `rows` (32 MiB), half of them rows with a positive, as far as there are so many.

    Rare events are the rows whose range matters most, and few of them are among rows taken evenly.
    """
    count = min(CALIBRATION_ROWS, dataset.rows_in(CALIBRATION_BYTES))
    assert dataset.y is not None  # it trained
    positive = (dataset.y[rows] == 1).reshape(len(rows), -1).any(axis=1)
    some = _evenly(rows[positive], count // 2)
    chosen = np.union1d(some, _evenly(rows[~positive], count - len(some)))
    return (x for _, x in dataset.batches(chosen, min(64, batch_size_of(dataset))))


def _first_of(model: ModelProto, layers: list[str]) -> set[str]:
    """Those of the layers that none of the others comes before."""
    begun: set[str] = set()
    first = set()
    for node in model.graph.node:
        follows = not begun.isdisjoint(node.input)
        if node.name in layers and not follows:
            first.add(node.name)
        if node.name in layers or follows:
            begun.update(node.output)
    return first


def _evenly(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))]


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, name: str, rows: Iterator[NDArray[np.float32]]) -> None:
        self.name, self.rows = name, rows

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        x = next(self.rows, None)
        return None if x is None else {self.name: x}


@contextmanager
def _silent() -> Iterator[None]:
    """The tool logs to the root logger what concerns nobody here, and sets it up where nobody has."""
    root = logging.getLogger()
    before, handlers = root.manager.disable, root.handlers[:]
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        root.handlers[:] = handlers
