"""What outcomes say of each label: confirmed precision and recall, with intervals."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from cutpoint.calibration import Rate
from cutpoint.calibration.expected import rate
from cutpoint.dataset import UNLABELLED
from numpy.typing import NDArray


class Confirmed:
    """Counts of each label, and the rates that follow from them.

    Precision is of alerts alone, so it counts every alert that was looked at, whatever for. Recall needs misses, which are seen
    only where what did not alert was looked at too: it is the ratio of sums over outcomes whose sampling is known, each weighed
    by the inverse of its probability (Horvitz and Thompson 1952); its interval is Clopper and Pearson's at the effective number
    of positives (Kish 1965; Korn and Graubard 1998).

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
        self._weights = np.zeros((labels, 2))  # of positives with a known sampling, by what was decided
        self._squares = np.zeros(labels)

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
            of = np.where((target == 1) & (decided == was), weight, 0)
            self._weights[:, was] += of.sum(axis=0)
            self._squares += (of**2).sum(axis=0)

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
        if missed + found == 0:
            return None
        effective = (missed + found) ** 2 / float(self._squares[label])
        return rate(found, missed + found, effective / (missed + found))

    def recall_reason(self, label: int) -> str:
        """Why there is no recall; empty where there is."""
        if self.recall(label) is not None:
            return ""
        if not self.counts[label].any():
            return "no outcome of a decision"
        if not self.counts[label, :, 1].any():
            return "no outcome was positive"
        return "no positive outcome is of a review that would have seen misses: report with its sampling"
