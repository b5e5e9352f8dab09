"""Sums over the decisions of one model version, made for many rows at once, each with the policy that decided it.

Decisions and positives are always exact. Of calibrated probabilities a hundred thousand a second are worked out, a
thousandth of a core; beyond that rows are drawn at random, with a chance of one in k, and count k times.

Whoever adds leaves a copy and goes. Between requests all of this is out of the caches, and beside other busy threads each call
of numpy that lets go of the interpreter waits until it has it back: 2 us in a loop are 20 us in a server.
"""

import itertools
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..policy.policies import Active
from .calibrated import NegativeOdds
from .picker import Picker
from .positives import Positives
from .prevalence import Window

Doubles = NDArray[np.float64]

# Rows that are looked at: who decided them, for how many rows each of them stands, and their logits.
_Picked = tuple[Active, int, bytes]

COUNTERS = {
    "cutpoint_decisions": "Decisions made: rows or windows held against the label's threshold.",
    "cutpoint_positives": "Decisions at or above the threshold.",
    "cutpoint_expected_positives": "Positives that the calibration expects: its rate for the label, summed over decisions.",
    "cutpoint_expected_positives_variance": "Binomial variance of the expected positives: the sum of p(1-p) over decisions.",
    "cutpoint_expected_positives_standard_error": "Standard error of these by the calibration, summed over decisions.",
    "cutpoint_promised_recall": "Expected recall at the cut, summed over decisions.",
    "cutpoint_promised_false_positive_rate": "Expected false positive rate at the cut, summed over decisions.",
    "cutpoint_promised_decisions": "Decisions of a policy that knows both of these rates; others are not in their sums.",
    "cutpoint_probability": "Calibrated probability of a true positive, summed over decisions.",
    "cutpoint_alerted_probability": "Calibrated probability of a true positive, summed over positives.",
}
# Their rows; those before the probability are of `Active.per_decision`, but for positives.
POSITIVES, EXPECTED, ERROR, RECALL, FALSE_POSITIVES, _PROBABILITY = 1, 2, 4, 5, 6, 8
ACTUAL = PREDICTED = ("negative", "positive")

# Pieces of sums that wait for whoever sums already, before whoever adds waits too.
_MANY = 4
# Numbers worked on at a time, so that they stay in a core's cache; and rows, so that a sum in float32 is right to 1e-5.
_CHUNK, _CHUNK_ROWS = 1 << 16, 1 << 10
# Bytes of logits that are looked at together.
_PICKED_BYTES = 2 * _CHUNK
# Probabilities a second that are worked out, at some 10 ns each beside a busy server, and those of them that the window sees;
# and how many are saved up for a burst.
_PROBABILITIES_PER_S, _PROBABILITIES_SAVED = 1e5, 2e5
_WINDOW_PER_S, _WINDOW_SAVED = 5e4, 1e5
# Rows of a request, one after the other, that are looked at together or not at all: drawing costs as much as looking at some.
_TOGETHER = 8
# Policies whose maps are kept: what was accepted under one is decided by it, beside those that came after.
_MAPS = 4
_FARTHEST = 1e4


