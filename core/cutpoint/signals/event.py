"""Positive windows of one label as events: what one is, and all of a whole recording at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import BadConfig, BadData

State = Literal["opened", "closed", "cut"]

MOST_HYSTERESIS = 1000
MOST_WINDOWS = 1 << 53


@dataclass(frozen=True)
class EventRule:
    """How windows make an event.

    An event begins with a window whose logit reaches the threshold, and lasts while windows have a logit of at least the
    threshold less `hysteresis`. What is apart by at most `join_windows` windows is one event. Then events of fewer than
    `min_windows` windows, from the first to the last and with the gaps between, are left out.

    Attributes:
        hysteresis: log-odds from 0 to 1000; 0.7 halves the odds at which an event ends.
        min_windows: from 1.
        join_windows: from 0.
    """

    hysteresis: float = 0.0
    min_windows: int = 1
    join_windows: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.hysteresis <= MOST_HYSTERESIS:
            raise BadConfig.of("hysteresis", self.hysteresis, f"log-odds from 0 to {MOST_HYSTERESIS}")
        for name, value, least in (("min_windows", self.min_windows, 1), ("join_windows", self.join_windows, 0)):
            if not least <= value <= MOST_WINDOWS:
                raise BadConfig.of(name, value, f"a whole number from {least} to {MOST_WINDOWS}")

    @classmethod
    def of_seconds(cls, window_s: float, hysteresis: float = 0.0, min_duration_s: float = 0.0, join_gap_s: float = 0.0) -> Self:
        """A rule in seconds, for windows of `window_s`: events that last `min_duration_s`, gaps of up to `join_gap_s` joined.

        Raises:
            BadConfig: a number is below 0, NaN or too large.
        """
        for name, value in (("min_duration_s", min_duration_s), ("join_gap_s", join_gap_s)):
            if not (math.isfinite(value) and 0 <= value / window_s < MOST_WINDOWS):
                raise BadConfig.of(name, value, f"seconds from 0, fewer than {MOST_WINDOWS} windows")
        # 0.3 s are three windows of 0.1 s, although 0.3 / 0.1 is not 3.
        shortest = math.ceil(min_duration_s / window_s - 1e-9)
        return cls(hysteresis, max(1, shortest), math.floor(join_gap_s / window_s + 1e-9))


@dataclass(frozen=True)
class Event:
    """One event of one label.

    Attributes:
        number: from 1, in order of opening; the same in every state of one event.
        label: index.
        state: "opened": it has lasted the least duration and goes on; `end` and the peak are those so far. "closed": it is
            over. "cut": it was going on when the signal ended.
        start: index of its first window.
        end: index after its last window.
        peak: index of the window with the highest logit, the first of equals.
        peak_logit: that logit.
        peak_score: its calibrated probability.
    """

    number: int
    label: int
    state: State
    start: int
    end: int
    peak: int
    peak_logit: float
    peak_score: float


def join(
    logits: NDArray[np.float32], scores: NDArray[np.float32], thresholds: NDArray[np.float32], rule: EventRule
) -> list[Event]:
    """The events of a whole recording, as `EventJoiner` closes them: in order of closing, then of label; those that go on last.

    Args:
        logits: float32 [window, label], without NaN.
        scores: likewise, of the peaks.
        thresholds: float32 [label]; NaN for a label that decides nothing.
        rule: how windows make an event.

    Raises:
        BadData: shapes differ, or a logit is NaN.
    """
    check_windows(logits, scores, thresholds)
    found: list[tuple[tuple[int, int, int], tuple[int, int], Event]] = []
    for label, threshold in enumerate(thresholds.tolist()):
        for start, end in _spans(logits[:, label], threshold, rule):
            peak = start + int(np.argmax(logits[start:end, label]))
            state: State = "closed" if end < len(logits) else "cut"
            ends = end + rule.join_windows  # the window that shows that it is over
            at = (0, ends, label) if ends < len(logits) else (1, 0, label)
            # It opens with the first window of it that makes it long enough.
            inside = _inside(logits[:, label], threshold, rule.hysteresis)
            opens = start + rule.min_windows - 1 + int(np.argmax(inside[start + rule.min_windows - 1 : end]))
            event = Event(0, label, state, start, end, peak, float(logits[peak, label]), float(scores[peak, label]))
            found.append((at, (opens, label), event))
    numbers = {place: number for number, place in enumerate(sorted(opened for _, opened, _ in found), 1)}
    return [replace(event, number=numbers[opened]) for _, opened, event in sorted(found, key=lambda each: each[0])]


def _inside(logits: NDArray[np.float32], threshold: float, hysteresis: float) -> NDArray[np.bool_]:
    """Which windows belong to a run, gaps not being joined yet: from one at the threshold on while it is not left."""
    entered, kept = logits >= threshold, logits >= np.float32(threshold) - np.float32(hysteresis)
    # Each window's last decision: an entry switches on, a window below the lower threshold off, the others leave it as it was.
    decided = np.where(entered | ~kept, np.arange(len(logits)), -1)
    last = np.maximum.accumulate(decided)
    return np.asarray((last >= 0) & entered[last])


def _spans(logits: NDArray[np.float32], threshold: float, rule: EventRule) -> list[tuple[int, int]]:
    """First window and the one after the last of each event."""
    edges = np.diff(np.concatenate(([0], _inside(logits, threshold, rule.hysteresis).astype(np.int8), [0])))
    spans: list[tuple[int, int]] = []
    for start, end in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
        if spans and start - spans[-1][1] <= rule.join_windows:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return [(start, end) for start, end in spans if end - start >= rule.min_windows]


def check_windows(logits: NDArray[Any], scores: NDArray[Any], thresholds: NDArray[Any]) -> None:
    """Raise BadData unless logits and scores are [window, label] without NaN, and thresholds [label]."""
    shapes: Sequence[list[int]] = [list(each.shape) for each in (logits, scores, thresholds)]
    if logits.ndim != 2 or scores.shape != logits.shape or thresholds.shape != logits.shape[1:]:
        raise BadData.of("shapes of logits, scores and thresholds", shapes, "[window, label] twice and [label]")
    if np.isnan(logits).any():
        raise BadData.of("logits", "NaN in places", "numbers")
