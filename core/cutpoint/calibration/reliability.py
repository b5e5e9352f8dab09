"""How honest probabilities are: skill against the prevalence, and reliability, from curves of all cuts."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import BadConfig, BadData
from .curve import Curve
from .interval import check_confidence, clopper_pearson
from .points import Floats, Ties, has_both, ties_of

# Raw logits, float64 [score], to calibrated log-odds, the same shape; `Calibrator.log_odds` is one.
LogOdds = Callable[[Floats], Floats]


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
    if not has_both(curve):
        return float("nan")
    ties = ties_of(curve)
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
    if not has_both(curve):
        return float("nan")
    ties = ties_of(curve)
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
    check_confidence(confidence)
    if curve.rows == 0 or not curve.labelled:
        return ()
    ties = ties_of(curve)
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


def _sigmoid(z: Floats) -> Floats:
    """Probabilities in float64, to full precision near 0."""
    return np.asarray(np.exp(-np.logaddexp(0, -z)))


def _calibrated(ties: Ties, log_odds: LogOdds | None) -> Floats:
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
