"""Metrics for rare events, from curves: of ranking, of probabilities, and the bootstrap interval of any of them.

Each takes a curve from scores, weighted or not, or from a histogram, whose bins are ties. Rows below the lowest cut, which a
histogram may have, are one last tie, at the score that `Curve.below` says. All but `average_precision` need a curve of
all cuts: one at positives only does not say where between two positives the negatives are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BadConfig, BadData
from .curve import Counted, Curve
from .interval import clopper_pearson

Floats = NDArray[np.float64]
# Raw logits, float64 [score], to calibrated log-odds, the same shape; `Calibrator.log_odds` is one.
LogOdds = Callable[[Floats], Floats]

# That a bootstrap draws from. Of a million distinct scores the metrics here then move by at most 0.0005, measured, with rare
# events and without, far less than any interval is wide; average precision and ROC of rare events do not move at all.
_MOST_TIES: Final = 4096


def average_precision(curve: Curve) -> float:
    """Average precision, sum over cuts of (recall step) x precision, 0 to 1; NaN without positives.

    The step form, as scikit-learn's `average_precision_score`: no interpolation, which flatters. Its value for random scores is
    the prevalence, so compare it with that and never across different prevalences. A curve at positives only gives the same.
    """
    if curve.positives == 0:
        return float("nan")
    ties = _ties(curve)
    tp, fp = np.cumsum(ties.hits), np.cumsum(ties.misses)
    return min(1.0, float(np.sum(ties.hits / curve.positives * tp / (tp + fp))))  # steps of 1/58 sum to more than 1


def roc_auc(curve: Curve) -> float:
    """Area under the ROC curve, 0 to 1: how often a positive scores above a negative, ties counting half.

    NaN where a class is missing. Needs a curve of all cuts. Of rare events it says little: ten false alarms for each true one
    may go with 0.999; see `partial_roc_auc` and `average_precision`.
    """
    if not _has_both(curve):
        return float("nan")
    return min(1.0, _area(*_roc(curve)))


def partial_roc_auc(curve: Curve, max_fpr: float) -> float:
    """Area under the ROC curve up to a false positive rate, standardised: 0.5 for random scores, 1 at most.

    McClish (1989), as scikit-learn's `roc_auc_score(max_fpr=)`: with the area A, (1 + (A - m) / (max_fpr - m)) / 2 where
    m = max_fpr**2 / 2 is the area of random scores; the curve is linear between cuts. NaN where a class is missing. Needs a
    curve of all cuts.

    Args:
        curve: of all cuts.
        max_fpr: above 0, at most 1, which gives `roc_auc`.

    Raises:
        BadConfig: `max_fpr` is outside.
    """
    if not 0 < max_fpr <= 1:
        raise BadConfig.of("max_fpr", max_fpr, "a rate above 0, at most 1")
    if max_fpr == 1 or not _has_both(curve):
        return roc_auc(curve)
    fpr, tpr = _roc(curve)
    stop = int(np.searchsorted(fpr, max_fpr, side="right"))
    end = np.interp(max_fpr, fpr[stop - 1 : stop + 1], tpr[stop - 1 : stop + 1])
    area = _area(np.append(fpr[:stop], max_fpr), np.append(tpr[:stop], end))
    least = max_fpr**2 / 2
    return min(1.0, 0.5 * (1 + (area - least) / (max_fpr - least)))


def brier_skill(curve: Curve, log_odds: LogOdds | None = None) -> float:
    """Brier skill: 1 - (Brier score) / (that of always answering the prevalence); scikit-learn's `d2_brier_score`.

    1 is perfect, 0 no better than the prevalence, below 0 worse than saying nothing. NaN where a class is missing. Needs a
    curve of all cuts.

    Args:
        curve: of all cuts.
        log_odds: from scores to calibrated log-odds; None where the logits are honest as they are.

    Raises:
        BadData: `log_odds` gives another shape, or NaN.
    """
    if not _has_both(curve):
        return float("nan")
    ties = _ties(curve)
    z = _calibrated(ties, log_odds)
    # The smaller part of 1 is computed for itself: 1 - p would lose all digits near 1.
    score = float(np.sum(ties.hits * _sigmoid(-z) ** 2) + np.sum(ties.misses * _sigmoid(z) ** 2))
    return 1 - score / (curve.positives * (curve.negatives / curve.rows))


def log_loss_skill(curve: Curve, log_odds: LogOdds | None = None) -> float:
    """Log loss skill: 1 - (log loss) / (that of always answering the prevalence); scikit-learn's `d2_log_loss_score`.

    Read as `brier_skill`, which forgives a confident mistake where this one does not: it is -inf where an infinite logit
    is wrong. From log-odds, never from probabilities, which are 0 or 1 long before. NaN where a class is missing. Needs a curve
    of all cuts; a histogram's infinite logits are at the end of its grid.

    Args:
        curve: of all cuts.
        log_odds: from scores to calibrated log-odds; None where the logits are honest as they are.

    Raises:
        BadData: `log_odds` gives another shape, or NaN.
    """
    if not _has_both(curve):
        return float("nan")
    ties = _ties(curve)
    z = _calibrated(ties, log_odds)
    # Only where there are rows: no row of infinite loss is no loss.
    hit, missed = ties.hits > 0, ties.misses > 0
    loss = float(np.sum(ties.hits[hit] * np.logaddexp(0, -z[hit])) + np.sum(ties.misses[missed] * np.logaddexp(0, z[missed])))
    rows = curve.rows
    reference = -curve.positives * math.log(curve.positives / rows) - curve.negatives * math.log(curve.negatives / rows)
    return 1 - loss / reference


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of neighbouring scores: what was promised, and what came.

    Attributes:
        predicted: mean calibrated probability, 0 to 1.
        observed: share of positives, 0 to 1.
        low: low end of the Clopper-Pearson interval of `observed`.
        high: its high end.
        rows: rows, or the sum of their weights.
        positives: positives, likewise.
    """

    predicted: float
    observed: float
    low: float
    high: float
    rows: int | float
    positives: int | float


