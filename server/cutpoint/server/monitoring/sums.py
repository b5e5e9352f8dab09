"""Sums over the decisions of one model version, made for many rows at once, each with the policy that decided it.

Decisions and positives are always exact. Of calibrated probabilities a hundred thousand a second are worked out, a
thousandth of a core; beyond that rows are drawn at random, with a chance of one in k, and count k times.

Whoever adds leaves what is needed and goes. Between requests all of this is out of the caches, and beside other busy threads
each call of numpy that lets go of the interpreter waits until it has it back: 2 us in a loop are 20 us in a server.
"""

import itertools
import threading
from collections.abc import Callable

import numpy as np
from cutpoint.calibration import Policy
from numpy.typing import NDArray

from ..policy.policies import Active
from .calibrated import NegativeOdds
from .picker import Picker
from .prevalence import Window

Doubles = NDArray[np.float64]
# Rows that are looked at: for how many rows each of them stands, and their logits.
_Picked = tuple[int, bytes]

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

# Runs whose sums are held; so many times as many, and whoever adds waits for whoever sums.
_MOST_HELD, _MUCH_MORE = 256, 4
# Rows that can be counted in a byte.
_BYTE = 255
# Numbers worked on at a time, so that they stay in a core's cache; and rows, so that a sum in float32 is right to 1e-5.
_CHUNK, _CHUNK_ROWS = 1 << 16, 1 << 10
# Probabilities a second that are worked out, at some 10 ns each beside a busy server, and those of them that the window sees;
# and how many are saved up for a burst.
_PROBABILITIES_PER_S, _PROBABILITIES_SAVED = 1e5, 2e5
_WINDOW_PER_S, _WINDOW_SAVED = 5e4, 1e5
# Policies whose maps are kept: what was accepted under one is decided by it, beside those that came after.
_MAPS = 4
_FARTHEST = 1e4


