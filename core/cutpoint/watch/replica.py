"""One server's counters over time, whatever happens to the server meanwhile."""

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData
from .exposition import Reader, Series

Floats = NDArray[np.float64]
Key = tuple[str, str, str]  # model, version, label

# Columns of a server's table, which has a row for each label of a model's version.
COUNTERS = (
    "cutpoint_decisions_total", "cutpoint_positives_total", "cutpoint_expected_positives_total",
    "cutpoint_expected_positives_standard_error_total", "cutpoint_promised_recall_total",
    "cutpoint_promised_false_positive_rate_total", "cutpoint_promised_decisions_total",
)  # fmt: skip
GAUGES = ("cutpoint_threshold",)
OUTCOMES = ("positive", "negative")  # what became of positives
_OUTCOMES = "cutpoint_outcomes_total"
_COLUMNS = {name: i for i, name in enumerate((*COUNTERS, *GAUGES))}
_OF_MODELS = {
    "cutpoint_policy_version": "policy",
    "cutpoint_threshold_activated_timestamp_seconds": "activated_s",
    "cutpoint_folded_labels": "folded",
}
_STARTED = "process_start_time_seconds"
_BUILD = "cutpoint_build_info"  # there before any model is
_WANTED = frozenset({*_COLUMNS, *_OF_MODELS, _OUTCOMES, _STARTED, _BUILD})

# Moments of the past that are kept: the far end of a window is exact to its 120th part.
_MOMENTS = 120


@dataclass
class VersionState:
    """What a server says of a model's version as a whole; NaN for nothing."""

    policy: float = np.nan
    activated_s: float = np.nan
    folded: float = np.nan


