"""Sums over the decisions of one model version, made for many rows at once, each with the policy that decided it.

Decisions and positives are always exact. Of calibrated probabilities fifty thousand a second are worked out, a
thousandth of a core; beyond that rows are drawn at random, with a chance of one in k, and count k times.
"""

import itertools
import threading
from collections.abc import Callable

import numpy as np
from cutpoint.calibration import Policy
from cutpoint.errors import BadScores
from numpy.typing import NDArray

from ..policy.policies import Active
from .calibrated import NegativeOdds
from .decided import BYTE, MANY, Decided, Held
from .picker import Picker
from .prevalence import Window

Doubles = NDArray[np.float64]
Add = Callable[[NDArray[np.float32], NDArray[np.bool_], Active], None]
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
ACTUAL = PREDICTED = ("negative", "positive")

# Bytes of decisions that are held until they are counted, and what holding some takes beside them; those of logits, until they
# are looked at. So many times as many, and whoever adds waits for whoever counts.
_MOST_HELD, _ARRAY, _MOST_PICKED, _MUCH_MORE = 1 << 18, 256, 1 << 17, 8
# Numbers worked on at a time, so that they stay in a core's cache; and rows, so that a sum in float32 is right to 1e-5.
_CHUNK, _CHUNK_ROWS = 1 << 16, 1 << 10
# Probabilities a second that are worked out, at some 20 ns each beside a busy server, and those of them that the window sees;
# and how many are saved up for a burst.
_PROBABILITIES_PER_S, _PROBABILITIES_SAVED = 5e4, 2e5
_WINDOW_PER_S, _WINDOW_SAVED = 2.5e4, 1e5
# Policies whose maps are kept: what was accepted under one is decided by it, beside those that came after.
_MAPS = 4
_FARTHEST = 1e4


class Sums:
    """What is held and what is summed; one for all objects that serve the same version one after the other."""

    def __init__(self, model: str, labels: int, clock: Callable[[], float], seed: int | None) -> None:
        self.lock = threading.Lock()
        self.outcomes = np.zeros((len(PREDICTED), len(ACTUAL), labels))
        self.recallable = np.zeros((len(PREDICTED), labels))
        self._decided = Decided(labels)
        self._held: list[Held] = []
        self._left = 0  # times that these were left to others to count
        self._model, self._labels = model, labels
        self._probability = np.zeros((2, labels))
        self._window = Window(labels, clock=clock)
        self._windowed: Active | None = None
        self._picker = Picker(_PROBABILITIES_PER_S, _PROBABILITIES_SAVED, clock, seed)
        self._in_window = Picker(_WINDOW_PER_S, _WINDOW_SAVED, clock, None if seed is None else seed + 1)
        self._rows = max(1, min(_CHUNK_ROWS, _CHUNK // max(1, labels)))
        self._numbers = np.zeros((0, labels), np.float32)
        self._maps: list[tuple[Policy, NegativeOdds]] = []
        self._picked: list[_Picked] = []
        self._picked_bytes = 0
        self._numbers_of_row = float(labels)
        self.add: Add = self._adder()

    def start(self, active: Active, prior: NDArray[np.float64]) -> None:
        """The window is of this policy's probabilities from now on; it starts anew where these are others."""
        with self.lock:
            if self._windowed is not None and active.generation < self._windowed.generation:
                return  # told late, of an object that another has replaced
            self._look_at_picked()
            self._numbers_of_row = self._labels * self._map_of(active).cost  # made now, rather than while somebody waits
            before, self._windowed = self._windowed, active
            if before is None or _identity(before) != _identity(active):
                self._window.clear(prior)

    def _adder(self) -> Add:
        """What `ModelCounters.add` is, with names of its own for all that it needs.

        A method would look them up, in memory that has left the caches since the request before, and take half as long again.
        """
        model, labels, picker, held, word = self._model, self._labels, self._picker, self._held.append, self._decided.word
        reduce, summed, pick, settle = np.add.reduce, self._decided.summed, self._pick, self._settle_some
        held_bytes = 0

        def add(logits: NDArray[np.float32], decisions: NDArray[np.bool_], active: Active) -> None:
            nonlocal held_bytes  # what other threads add at the same moment may be missed
            if logits.shape[-1] != labels:  # of a graph that does not say how many it gives
                raise BadScores(f"model '{model}' answered {logits.shape[-1]} logits for its {labels} labels")
            size = decisions.size
            rows = size // labels
            if size < MANY:
                held((active, 0, decisions))
                held_bytes += size + _ARRAY
            else:
                few = rows <= BYTE and decisions.ndim == 2  # of more axes the first would leave many parts to be held
                held((active, rows, reduce(decisions.view(word), 0, word) if few else summed(decisions, rows)))
                held_bytes += labels + _ARRAY
            gap = picker.gap
            if gap >= rows:  # as `pick` does, without its lock: two threads at once only make the gap a little longer
                picker.gap = gap - rows
            else:
                pick(logits, rows, active)
            if held_bytes >= _MOST_HELD:
                held_bytes = 0
                settle()

        return add

    def _pick(self, logits: NDArray[np.float32], rows: int, active: Active) -> None:
        """Copy the rows that are to be looked at, and look at them once they are many."""
        found = self._picker.pick(rows, self._numbers_of_row)
        if found is None:
            return
        which, stride = found
        data = logits.reshape(rows, self._labels)[which].tobytes()
        self._picked.append((active, stride, data))
        self._picked_bytes += len(data)
        if self._picked_bytes >= _MOST_PICKED and self.lock.acquire(blocking=self._picked_bytes >= _MUCH_MORE * _MOST_PICKED):
            # Where somebody looks already, it is left to them, unless far too much has gathered.
            try:
                self._look_at_picked()
            finally:
                self.lock.release()

    def _settle_some(self) -> None:
        """Count what is held; this too is left to who has the lock, unless far too much has gathered."""
        self._left += 1
        if self.lock.acquire(blocking=self._left > _MUCH_MORE):
            try:
                self._count()
            finally:
                self.lock.release()

    def _count(self) -> None:
        """Count the decisions that are held; the lock is held too."""
        # Whoever appends does so without the lock, so the list stays the same one, and what came meanwhile stays in it.
        self._left = 0
        number = len(self._held)
        held = self._held[:number]
        del self._held[:number]
        self._decided.count(held)

    def read(self) -> tuple[Doubles, Doubles, Doubles, tuple[Doubles, Doubles, float], float]:
        """Sums, outcomes, those with recall, the window's counts and its rows, with all that is held."""
        with self.lock:
            self._count()
            self._look_at_picked()
            sums = np.concatenate([self._decided.read(), self._probability])
            return sums, self.outcomes.copy(), self.recallable.copy(), self._window.counts(), self._window.rows

    def _map_of(self, active: Active) -> NegativeOdds:
        """The policy's map of probabilities, made once while it is among the last few that decided."""
        for known, map_ in self._maps:
            if known is active.policy:
                return map_
        made = NegativeOdds(active.policy.labels)
        self._maps = [(active.policy, made), *self._maps[: _MAPS - 1]]
        return made

    def _look_at_picked(self) -> None:
        """Look at the rows that were picked; the lock is held."""
        # Whoever appends does so without it, and may hold the list that was: the list stays the same one.
        number = len(self._picked)
        picked = self._picked[:number]
        del self._picked[:number]
        self._picked_bytes = 0
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
        self._probability += active.decides * summed

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
