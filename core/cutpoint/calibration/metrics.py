"""Metrics of ranking, for rare events, from curves.

Each takes a curve from scores, weighted or not, or from a histogram, whose bins are ties. Rows below the lowest cut, which a
histogram may have, are one last tie, at the score that `Curve.below` says. All but `average_precision` need a curve of
all cuts: one at positives only does not say where between two positives the negatives are.
"""

import numpy as np

from ..errors import BadConfig
from .curve import Curve
from .points import Floats, has_both, ties_of


def average_precision(curve: Curve) -> float:
    """Average precision, sum over cuts of (recall step) x precision, 0 to 1; NaN without positives.

    The step form, as scikit-learn's `average_precision_score`: no interpolation, which flatters. Its value for random scores is
    the prevalence, so compare it with that and never across different prevalences. A curve at positives only gives the same.
    """
    if curve.positives == 0:
        return float("nan")
    ties = ties_of(curve)
    tp, fp = np.cumsum(ties.hits), np.cumsum(ties.misses)
    return min(1.0, float(np.sum(ties.hits / curve.positives * tp / (tp + fp))))  # steps of 1/58 sum to more than 1


def roc_auc(curve: Curve) -> float:
    """Area under the ROC curve, 0 to 1: how often a positive scores above a negative, ties counting half.

    NaN where a class is missing. Needs a curve of all cuts. Of rare events it says little: ten false alarms for each true one
    may go with 0.999; see `partial_roc_auc` and `average_precision`.
    """
    if not has_both(curve):
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
    if max_fpr == 1 or not has_both(curve):
        return roc_auc(curve)
    fpr, tpr = _roc(curve)
    stop = int(np.searchsorted(fpr, max_fpr, side="right"))
    end = np.interp(max_fpr, fpr[stop - 1 : stop + 1], tpr[stop - 1 : stop + 1])
    area = _area(np.append(fpr[:stop], max_fpr), np.append(tpr[:stop], end))
    least = max_fpr**2 / 2
    return min(1.0, 0.5 * (1 + (area - least) / (max_fpr - least)))


def _roc(curve: Curve) -> tuple[Floats, Floats]:
    """False and true positive rates from (0, 0) to (1, 1)."""
    fpr, tpr = (
        np.concatenate(([0.0], counts / total, [1.0]))
        for counts, total in ((curve.fp, curve.negatives), (curve.tp, curve.positives))
    )
    return fpr, tpr


def _area(x: Floats, y: Floats) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
