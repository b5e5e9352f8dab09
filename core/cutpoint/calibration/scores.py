"""Scores in memory, checked once, as the curves of their labels; and how rows become groups."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..dataset import UNLABELLED
from ..errors import BadData
from .columns import turned
from .curve import Curve, as_float32, check_weights, exact_curve
from .expected import expected_at, expected_of_groups
from .guarantee import RateName
from .parallel import cores, in_order
from .policy import Counts, DataSummary, Expected

T = TypeVar("T")
Cuts = Literal["all", "positives"]
# Labels whose columns are turned together: a cache line of float32 holds 16.
_BLOCK = 16


class Scores:
    """Labelled scores of all labels: the exact source of curves.

    Attributes:
        logits: float [row, label].
        targets: [row, label]: 0, 1 or `UNLABELLED` (255); None where no classes are known.
        labels: names.
        weights: float64 [row], or None.
        groups: int64 [row] codes from 0, or None: rows of one group are not independent of each other.
    """

    step = 0.0  # of a histogram's bins

    def __init__(
        self,
        logits: NDArray[Any],
        targets: NDArray[Any] | None,
        labels: Sequence[str],
        *,
        weights: NDArray[Any] | None = None,
        groups: NDArray[Any] | None = None,
    ) -> None:
        """Nothing is copied that need not be.

        Args:
            logits: [..., label] float; leading axes (row, or sequence and window) are rows alike.
            targets: the same shape, or None.
            labels: names, as many as the last axis.
            weights: [...], how many rows each stands for; or of the first axis only, one for each sequence.
            groups: [...] or of the first axis only, integers or text.

        Raises:
            BadData: shapes differ, a target is none of the three values, or weights are negative or not finite.
        """
        logits = np.asarray(logits)
        targets = None if targets is None else np.asarray(targets)
        if logits.ndim < 2 or logits.shape[-1] != len(labels) or (targets is not None and targets.shape != logits.shape):
            shapes = f"{list(logits.shape)} and {list(targets.shape) if targets is not None else 'none'}"
            raise BadData.of("shapes of logits and targets", shapes, f"the same, [..., {len(labels)} labels]")
        if logits.dtype.kind not in "biuf":
            raise BadData.of("dtype of logits", str(logits.dtype), "numbers")
        self.shape = logits.shape
        self.labels = tuple(labels)
        self.logits = logits.reshape(-1, len(labels))
        self.targets = None if targets is None else targets.reshape(-1, len(labels))
        self.weights = None if weights is None else for_rows("weights", np.asarray(weights), self.shape[:-1])
        if self.weights is not None:
            self.weights = check_weights(self.weights, (len(self.logits),))
        self.groups: NDArray[np.int64] | None = None
        self.group_count: int | None = None
        if groups is not None:
            names, codes = np.unique(for_rows("groups", np.asarray(groups), self.shape[:-1]), return_inverse=True)
            self.groups, self.group_count = codes.astype(np.int64).reshape(-1), len(names)

    @property
    def labelled(self) -> bool:
        """Whether classes are known."""
        return self.targets is not None

    @property
    def weighted(self) -> bool:
        """Whether rows have weights."""
        return self.weights is not None

    @property
    def rows(self) -> int:
        """Rows, labelled or not."""
        return len(self.logits)

    def column(self, label: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """Logits and targets of one label, [row]."""
        return self.logits[:, label], None if self.targets is None else self.targets[:, label]

    def curve(self, label: int, cuts: Cuts = "all") -> Curve:
        """The curve of one label; BadData naming it where a score is NaN."""
        logits, targets = self.column(label)
        return self._curve(label, logits, targets, cuts)

    def map_curves(
        self, function: Callable[[int, Curve], T], cuts: Sequence[Cuts], only: Sequence[int] | None = None
    ) -> Iterator[T]:
        """`function(label, curve)` for labels in order, on every core; a curve is gone when its function returns.

        Args:
            function: called in threads.
            cuts: for each label which cuts its curve is to have.
            only: labels, ascending; None for all.
        """
        wanted = range(len(self.labels)) if only is None else only

        def block(start: int) -> list[T]:
            columns = slice(start, start + _BLOCK)
            logits = turned(self.logits, columns)
            targets = [None] * len(logits) if self.targets is None else turned(self.targets, columns)
            return [
                function(label, self._curve(label, logits[label - start], targets[label - start], cuts[label]))
                for label in wanted
                if start <= label < start + _BLOCK
            ]

        starts = sorted({label - label % _BLOCK for label in wanted})
        for found in in_order(block, starts, min(len(starts), cores())):
            yield from found

    def digest(self) -> str:
        """SHA-256, in hex, of shape, float32 logits, uint8 targets, weights and groups."""
        total = hashlib.sha256(f"{list(self.shape)}".encode())
        for array, dtype in ((self.logits, "<f4"), (self.targets, "u1"), (self.weights, "<f8"), (self.groups, "<i8")):
            total.update(b"-" if array is None else b"+")
            for start in range(0, len(array) if array is not None else 0, 1 << 14):
                part = array[start : start + (1 << 14)]  # type: ignore[index]
                total.update(np.ascontiguousarray(as_float32(part) if dtype == "<f4" else part, dtype).tobytes())
        return total.hexdigest()

    def _curve(self, label: int, logits: NDArray[Any], targets: NDArray[Any] | None, cuts: Cuts) -> Curve:
        try:
            return exact_curve(logits, targets, self.weights, cuts)
        except BadData as error:
            raise BadData(f"label {self.labels[label]!r}: {error}") from None

    @property
    def has_groups(self) -> bool:
        """Whether rows come in groups."""
        return self.groups is not None

    def unit_curve(self, label: int, rate: RateName) -> Curve:
        """The curve of one label that counts groups, for a guarantee of `rate` by group; BadData without groups."""
        if self.groups is None or self.group_count is None:
            raise BadData.of("groups", "not given", "one for each row, for a guarantee by group")
        return group_curve(group_peaks(*self.column(label), self.groups, self.group_count), rate)

    def expected(self, label: int, threshold: float, counts: Counts, effective: tuple[float, float] | None) -> Expected:
        """The rates expected at a cut of one label; where rows come in groups, with groups taken as independent."""
        if self.groups is None:
            return expected_at(counts, effective)
        return expected_of_groups(*self.column(label), self.weights, self.groups, threshold)

    def summary(self) -> DataSummary:
        """What a policy says that it was made from."""
        return DataSummary(
            source="scores", rows=self.rows, labelled=self.labelled, weighted=self.weighted, groups=self.group_count
        )


def for_rows(name: str, values: NDArray[Any], leading: tuple[int, ...]) -> NDArray[Any]:
    """`values` of the leading axes, or of the first of them, as [row]; BadData where they are of neither."""
    if values.shape == leading:
        return values.reshape(-1)
    if values.shape == leading[:1]:
        return np.repeat(values, int(np.prod(leading[1:])))
    shapes = " or ".join(str(list(shape)) for shape in dict.fromkeys((leading, leading[:1])))
    raise BadData.of(f"shape of {name}", list(values.shape), f"{shapes}, as the rows of the logits")


def group_peaks(
    scores: NDArray[Any], targets: NDArray[Any] | None, groups: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """The highest score of each group's positives and of its negatives, for one label.

    Args:
        scores: [row].
        targets: [row] 0, 1 or `UNLABELLED`; None counts every row as a negative.
        groups: [row] codes from 0.
        count: of groups.

    Returns:
        peak of the positives and of the negatives, float32 [group], -inf where there are none; whether there are any, bool
        [group] each.
    """
    found = []
    for c in (1, 0):
        chosen = np.full(len(scores), c == 0) if targets is None else targets == c
        peak = np.full(count, -np.inf, np.float32)
        np.maximum.at(peak, groups[chosen], as_float32(scores[chosen]))
        found.append((peak, np.bincount(groups[chosen], minlength=count) > 0))
    (positive, has_positive), (negative, has_negative) = found
    return positive, negative, has_positive, has_negative


def group_scores(
    scores: NDArray[Any], targets: NDArray[Any], groups: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Groups as units, as a histogram counts them: guarantees of recall and false-positive rate by group follow from it.

    A group with positives is one positive unit, found when any of them alerts; a group with negatives is one negative unit, a
    false alarm when any of them alerts. A group of both is two units. Every group must be whole.

    Args:
        scores: [row, label].
        targets: [row, label]: 0, 1 or `UNLABELLED` (255).
        groups: [row] integers or text.

    Returns:
        scores float32 and targets uint8, [2 x group, label]; where a group lacks a class its unit is `UNLABELLED`.
    """
    names, codes = np.unique(groups, return_inverse=True)
    count, labels = len(names), scores.shape[-1]
    peaks = np.zeros((2 * count, labels), np.float32)
    classes = np.full((2 * count, labels), UNLABELLED, np.uint8)
    for i in range(labels):
        positive, negative, has_positive, has_negative = group_peaks(scores[:, i], targets[:, i], codes.reshape(-1), count)
        peaks[:count, i], peaks[count:, i] = positive, negative
        classes[:count, i][has_positive], classes[count:, i][has_negative] = 1, 0
    return peaks, classes


def group_curve(
    peaks: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]], rate: str
) -> Curve:
    """The curve of one label that counts groups, for a guarantee of `rate`, from `group_peaks`.

    For recall and fpr a group with positives, and one with negatives, is a unit each. For the alert rate a group is a unit that
    alerts when any row of it does. For precision likewise, and it is true when one of its positives alerts: `tp` and the alerts
    count such groups, so that `fp` alone, which may fall, means little.
    """
    positive, negative, has_positive, has_negative = peaks
    if rate in ("recall", "fpr"):
        classes = np.repeat(np.array([1, 0], np.uint8), [int(has_positive.sum()), int(has_negative.sum())])
        return exact_curve(np.concatenate([positive[has_positive], negative[has_negative]]), classes)
    any_row = has_positive | has_negative
    whole = exact_curve(np.maximum(positive, negative)[any_row], None)
    if rate == "alert_rate":
        return whole
    hits = np.sort(positive[has_positive])
    tp = len(hits) - np.searchsorted(hits, whole.cuts, side="left")
    return replace(whole, tp=tp, fp=whole.fp - tp, positives=len(hits), negatives=int(any_row.sum()) - len(hits), labelled=True)
