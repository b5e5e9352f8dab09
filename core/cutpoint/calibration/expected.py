"""The rates expected at a cut, from counts, with intervals that know about weights and groups."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataset import UNLABELLED
from ..errors import BadData
from .curve import as_float32
from .interval import clopper_pearson
from .policy import Counts, Expected, Rate


def expected_at(counts: Counts, effective: tuple[float, float] | None = None) -> Expected:
    """The rates that follow from counts at a cut, with their intervals.

    Args:
        counts: with at least one row.
        effective: of weighted rows, the effective numbers of positives and negatives; the interval of a rate takes its
            denominator as smaller by as much.

    Raises:
        BadData: there are no rows.
    """
    if counts.rows == 0:
        raise BadData.of("counts", "no rows", "at least one row")
    negatives, false_alerts = counts.negatives + counts.unlabelled, counts.fp + counts.unlabelled_alerts
    of_positives = of_negatives = 1.0
    if effective is not None:
        of_positives = effective[0] / counts.positives if counts.positives else 1.0
        of_negatives = effective[1] / negatives if negatives else 1.0
    alerts_scale = (of_positives * counts.tp + of_negatives * false_alerts) / counts.alerts if counts.alerts else 1.0
    rows_scale = (of_positives * counts.positives + of_negatives * negatives) / counts.rows
    known = counts.unlabelled == 0
    alert_rate = rate(counts.alerts, counts.rows, rows_scale)
    assert alert_rate is not None  # there are rows
    return Expected(
        precision=rate(counts.tp, counts.alerts, alerts_scale) if known else None,
        recall=rate(counts.tp, counts.positives, of_positives),
        fpr=rate(counts.fp, counts.negatives, of_negatives),
        alert_rate=alert_rate,
    )


def expected_of_groups(
    scores: NDArray[Any],
    targets: NDArray[Any] | None,
    weights: NDArray[np.float64] | None,
    groups: NDArray[np.int64],
    threshold: float,
) -> Expected:
    """The rates of rows at a threshold, with intervals that take groups, not rows, as independent.

    The interval is Clopper and Pearson's at the effective number of rows (Korn and Graubard 1998): that at which independent
    rows would have the variance that the rate, a ratio of sums over groups, has by linearisation, less what Student's t takes
    for a variance known from few groups. Where the rate is 0 or 1, and no variance can be seen, it is the number of groups.

    Args:
        scores: [row], of one label.
        targets: [row] 0, 1 or `UNLABELLED`; None where no classes are known.
        weights: [row] or None.
        groups: [row] codes from 0.
        threshold: a row alerts at or above it.
    """
    from scipy.special import stdtrit  # the client reads policies without scipy installed

    known = np.full(len(scores), True) if targets is None else targets != UNLABELLED
    each = np.ones(len(scores)) if weights is None else weights
    alerts = (as_float32(scores) >= np.float32(threshold)) & known
    positive = np.zeros(len(scores), bool) if targets is None else targets == 1
    count = int(groups.max()) + 1

    def ratio(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> Rate | None:
        a = np.bincount(groups[part], each[part], count)
        b = np.bincount(groups[whole], each[whole], count)
        if b.sum() == 0:
            return None
        value, taking_part = float(min(1.0, a.sum() / b.sum())), int((b > 0).sum())
        n = float(b.sum()) if weights is None else float(b.sum() ** 2 / (each[whole] ** 2).sum())
        variance = 0.0
        if taking_part > 1:
            variance = float(((a - value * b) ** 2).sum()) / float(b.sum()) ** 2 * taking_part / (taking_part - 1)
        effective = min(n, float(taking_part))
        if variance > 0:
            quantiles = stdtrit(np.array([max(n, taking_part), taking_part]) - 1, 0.975)
            effective = min(n, value * (1 - value) / variance * float(quantiles[0] / quantiles[1]) ** 2)
        low, high = clopper_pearson(value * effective, effective)
        return Rate(value=value, low=min(low, value), high=max(high, value))

    unknown = targets is None
    alert_rate = ratio(alerts, known)
    if alert_rate is None:
        raise BadData.of("rows", "none with a weight", "at least one")
    return Expected(
        precision=None if unknown else ratio(alerts & positive, alerts),
        recall=None if unknown else ratio(alerts & positive, positive),
        fpr=None if unknown else ratio(alerts & ~positive, known & ~positive),
        alert_rate=alert_rate,
    )


def rate(count: float, of: float, scale: float = 1.0) -> Rate | None:
    """`count` of `of` with its interval at `scale` times as many rows; None when `of` is 0."""
    if of == 0:
        return None
    low, high = clopper_pearson(count * scale, of * scale)
    value = min(1.0, count / of)
    return Rate(value=value, low=min(low, value), high=max(high, value))
