"""The accounting of one model version: what was decided, and what its calibration says of it, by label.

Of a few rows the decisions are held, of many their sums; all of it is counted for many runs at a time, when enough are there or
somebody looks.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..policy.policies import Active
from .prevalence import estimate
from .promises import PREVALENCE, PROMISES
from .sums import Add, Sums


@dataclass(frozen=True)
class Snapshot:
    """All that a scrape wants of one model version, of one moment.

    Attributes:
        sums: [counter, label] in the order of `COUNTERS`.
        promises: [gauge, label] in the order of `PROMISES`; NaN where there is none.
        outcomes: [predicted, actual, label], outcomes reported later.
        recallable: [predicted, label], positive ones of reviews that see misses too, each by how many it stands for.
        prevalence: [label] estimated of the recent window; NaN where there is too little to say.
        window_rows: in that window.
    """

    sums: NDArray[np.float64]
    promises: NDArray[np.float64]
    outcomes: NDArray[np.float64]
    recallable: NDArray[np.float64]
    prevalence: NDArray[np.float64]
    window_rows: float
    active: Active | None


class ModelCounters:
    """Counts of one model version, by label; added to from any thread.

    Attributes:
        add: accounts for what a policy, which may have been replaced meanwhile, decided on logits. Called with these logits,
            float32 [..., label] without NaN, of which what is needed later is copied; decisions of the same shape, C-contiguous
            and not to be written to any more; the policy. Raises BadScores where the logits are not of these labels; nothing
            is counted then.
    """

    add: Add

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
            seed: of which rows stand for others.
        """
        self.model, self.version, self.labels = model, str(version), labels
        self.active: Active | None = None
        self.queue_rows: Callable[[], int] = lambda: 0
        self._counts = counts
        self._promises = np.full((len(PROMISES), len(labels)), np.nan)
        self._adopt(Sums(model, len(labels), clock, seed))
        self._lock = threading.Lock()

    def apply(self, active: Active | None) -> None:
        """Make this the policy in force; an older generation than the present one is ignored, whatever order they come in."""
        with self._lock:
            if active is None or (self.active is not None and active.generation <= self.active.generation):
                return
            self._promises = active.promises
            self._sums.start(active, self._promises[PREVALENCE])
            self.active = active

    def go_on_from(self, before: "ModelCounters") -> None:
        """Count on where those of the same model version stopped, which was loaded anew; not where its labels changed.

        To be called before anything is added.
        """
        if before.labels == self.labels:
            self._adopt(before._sums)
            if self.active is not None:
                self._sums.start(self.active, self._promises[PREVALENCE])

    def _adopt(self, sums: Sums) -> None:
        self._sums = sums
        self.add = sums.add if self._counts else _nothing

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

    def recallable(self, label_index: int, predicted: bool, weight: float) -> None:
        """Count positives from which recall can be estimated; they stand for `weight` of them."""
        with self._sums.lock:
            self._sums.recallable[int(predicted), label_index] += weight

    def snapshot(self, labels: int | None = None) -> Snapshot:
        """Everything up to now; the prevalence of the first `labels` labels only, where that is given."""
        with self._lock:
            promises, active = self._promises, self.active
        sums, outcomes, recallable, (counts, prior, share), rows = self._sums.read()
        found = np.full(len(self.labels), np.nan)
        shown = slice(labels)
        found[shown] = estimate(counts[shown], prior[shown], share)
        return Snapshot(sums, promises.copy(), outcomes, recallable, found, rows, active)


def _nothing(logits: NDArray[np.float32], decisions: NDArray[np.bool_], active: Active) -> None:
    """Count nothing."""
