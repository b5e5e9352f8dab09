"""What outcomes say of each label: confirmed precision and recall, with intervals."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from cutpoint.calibration import Rate
from cutpoint.calibration.expected import rate
from cutpoint.dataset import UNLABELLED
from numpy.typing import NDArray

_TAIL = 0.025


class Confirmed:
    """Counts of each label, and the rates that follow from them.

    Precision is of alerts alone, so it counts every alert that was looked at, whatever for. Recall needs misses, which are seen
    only where what did not alert was looked at too: it is the ratio of sums over outcomes whose sampling is known, each weighed
    by the inverse of its probability (Horvitz and Thompson 1952).

    Attributes:
        rows: with an outcome of any label.
        counts: int64 [label, decided, actual].
        undecided: int64 [label, actual] of labels on which nothing was decided.
    """

    def __init__(self, labels: int) -> None:
        """Nothing yet."""
        self.rows = 0
        self.counts = np.zeros((labels, 2, 2), np.int64)
        self.undecided = np.zeros((labels, 2), np.int64)
        # Of positives with a known sampling, by what was decided: sums of weights and of their squares; and of all outcomes
        # with one, positive or not, the largest weight.
        self._weights, self._squares, self._largest = np.zeros((labels, 2)), np.zeros((labels, 2)), np.zeros((labels, 2))

    def add(self, labels: NDArray[Any]) -> None:
        """Count rows `LABEL` [row, label]."""
        self.rows += len(labels)
        target, decided, weight = labels["target"], labels["decided"], labels["weight"].astype(np.float64)
        for actual in (0, 1):
            is_so = target == actual
            self.undecided[:, actual] += (is_so & (decided == UNLABELLED)).sum(axis=0)
            for was in (0, 1):
                self.counts[:, was, actual] += (is_so & (decided == was)).sum(axis=0)
        for was in (0, 1):
            of = np.where((target != UNLABELLED) & (decided == was), weight, 0)
            self._largest[:, was] = np.maximum(self._largest[:, was], of.max(axis=0, initial=0))
            positive = np.where(target == 1, of, 0)
            self._weights[:, was] += positive.sum(axis=0)
            self._squares[:, was] += (positive**2).sum(axis=0)

    def add_all(self, chunks: Iterable[NDArray[Any]]) -> "Confirmed":
        """Count all of them."""
        for labels in chunks:
            self.add(labels)
        return self

    def precision(self, label: int) -> Rate | None:
        """Of the alerts with an outcome, those that were right; None where there are none."""
        fp, tp = (float(count) for count in self.counts[label, 1])
        return rate(tp, tp + fp)

    def recall(self, label: int) -> Rate | None:
        """Of what was there, that which alerted; None where no outcome says."""
        missed, found = (float(weight) for weight in self._weights[label])
        largest_missed, largest_found = (float(weight) for weight in self._largest[label])
        if missed + found == 0 or largest_missed == 0:
            return None
        missed_squares, found_squares = (float(square) for square in self._squares[label])
        most_missed = most_share(missed, found, missed_squares, found_squares, largest_missed)
        most_found = most_share(found, missed, found_squares, missed_squares, largest_found or largest_missed)
        value = found / (missed + found)
        return Rate(value=value, low=min(value, 1 - most_missed), high=max(value, most_found))

    def recall_reason(self, label: int) -> str:
        """Why there is no recall; empty where there is."""
        if self.recall(label) is not None:
            return ""
        if not self.counts[label].any():
            return "no outcome of a decision"
        if not self.counts[label, :, 1].any():
            return "no outcome was positive"
        return "no positive outcome is of a review that has seen what did not alert: report with its sampling"


def most_share(part: float, rest: float, part_squares: float, rest_squares: float, largest: float) -> float:
    """The upper end, at 97.5 %, of a share of a weighted sum of independent events: part / (part + rest).

    Clopper and Pearson's where all weights are the same. Otherwise the same beta distribution with the mean and the variance
    that the share has with one more event, of the largest weight, in the part, as Fay and Feuer (1997) have it for rates; its
    variance is that of a ratio, by linearisation (Korn and Graubard 1998). Without an event in the part it is what such an
    event may weigh that bounds it, not what was seen.

    Args:
        part: sum of the weights of the events in the part.
        rest: of the others.
        part_squares: sum of the squares of the weights of those in the part.
        rest_squares: of the others.
        largest: weight of an event that may be in the part, more than 0.
    """
    from scipy.special import betaincinv  # no server's start waits for it

    if rest <= 0:
        return 1.0
    whole = part + rest + largest
    mean = (part + largest) / whole
    variance = ((part_squares + largest**2) * (1 - mean) ** 2 + rest_squares * mean**2) / whole**2
    size = mean * (1 - mean) / variance
    return float(betaincinv(mean * size, (1 - mean) * size, 1 - _TAIL))
