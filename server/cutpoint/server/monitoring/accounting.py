"""The accounting of one model version: what was decided, and what its calibration says of it, summed by label.

A request costs a copy of its logits; the sums are made for many rows at once, when enough have gathered or somebody looks.
Every row is held with the policy that decided it, so that sums are right across policies. Of calibrated probabilities so many
a second are worked out that it takes a hundredth of a core; beyond that every k-th row counts k times, from a random start.
"""

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..policy.policies import Active
from .allowance import Allowance
from .calibrated import NegativeOdds
from .prevalence import Window, estimate
from .promises import PREVALENCE, PROMISES, promises_of

COUNTERS = {
    "cutpoint_decisions": "Decisions made: rows or windows held against the label's threshold.",
    "cutpoint_positives": "Decisions at or above the threshold.",
    "cutpoint_expected_positives": "Positives that the calibration expects: its rate for the label, summed over decisions.",
    "cutpoint_expected_positives_variance": "Binomial variance of the expected positives: the sum of p(1-p) over decisions.",
    "cutpoint_probability": "Calibrated probability of a true positive, summed over decisions.",
    "cutpoint_alerted_probability": "Calibrated probability of a true positive, summed over positives.",
}
_POSITIVES, _PROBABILITY, _ALERTED = 1, 4, 5  # their rows; the first four are of `Active.per_decision` but for positives
ACTUAL = PREDICTED = ("negative", "positive")

# Requests and bytes that may be held; numbers from which on a request is summed at once, for it gains nothing by waiting.
_MOST_HELD, _MOST_BYTES, _AT_ONCE = 128, 1 << 19, 1 << 14
# Numbers worked on at a time, so that they stay in a core's cache; and rows, so that a sum in float32 stays exact to 1e-4.
_CHUNK, _CHUNK_ROWS = 1 << 16, 1 << 12
# A number of a straight line takes 1.7 ns: a hundredth of a core. One that is counted for the prevalence takes 3 ns more.
_PROBABILITIES_PER_S, _PROBABILITIES_SAVED = 5e6, 2e7
_WINDOW_PER_S, _WINDOW_SAVED = 5e5, 4e6
_BYTE = 255
_FARTHEST = 1e4


@dataclass(frozen=True)
class Snapshot:
    """All that a scrape wants of one model version, of one moment.

    Attributes:
        sums: [counter, label] in the order of `COUNTERS`.
        promises: [gauge, label] in the order of `PROMISES`; NaN where there is none.
        outcomes: [predicted, actual, label], outcomes reported later.
        prevalence: [label] estimated of the recent window; NaN where there is too little to say.
        window_rows: in that window.
    """

    sums: NDArray[np.float64]
    promises: NDArray[np.float64]
    outcomes: NDArray[np.float64]
    prevalence: NDArray[np.float64]
    window_rows: float
    active: Active | None


class ModelCounters:
    """Counts of one model version, by label; added to from any thread."""

    def __init__(
        self,
        model: str,
        version: int,
        labels: tuple[str, ...],
        *,
        counts: bool = True,
        clock: Callable[[], float] = time.monotonic,
        seed: int | None = None,
    ) -> None:
        """All counters start at zero, so that the first event is an increase.

        Args:
            model: name.
            version: number.
            labels: of the decisions.
            counts: whether decisions are counted at all.
            clock: seconds, increasing.
            seed: of where every k-th row starts.
        """
        self.model, self.version, self.labels = model, str(version), labels
        self.active: Active | None = None
        self.queue_rows: Callable[[], int] = lambda: 0
        self._counts = counts
        self._promises = np.full((len(PROMISES), len(labels)), np.nan)
        self._sums = _Sums(len(labels), clock, seed)
        self._held = self._sums.held
        self._lock = threading.Lock()

    def apply(self, active: Active | None) -> None:
        """Make this the policy in force; an older generation than the present one is ignored, whatever order they come in."""
        with self._lock:
            if active is None or (self.active is not None and active.generation <= self.active.generation):
                return
            self._promises = promises_of(active)
            self._sums.start(active, self._promises[PREVALENCE])
            self.active = active

    def go_on_from(self, before: "ModelCounters") -> None:
        """Count on where those of the same model version stopped, which was loaded anew; not where its labels changed."""
        if before.labels == self.labels:
            mine, self._sums = self._sums, before._sums
            self._held = self._sums.held
            self._sums.held.extend(mine.held)
            if self.active is not None:
                self._sums.start(self.active, self._promises[PREVALENCE])

    def add(self, logits: NDArray[np.float32], active: Active) -> None:
        """Account for the decisions that `active`, which may have been replaced meanwhile, makes on logits [..., label].

        They are copied. No number of them is NaN.
        """
        if not self._counts:
            return
        if logits.size >= _AT_ONCE:
            self._sums.add(logits.reshape(-1, len(self.labels)), active)
            return
        held, data = self._held, logits.tobytes()
        held.append((active, data))
        if len(held) >= _MOST_HELD or len(held) * len(data) >= _MOST_BYTES:
            self._sums.settle()

    def outcome(self, label_index: int, predicted: bool, actual: bool, count: int = 1) -> None:
        """Count outcomes that were reported of earlier decisions.

        Args:
            label_index: of the label, in the model's order.
            predicted: what was decided.
            actual: what it turned out to be.
            count: how many.
        """
        with self._sums.lock:
            self._sums.outcomes[int(predicted), int(actual), label_index] += count

    def snapshot(self, labels: int | None = None) -> Snapshot:
        """Everything up to now; the prevalence of the first `labels` labels only, where that is given."""
        with self._lock:
            promises, active = self._promises, self.active
        sums, outcomes, (counts, prior, share), rows = self._sums.read()
        found = np.full(len(self.labels), np.nan)
        shown = slice(labels)
        found[shown] = estimate(counts[shown], prior[shown], share)
        return Snapshot(sums, promises.copy(), outcomes, found, rows, active)


