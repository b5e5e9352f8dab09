"""Sums over the decisions of one model version, made for many rows at once, each with the policy that decided it.

Decisions and positives are always exact. Of calibrated probabilities half a million a second are worked out, two thousandths of
a core; beyond that one row of every k, drawn at random, counts k times.

Whoever adds copies, takes no lock, and calls nothing of numpy that lets go of the interpreter: beside other busy threads each
such call costs tens of microseconds until the interpreter is back, and there are twenty in a sum.
"""

import itertools
import random
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..policy.policies import Active
from .allowance import Allowance
from .calibrated import NegativeOdds
from .prevalence import Window

Doubles = NDArray[np.float64]
Entry = TypeVar("Entry")

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

# Requests and bytes that are held; and numbers from which on of a request only what will be looked at is held.
_MOST_HELD, _MOST_BYTES, _LARGE = 128, 1 << 19, 1 << 13
# So many times as much, and whoever adds waits for whoever sums.
_MUCH_MORE = 8
# Numbers worked on at a time, so that they stay in a core's cache; and rows, so that a sum in float32 is right to 1e-5.
_CHUNK, _CHUNK_ROWS = 1 << 16, 1 << 10
# Probabilities a second that are worked out, at some 4 ns each beside a busy server, and those of them that the window sees, at
# some 7 ns more; and how many are saved up for a burst: a second's worth.
_PROBABILITIES_PER_S = _PROBABILITIES_SAVED = 5e5
_WINDOW_PER_S = _WINDOW_SAVED = 1e5
_BYTE, _WIDE = 255, 64
# Policies whose maps are kept: what was accepted under one is decided by it, beside those that came after.
_MAPS = 4
_FARTHEST = 1e4