def reliability(
    curve: Curve, log_odds: LogOdds | None = None, bins: int = 10, confidence: float = 0.95
) -> tuple[ReliabilityBin, ...]:
    """A reliability diagram in bins of about as many positives each, from the lowest scores up.

    Of positives, because bins of as many rows would put nearly all rare events into one, and bins of equal width nearly
    all rows. A bin ends at a positive and ties stay together, so that there may be fewer bins; negatives below the last
    positive are in the lowest. The interval is Clopper and Pearson's: safe here, though a bin that ends at its k-th positive
    (inverse sampling) observes on average about k / (k - 1) of the true rate, and ten in a bin one tenth too much.
    Weighted rows count by their effective number: with that many independent rows the log-odds would have the same variance,
    1/positives + 1/negatives (Kish 1965; Korn and Graubard 1998).

    Args:
        curve: of all cuts.
        log_odds: from scores to calibrated log-odds; None where the logits are honest as they are.
        bins: at most, from 1.
        confidence: of the intervals, between 0 and 1.

    Returns:
        Bins; none without rows or where no classes are known; one without positives.

    Raises:
        BadConfig: `bins` or `confidence` is outside.
        BadData: `log_odds` gives another shape, or NaN.
    """
    if bins < 1:
        raise BadConfig.of("bins", bins, "a whole number from 1")
    _check_confidence(confidence)
    if curve.rows == 0 or not curve.labelled:
        return ()
    ties = _ties(curve)
    p, rows = _sigmoid(_calibrated(ties, log_odds)), ties.hits + ties.misses
    above = np.append(0, np.cumsum(ties.hits)[:-1])  # positives above each tie say which bin it is in
    bin_of = np.floor(above * bins / curve.positives) if curve.positives else np.zeros(len(above))
    if len(hit := np.flatnonzero(ties.hits)):
        bin_of[hit[-1] :] = bin_of[hit[-1]]
    starts = np.flatnonzero(np.diff(bin_of, prepend=-1))
    found = []
    for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
        part = slice(begin, end)
        n, k = rows[part].sum().item(), ties.hits[part].sum().item()
        effective = _effective_rows(curve, k, n - k)
        low, high = clopper_pearson(k / n * effective, effective, confidence)
        predicted = float(np.sum(rows[part] * p[part]) / n)
        found.append(ReliabilityBin(predicted=predicted, observed=k / n, low=low, high=high, rows=n, positives=k))
    return tuple(reversed(found))