class _Sums:
    """What is held and what is summed; one for all objects that serve the same version one after the other."""

    def __init__(self, labels: int, clock: Callable[[], float], seed: int | None) -> None:
        self.lock = threading.Lock()
        self.held: list[tuple[Active, bytes]] = []
        self.outcomes = np.zeros((len(PREDICTED), len(ACTUAL), labels))
        self._labels = labels
        self._values = np.zeros((len(COUNTERS), labels))
        self._window = Window(labels, clock=clock)
        self._windowed: Active | None = None
        self._probabilities = Allowance(_PROBABILITIES_PER_S, _PROBABILITIES_SAVED, clock)
        self._in_window = Allowance(_WINDOW_PER_S, _WINDOW_SAVED, clock)
        self._random = random.Random(seed)
        self._rows = max(1, min(_CHUNK_ROWS, _CHUNK // max(1, labels)))
        self._numbers = np.zeros((0, labels), np.float32)
        self._alerts = np.zeros((0, labels), np.bool_)
        self._odds: tuple[Active, NegativeOdds] | None = None

    def start(self, active: Active, prior: NDArray[np.float64]) -> None:
        """The window is of this policy's probabilities from now on; it starts anew where these are others."""
        with self.lock:
            self._settle()
            before, self._windowed = self._windowed, active
            if before is None or _identity(before) != _identity(active):
                self._window.clear(prior)

    def add(self, rows: NDArray[np.float32], active: Active) -> None:
        """Sum these rows [row, label] now."""
        with self.lock:
            self._account(rows, active)

    def settle(self) -> None:
        """Sum what is held."""
        with self.lock:
            self._settle()

    def read(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[NDArray[np.float64], NDArray[np.float64], float], float]:
        """Sums, outcomes, the window's counts and its rows, with all that is held."""
        with self.lock:
            self._settle()
            return self._values.copy(), self.outcomes.copy(), self._window.counts(), self._window.rows

    def _settle(self) -> None:
        # Whoever appends does so without the lock, so the list stays the same one, and what came meanwhile stays in it.
        count = len(self.held)
        taken = self.held[:count]
        del self.held[:count]
        for active, entries in itertools.groupby(taken, key=lambda entry: entry[0]):
            rows = np.frombuffer(b"".join(data for _, data in entries), np.float32)
            self._account(rows.reshape(-1, self._labels), active)

    def _account(self, rows: NDArray[np.float32], active: Active) -> None:
        for at in range(0, len(rows), self._rows):
            self._account_chunk(rows[at : at + self._rows], active)

    def _account_chunk(self, rows: NDArray[np.float32], active: Active) -> None:
        count = len(rows)
        if len(self._numbers) < count:
            self._numbers = np.empty((self._rows, self._labels), np.float32)
            self._alerts = np.empty((self._rows, self._labels), np.bool_)
        alerts = np.greater_equal(rows, active.thresholds, out=self._alerts[:count])
        self._values[: len(active.per_decision)] += active.per_decision * count
        fits = np.uint8 if count <= _BYTE else np.uint32  # a byte is ten times as fast
        self._values[_POSITIVES] += np.add.reduce(alerts.view(np.uint8), axis=0, dtype=fits)
        if self._odds is None or self._odds[0] is not active:
            self._odds = active, NegativeOdds(active.policy.labels)
        map_, stride = self._odds[1], self._probabilities.stride(rows.size * self._odds[1].cost)
        if stride > 1:
            start = self._random.randrange(stride)
            rows, alerts = rows[start::stride], alerts[start::stride]
            if not len(rows):
                return
        with np.errstate(all="ignore"):
            numbers = map_(rows, self._numbers[: len(rows)])
            if active is self._windowed:
                self._see(numbers, stride)
            summed = self._probability(numbers, alerts)
            if not np.isfinite(summed).all():  # an infinite logit, under a slope of 0
                numbers = map_(np.nan_to_num(rows, nan=0.0, posinf=_FARTHEST, neginf=-_FARTHEST), self._numbers[: len(rows)])
                summed = self._probability(numbers, alerts)
        self._values[_PROBABILITY:] += stride * active.decides * summed

    def _see(self, numbers: NDArray[np.float32], weight: int) -> None:
        """Have the window see some of these, which stand for `weight` rows each."""
        stride = self._in_window.stride(numbers.size)
        start = self._random.randrange(stride) if stride > 1 else 0
        some = numbers[start::stride]
        if len(some):
            self._window.add(some, weight * stride)

    @staticmethod
    def _probability(numbers: NDArray[np.float32], alerts: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The sum of p and that of p where it alerts, [2, label], of minus log-odds, which are overwritten."""
        np.exp(numbers, out=numbers)
        np.add(numbers, np.float32(1), out=numbers)
        np.reciprocal(numbers, out=numbers)
        every = np.add.reduce(numbers, axis=0)
        np.multiply(numbers, alerts, out=numbers)
        return np.stack([every, np.add.reduce(numbers, axis=0)]).astype(np.float64)


def _identity(active: Active) -> tuple[int, str]:
    """What tells policies of a model apart: numbers run over all versions, and a graph has its own."""
    return active.policy.version, active.policy.model_digest
