"""The exact best cut of many scores without sorting them all.

A histogram of the scores is exact at its bins' edges, and bounds what any cut between two edges can reach. So an objective can
say which bins hold its best cut; only the scores of these are sorted. Counting costs a tenth of sorting, and little memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..dataset import UNLABELLED
from .curve import Curve, as_float32, exact_curve
from .histogram import ScoreHistogram
from .parallel import cores, in_order
from .scores import Scores

_CHUNK: Final = 1 << 19  # scores that are looked through at a time
# A window of bins: indices into the cuts of the histogram's curve, first and last.
Window = tuple[int, int]


def window_curves(data: Scores, coarse: Sequence[Curve], windows: Mapping[int, Window]) -> dict[int, Curve]:
    """Exact curves of the cuts within windows of bins; their counts begin with what scores above the window.

    Args:
        data: unweighted scores, which the histogram counts.
        coarse: the curve of every label from a histogram of `data`, `with_rest`.
        windows: by label, the bins whose cuts are wanted. One occupied bin on either side is added, so that the next lower
            score of the lowest cut is known.

    Returns:
        By label a curve with all cuts of its window, which says the same of them as the curve of all scores.
    """
    low = np.full(len(data.labels), np.inf, np.float32)  # no score is at or above it, and below the other
    high = np.full(len(data.labels), np.inf, np.float32)
    bounds = {}
    for i, window in windows.items():
        curve = coarse[i]
        first, last = max(0, window[0] - 1), min(len(curve.cuts) - 1, window[1] + 1)
        bounds[i] = (first, last)
        # Down to -inf at the end: the underflow bin is no cut.
        low[i] = curve.cuts[last] if last < len(curve.cuts) - 1 else -np.inf
        high[i] = curve.cuts[first - 1] if first else np.inf
    labels, scores, targets = _between(data, low, high, {i for i, (first, _) in bounds.items() if first == 0})
    order = np.argsort(labels, kind="stable")
    labels, scores, targets = labels[order], scores[order], targets[order]
    starts = np.searchsorted(labels, np.arange(len(data.labels) + 1))
    found = {}
    for i, (first, _) in bounds.items():
        part = slice(starts[i], starts[i + 1])
        curve, inside = coarse[i], exact_curve(scores[part], targets[part] if data.labelled else None)
        tp, fp = (np.int64(counted) for counted in curve.counts_at(first - 1))
        found[i] = replace(inside, tp=inside.tp + tp, fp=inside.fp + fp, positives=curve.positives, negatives=curve.negatives)
    return found


def _between(
    data: Scores, low: NDArray[np.float32], high: NDArray[np.float32], to_the_top: set[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.uint8]]:
    """Label, score and target of every labelled entry with low <= score < high of its label; <= inf for labels to the top."""
    top = np.zeros(len(low), bool)
    top[list(to_the_top)] = True

    def gather(start: int) -> tuple[NDArray[Any], ...]:
        scores = as_float32(data.logits[start : start + rows])
        wanted = scores < high
        if to_the_top:
            wanted |= top
        wanted &= scores >= low
        at = np.flatnonzero(wanted)  # of two dimensions at once it takes numpy several times as long
        found = scores.reshape(-1)[at]
        targets = np.zeros(len(at), np.uint8)
        if data.targets is not None:
            targets = data.targets[start : start + rows].reshape(-1)[at]
        kept = targets != UNLABELLED
        return (at % len(low))[kept], found[kept], targets[kept]

    rows = max(1, _CHUNK // len(low))
    starts = range(0, data.rows, rows)
    parts = list(in_order(gather, starts, min(len(starts), cores())))
    labels, scores, targets = (np.concatenate([part[k] for part in parts]) for k in range(3))
    return labels, scores, targets


def with_rest(curve: Curve) -> Curve:
    """A histogram's curve with one more cut, at -inf, where rows score below all that it offers."""
    if curve.rows == (curve.alerts[-1] if len(curve.cuts) else 0):
        return curve
    lowest = np.float32(-np.inf)
    return replace(
        curve, cuts=np.append(curve.cuts, lowest), tp=np.append(curve.tp, int(curve.positives)),
        fp=np.append(curve.fp, int(curve.negatives)), below=np.append(curve.below, lowest),
    )  # fmt: skip


def count(data: Scores) -> ScoreHistogram:
    """A histogram of all scores; BadData where one of them, or a target, cannot be counted."""
    histogram = ScoreHistogram(data.labels, labelled=data.labelled)
    histogram.update(data.logits, data.targets)
    return histogram
