"""The bootstrap interval of any metric of a curve."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import BadConfig, BadData
from .curve import Counted, Curve
from .interval import check_confidence
from .points import ties_of

# That a bootstrap draws from. Of a million distinct scores the metrics here then move by at most 0.0005, measured, with rare
# events and without, far less than any interval is wide; average precision and ROC of rare events do not move at all.
_MOST_TIES: Final = 4096


def bootstrap_interval(
    curve: Curve, metric: Callable[[Curve], float], confidence: float = 0.95, draws: int = 500, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a metric (Efron 1979), (low, high), stratified by class.

    Positives and negatives are each drawn anew from their counts at the cuts, as many as there are: prevalence is as given.
    More than 4096 cuts are first pooled into about as many groups of neighbours. A positive's cut is its own group where
    there is room for that (up to some 2000 such cuts); metrics of probabilities take a group's rows to have its lowest score.
    Rows are taken as independent: windows of one sequence are not, and the interval is then too narrow.

    Args:
        curve: unweighted; of whichever cuts `metric` needs.
        metric: of a curve.
        confidence: between 0 and 1.
        draws: from 1; the ends are this many draws' order statistics.
        seed: of the draws; the same gives the same interval.

    Returns:
        NaN for both where `metric` is NaN for a draw, as where a class is missing.

    Raises:
        BadConfig: `confidence` or `draws` is outside.
        BadData: the curve is weighted: its counts do not say how many rows they are of.
    """
    check_confidence(confidence)
    if draws < 1:
        raise BadConfig.of("draws", draws, "a whole number from 1")
    if curve.effective is not None:
        raise BadData.of("curve", "weighted", "one that counts rows: a bootstrap draws rows")
    rng = np.random.default_rng(seed)
    pooled = _pooled(curve)
    ties = ties_of(pooled)
    hits, misses = _drawn(ties.hits, draws, rng), _drawn(ties.misses, draws, rng)
    values = np.sort([metric(_curve_of(pooled, *each)) for each in zip(hits, misses, strict=True)])
    if np.isnan(values[-1]):  # sorted to the end
        return float("nan"), float("nan")
    outside = int((1 - confidence) / 2 * draws)
    return float(values[outside]), float(values[draws - 1 - outside])


def _pooled(curve: Curve) -> Curve:
    """The curve at no more than about `_MOST_TIES` of its cuts."""
    if len(curve.cuts) <= _MOST_TIES:
        return curve
    hit = np.diff(curve.tp, prepend=0) > 0
    room = _MOST_TIES - 2 * int(hit.sum()) - 1
    if room > 0:
        last = _last_of_share(curve.alerts, room) | hit | np.append(hit[1:], True)
    else:
        last = _last_of_share(curve.alerts, _MOST_TIES // 2) | _last_of_share(curve.tp, _MOST_TIES // 2)
    at = np.flatnonzero(last)
    return replace(curve, cuts=curve.cuts[at], tp=curve.tp[at], fp=curve.fp[at], below=curve.below[at])


def _last_of_share(counts: Counted, shares: int) -> NDArray[np.bool_]:
    """Where one of equal shares of a cumulative count ends, bool [cut]."""
    share = np.floor(counts / (counts[-1] + 1) * shares)
    return np.asarray(np.diff(share, append=-1) != 0)


def _drawn(counts: Counted, draws: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """As many rows as there are, drawn anew: [draw, tie]."""
    drawn = np.zeros((draws, len(counts)), np.int64)
    # Only where there are rows: numpy may put what rounding leaves over into the last place, whatever its probability.
    if len(at := np.flatnonzero(counts)):
        drawn[:, at] = rng.multinomial(int(counts.sum()), counts[at] / counts.sum(), size=draws)
    return drawn


def _curve_of(curve: Curve, hits: NDArray[np.int64], misses: NDArray[np.int64]) -> Curve:
    """`curve` with other rows at its cuts (and below, where there is one more place); cuts without rows are left out."""
    cuts = len(curve.cuts)
    at = np.flatnonzero((hits + misses)[:cuts])
    if not len(at):
        top = float(curve.below[-1]) + curve.step if cuts else curve.top
    else:
        top = curve.top if at[0] == 0 else float(curve.cuts[at[0]]) + curve.step
    kept: NDArray[Any] = curve.cuts[at]
    return replace(
        curve,
        cuts=kept,
        tp=np.cumsum(hits)[at],
        fp=np.cumsum(misses)[at],
        below=np.append(kept[1:], curve.below[-1:])[: len(kept)],
        top=top,
    )
