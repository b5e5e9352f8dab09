"""Labels whose live positives leave what the calibration expects, told to the log: once when they do, once when they are back.

It is for those who have no Prometheus, and judges as the rate alerts of deploy/prometheus/cutpoint.rules.yml do by their
windows of an hour and of six. Three things of the alerts are not here: windows of a day and a week, which no server may live to
see; the ten or thirty minutes that an alert waits; and more room for streams whose positives come in clusters.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cutpoint.calibration.surprise import deviance_z, relative
from numpy.typing import NDArray
from prometheus_client.metrics_core import Metric

from .accounting import ModelCounters
from .decided import ERROR, EXPECTED, POSITIVES
from .event import Event
from .sums import COUNTERS

log = logging.getLogger("cutpoint.server")

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Version = tuple[str, str]  # of a model
Direction = Literal["high", "low"]

EVERY_S = 30.0
WINDOWS_S = (3600.0, 6 * 3600.0)
_MOMENTS = 60  # of each window that are kept: a megabyte for 512 labels and both windows
# The numbers of the alerts. Of fewer expected positives a window says nothing; and a rate is another one, whatever z is, from
# one and a half times on. What is over by the hour ends what six hours say.
_HIGH_Z, _LOW_Z = 5.0, 4.5
_LEAST_EXPECTED, _LEAST_RATIO, _OVER_RATIO = 10.0, 1.5, 1.2
_KEPT_S = 2 * 3600.0  # for so long it must not have held to be over: a rate that swings about the limit is told once
# Crossings of one look that have a line each.
_MOST_LINES = 10


@dataclass(frozen=True)
class Counted:
    """What one version of a model has counted, by label.

    Attributes:
        labels: their names.
        positives: float64 [label], since it was loaded.
        expected: how many the calibration expects of the same decisions, likewise.
        error: standard error of that number by the calibration's own sampling, likewise.
    """

    labels: tuple[str, ...]
    positives: Floats
    expected: Floats
    error: Floats

    @property
    def sums(self) -> Floats:
        """All of them, [sum, label]."""
        return np.stack([self.positives, self.expected, self.error])


def counted(counters: Iterable[ModelCounters]) -> dict[Version, Counted]:
    """The counts of the versions that are served."""
    found = {}
    for each in counters:
        now = each.snapshot(0)
        found[each.model, each.version] = Counted(each.labels, *now.sums[[POSITIVES, EXPECTED, ERROR]])
    return found


def counted_in(families: Iterable[Metric]) -> dict[Version, Counted]:
    """The same from metrics as they are exposed: those of several workers together."""
    every = list(COUNTERS)
    names = [f"{every[i]}_total" for i in (POSITIVES, EXPECTED, ERROR)]
    found: dict[Version, dict[str, dict[str, float]]] = {}
    for family in families:
        for sample in family.samples if family.name.startswith(("cutpoint_positives", "cutpoint_expected_positives")) else ():
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
        self._last = np.zeros_like(now.sums)
        self._windows = [_Window(each, start_s, self._last) for each in WINDOWS_S]
        self._drifts: dict[Direction, _Drift] = {"high": _Drift(len(now.labels)), "low": _Drift(len(now.labels))}

    def goes_on_with(self, now: Counted) -> bool:
        """Whether these are the same counters; else the version was unloaded and loaded between two looks."""
        return now.labels == self._labels and bool((now.sums >= self._last - 1e-6).all())

    def look(self, now: Counted, now_s: float) -> list[_Crossing]:
        """What has crossed, and what is back."""
        self._last = now.sums
        seen = [_Seen(*window.increase(now_s, self._last)) for window in self._windows]
        return [
            _Crossing(self._of, self._labels[i], state, direction, *seen[window].of(i), lasted_s)
            for direction, drift in self._drifts.items()
            for i, state, window, lasted_s in drift.look(direction, seen, now_s)
        ]


class _Seen:
    """What a window says of each label."""

    def __init__(self, sums: Floats, seconds: float) -> None:
        (self.observed, self.expected, error), self._seconds = sums, seconds
        self.z = deviance_z(self.observed, self.expected, relative(error, self.expected))
        self.tells = self.expected >= _LEAST_EXPECTED

    def crossed(self, direction: Direction) -> Mask:
        """Where the rate is more than chance from what is expected, and by as much as matters."""
        x, mu = self.observed, self.expected
        high, low = (self.z > _HIGH_Z) & (x > _LEAST_RATIO * mu), (self.z < -_LOW_Z) & (x < mu / _LEAST_RATIO)
        found: Mask = self.tells & (high if direction == "high" else low)
        return found

    def over(self, direction: Direction) -> Mask:
        """Where it can be told that it is not, or not any more."""
        x, mu = self.observed, self.expected
        found: Mask = self.tells & ((x < _OVER_RATIO * mu) if direction == "high" else (x > mu / _OVER_RATIO))
        return found

    def of(self, label: int) -> tuple[float, float, float, float]:
        """Observed and expected positives, z, and the window's seconds."""
        return float(self.observed[label]), float(self.expected[label]), float(self.z[label]), self._seconds


class _Drift:
    """Since when labels have crossed in one direction, and when it was last so; NaN for those that have not."""

    def __init__(self, labels: int) -> None:
        self._since, self._last = np.full((2, labels), np.nan)

    def look(
        self, direction: Direction, seen: Sequence[_Seen], now_s: float
    ) -> Iterator[tuple[int, Literal["began", "ended"], int, float | None]]:
        """Labels that begin or end: which, the window that says so, and how many seconds it lasted."""
        hour, hours = seen
        by_hour = hour.crossed(direction)
        # Where nothing has been decided for an hour nothing drifts.
        holds = (by_hour | hours.crossed(direction) & ~hour.over(direction)) & (hour.expected > 0)
        crossed = ~np.isnan(self._since)
        self._last[holds] = now_s
        for i in np.flatnonzero(holds & ~crossed):
            self._since[i] = now_s
            yield int(i), "began", 0 if by_hour[i] else 1, None
        for i in np.flatnonzero(crossed & (now_s - self._last >= _KEPT_S)):
            lasted_s = float(self._last[i] - self._since[i])
            self._since[i] = np.nan
            yield int(i), "ended", 0 if hour.tells[i] else 1, lasted_s


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
