"""Windows to events as they come."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData
from .event import Event, EventRule, State, check_windows


class EventJoiner:
    """Events of every label of a signal, told as soon as they are certain; a few numbers a label are kept, whatever comes.

    Each event is told twice: "opened" with the window that makes it long enough to be one, and "closed" with the window that
    shows that it is over, which is `join_windows` after its end. What goes on at the end of the signal is "cut". The closed and
    cut ones are those of `join` on the whole recording, in its order, whatever the pieces.
    """

    def __init__(self, labels: int, rule: EventRule) -> None:
        """Nothing came yet; `labels` is how many there are."""
        self._rule = rule
        self._windows = 0
        self._opened = 0
        self._inside = np.zeros(labels, bool)  # in a run, gaps not being joined
        self._known = np.zeros(labels, bool)  # there is something that may be joined with what comes
        self._number = np.zeros(labels, np.int64)  # 0: not yet long enough
        self._start, self._last, self._peak = (np.zeros(labels, np.int64) for _ in range(3))
        self._peak_logit, self._peak_score = (np.zeros(labels, np.float32) for _ in range(2))

    def push(self, logits: NDArray[np.float32], scores: NDArray[np.float32], thresholds: NDArray[np.float32]) -> list[Event]:
        """Take the next windows, and give what is certain with them.

        Args:
            logits: float32 [window, label] without NaN.
            scores: likewise, calibrated probabilities.
            thresholds: float32 [label]; NaN for a label that decides nothing, whose events end. They may differ from call to
                call, as where another policy decides from now on.

        Raises:
            BadData: shapes differ, or a logit is NaN.
        """
        check_windows(logits, scores, thresholds)
        if len(thresholds) != len(self._inside):
            raise BadData.of("labels", len(thresholds), str(len(self._inside)))
        enter = logits >= thresholds
        events: list[Event] = []
        if not self._known.any() and not enter.any():  # nearly always, where events are rare
            self._windows += len(logits)
            return events
        stay = logits >= thresholds - np.float32(self._rule.hysteresis)
        for i in range(len(logits)):
            events += self._step(logits[i], scores[i], enter[i], stay[i])
        return events

    def finish(self) -> list[Event]:
        """The events that no window closed, in order of the labels."""
        events = list(self._events(np.flatnonzero(self._known & (self._number > 0) & ~self._inside), "closed"))
        events += self._events(np.flatnonzero(self._known & (self._number > 0) & self._inside), "cut")
        self._known[:] = self._inside[:] = False
        return sorted(events, key=lambda event: event.label)

    def _step(
        self, logits: NDArray[np.float32], scores: NDArray[np.float32], enter: NDArray[np.bool_], stay: NDArray[np.bool_]
    ) -> list[Event]:
        at = self._windows
        self._windows += 1
        inside = self._inside = enter | (self._inside & stay)
        over = self._known & ~inside & (at - self._last > self._rule.join_windows)
        events = list(self._events(np.flatnonzero(over & (self._number > 0)), "closed")) if over.any() else []
        self._known &= ~over
        if not inside.any():
            return events
        begins = inside & ~self._known
        higher = begins | (inside & (logits > self._peak_logit))
        self._start[begins], self._number[begins] = at, 0
        self._peak[higher], self._peak_logit[higher], self._peak_score[higher] = at, logits[higher], scores[higher]
        self._last[inside] = at
        self._known |= inside
        enough = np.flatnonzero(inside & (self._number == 0) & (at - self._start + 1 >= self._rule.min_windows))
        if len(enough):
            self._number[enough] = self._opened + 1 + np.arange(len(enough))
            self._opened += len(enough)
            events += self._events(enough, "opened")
        return events

    def _events(self, labels: NDArray[np.int64], state: State) -> Iterator[Event]:
        for i in labels.tolist():
            yield Event(
                int(self._number[i]), i, state, int(self._start[i]), int(self._last[i]) + 1, int(self._peak[i]),
                float(self._peak_logit[i]), float(self._peak_score[i]),
            )  # fmt: skip