class Replica:
    """One server: its pages read, its counters made to go on over its restarts.

    A counter that is smaller than before has started anew, as all have when the process has, and all of it is new; one that
    comes later has started at zero. One that is gone, or came back smaller in the same process, is of an
    unloaded model.

    Attributes:
        url: of its page.
        keys: model, version and label of each row, in the order in which they came first.
        present: which of them are on the last page, [row].
        totals: all that was counted, also before it was first asked, float64 [counter, row], as `COUNTERS`.
        gauges: what was said last, float64 [gauge, row], as `GAUGES`; NaN where nothing was.
        outcomes: what became of positives, float64 [outcome, row], as `OUTCOMES`; NaN where nothing was said.
        models: by name and version.
        answered_s: when its page came last, in the clock's seconds; None before that.
        started_s: when its process started, in seconds since 1970; None where it does not say.
        problem: why its page did not come; empty where it did.
        restarts: how often it started anew since it was first asked: its process, or its counters where it does not say.
    """

    def __init__(self, url: str, window_s: float) -> None:
        """Nothing is known yet; what is older than `window_s` will be forgotten."""
        self.url, self._window_s = url, window_s
        self.keys: list[Key] = []
        self.present = np.zeros(0, bool)
        self.totals, self._raw = np.zeros((2, len(COUNTERS), 0))
        self.gauges = np.zeros((len(GAUGES), 0))
        self.outcomes = np.zeros((len(OUTCOMES), 0))
        self.models: dict[tuple[str, str], VersionState] = {}
        self.answered_s: float | None = None
        self.started_s: float | None = None
        self.problem = "not asked yet"
        self.restarts = 0
        self._reader = Reader(_WANTED.__contains__)
        self._rows: dict[Key, int] = {}
        self._seen = 0  # series whose places are known
        self._places: list[tuple[int, int, int]] = []  # series, column, row
        self._where = np.zeros((3, 0), np.int64)
        self._of_models: list[tuple[int, tuple[str, str], str]] = []
        self._start: int | None = None
        self._moments: deque[tuple[float, Floats]] = deque()

    def failed(self, problem: str) -> None:
        """Its page did not come; what it said last stays."""
        self.problem = problem

    def take(self, page: str, now_s: float) -> None:
        """Read its page, which came at `now_s`.

        Raises:
            BadData: it is no page of metrics, or another program's; what was known stays.
        """
        values = self._reader.read(page)
        self._find_places(self._reader.series)
        ours = ~np.isnan(values)
        if self._start is not None:
            ours[self._start] = False  # which any program's page has
        if not ours.any():
            raise BadData.of("page of metrics", "another program's", "that of a Cutpoint server: --metrics-port (8002)")
        table = np.full((len(_COLUMNS) + len(OUTCOMES), len(self.keys)), np.nan)
        series, columns, rows = self._where
        table[columns, rows] = values[series]
        started_s = None if self._start is None else float(values[self._start])
        raw = table[: len(COUNTERS)]
        anew = started_s != self.started_s
        if self.answered_s is not None:
            smaller = raw < _wider(self._raw, raw.shape[1])  # what is gone is not
            self.restarts += int(anew or (started_s is None and bool(smaller.any())))
        self._count(np.nan_to_num(raw), anew=anew)
        self.present = ~np.isnan(table[0])
        self.gauges, self.outcomes = table[len(COUNTERS) : len(_COLUMNS)], table[len(_COLUMNS) :]
        self.models = {}
        for place, of, name in self._of_models:
            if not np.isnan(values[place]):
                setattr(self.models.setdefault(of, VersionState()), name, float(values[place]))
        self.started_s, self.answered_s, self.problem = started_s, now_s, ""
        self._keep(now_s)

    def increase(self, now_s: float) -> tuple[Floats, float]:
        """What was counted in the window that ends at `now_s`, float64 [counter, row], and the seconds that it covers."""
        if not self._moments:
            return np.zeros_like(self.totals), 0.0
        self._forget(now_s)
        begun_s, before = self._moments[0]
        return self.totals - _wider(before, len(self.keys)), now_s - begun_s

    def _count(self, raw: Floats, *, anew: bool) -> None:
        """Add what is new on a page, of counters that are 0 where they are not there."""
        before, totals = _wider(self._raw, raw.shape[1]), _wider(self.totals, raw.shape[1])
        if self.answered_s is not None:
            before = np.where((raw < before) | anew, 0.0, before)
        self.totals, self._raw = totals + raw - before, raw

    def _keep(self, now_s: float) -> None:
        self._forget(now_s)
        if not self._moments or now_s - self._moments[-1][0] >= self._window_s / _MOMENTS:
            self._moments.append((now_s, self.totals))

    def _forget(self, now_s: float) -> None:
        while len(self._moments) > 1 and self._moments[1][0] <= now_s - self._window_s:
            self._moments.popleft()

    def _find_places(self, series: list[Series]) -> None:
        """Say once of every series where its number goes."""
        if self._seen == len(series):
            return
        for place in range(self._seen, len(series)):
            each = series[place]
            key = (each.label("model"), each.label("version"), each.label("label"))
            if each.name == _STARTED:
                self._start = place
            elif each.name == _BUILD:
                continue
            elif each.name in _OF_MODELS:
                self._of_models.append((place, key[:2], _OF_MODELS[each.name]))
            elif each.name != _OUTCOMES:
                self._places.append((place, _COLUMNS[each.name], self._row(key)))
            elif each.label("predicted") == "positive" and each.label("actual") in OUTCOMES:
                self._places.append((place, len(_COLUMNS) + OUTCOMES.index(each.label("actual")), self._row(key)))
        self._seen = len(series)
        self._where = np.array(self._places, np.int64).reshape(-1, 3).T

    def _row(self, key: Key) -> int:
        row = self._rows.setdefault(key, len(self.keys))
        if row == len(self.keys):
            self.keys.append(key)
        return row


def _wider(table: Floats, rows: int) -> Floats:
    """With rows of zeros added."""
    return np.pad(table, ((0, 0), (0, rows - table.shape[1])))
