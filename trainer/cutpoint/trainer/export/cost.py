"""What a lower precision costs in detection, measured against the fp32 graph on the same rows."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cutpoint.bundle import LabelCost, Manifest, PrecisionCost
from cutpoint.calibration import average_precision, exact_curve
from cutpoint.dataset import Dataset
from cutpoint.errors import BadData
from cutpoint.terminal import SHOWN_LABELS, plain_table
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from ..bootstrap import average_precision_draws, drawn_units, interval_of, mean_over_labels
from ..score import score_graph

DRAWS = 500


def measure_cost(
    file: Path, reference: Path, dataset: Dataset, rows: NDArray[np.int64], labels: Sequence[str]
) -> PrecisionCost:
    """Average precision of both graphs per label, and intervals of the loss by a bootstrap of whole groups, on the same draws.

    Args:
        file: graph of the lower precision.
        reference: the fp32 graph.
        dataset: with y.
        rows: that neither trained the model nor calibrated the quantisation.
        labels: names, in the order of the last axis.

    Raises:
        BadData: no label has a positive among `rows`.
        BadScores: the graph answers NaN.
    """
    assert dataset.y is not None  # it trained
    reference_logits, found = (score_graph(model, dataset, rows) for model in (reference, file))
    return cost_of(reference_logits, found, dataset.y[rows], drawn_units(dataset, rows), labels)


def cost_of(
    reference: NDArray[np.float32],
    found: NDArray[np.float32],
    y: NDArray[np.uint8],
    units: NDArray[np.int64],
    labels: Sequence[str],
) -> PrecisionCost:
    """What the logits `found` lose against those of the reference, both [..., label]: `measure_cost` without the graphs.

    Args:
        reference: logits of the same rows.
        found: logits.
        y: uint8, the same shape.
        units: of each row, what is drawn as one; see `drawn_units`.
        labels: names, in the order of the last axis.

    Raises:
        BadData: no label has a positive.
    """
    present = np.flatnonzero((y == 1).reshape(-1, y.shape[-1]).any(axis=0))
    if not len(present):
        raise BadData.of("validation rows", "no positive of any label", "some, to measure what a lower precision costs")
    y = y[..., present]
    furthest = float(np.abs(reference.astype(np.float64) - found).max())
    pair = [logits[..., present] for logits in (reference, found)]
    before, after = (average_precision_draws(logits, y, units, DRAWS) for logits in pair)
    lost = before - after
    costs = []
    for i, label in enumerate(present.tolist()):
        full, less = (_average_precision(logits[..., i], y[..., i]) for logits in pair)
        low, high = interval_of(full - less, lost[:, i]) or (None, None)
        costs.append(LabelCost(label=labels[label], average_precision=less, reference=full, low=low, high=high))
    loss = float(np.mean([cost.reference - cost.average_precision for cost in costs]))
    low, high = interval_of(loss, mean_over_labels(lost)) or (None, None)
    return PrecisionCost(loss=loss, low=low, high=high, max_abs_difference=furthest, rows=len(reference), labels=tuple(costs))


def cost_table(manifests: Sequence[Manifest]) -> Table:
    """What each lower precision costs, a line a label, the largest losses first, 20 of them, after their mean."""
    table = plain_table("precision", "label", "AP fp32", "AP", "loss", "95 % interval", title="what a lower precision costs")
    for manifest in manifests:
        cost = manifest.cost
        if cost is None:
            continue
        mean = float(np.mean([label.reference for label in cost.labels]))
        ordered = sorted(cost.labels, key=lambda label: label.average_precision - label.reference)
        lines = [(label.label, label.reference, label.average_precision, label.low, label.high) for label in ordered]
        if len(lines) > 1:
            lines = [("mean", mean, mean - cost.loss, cost.low, cost.high), *lines[:SHOWN_LABELS]]
        for i, (name, reference, found, low, high) in enumerate(lines):
            between = "-" if low is None or high is None else f"{_digits(low)} to {_digits(high)}"
            cells = (f"{reference:.4f}", f"{found:.4f}", _digits(reference - found), between)
            table.add_row("" if i else manifest.precision, escape(name), *cells)
    return table


def _digits(loss: float) -> str:
    return f"{round(loss, 4) + 0.0:.4f}"  # no -0.0000


def _average_precision(logits: NDArray[np.float32], y: NDArray[np.uint8]) -> float:
    return average_precision(exact_curve(logits.reshape(-1), y.reshape(-1), cuts="positives"))
