"""Step functions fitted to labelled scores without assuming a form: isotonic regression and inductive Venn-Abers.

Both become knots: log-odds at some scores, linear between them and constant outside.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData
from .points import Floats

# Largest error of the log-odds, about 1 % of the odds, that leaving out knots may cause: far below what any fit is sure of.
TOLERANCE: Final = 0.01


def isotonic(hits: Floats, misses: Floats) -> Floats:
    """Log-odds of the isotonic regression of the hit rate on the score's rank, by pool-adjacent-violators.

    Args:
        hits: [score] positives at each score, ascending in score; counts or sums of weights, not negative.
        misses: [score] negatives likewise; hits and misses are not both 0.

    Returns:
        float64 [score], not decreasing. Rates stay inside [0.5 / (n + 1), 1 - 0.5 / (n + 1)] of n rows in all: no number of
        rows shows that something is impossible. Without scores, empty.
    """
    from scipy.optimize import isotonic_regression

    rows = hits + misses
    if not len(rows):
        return np.zeros(0)
    rate = isotonic_regression(hits / rows, weights=rows).x
    least = 0.5 / (rows.sum() + 1)
    rate = np.clip(rate, least, 1 - least)
    # Blocks of one rate are means of different sums: equal to rounding only, which must not make the result decrease.
    result: Floats = np.maximum.accumulate(np.log(rate) - np.log1p(-rate))
    return result


def venn_abers(
    scores: NDArray[Any], positives: NDArray[Any], negatives: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two probabilities of an inductive Venn-Abers predictor at every calibration score.

    For a test row of the same score, p0 is the isotonic regression's value at it with the row added as a negative, p1 as a
    positive. For one of the two, the row's own class, calibration is perfect in expectation, whatever the distribution
    (Vovk, Petej and Fedorova 2015, arXiv 1511.00213). O(scores): the cumulative sum diagram's convex minorant is moved from
    one score to the next (their algorithms 1 to 4, with counts for single rows), nothing is refitted.

    Args:
        scores: [score], strictly ascending.
        positives: [score] counts or sums of weights, not negative.
        negatives: likewise.

    Returns:
        p0 and p1, float64 [score], not decreasing, 0 <= p0 < 1 and 0 < p1 <= 1 and p0 <= p1 but for rounding. Without
        scores, empty.

    Raises:
        BadData: lengths differ, scores do not ascend, a count is negative or not finite.
    """
    scores, hits, misses = (np.asarray(each, np.float64) for each in (scores, positives, negatives))
    if scores.ndim != 1 or not scores.shape == hits.shape == misses.shape:
        shapes = [list(each.shape) for each in (scores, hits, misses)]
        raise BadData.of("scores, positives and negatives", repr(shapes), "three lists, as long")
    if not (scores[1:] > scores[:-1]).all():
        raise BadData.of("scores", scores[:5].tolist(), "strictly ascending numbers")
    for name, each in (("positives", hits), ("negatives", misses)):
        if not (np.isfinite(each).all() and (each >= 0).all()):
            raise BadData.of(name, each[:5].tolist(), "finite counts from 0")
    # A negative added from above is a positive added from below, once classes and order are exchanged.
    p0 = 1 - np.array(_with_a_positive(misses[::-1], hits[::-1]))[::-1]
    p1 = np.array(_with_a_positive(hits, misses))
    return np.maximum.accumulate(p0), np.maximum.accumulate(p1)


def _with_a_positive(hits: Floats, misses: Floats) -> list[float]:
    """At each score the isotonic fit's value with a positive of weight 1 added there."""
    across = np.cumsum(hits + misses).tolist()  # plain floats: numpy's scalars would take three times as long
    up = np.cumsum(hits).tolist()
    # To add the row at score i is to move the diagram before it by (-1, -1). `stack` holds the corners of the convex minorant
    # from the one that the piece over score i begins at (last) to the far end (first); its last piece's slope is the answer.
    stack: list[tuple[float, float]] = []

    def push(x: float, y: float) -> None:
        while len(stack) > 1:
            (x1, y1), (x2, y2) = stack[-1], stack[-2]
            if (x1 - x) * (y2 - y) - (x2 - x) * (y1 - y) > 0:  # the corner lies below the line past it: it stays
                break
            stack.pop()
        stack.append((x, y))

    for x, y in zip(reversed(across), reversed(up), strict=True):
        push(x, y)
    push(-1.0, -1.0)
    values = []
    for x, y in zip(across, up, strict=True):
        (x1, y1), (x2, y2) = stack[-1], stack[-2]
        values.append((y2 - y1) / (x2 - x1))
        # What is behind the next added row moves back with it; it begins the next piece where it is below the present one.
        if (x2 - x1) * (y - 1 - y1) < (y2 - y1) * (x - 1 - x1):
            stack.pop()
            push(x - 1, y - 1)
    return values


def knots(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Fewer points of a rising line, from which interpolation gives every y to within `TOLERANCE`.

    Args:
        x: [point], ascending, at least one.
        y: [point], not decreasing.

    Returns:
        A subset of the points, x strictly ascending, first and last point among them. The points that miss most are taken
        up, piece by piece, until none misses by more (Ramer 1972, Douglas and Peucker 1973, all pieces at a time).
    """
    distinct = np.append(True, x[1:] > x[:-1])
    x, y = x[distinct], y[distinct]
    kept = np.array([0, len(x) - 1] if len(x) > 1 else [0])
    while True:
        miss = np.abs(y - np.interp(x, x[kept], y[kept]))
        worst = np.maximum.reduceat(miss, kept)  # over each piece from its first knot; a knot itself misses by 0
        piece = np.repeat(np.arange(len(kept)), np.diff(kept, append=len(x)))
        more = np.flatnonzero((miss > TOLERANCE) & (miss == worst[piece]))
        if not len(more):
            return x[kept], y[kept]
        kept = np.union1d(kept, more)