class Sums:
    """What is held and what is summed; one for all objects that serve the same version one after the other."""

    def __init__(self, labels: int, clock: Callable[[], float], seed: int | None) -> None:
        self.lock = threading.Lock()
        self.outcomes = np.zeros((len(PREDICTED), len(ACTUAL), labels))
        self.recallable = np.zeros((len(PREDICTED), labels))
        self._labels = labels
        self._values = np.zeros((len(COUNTERS), labels))
        self._window = Window(labels, clock=clock)
        self._windowed: Active | None = None
        self._in_window = Picker(_WINDOW_PER_S, _WINDOW_SAVED, clock, None if seed is None else seed + 1)
        self._chunk_rows = max(1, min(_CHUNK_ROWS, _CHUNK // max(1, labels)))
        self._numbers = np.zeros((0, labels), np.float32)
        self._maps: list[tuple[Active, NegativeOdds]] = []
        self._numbers_of_row = float(labels)
        # What was added and not summed, under a lock that is never held for long.
        self._adding = threading.Lock()
        self._positives = Positives(labels)
        self._of: Active | None = None  # that decided last, and how many rows since
        self._since = 0
        self._rows: dict[int, tuple[Active, int]] = {}  # of those before it
        self._picker = Picker(_PROBABILITIES_PER_S, _PROBABILITIES_SAVED, clock, seed)
        self._picked: list[_Picked] = []
        self._picked_bytes = 0

    def start(self, active: Active, prior: NDArray[np.float64]) -> None:
        """The window is of this policy's probabilities from now on; it starts anew where these are others."""
        with self.lock:
            self._settle(whole=True)
            self._numbers_of_row = self._labels * self._map_of(active).cost  # made now, rather than while somebody waits
            before, self._windowed = self._windowed, active
            if before is None or _identity(before) != _identity(active):
                self._window.clear(prior)

    def add(self, logits: NDArray[np.float32], decisions: NDArray[np.bool_], active: Active) -> None:
        """Have these counted, soon: [..., label]. Nothing of them is kept, but copies of some rows of logits."""
        count = decisions.size // self._labels
        if not count:
            return
        positives = self._positives.of(decisions)
        with self._adding:
            if active is not self._of:
                self._put_rows_away(active)
            self._since += count
            self._positives.add(positives)
            parts = -(-count // _TOGETHER)
            if self._picker.gap >= parts:  # as `pick` does
                self._picker.gap -= parts
            else:
                self._pick(logits, count, active)
            much = self._positives.much
        if much or self._picked_bytes >= _PICKED_BYTES:
            # Where somebody sums already, it is left to them, unless far too much has gathered.
            if self.lock.acquire(blocking=much >= _MANY or self._picked_bytes >= _MANY * _PICKED_BYTES):
                try:
                    self._settle(whole=False)
                finally:
                    self.lock.release()

    def _pick(self, logits: NDArray[np.float32], count: int, active: Active) -> None:
        """Keep a copy of the rows that are to be looked at."""
        found = self._picker.pick(-(-count // _TOGETHER), self._numbers_of_row * min(count, _TOGETHER))
        if found is not None:
            which, stride = found
            rows = logits.reshape(count, self._labels)
            if isinstance(which, slice):
                rows = rows if which.start is None else rows[which.start * _TOGETHER : which.stop * _TOGETHER]
            else:
                places = (which[:, None] * _TOGETHER + np.arange(_TOGETHER)).reshape(-1)
                rows = rows[places[places < count]]
            self._picked.append((active, stride, rows.tobytes()))
            self._picked_bytes += rows.nbytes

    def read(self) -> tuple[Doubles, Doubles, Doubles, tuple[Doubles, Doubles, float], float]:
        """Sums, outcomes, those with recall, the window's counts and its rows, with all that was added."""
        with self.lock:
            self._settle(whole=True)
            return self._values.copy(), self.outcomes.copy(), self.recallable.copy(), self._window.counts(), self._window.rows

    def _settle(self, *, whole: bool) -> None:
        """Sum what was added: all of it, or where that is much."""
        rows: list[tuple[Active, int]] = []
        picked: list[_Picked] = []
        with self._adding:
            if whole:
                self._put_rows_away(self._of)
                rows, self._rows = list(self._rows.values()), {}
            if whole or self._picked_bytes >= _PICKED_BYTES:
                picked, self._picked, self._picked_bytes = self._picked, [], 0
            positives = self._positives.take(whole=whole)
        for active, count in rows:  # what every decision adds, whatever it was
            self._values[: len(active.per_decision)] += active.per_decision * count
        if positives:
            self._values[POSITIVES] += self._positives.summed(positives)
        self._look_at_picked(picked)

    def _put_rows_away(self, following: Active | None) -> None:
        """Count rows for `following` from here on."""
        if self._of is not None and self._since:
            _, before = self._rows.get(id(self._of), (None, 0))
            self._rows[id(self._of)] = self._of, before + self._since
        self._of, self._since = following, 0

    def _map_of(self, active: Active) -> NegativeOdds:
        """The policy's map of probabilities, made once while it is among the last few that decided."""
        for known, map_ in self._maps:
            if known is active:
                return map_
        made = NegativeOdds(active.policy.labels)
        self._maps = [(active, made), *self._maps[: _MAPS - 1]]
        return made

    def _look_at_picked(self, picked: list[_Picked]) -> None:
        """Look at the rows that stand for more than themselves."""
        for _, group in itertools.groupby(picked, key=lambda each: id(each[0])):
            same = list(group)
            rows = np.frombuffer(b"".join([data for _, _, data in same]), np.float32).reshape(-1, self._labels)
            weights: NDArray[np.float32] | None = None
            if any(stride > 1 for _, stride, _ in same):
                lengths = [len(data) // (4 * self._labels) for _, _, data in same]
                weights = np.repeat(np.array([stride for _, stride, _ in same], np.float32), lengths)
            for at in range(0, len(rows), self._chunk_rows):
                some = slice(at, at + self._chunk_rows)
                self._look_at(rows[some], same[0][0], None if weights is None else weights[some])

    def _look_at(self, rows: NDArray[np.float32], active: Active, weights: NDArray[np.float32] | None) -> None:
        """Sum the probabilities of rows, each taken as often as its weight says; once, where there are none."""
        if len(self._numbers) < len(rows):
            self._numbers = np.empty((self._chunk_rows, self._labels), np.float32)
        numbers = self._numbers[: len(rows)]
        map_ = self._map_of(active)
        alerts = np.greater_equal(rows, active.thresholds)
        with np.errstate(all="ignore"):
            map_(rows, numbers)
            if active is self._windowed:
                self._see(numbers, weights)
            summed = _probability(numbers, alerts, weights)
            if not np.isfinite(summed).all():  # an infinite logit, under a slope of 0
                map_(np.nan_to_num(rows, nan=0.0, posinf=_FARTHEST, neginf=-_FARTHEST), numbers)
                summed = _probability(numbers, alerts, weights)
        self._values[_PROBABILITY:] += active.decides * summed

    def _see(self, numbers: NDArray[np.float32], weights: NDArray[np.float32] | None) -> None:
        """Have the window see as many of these as it may."""
        found = self._in_window.pick(len(numbers), self._labels)
        if found is not None:
            which, stride = found
            some = numbers[which]
            self._window.add(some, stride * (np.ones(len(some)) if weights is None else weights[which].astype(np.float64)))


def _probability(numbers: NDArray[np.float32], alerts: NDArray[np.bool_], weights: NDArray[np.float32] | None) -> Doubles:
    """The sum of p and that of p where it alerts, [2, label], of minus log-odds, which are overwritten."""
    np.exp(numbers, out=numbers)
    np.add(numbers, np.float32(1), out=numbers)
    np.reciprocal(numbers, out=numbers)
    if weights is not None:
        np.multiply(numbers, weights[:, None], out=numbers)
    every = np.add.reduce(numbers, axis=0)
    np.multiply(numbers, alerts, out=numbers)
    return np.stack([every, np.add.reduce(numbers, axis=0)]).astype(np.float64)


def _identity(active: Active) -> tuple[int, str]:
    """What tells policies of a model apart: numbers run over all versions, and a graph has its own."""
    return active.policy.version, active.policy.model_digest