class Sums:
    """What is held and what is summed; one for all objects that serve the same version one after the other."""

    def __init__(self, labels: int, clock: Callable[[], float], seed: int | None) -> None:
        self.lock = threading.Lock()
        # Of small requests the logits; of large ones the decisions, and the rows that stand for `stride` rows each.
        self._small: list[tuple[Active, bytes]] = []
        self._large: list[tuple[Active, bytes, int, bytes]] = []
        self.outcomes = np.zeros((len(PREDICTED), len(ACTUAL), labels))
        self._labels = labels
        self._values = np.zeros((len(COUNTERS), labels))
        self._window = Window(labels, clock=clock)
        self._windowed: Active | None = None
        self._probabilities = Allowance(_PROBABILITIES_PER_S, _PROBABILITIES_SAVED, clock)
        self._in_window = Allowance(_WINDOW_PER_S, _WINDOW_SAVED, clock)
        self._random, self._numpy_random = random.Random(seed), np.random.default_rng(seed)
        self._rows = max(1, min(_CHUNK_ROWS, _CHUNK // max(1, labels)))
        self._numbers = np.zeros((0, labels), np.float32)
        self._of: Active | None = None  # of the rows that were counted last
        self._maps: list[tuple[Active, NegativeOdds]] = []
        self._since = 0
        self._picked: list[tuple[Active, int, bytes]] = []
        self._picked_bytes = 0
        self._cost = 1.0

    def start(self, active: Active, prior: NDArray[np.float64]) -> None:
        """The window is of this policy's probabilities from now on; it starts anew where these are others."""
        with self.lock:
            self._settle()
            self._cost = self._map_of(active).cost  # made now, rather than while somebody waits
            before, self._windowed = self._windowed, active
            if before is None or _identity(before) != _identity(active):
                self._window.clear(prior)

    def add(self, logits: NDArray[np.float32], decisions: NDArray[np.bool_], active: Active) -> None:
        """Have these counted, soon: [..., label]. They are copied, as far as they are needed."""
        if logits.size < _LARGE:
            small, data = self._small, logits.tobytes()
            small.append((active, data))
            if len(small) >= _MOST_HELD or len(small) * len(data) >= _MOST_BYTES:
                self._settle_unless_busy(len(small) / _MOST_HELD)
            return
        # Threads that get here together may both have what there is once: so little does not matter.
        stride = self._probabilities.stride(logits.size * self._cost)
        rows = logits.reshape(-1, self._labels)
        picked = rows[self._one_of_each(stride, len(rows))].tobytes()
        self._large.append((active, decisions.tobytes(), stride, picked))
        held = len(self._large) * (decisions.size + len(picked))
        if held >= _MOST_BYTES:
            self._settle_unless_busy(held / _MOST_BYTES)

    def read(self) -> tuple[Doubles, Doubles, tuple[Doubles, Doubles, float], float]:
        """Sums, outcomes, the window's counts and its rows, with all that is held."""
        with self.lock:
            self._settle()
            self._look_at_picked()
            self._add_rows()
            return self._values.copy(), self.outcomes.copy(), self._window.counts(), self._window.rows

    def _settle_unless_busy(self, times: float) -> None:
        """Sum what is held, `times` what may be; unless somebody does already, and it is not far too much."""
        if self.lock.acquire(blocking=times > _MUCH_MORE):
            try:
                self._settle()
            finally:
                self.lock.release()

    def _settle(self) -> None:
        """Sum what is held."""
        # Whoever appends does so without the lock, so the lists stay the same ones, and what came meanwhile stays in them.
        small = _taken(self._small)
        for _, group in itertools.groupby(small, key=lambda entry: id(entry[0])):
            entries = list(group)
            active, rows = entries[0][0], self._joined([data for _, data in entries])
            for at in range(0, len(rows), self._rows):
                some = rows[at : at + self._rows]
                self._count(np.greater_equal(some, active.thresholds), active)
                stride = self._probabilities.stride(some.size * self._cost)
                if stride == 1:
                    self._look_at(some, active, None)
                else:
                    self._pick(active, stride, some[self._one_of_each(stride, len(some))].tobytes())
        large = _taken(self._large)
        for _, many in itertools.groupby(large, key=lambda entry: id(entry[0])):
            requests = list(many)
            active = requests[0][0]
            decisions = np.frombuffer(b"".join([each for _, each, _, _ in requests]), np.bool_).reshape(-1, self._labels)
            for at in range(0, len(decisions), self._rows):
                self._count(decisions[at : at + self._rows], active)
            for _, _, stride, picked in requests:
                self._pick(active, stride, picked)

    def _joined(self, parts: Sequence[bytes]) -> NDArray[np.float32]:
        return np.frombuffer(b"".join(parts), np.float32).reshape(-1, self._labels)

    def _count(self, decisions: NDArray[np.bool_], active: Active) -> None:
        """Count a chunk of decisions [row, label]."""
        if active is not self._of:
            self._add_rows()
            self._of = active
        self._since += len(decisions)
        bits = decisions.view(np.uint8)
        if self._labels < _WIDE:
            self._values[_POSITIVES] += np.add.reduce(bits, axis=0, dtype=np.uint32)
            return
        for at in range(0, len(bits), _BYTE):  # a byte is ten times as fast
            self._values[_POSITIVES] += np.add.reduce(bits[at : at + _BYTE], axis=0, dtype=np.uint8)

    def _pick(self, active: Active, stride: int, picked: bytes) -> None:
        """Have these rows looked at, each for `stride` rows, once there are many."""
        self._picked.append((active, stride, picked))
        self._picked_bytes += len(picked)
        if self._picked_bytes >= 2 * _CHUNK:
            self._look_at_picked()

    def _map_of(self, active: Active) -> NegativeOdds:
        """The policy's map of probabilities, made once while it is among the last few that decided."""
        for known, map_ in self._maps:
            if known is active:
                return map_
        made = NegativeOdds(active.policy.labels)
        self._maps = [(active, made), *self._maps[: _MAPS - 1]]
        return made

    def _add_rows(self) -> None:
        """Add what every decision adds, whatever it was, for the rows since this was done last."""
        if self._of is not None and self._since:
            self._values[: len(self._of.per_decision)] += self._of.per_decision * self._since
        self._since = 0

    def _look_at_picked(self) -> None:
        """Look at the rows that stand for more than themselves, once there are many of them."""
        picked, self._picked, self._picked_bytes = self._picked, [], 0
        for _, entries in itertools.groupby(picked, key=lambda entry: id(entry[0])):
            same = list(entries)
            active = same[0][0]
            rows = self._joined([data for _, _, data in same])
            lengths = [len(data) // (4 * self._labels) for _, _, data in same]
            weights = np.repeat(np.array([stride for _, stride, _ in same], np.float32), lengths)
            for at in range(0, len(rows), self._rows):
                self._look_at(rows[at : at + self._rows], active, weights[at : at + self._rows])

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
        stride = self._in_window.stride(numbers.size)
        which = self._one_of_each(stride, len(numbers))
        some = numbers[which]
        if len(some):
            each = np.ones(len(some)) if weights is None else weights[which].astype(np.float64)
            self._window.add(some, stride * each)

    def _one_of_each(self, stride: int, count: int) -> slice | NDArray[np.intp]:
        """One row of every `stride` ones of `count`, drawn at random; perhaps none of the last ones, where they are fewer.

        Not every k-th: callers with so many sensors have rows that come again and again at the same distance.
        """
        if stride == 1:
            return slice(None)
        if count <= stride:
            at = self._random.randrange(stride)
            return slice(at, min(at + 1, count))
        drawn = np.arange(0, count, stride)
        drawn += self._numpy_random.integers(0, stride, len(drawn))
        return drawn[: -1 if drawn[-1] >= count else None]


def _taken(held: list[Entry]) -> list[Entry]:
    """What is in a list that others append to, taken out of it."""
    count = len(held)
    taken = held[:count]
    del held[:count]
    return taken


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
