"""Metrics for sequences of windows: events found, how soon, and false alarms per hour.

There is no point-adjusted F1 here, which counts every window of an event as found when one is: with long events random scores
get 0.97 where their plain F1 is 0.04 (Kim et al. 2022, "Towards a rigorous evaluation of time-series anomaly detection";
measured on 140 000 windows with three events). Nothing here chooses a threshold per sequence either: that flatters as much.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataset import UNLABELLED
from ..errors import BadData
from .interval import clopper_pearson, poisson_interval


@dataclass(frozen=True)
class EventMetrics:
    """What decisions on sequences are worth to whoever gets the alarms; intervals are exact, of 95 %.

    Attributes:
        events: events in all.
        found: events that an alert found.
        event_recall: found / events, 0 to 1; None without events.
        event_recall_low: low end of its Clopper-Pearson interval; 0 without events.
        event_recall_high: the high end; 1 without events.
        false_alarms: runs of alerts that touch no event, merged alerts counting once.
        false_alarms_per_hour: of labelled windows; None without any.
        false_alarms_per_hour_low: low end of its Poisson interval (Garwood 1936); 0 without labelled windows.
        false_alarms_per_hour_high: the high end; inf without labelled windows.
        hours: that labelled windows take.
        delay_median_s: of the found events, seconds from an event's begin to the end of the first window that alerts on it;
            None where none is found. An alert before the begin, within tolerance, has a delay of 0 or less.
        delay_p90_s: the delay that 90 % of the found events keep, likewise.
        window_precision: positives among alerting labelled windows, 0 to 1; None without such alerts.
        window_recall: alerting among positive windows, 0 to 1; None without positive windows.
    """

    events: int
    found: int
    event_recall: float | None
    event_recall_low: float
    event_recall_high: float
    false_alarms: int
    false_alarms_per_hour: float | None
    false_alarms_per_hour_low: float
    false_alarms_per_hour_high: float
    hours: float
    delay_median_s: float | None
    delay_p90_s: float | None
    window_precision: float | None
    window_recall: float | None


def event_metrics(decisions: NDArray[Any], targets: NDArray[Any], window_s: float, tolerance_windows: int = 0) -> EventMetrics:
    """Judge decisions on windows by the events they find and the false alarms they raise.

    An event is a run of positive windows of one sequence. Unlabelled windows neither make an event nor break one: between
    two positive windows they belong to the event, at its ends they do not. An event is found if a window of it alerts, or one
    at most `tolerance_windows` before its first or after its last. A decision on a window cannot come before the window
    has ended: an alert on an event's first window has a delay of `window_s`, not 0.

    A false alarm is a run of alerting windows that touches no event (within tolerance) and at least one negative window; alerts
    on unlabelled windows only are none. An alarm that never ends therefore is no false alarm in a sequence with an event:
    `window_precision` shows it. An alert near two events finds both.

    Args:
        decisions: bool [sequence, window], windows in order of time, one after the other without overlap.
        targets: integer or bool [sequence, window]: 0, 1 or `UNLABELLED` (255), as where shorter sequences are padded.
        window_s: seconds that a window takes, above 0.
        tolerance_windows: from 0.

    Returns:
        The metrics; with no sequences or no labelled windows every count is 0.

    Raises:
        BadData: shapes, dtypes or values are others, or `window_s` or `tolerance_windows` is outside.
    """
    decisions, targets = _checked(decisions, targets)
    if not (math.isfinite(window_s) and window_s > 0):
        raise BadData.of("window_s", window_s, "finite seconds above 0")
    if tolerance_windows < 0:
        raise BadData.of("tolerance_windows", tolerance_windows, "a whole number from 0")
    windows = targets.shape[1]
    events = _events(targets)
    # Flat indices of the windows on which an alert finds the event; never of another sequence.
    begin = events[:, 0] * windows
    from_ = begin + np.maximum(events[:, 1] - tolerance_windows, 0)
    to = begin + np.minimum(events[:, 2] + tolerance_windows, windows - 1)
    alerts = np.flatnonzero(decisions)
    next_alert = np.append(alerts, decisions.size)[np.searchsorted(alerts, from_)]
    found = next_alert <= to
    delays = (next_alert - begin - events[:, 1] + 1)[found] * window_s

    near = np.zeros(decisions.size + 1, np.int64)
    np.add.at(near, from_, 1)
    np.add.at(near, to + 1, -1)
    alarms = runs(decisions)
    span = alarms[:, :1] * windows + alarms[:, 1:]
    on_event = _counted(np.cumsum(near[:-1]) > 0, span)
    on_negative = _counted(targets.ravel() == 0, span)
    false_alarms = int(((on_event == 0) & (on_negative > 0)).sum())

    known, positive = targets != UNLABELLED, targets == 1
    hours = int(known.sum()) * window_s / 3600
    alerting, hit = int((decisions & known).sum()), int((decisions & positive).sum())
    low, high = clopper_pearson(int(found.sum()), len(events))
    rate_low, rate_high = poisson_interval(false_alarms, hours)
    return EventMetrics(
        events=len(events),
        found=int(found.sum()),
        event_recall=float(found.mean()) if len(events) else None,
        event_recall_low=low,
        event_recall_high=high,
        false_alarms=false_alarms,
        false_alarms_per_hour=false_alarms / hours if hours else None,
        false_alarms_per_hour_low=rate_low,
        false_alarms_per_hour_high=rate_high,
        hours=hours,
        delay_median_s=float(np.median(delays)) if len(delays) else None,
        delay_p90_s=float(np.quantile(delays, 0.9, method="inverted_cdf")) if len(delays) else None,
        window_precision=hit / alerting if alerting else None,
        window_recall=hit / int(positive.sum()) if positive.any() else None,
    )


def runs(flags: NDArray[Any]) -> NDArray[np.int64]:
    """The maximal runs of true windows within sequences.

    Args:
        flags: bool [sequence, window].

    Returns:
        int64 [run, 3]: sequence, first and last window, in order of sequence and time; empty where nothing is true.

    Raises:
        BadData: another shape or dtype.
    """
    flags = np.asarray(flags)
    if flags.ndim != 2 or flags.dtype != np.bool_:
        raise BadData.of("flags", f"{flags.dtype} {list(flags.shape)}", "bool [sequence, window]")
    ends = np.zeros((len(flags), 1), bool)  # a run never goes on in the next sequence
    edges = np.diff(np.concatenate((ends, flags, ends), axis=1).view(np.int8), axis=1)
    sequence, first = np.nonzero(edges == 1)
    return np.stack((sequence, first, np.nonzero(edges == -1)[1] - 1), axis=1).astype(np.int64)


def _events(targets: NDArray[Any]) -> NDArray[np.int64]:
    """Events as `runs`: runs of windows that are not negative, from their first to their last positive one."""
    spans = runs(targets != 0)
    begin = spans[:, 0] * targets.shape[1]
    positive = np.flatnonzero(targets == 1)
    first, end = np.searchsorted(positive, begin + spans[:, 1]), np.searchsorted(positive, begin + spans[:, 2], side="right")
    some = first < end
    spans, begin, first, end = spans[some], begin[some], first[some], end[some]
    return np.stack((spans[:, 0], positive[first] - begin, positive[end - 1] - begin), axis=1).astype(np.int64)


def _counted(flags: NDArray[np.bool_], span: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many flags are true from the first to the last index of each span [span, 2]."""
    before = np.concatenate(([0], np.cumsum(flags)))
    return np.asarray(before[span[:, 1] + 1] - before[span[:, 0]])


def _checked(decisions: NDArray[Any], targets: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    decisions, targets = np.asarray(decisions), np.asarray(targets)
    if decisions.ndim != 2 or decisions.dtype != np.bool_:
        raise BadData.of("decisions", f"{decisions.dtype} {list(decisions.shape)}", "bool [sequence, window]")
    if targets.shape != decisions.shape or targets.dtype.kind not in "bui":
        expected = f"integers {list(decisions.shape)}, as the decisions"
        raise BadData.of("targets", f"{targets.dtype} {list(targets.shape)}", expected)
    wrong = (targets != 0) & (targets != 1) & (targets != UNLABELLED)
    if wrong.any():
        raise BadData.of("targets", np.unique(targets[wrong])[:5].tolist(), "0, 1, or 255 for not labelled")
    return decisions, targets
