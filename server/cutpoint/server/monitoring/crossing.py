"""Labels whose live positives leave what the calibration expects, told to the log: once when they do, once when they are back.

It is for those who have no Prometheus, by the same sums as the alerts have (docs/alerts.md): too many by the last hour, too few
by the last six. Two things of the alerts are not here: a crossing is told at once, not after ten minutes, and streams that
cluster are not given more room.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cutpoint.calibration.surprise import square_root_z
from numpy.typing import NDArray
from prometheus_client.metrics_core import Metric

from .accounting import ModelCounters
from .event import Event
from .promises import RSE

log = logging.getLogger("cutpoint.server")

Floats = NDArray[np.float64]
Version = tuple[str, str]  # of a model
Direction = Literal["high", "low"]

EVERY_S = 30.0
HIGH_WINDOW_S, LOW_WINDOW_S = 3600.0, 6 * 3600.0
_MOMENTS = 60  # of each window that are kept: a megabyte for 512 labels and both windows
_CROSSED_Z, _BACK_Z = 4.0, 2.0
# Of rare events a few are no evidence, whatever their z is.
_LEAST_POSITIVES, _LEAST_RATIO, _LEAST_EXPECTED = 5.0, 1.5, 10.0
# Crossings of one look that have a line each.
_MOST_LINES = 10


@dataclass(frozen=True)
class Counted:
    """What one version of a model has counted, by label.

    Attributes:
        labels: their names.
        positives: float64 [label], since it was loaded.
        expected: how many the calibration expects of the same decisions, likewise.
        rse: relative standard error of the expected rate; NaN for none.
    """

    labels: tuple[str, ...]
    positives: Floats
    expected: Floats
    rse: Floats


def counted(counters: Iterable[ModelCounters]) -> dict[Version, Counted]:
    """The counts of the versions that are served."""
    found = {}
    for each in counters:
        now = each.snapshot(0)
        found[each.model, each.version] = Counted(each.labels, now.sums[1], now.sums[2], now.promises[RSE])
    return found


def counted_in(families: Iterable[Metric]) -> dict[Version, Counted]:
    """The same from metrics as they are exposed: those of several workers together."""
    names = ("cutpoint_positives_total", "cutpoint_expected_positives_total", "cutpoint_expected_positive_rate_rse")
    found: dict[Version, dict[str, dict[str, float]]] = {}
    for family in families:
        for sample in family.samples if family.name.startswith(("cutpoint_positives", "cutpoint_expected_positive")) else ():
            if sample.name in names:
                of = sample.labels["model"], sample.labels["version"]
                found.setdefault(of, {name: {} for name in names})[sample.name][sample.labels["label"]] = sample.value
    result = {}
    for of, series in found.items():
        labels = tuple(series[names[0]])
        result[of] = Counted(
            labels, *(np.array([series[name].get(label, np.nan) for label in labels], np.float64) for name in names)
        )
    return result


class Crossings:
    """Looks at the counters again and again."""

    def __init__(self, read: Callable[[], Mapping[Version, Counted]], clock: Callable[[], float]) -> None:
        """Nothing has crossed; `read` gives what is counted, `clock` increasing seconds."""
        self._read, self._clock = read, clock
        self._looked_s = clock()
        self._versions: dict[Version, _Standing] = {}

    def look(self) -> None:
        """Log what has crossed since the last look, and what is back."""
        now_s, found = self._clock(), self._read()
        self._versions = {of: standing for of, standing in self._versions.items() if of in found}
        told: dict[tuple[str, Direction], list[_Crossing]] = {}
        for of, now in found.items():
            standing = self._versions.get(of)
            if standing is None or not standing.goes_on_with(now):
                standing = self._versions[of] = _Standing(of, now, self._looked_s)
            for crossing in standing.look(now, now_s):
                told.setdefault((crossing.state, crossing.direction), []).append(crossing)
        self._looked_s = now_s
        for crossings in told.values():
            _tell(crossings)


@dataclass(frozen=True)
class _Crossing:
    of: Version
    label: str
    state: Literal["began", "ended"]
    direction: Direction
    observed: float
    expected: float
    z: float
    window_s: float
    lasted_s: float | None


class _Window:
    """Counts of the last hours, by what they were at moments of them."""

    def __init__(self, window_s: float, start_s: float, start: Floats) -> None:
        self._window_s = window_s
        self._moments = deque([(start_s, start)])

    def increase(self, now_s: float, sums: Floats) -> tuple[Floats, float]:
        """How much `sums` have grown in the window that ends now, and its seconds; fewer at first."""
        moments = self._moments
        while len(moments) > 1 and moments[1][0] <= now_s - self._window_s:
            moments.popleft()
        begun_s, before = moments[0]
        if now_s - moments[-1][0] >= self._window_s / _MOMENTS:
            moments.append((now_s, sums))
        return sums - before, now_s - begun_s


class _Standing:
    """One version: its windows, and which of its labels have crossed since when."""

    def __init__(self, of: Version, now: Counted, start_s: float) -> None:
        """Counters start at zero when a version is loaded, which was after `start_s`, when it was not there."""
        self._of, self._labels = of, now.labels
        self._last = np.zeros((2, len(now.labels)))
        self._hour, self._hours = (_Window(each, start_s, self._last) for each in (HIGH_WINDOW_S, LOW_WINDOW_S))
        self._since: dict[Direction, Floats] = {
            "high": np.full(len(now.labels), np.nan),
            "low": np.full(len(now.labels), np.nan),
        }

    def goes_on_with(self, now: Counted) -> bool:
        """Whether these are the same counters; else the version was unloaded and loaded between two looks."""
        return now.labels == self._labels and bool((np.stack([now.positives, now.expected]) >= self._last - 1e-6).all())

    def look(self, now: Counted, now_s: float) -> list[_Crossing]:
        """What has crossed, and what is back."""
        self._last = np.stack([now.positives, now.expected])
        (x1, e1), hour_s = self._hour.increase(now_s, self._last)
        (x6, e6), hours_s = self._hours.increase(now_s, self._last)
        z1, z6 = square_root_z(x1, e1, now.rse), square_root_z(x6, e6, now.rse)
        many = (z1 > _CROSSED_Z) & (x1 >= _LEAST_POSITIVES) & (x1 > _LEAST_RATIO * e1)
        few = (z6 < -_CROSSED_Z) & (z1 < 0) & (e6 >= _LEAST_EXPECTED)
        high = self._changed("high", many, z1 < _BACK_Z, now_s, (x1, e1, z1, hour_s))
        return [*high, *self._changed("low", few, z6 > -_BACK_Z, now_s, (x6, e6, z6, hours_s))]

    def _changed(
        self,
        direction: Direction,
        crossed: NDArray[np.bool_],
        back: NDArray[np.bool_],
        now_s: float,
        seen: tuple[Floats, Floats, Floats, float],
    ) -> list[_Crossing]:
        since = self._since[direction]
        began, ended = crossed & np.isnan(since), back & ~np.isnan(since)
        observed, expected, z, window_s = seen
        found = []
        for i in np.flatnonzero(began | ended):
            lasted_s = None if began[i] else float(now_s - since[i])
            found.append(
                _Crossing(
                    self._of, self._labels[i], "began" if began[i] else "ended", direction,
                    float(observed[i]), float(expected[i]), float(z[i]), window_s, lasted_s,
                )
            )  # fmt: skip
        since[began], since[ended] = now_s, np.nan
        return found


def _tell(crossings: list[_Crossing]) -> None:
    """Log crossings of one state and direction: a line each, or one for all where there are many."""
    level = logging.WARNING if crossings[0].state == "began" else logging.INFO
    worst = max(crossings, key=lambda crossing: abs(crossing.z))
    if len(crossings) > _MOST_LINES:
        versions = sorted({"/".join(crossing.of) for crossing in crossings})
        log.log(level, _event(worst, crossings=len(crossings), versions=versions[:_MOST_LINES], worst=worst.label))
        return
    for crossing in crossings:
        log.log(level, _event(crossing, label=crossing.label))


def _event(crossing: _Crossing, **fields: object) -> Event:
    of = {} if "crossings" in fields else {"model": crossing.of[0], "version": int(crossing.of[1])}
    return Event(
        "drift", state=crossing.state, **of, **fields, direction=crossing.direction, observed=round(crossing.observed),
        expected=round(crossing.expected, 3), z=round(crossing.z, 3), window_s=round(crossing.window_s),
        lasted_s=None if crossing.lasted_s is None else round(crossing.lasted_s),
    )  # fmt: skip
