"""A ward of heart monitors played faster than they recorded: sequences go to the server, their outcomes follow later."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from cutpoint.client import Client
from cutpoint.dataset import Dataset
from cutpoint.errors import CutpointError
from numpy.typing import NDArray

Counts = NDArray[np.int64]
# After so many other sequences it is known what a sequence held.
_LATER = 8


@dataclass(frozen=True)
class Truth:
    """What some streamed sequences really held, [label] each, over `windows` windows."""

    windows: int
    events: Counts
    alerts: Counts
    right: Counts  # alerts that were events

    def of(self, label: int) -> dict[str, float | None]:
        """Shares of a label; None where nothing is divided."""
        events, alerts, right = (int(counts[label]) for counts in (self.events, self.alerts, self.right))

        def share(part: int, whole: int) -> float | None:
            return part / whole if whole else None

        return {
            "rate": share(alerts, self.windows), "prevalence": share(events, self.windows),
            "precision": share(right, alerts), "recall": share(right, events),
            "false positive rate": share(alerts - right, self.windows - events),
        }  # fmt: skip


@dataclass
class Ward:
    """Streams sequences of `dataset` at the pace of `beds` monitors, `speed` times as fast as they were recorded.

    Attributes:
        sequence_s: how long a sequence was recorded.
        sent: when each sequence was answered, seconds since 1970, and what it held.
    """

    client: Client
    model: str
    dataset: Dataset
    sequence_s: float
    speed: float
    beds: int
    sent: list[tuple[float, Truth]] = field(default_factory=list)
    late_s: float = 0.0
    _unreported: deque[tuple[str, int]] = field(default_factory=deque)
    _due_s: float | None = None

    def hours(self, seconds: float) -> float:
        """Hours of the ward in so many seconds."""
        return seconds * self.speed / 3600

    def stream(self, row: int) -> None:
        """Send a sequence when its turn has come, and report what an earlier one held."""
        assert self.dataset.y is not None
        now_s = time.monotonic()
        due_s = now_s if self._due_s is None else self._due_s
        if due_s > now_s:
            threading.Event().wait(due_s - now_s)
        self.late_s = max(self.late_s, now_s - due_s)
        self._due_s = max(due_s, now_s - 1) + self.sequence_s / self.speed / self.beds  # what is late is not all made up
        name = f"sequence-{len(self.sent)}"
        found = self.client.score(self.model, self.dataset.x[row : row + 1], request_id=name)
        if found.decisions is None:
            raise CutpointError(f"model {self.model} answered without decisions")
        was, said = self.dataset.y[row] == 1, found.decisions[0]
        self.sent.append((time.time(), Truth(len(was), was.sum(axis=0), said.sum(axis=0), (was & said).sum(axis=0))))
        self._unreported.append((name, row))
        if len(self._unreported) > _LATER:
            self._report()

    def truth(self, since_s: float = 0.0, until_s: float = float("inf")) -> Truth:
        """What was sent between two moments held, together."""
        return self._together([truth for at_s, truth in self.sent if since_s <= at_s <= until_s])

    def reported(self) -> Truth:
        """What those sequences held whose outcomes are reported."""
        return self._together([truth for _, truth in self.sent[: len(self.sent) - len(self._unreported)]])

    def _together(self, each: list[Truth]) -> Truth:
        none = np.zeros(len(self.dataset.label_names), np.int64)
        return Truth(
            windows=sum(truth.windows for truth in each),
            events=sum((truth.events for truth in each), none),
            alerts=sum((truth.alerts for truth in each), none),
            right=sum((truth.right for truth in each), none),
        )

    def _report(self) -> None:
        assert self.dataset.y is not None
        name, row = self._unreported.popleft()
        told = self.client.report_outcomes(self.model, self.dataset.y[row : row + 1], request_id=name, sampling="all")
        if told.unmatched_reasons:
            raise CutpointError(f"outcomes of {name} fit no decision: {dict(told.unmatched_reasons)}")
