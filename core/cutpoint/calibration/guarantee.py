"""Guarantees: bounds that hold for new data with probability 1 - delta, whatever the distribution of the scores.

They assume that the labelled units (rows, or groups of rows) are drawn independently and as new ones will be, and nothing else.
Three of the four rates fall as the cut moves one way, so an order statistic settles them: with n units of which each may miss
with probability `rate`, a cut that leaves at most m misses is safe where P(Binomial(n, rate) <= m) <= delta (Tong, Feng and Li
2018, the umbrella of Neyman-Pearson classification; the same order statistic for recall). Precision does not: it is tested at
ranks declared beforehand.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..validation import Record
from .curve import Curve

RateName = Literal["recall", "fpr", "alert_rate", "precision"]
# A rank is this many times the one before it: finer ones cost nothing in a sequence, but have nearly the same answer.
_RATIO = 1.15
# The share of delta that is spent at the first rank; the rest is spread evenly, so that a poor beginning is not the end.
_FIRST_SHARE = 0.5


class Guarantee(Record):
    """What is asked of a guarantee.

    Attributes:
        delta: probability with which the bound may be broken, over draws of the labelled data; more than 0, less than 1.
        family: whether delta is for each label, or for all labels at once (then each gets an equal part of it).
        unit: what is drawn independently, and counted: rows, or groups of rows.
    """

    delta: float = Field(gt=0, lt=1)
    family: Literal["per_label", "simultaneous"] = "per_label"
    unit: Literal["row", "group"] = "row"


class Guaranteed(Record):
    """The bound that one label's cut was chosen to keep.

    Attributes:
        rate: of what.
        bound: recall and precision are at least this, the other rates at most.
        delta: probability with which it may be broken: what this label spends.
        unit: what the rate is a share of: rows, or groups.
        counted: how many units of the calibration data decided it: positives for recall, negatives for fpr, all for the others.
    """

    rate: RateName
    bound: float = Field(ge=0, le=1)
    delta: float = Field(gt=0, lt=1)
    unit: Literal["row", "group"]
    counted: int = Field(ge=0)


def most_allowed(n: int, rate: float, delta: float) -> int:
    """The largest m with P(Binomial(n, rate) <= m) <= delta; -1 where not even m = 0 will do.

    Args:
        n: units counted.
        rate: what the true rate must stay at or under, 0 to 1.
        delta: probability with which it may not.
    """
    from scipy.special import bdtr  # the client reads policies without scipy installed

    if n <= 0 or rate <= 0:
        return -1
    if rate >= 1:
        return n - 1
    low, high = -1, n  # P(<= n) is 1, which is more than delta
    while high - low > 1:
        middle = (low + high) // 2
        if bdtr(middle, n, rate) <= delta * (1 + 1e-12):
            low = middle
        else:
            high = middle
    return low


def least_needed(rate: float, delta: float, allowed: int = 0) -> int | None:
    """The smallest n for which `most_allowed` is at least `allowed`; None where no number will do."""
    if not 0 < rate < 1:
        return None if rate <= 0 else allowed + 1
    high = max(1, math.ceil(math.log(delta) / math.log1p(-rate) * (1 - 1e-12)))  # for none
    if allowed == 0:
        return high
    low = 0
    while most_allowed(high, rate, delta) < allowed:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if most_allowed(middle, rate, delta) >= allowed else (middle, high)
    return high


def declared_ranks(rows: int, precision: float, delta: float) -> NDArray[np.int64]:
    """The ranks at which a precision is tested, ascending; they depend on nothing but the number of rows.

    They begin at twice the fewest alerts that could show the precision, all of them true. None takes in the last row: the test
    is about the scores above the next lower one, which there is none of.
    """
    fewest, last = least_needed(1 - precision, delta), rows - 1
    if fewest is None or fewest > last:
        return np.zeros(0, np.int64)
    first = min(last, _first_rank(fewest, precision, delta))
    count = math.floor(math.log(last / first) / math.log(_RATIO)) + 1
    ranks = np.floor(first * _RATIO ** np.arange(count + 1)).astype(np.int64)
    return np.unique(np.append(ranks[ranks < last], last))


def least_hits(precision: float, delta: float) -> int | None:
    """The fewest positives with which `sure_precision` finds a cut: as many are enough above all others; None for no number.

    With fewer, no data of more rows than twice `least_needed` show the precision.
    """
    fewest = least_needed(1 - precision, delta)
    if fewest is None:
        return None
    first = _first_rank(fewest, precision, delta)
    return first - most_allowed(first, 1 - precision, _FIRST_SHARE * delta)


def _first_rank(fewest: int, precision: float, delta: float) -> int:
    return max(2 * fewest, least_needed(1 - precision, _FIRST_SHARE * delta) or 0)


def sure_precision(curve: Curve, precision: float, delta: float) -> int:
    """The index of the lowest cut of `curve` whose precision is at least `precision` with probability 1 - delta; -1 for none.

    At a declared rank k the cut is the lowest one that alerts on at most k rows. Given the next lower score, the rows above it
    are independent draws of those that score more, so that the true ones among m are Binomial(m, precision there): an exact
    p-value, with ties too. The ranks are tested from the first on by the fallback procedure (Wiens and Dmitrienko 2005): each
    has its part of delta, and one that passes hands what it had on to the next; all that pass are sure at once.

    Args:
        curve: of all cuts; only `cuts`, `tp` and the alerts are read, so groups may be counted in it.
        precision: more than 0, less than 1.
        delta: probability with which the precision at the answer may be less.
    """
    from scipy.special import bdtrc

    alerts = curve.alerts.astype(np.int64)
    ranks = declared_ranks(int(curve.rows), precision, delta)
    if len(ranks) == 0:
        return -1
    index = np.searchsorted(alerts, ranks, side="right") - 1
    m = np.where(index >= 0, alerts[np.maximum(index, 0)], 0)
    hits = np.where(index >= 0, curve.tp[np.maximum(index, 0)], 0)
    p_values = np.where(hits > 0, bdtrc(np.maximum(hits, 1) - 1, np.maximum(m, 1), precision), 1.0)
    own = np.full(len(ranks), (1 - _FIRST_SHARE) * delta / max(1, len(ranks) - 1))
    own[0] = delta if len(ranks) == 1 else _FIRST_SHARE * delta
    carried, found = 0.0, -1
    for i in range(len(ranks)):
        level = own[i] + carried
        if p_values[i] <= level * (1 + 1e-12):
            found, carried = i, level
        else:
            carried = 0.0
    return int(index[found]) if found >= 0 else -1