def adaptive_calibration_error(curve: Curve, log_odds: LogOdds | None = None, bins: int = 10) -> float:
    """Mean absolute difference of predicted and observed rate over the bins of `reliability`, weighted by rows; 0 to 1.

    Not the expected calibration error in bins of equal width: with rare events the first of those holds nearly all rows, and
    in it too high and too low cancel; these bins divide it. What no binning changes: the error is on the scale of the
    prevalence, and always answering 0 gets no more than that, 0.0009 where 0.09 % of rows are positive. Read it beside the
    prevalence, and compare models by `log_loss_skill` or `brier_skill`, which see that such an answer is useless.

    Returns:
        NaN without rows or where no classes are known.

    Raises:
        BadConfig: `bins` is below 1.
        BadData: `log_odds` gives another shape, or NaN.
    """
    found = reliability(curve, log_odds, bins)
    if not found:
        return float("nan")
    return math.fsum(each.rows * abs(each.predicted - each.observed) for each in found) / curve.rows


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
    _check_confidence(confidence)
    if draws < 1:
        raise BadConfig.of("draws", draws, "a whole number from 1")
    if curve.effective is not None:
        raise BadData.of("curve", "weighted", "one that counts rows: a bootstrap draws rows")
    rng = np.random.default_rng(seed)
    pooled = _pooled(curve)
    ties = _ties(pooled)
    hits, misses = _drawn(ties.hits, draws, rng), _drawn(ties.misses, draws, rng)
    values = np.sort([metric(_curve_of(pooled, *each)) for each in zip(hits, misses, strict=True)])
    if np.isnan(values[-1]):  # sorted to the end
        return float("nan"), float("nan")
    outside = int((1 - confidence) / 2 * draws)
    return float(values[outside]), float(values[draws - 1 - outside])


class _Ties(NamedTuple):
    """Rows of one score each, from the highest down: float64 scores, positives and negatives, all [tie]."""

    scores: Floats
    hits: Counted
    misses: Counted


def _ties(curve: Curve) -> _Ties:
    """The rows of each cut, and those below the lowest one, where there are any."""
    scores = curve.cuts.astype(np.float64) + curve.step / 2
    lowest = float(curve.below[-1]) + curve.step / 2 if len(scores) else curve.top - curve.step / 2
    hits, misses = (
        # Sums of weights may differ from their total by rounding.
        np.maximum(np.diff(counts, prepend=0, append=total), 0)
        for counts, total in ((curve.tp, curve.positives), (curve.fp, curve.negatives))
    )
    if hits[-1] + misses[-1] > 0:
        return _Ties(np.append(scores, lowest), hits, misses)
    return _Ties(scores, hits[:-1], misses[:-1])


def _has_both(curve: Curve) -> bool:
    return curve.positives > 0 and curve.negatives > 0


def _roc(curve: Curve) -> tuple[Floats, Floats]:
    """False and true positive rates from (0, 0) to (1, 1)."""
    fpr, tpr = (
        np.concatenate(([0.0], counts / total, [1.0]))
        for counts, total in ((curve.fp, curve.negatives), (curve.tp, curve.positives))
    )
    return fpr, tpr


def _area(x: Floats, y: Floats) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def _sigmoid(z: Floats) -> Floats:
    """Probabilities in float64, to full precision near 0."""
    return np.asarray(np.exp(-np.logaddexp(0, -z)))


def _calibrated(ties: _Ties, log_odds: LogOdds | None) -> Floats:
    if log_odds is None:
        return ties.scores
    z = np.asarray(log_odds(ties.scores), np.float64)
    if z.shape != ties.scores.shape or np.isnan(z).any():
        found = f"NaN in {int(np.isnan(z).sum())} places" if z.shape == ties.scores.shape else f"shape {list(z.shape)}"
        raise BadData.of("log_odds of scores", found, f"numbers {list(ties.scores.shape)}, one for each score")
    return z


def _effective_rows(curve: Curve, hits: float, misses: float) -> float:
    """The number of unweighted rows that would say as much about the rate hits / (hits + misses)."""
    if curve.effective is None:
        return hits + misses
    k = hits * curve.effective[0] / curve.positives if hits else 0.0
    n = misses * curve.effective[1] / curve.negatives if misses else 0.0
    if k == 0 or n == 0:
        return k + n
    observed = hits / (hits + misses)
    return 1 / (observed * (1 - observed) * (1 / k + 1 / n))


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise BadConfig.of("confidence", confidence, "a number between 0 and 1")


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