class Sums:
    """What is held and what is summed; one for all objects that serve the same version one after the other."""

    def __init__(self, labels: int, clock: Callable[[], float], seed: int | None) -> None:
        self.lock = threading.Lock()
        self._held: list[tuple[Active, int, NDArray[np.uint8], _Picked | None]] = []
        self.outcomes = np.zeros((len(PREDICTED), len(ACTUAL), labels))
        self.recallable = np.zeros((len(PREDICTED), labels))
        self._labels = labels
        self._values = np.zeros((len(COUNTERS), labels))
        self._window = Window(labels, clock=clock)
        self._windowed: Active | None = None
        self._picker = Picker(_PROBABILITIES_PER_S, _PROBABILITIES_SAVED, clock, seed)
        self._in_window = Picker(_WINDOW_PER_S, _WINDOW_SAVED, clock, None if seed is None else seed + 1)
        self._rows = max(1, min(_CHUNK_ROWS, _CHUNK // max(1, labels)))
        self._numbers = np.zeros((0, labels), np.float32)
        self._maps: list[tuple[Policy, NegativeOdds]] = []
        self._picked: list[tuple[Active, int, bytes]] = []
        self._picked_bytes = 0
        self._numbers_of_row = float(labels)

    def start(self, active: Active, prior: NDArray[np.float64]) -> None:
        """The window is of this policy's probabilities from now on; it starts anew where these are others."""
        with self.lock:
            if self._windowed is not None and active.generation < self._windowed.generation:
                return  # told late, of an object that another has replaced
            self._settle()
            self._look_at_picked()
            self._numbers_of_row = self._labels * self._map_of(active).cost  # made now, rather than while somebody waits
            before, self._windowed = self._windowed, active
            if before is None or _identity(before) != _identity(active):
                self._window.clear(prior)

    def add(self, logits: NDArray[np.float32], decisions: NDArray[np.bool_], active: Active) -> None:
        """Have these counted, soon: [..., label]. Of them only sums are kept, and copies of the logits that are looked at."""
        rows = decisions.view(np.uint8).reshape(-1, self._labels)
        count, picker, picked = len(rows), self._picker, None
        if picker.gap >= count:  # as `pick` does, without its lock: two threads at once only make the gap a little longer
            picker.gap -= count
        else:
            picked = self._pick(logits, count)
        # Now, while they are near: fetched again later they take longer than all the rest.
        held = self._held
        held.append((active, count, _positives(rows), picked))
        if len(held) >= _MOST_HELD and self.lock.acquire(blocking=len(held) >= _MUCH_MORE * _MOST_HELD):
            # Where somebody sums already, it is left to them, unless far too much has gathered.
            try:
                self._settle()
            finally:
                self.lock.release()

    def _pick(self, logits: NDArray[np.float32], count: int) -> _Picked | None:
        """A copy of the rows that are to be looked at."""
        found = self._picker.pick(count, self._numbers_of_row)
        if found is None:
            return None
        which, stride = found
        return stride, logits.reshape(count, self._labels)[which].tobytes()

    def read(self) -> tuple[Doubles, Doubles, Doubles, tuple[Doubles, Doubles, float], float]:
        """Sums, outcomes, those with recall, the window's counts and its rows, with all that is held."""
        with self.lock:
            self._settle()
            self._look_at_picked()
            return self._values.copy(), self.outcomes.copy(), self.recallable.copy(), self._window.counts(), self._window.rows

    def _settle(self) -> None:
        """Sum what is held."""
        # Whoever appends does so without the lock, so the list stays the same one, and what came meanwhile stays in it.
        number = len(self._held)
        taken = self._held[:number]
        del self._held[:number]
        for _, group in itertools.groupby(taken, key=lambda held: id(held[0])):
            same = list(group)
            active = same[0][0]
            self._values[: len(active.per_decision)] += active.per_decision * sum(count for _, count, _, _ in same)
            sums = np.concatenate([positives for _, _, positives, _ in same])
            self._values[POSITIVES] += np.add.reduce(sums, axis=0, dtype=np.uint32)
        for active, _, _, picked in taken:
            if picked is not None:
                self._picked.append((active, *picked))
                self._picked_bytes += len(picked[1])
        if self._picked_bytes >= 2 * _CHUNK:
            self._look_at_picked()

    def _map_of(self, active: Active) -> NegativeOdds:
        """The policy's map of probabilities, made once while it is among the last few that decided."""
        for known, map_ in self._maps:
            if known is active.policy:
                return map_
        made = NegativeOdds(active.policy.labels)
        self._maps = [(active.policy, made), *self._maps[: _MAPS - 1]]
        return made

    def _look_at_picked(self) -> None:
        """Look at the rows that stand for more than themselves, once there are many of them."""
        picked, self._picked, self._picked_bytes = self._picked, [], 0
        for _, group in itertools.groupby(picked, key=lambda each: id(each[0])):
            same = list(group)
            rows = np.frombuffer(b"".join([data for _, _, data in same]), np.float32).reshape(-1, self._labels)
            weights: NDArray[np.float32] | None = None
            if any(stride > 1 for _, stride, _ in same):
                lengths = [len(data) // (4 * self._labels) for _, _, data in same]
                weights = np.repeat(np.array([stride for _, stride, _ in same], np.float32), lengths)
            for at in range(0, len(rows), self._rows):
                some = slice(at, at + self._rows)
                self._look_at(rows[some], same[0][0], None if weights is None else weights[some])

    def _look_at(self, rows: NDArray[np.float32], active: Active, weights: NDArray[np.float32] | None) -> None:
        """Sum the probabilities of rows, each taken as often as its weight says; once, where there are none."""
        if len(self._numbers) < len(rows):
            self._numbers = np.empty((self._rows, self._labels), np.float32)
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


def _positives(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Positives by label among rows of 0 and 1, [row, label], in bytes: [sum, label], a sum for every so many rows."""
    if len(rows) == 1:
        return rows.copy()
    whole = len(rows) // _BYTE * _BYTE
    if not whole:
        return np.add.reduce(rows, axis=0, dtype=np.uint8, keepdims=True)
    parts = np.add.reduce(rows[:whole].reshape(-1, _BYTE, rows.shape[1]), axis=1, dtype=np.uint8)
    return np.concatenate([parts, np.add.reduce(rows[whole:], axis=0, dtype=np.uint8, keepdims=True)])


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
