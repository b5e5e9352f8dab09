"""The points that a map is fitted to: how many positives and negatives score where, read from a curve."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .curve import Curve

Floats = NDArray[np.float64]
_INFINITE: Final = 40.0  # where an infinite logit is put for fitting
_LARGEST: Final = 1e4  # and a finite one beyond it; e**1e4 means the same as e**1e38, but its squares do not


class Points(NamedTuple):
    """Positives and negatives at shifted logits, float64 [point], ascending; in effective rows where weighted."""

    z: Floats
    hits: Floats
    misses: Floats


def gather_points(curve: Curve, shift: float) -> Points:
    """What a curve counts, at the shifted logits where it counts it."""
    if not curve.labelled or not len(curve.cuts):
        return Points(np.zeros(0), np.zeros(0), np.zeros(0))
    scores = curve.cuts.astype(np.float64)
    hits = np.diff(curve.tp, prepend=0).astype(np.float64)
    misses = np.diff(curve.fp, prepend=0).astype(np.float64)
    left = [curve.positives - curve.tp[-1], curve.negatives - curve.fp[-1]]
    if max(left) > 1e-9 * curve.rows:  # under the lowest cut of a histogram; less is rounding of sums
        scores = np.append(scores, curve.below[-1])
        hits, misses = np.append(hits, max(left[0], 0)), np.append(misses, max(left[1], 0))
    scores += curve.step / 2
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
