"""How many positives and negatives score where, read from a curve: what a map is fitted to, and judged by."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .curve import Counted, Curve

Floats = NDArray[np.float64]
_INFINITE: Final = 40.0  # where an infinite logit is put for fitting
_LARGEST: Final = 1e4  # and a finite one beyond it; e**1e4 means the same as e**1e38, but its squares do not


class Ties(NamedTuple):
    """Rows of one score each, from the highest down: float64 scores, positives and negatives, all [tie]."""

    scores: Floats
    hits: Counted
    misses: Counted


def ties_of(curve: Curve) -> Ties:
    """The rows of each cut, and those below the lowest one, where there are any."""
    scores = curve.cuts.astype(np.float64) + curve.step / 2
    lowest = float(curve.below[-1]) + curve.step / 2 if len(scores) else curve.top - curve.step / 2
    hits, misses = (
        # Sums of weights may differ from their total by rounding.
        np.maximum(np.diff(counts, prepend=0, append=total), 0)
        for counts, total in ((curve.tp, curve.positives), (curve.fp, curve.negatives))
    )
    if hits[-1] + misses[-1] > 1e-9 * curve.rows:
        return Ties(np.append(scores, lowest), hits, misses)
    return Ties(scores, hits[:-1], misses[:-1])


def has_both(curve: Curve) -> bool:
    """Whether a curve has rows of both classes."""
    return curve.positives > 0 and curve.negatives > 0


class Points(NamedTuple):
    """Positives and negatives at shifted logits, float64 [point], ascending; in effective rows where weighted."""

    z: Floats
    hits: Floats
    misses: Floats


def gather_points(curve: Curve, shift: float) -> Points:
    """What a curve counts, at the shifted logits where it counts it."""
    if not curve.labelled or not len(curve.cuts):
        return Points(np.zeros(0), np.zeros(0), np.zeros(0))
    scores, *counts = ties_of(curve)
    hits, misses = (each.astype(np.float64) for each in counts)
    outermost = min(max(_INFINITE, np.abs(scores[np.isfinite(scores)]).max(initial=0)), _LARGEST)
    scores = np.clip(scores, -outermost, outermost) - shift
    if curve.effective is not None:
        # One factor for both classes keeps the odds, and makes `shrink` mean rows of which there are as many as it seems.
        total, effective = (curve.positives, curve.effective[0]) if curve.positives else (curve.negatives, curve.effective[1])
        hits, misses = hits * (effective / total), misses * (effective / total)
    kept = (hits + misses > 0)[::-1]
    return Points(scores[::-1][kept], hits[::-1][kept], misses[::-1][kept])


def pool_points(points: Points, most: int) -> Points:
    """At most `most` distinct logits, by means over a grid of 1/256 or, where that is not enough, of a coarser one."""
    z, hits, misses = points
    keys, width = z, 2.0**-8
    while len(first := np.flatnonzero(np.append(len(z) > 0, keys[1:] != keys[:-1]))) > most:
        keys, width = np.floor(z / width), width * 2
    if len(first) == len(z):
        return points
    rows = hits + misses
    totals = np.add.reduceat(rows, first)
    # The first of equal ones, not their mean, which would be off by the last bit.
    mean = z[first] if keys is z else np.add.reduceat(z * rows, first) / totals
    return Points(mean, np.add.reduceat(hits, first), np.add.reduceat(misses, first))
