"""A curve: for one label, the counts of true and false positives at every candidate cut.

Everything that chooses or judges a cut reads a curve and does not care what made it: scores in memory (`exact_curve`), or a
`ScoreHistogram` merged from anywhere.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..dataset import UNLABELLED
from ..errors import BadData

Counted = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """Counts at candidate cuts of one label. At `cuts[i]` a row alerts when its score >= `cuts[i]`.

    Attributes:
        cuts: float32 [cut], strictly descending. From scores: the distinct scores, or those of positives only. From a
            histogram: the lower edges of its occupied bins. Empty when there are no rows.
        tp: [cut], positives that alert; not decreasing. int64, or float64 sums of weights.
        fp: [cut], negatives that alert, likewise.
        positives: labelled positives in all (their weights' sum, where weighted).
        negatives: labelled negatives in all, likewise.
        below: float32 [cut], the next lower score (or lower edge of the next lower occupied bin); any threshold above it, and
            at most the cut, alerts on the same rows. Where no row is lower: the cut less the gap above it, 1 at most.
        top: the highest score (the upper edge of the highest occupied bin); -inf without rows.
        step: width of a bin; 0 for a curve from scores. Rows counted first at `cuts[i]` score from it to below it + `step`.
        labelled: False where the classes are unknown: then every row is counted in `fp` and `negatives`, and of the rates
            only the alert rate has a meaning.
        effective: for weighted rows, the effective numbers of positives and of negatives, (sum w)^2 / sum w^2 (Kish 1965):
            what an interval may take as the number of rows. None for unweighted rows.
    """

    cuts: NDArray[np.float32]
    tp: Counted
    fp: Counted
    positives: int | float
    negatives: int | float
    below: NDArray[np.float32]
    top: float = -math.inf
    step: float = 0.0
    labelled: bool = True
    effective: tuple[float, float] | None = None

    @property
    def rows(self) -> int | float:
        """Rows in all: labelled ones, or all where no classes are known."""
        return self.positives + self.negatives

    @property
    def alerts(self) -> Counted:
        """Rows that alert, [cut]."""
        return self.tp + self.fp

    def threshold(self, index: int) -> float:
        """A float32 logit that alerts on exactly the rows counted at `cuts[index]`, midway to the next lower score.

        Midway, because two machines' float32 scores of one row differ in the last bits: a threshold on a score would flip
        the very rows it was tuned on. Below +inf, which is no measure of a gap, it is the next lower score and 0.5; at
        index -1, which alerts on no row, the highest score and 0.5. The result is infinite only where no finite logit separates
        the rows, as at -inf.
        """
        if index < 0:
            if math.isinf(self.top):
                return math.inf
            above = float(np.float32(self.top + 0.5))
            with np.errstate(over="ignore"):  # a large float32 and 0.5 is the same float32
                return above if above > self.top else float(np.nextafter(np.float32(self.top), np.float32(np.inf)))
        cut, low = float(self.cuts[index]), float(self.below[index]) + self.step
        above_low = low + 0.5 if math.isfinite(low) else 0.0
        middle = cut * 0.5 + low * 0.5 if math.isfinite(cut) else above_low
        rounded = float(np.float32(middle))
        between = low <= rounded < cut if self.step else low < rounded < cut
        if between:
            return rounded
        return cut if math.isfinite(cut) else self.lowest_threshold(index)

    def lowest_threshold(self, index: int) -> float:
        """The lowest float32 logit that alerts on exactly the rows counted at `cuts[index]`."""
        if self.step:
            return float(np.float32(float(self.below[index]) + self.step))
        with np.errstate(over="ignore"):  # above the highest finite float32 is +inf
            return min(float(self.cuts[index]), float(np.nextafter(self.below[index], np.float32(np.inf))))

    def index_at(self, threshold: float) -> int:
        """The index of the cut that alerts on the rows that `threshold` does: the lowest at or above it; -1 for no rows.

        Exact for a curve of all cuts. With a histogram it is exact for thresholds that it offers; of others it says what alerts
        for certain: rows of the bin that `threshold` splits are not counted.
        """
        return int(np.searchsorted(-self.cuts, -np.float32(threshold), side="right")) - 1

    def counts_at(self, index: int) -> tuple[int | float, int | float]:
        """True and false positives at `cuts[index]`; none at -1."""
        return (self.tp[index].item(), self.fp[index].item()) if index >= 0 else (0, 0)

    def at_positives(self) -> "Curve":
        """The curve at the cuts where `tp` grows: all that an objective needs that wants positives and few alerts."""
        grows = np.flatnonzero(np.diff(self.tp, prepend=0) > 0)
        return replace(self, cuts=self.cuts[grows], tp=self.tp[grows], fp=self.fp[grows], below=self.below[grows])

    def binned(self, bits: int = 8, limit: int = 32) -> "Curve":
        """The curve that a histogram of bins 2**-bits wide, from -limit up to limit, would give; for maps fitted to curves.

        A curve that is as coarse already is returned as it is. What scores below -limit is counted, but at no cut.
        """
        if self.step >= 2.0**-bits or len(self.cuts) == 0:
            return self
        step = 2.0**-bits
        # Clipped before, so that nothing overflows.
        scaled = np.clip(self.cuts, np.float32(-limit - step), np.float32(limit)) * np.float32(1 << bits)
        bins = np.floor(scaled).astype(np.int64)
        last = np.flatnonzero(np.append(bins[1:] != bins[:-1], True))
        edges = (bins[last] * step).astype(np.float32)
        gap = float(edges[-2] - edges[-1]) if len(edges) > 1 else math.inf
        below = np.append(edges[1:], edges[-1] - np.float32(min(gap, 1.0) + step))
        offered = edges >= -limit
        last, edges, below = last[offered], edges[offered], below[offered]
        return replace(self, cuts=edges, tp=self.tp[last], fp=self.fp[last], below=below, step=step)


def exact_curve(
    scores: NDArray[Any],
    targets: NDArray[Any] | None,
    weights: NDArray[Any] | None = None,
    cuts: Literal["all", "positives"] = "all",
) -> Curve:
    """The curve of one label from scores in memory, exact.

    Args:
        scores: [row] logits, any float dtype; compared as float32. Infinities are ordinary scores.
        targets: [row] 0, 1 or `UNLABELLED` (255), which is left out. None where no classes are known.
        weights: [row] finite and not negative: how many rows each stands for. None counts rows. A row of weight 0 is left out.
        cuts: "all" distinct scores, or those of "positives", which is several times faster where they are rare.

    Returns:
        A curve with one cut per distinct score; without rows, an empty one.

    Raises:
        BadData: a score of a row that counts is NaN, a target is none of the three values, a weight is negative or not finite,
            or the lengths differ.
    """
    scores = np.asarray(scores)
    targets = np.zeros(scores.shape, np.uint8) if (unknown := targets is None) else np.asarray(targets)
    if scores.ndim != 1 or scores.shape != targets.shape:
        raise BadData.of("scores and targets", f"{list(scores.shape)} and {list(targets.shape)}", "two lists, as long")
    check_targets(targets)
    counts = targets != UNLABELLED
    if weights is not None:
        weights = check_weights(np.asarray(weights), scores.shape)
        counts &= weights > 0
    if not counts.all():
        scores, targets = scores[counts], targets[counts]
        weights = weights[counts] if weights is not None else None
    scores = as_float32(scores)
    curve = _counted(scores, targets == 1, cuts == "positives") if weights is None else _weighed(scores, targets == 1, weights)
    if cuts == "positives" and weights is not None:
        curve = curve.at_positives()
    return replace(curve, labelled=False) if unknown else curve


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Scores as they are compared: float32, infinite where they are beyond it; a view where they are float32 already."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def check_targets(targets: NDArray[Any]) -> None:
    """Raise BadData unless every target is 0, 1 or `UNLABELLED`."""
    if targets.dtype.kind in "bu" and targets.max(initial=0) <= 1:
        return
    known = (targets == 0) | (targets == 1) | (targets == UNLABELLED)
    if not known.all():
        raise BadData.of("targets", np.unique(targets[~known])[:5].tolist(), "0, 1, or 255 for not labelled")


def check_weights(weights: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """`weights` as float64 of `shape`; BadData where they have another shape, or one is negative or not finite."""
    if weights.shape != shape or weights.dtype.kind not in "biuf":
        raise BadData.of("weights", f"{weights.dtype} {list(weights.shape)}", f"numbers {list(shape)}, one for each score")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        bad = weights[~(np.isfinite(weights) & (weights >= 0))]
        raise BadData.of("weights", bad[:5].tolist(), "finite numbers from 0")
    return weights.astype(np.float64)


def _counted(scores: NDArray[np.float32], positive: NDArray[np.bool_], only_positives: bool) -> Curve:
    # Sort values, not indices: numpy sorts float32 values many times faster, and positives are few.
    hits = np.sort(scores[positive])
    ascending = np.sort(scores)
    _refuse_nan(ascending)
    if only_positives:
        first = np.searchsorted(ascending, _distinct(hits)[1], side="left")
    else:
        first, _ = _distinct(ascending)
    first = first[::-1]
    cuts = ascending[first]
    tp = (len(hits) - np.searchsorted(hits, cuts, side="left")).astype(np.int64)
    return Curve(
        cuts=cuts,
        tp=tp,
        fp=len(ascending) - first - tp,
        positives=len(hits),
        negatives=len(ascending) - len(hits),
        below=_below(ascending, first),
        top=float(ascending[-1]) if len(ascending) else -math.inf,
    )


def _weighed(scores: NDArray[np.float32], positive: NDArray[np.bool_], weights: NDArray[np.float64]) -> Curve:
    order = np.argsort(scores)
    ascending = scores[order]
    _refuse_nan(ascending)
    first = _distinct(ascending)[0][::-1]
    sums = []
    for chosen in (positive, ~positive):
        # Summed from the highest score down, so that a cut's sum is exact where the weights are whole numbers.
        from_top = np.cumsum(np.where(chosen, weights, 0.0)[order][::-1])
        sums.append(from_top[len(ascending) - 1 - first])
    totals = [float(each[-1]) if len(each) else 0.0 for each in sums]
    squares = [float(np.sum(weights[chosen] ** 2)) for chosen in (positive, ~positive)]
    effective = [total**2 / square if square else 0.0 for total, square in zip(totals, squares, strict=True)]
    return Curve(
        cuts=ascending[first],
        tp=sums[0],
        fp=sums[1],
        positives=totals[0],
        negatives=totals[1],
        below=_below(ascending, first),
        top=float(ascending[-1]) if len(ascending) else -math.inf,
        effective=(effective[0], effective[1]),
    )


def _distinct(ascending: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Where each distinct value of a sorted array begins, and the values."""
    # Compared, not subtracted: infinity minus itself is NaN.
    first = np.flatnonzero(np.append(len(ascending) > 0, ascending[1:] != ascending[:-1]))
    return first, ascending[first]


def _below(ascending: NDArray[np.float32], first: NDArray[np.int64]) -> NDArray[np.float32]:
    """The score below each cut (`first`, descending, into the ascending scores), and what stands for one where none is."""
    below = np.where(first > 0, ascending[np.maximum(first - 1, 0)], np.float32(-np.inf))
    if len(first) and math.isinf(below[-1]):
        # At most two cuts have nothing finite below them: the lowest score, and the one above -inf.
        for i in np.flatnonzero(np.isneginf(below) & np.isfinite(ascending[first])):
            cut = ascending[first[i]]
            end = int(np.searchsorted(ascending, cut, side="right"))
            gap = float(ascending[end]) - float(cut) if end < len(ascending) else math.inf
            with np.errstate(over="ignore"):  # below the lowest finite float32 is -inf
                # At least one float lower: a gap may be too small to be taken off a large number.
                below[i] = min(cut - np.float32(min(gap, 1.0)), np.nextafter(cut, np.float32(-np.inf)))
    return below


def _refuse_nan(ascending: NDArray[np.float32]) -> None:
    if len(ascending) and np.isnan(ascending[-1]):  # sorted to the end
        count = int(np.isnan(ascending).sum())
        raise BadData.of("scores", f"NaN in {count} of {len(ascending)} labelled rows", "numbers")
