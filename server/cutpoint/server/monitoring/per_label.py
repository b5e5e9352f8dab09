"""The series with a label: rendered at the scrape, at most so many labels a model, the rest folded into one.

At 512 labels they are some ten thousand lines. prometheus_client takes 100 ms for as many, with the interpreter in its hands;
here all of a line but its value is written once.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from .accounting import ModelCounters, Snapshot
from .decided import FALSE_POSITIVES, RECALL
from .promises import PROMISES, RATE, RSE
from .sums import ACTUAL, COUNTERS, PREDICTED

OTHER = "__other__"
# Numbers that Python writes as Go reads them; others, infinity above all, need more care.
_WRITTEN = 1e300
_PER_VERSION = "model", "version"
_PER_LABEL = *_PER_VERSION, "label"
_PER_PREDICTED = *_PER_LABEL, "predicted"
_PER_OUTCOME = *_PER_PREDICTED, "actual"
_OUTCOMES = "cutpoint_outcomes", "Outcomes reported of earlier decisions, by what was decided and what it turned out to be."
_RECALLABLE = (
    "cutpoint_outcomes_recallable_positives",
    "Positive outcomes of reviews that see misses too, weighed by the inverse of their probability.",
)
_PREVALENCE = (
    "cutpoint_estimated_prevalence",
    "Share of true positives in the last 30 to 60 minutes, estimated without labels under prior shift, 0 to 1.",
)
_OF_VERSION = {
    "cutpoint_threshold_generation": "How many times the active policy has been set.",
    "cutpoint_policy_version": "Version of the active policy; 0 for none.",
    "cutpoint_threshold_activated_timestamp_seconds": "When the active policy became active, seconds since 1970.",
    "cutpoint_queue_rows": "Rows waiting for a model run.",
    "cutpoint_folded_labels": f"Labels whose series are folded into one, that of label {OTHER}.",
    "cutpoint_estimated_prevalence_rows": "Rows or windows in the window that the prevalence is estimated from.",
}


class Names:
    """Label values of some series, `of`, and `written` as they are in text."""

    def __init__(self, labels: Sequence[str], of: Sequence[tuple[str, ...]]) -> None:
        """Of series with these label names."""
        order = sorted(range(len(labels)), key=lambda i: labels[i])
        self.of = of
        # Of each name of samples, the values that were written last, and what was written.
        self.last: dict[str, tuple[NDArray[np.float64], str]] = {}
        self.written = ["{" + ",".join([f'{labels[i]}="{_escaped(each[i])}"' for i in order]) + "} " for each in of]


@dataclass(frozen=True)
class Lines:
    """Series of one family that have the same label names: `values[i]` of the label values `names.of[i]`; NaN is left out."""

    names: Names
    values: NDArray[np.float64]

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Label values and value of each."""
        values = self.values.tolist()
        return ((self.names.of[i], values[i]) for i in np.flatnonzero(~np.isnan(self.values)).tolist())

    def text(self, series: str) -> str:
        """The lines of samples of this name."""
        last = self.names.last.get(series)
        if last is not None and np.array_equal(last[0], self.values, equal_nan=True):
            return last[1]  # as most are, but for counters of what is decided
        named = zip(self.names.written, self.values.tolist(), strict=True)
        if (np.abs(self.values) < _WRITTEN).all():
            text = "".join([f"{series}{of}{value!r}\n" for of, value in named])
        else:
            text = "".join([f"{series}{of}{floatToGoString(value)}\n" for of, value in named if not math.isnan(value)])
        self.names.last[series] = self.values, text
        return text


@dataclass(frozen=True)
class Family:
    """One family: its name without `_total`, what it is, and its series."""

    name: str
    text: str
    kind: str
    labels: tuple[str, ...]
    lines: Sequence[Lines]


class PerLabel(Collector):
    """Renders the counters of all model versions."""

    def __init__(self, most_labels: int) -> None:
        """At most `most_labels` labels of a model have series of their own, the fold being one of them."""
        self.models: dict[tuple[str, str], ModelCounters] = {}
        self._most = most_labels
        self._shown: dict[tuple[str, str], tuple[ModelCounters, _Shown]] = {}

    def of(self, model: str, version: int) -> ModelCounters | None:
        """The counters of a version in service."""
        return self.models.get((model, str(version)))

    def collect(self) -> Iterable[Metric]:
        """The families as prometheus_client has them."""
        for family in self.families():
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.text, labels=family.labels)
            for lines in family.lines:
                for of, value in lines:
                    metric.add_metric(of, value)
            yield metric

    def text(self, openmetrics: bool) -> str:
        """The same as text: OpenMetrics 1.0 without its end, or the classic format."""
        parts: list[str] = []
        for family in self.families():
            series = f"{family.name}_total" if family.kind == "counter" else family.name
            head = family.name if openmetrics else series
            parts.append(f"# HELP {head} {family.text}\n# TYPE {head} {family.kind}\n")
            parts += [lines.text(series) for lines in family.lines]
        return "".join(parts)

    def families(self) -> Iterator[Family]:
        """All families, of one moment for each model version."""
        known = list(self.models.values())
        every = [(each, self._labels_of(each)) for each in known]
        self._shown = {(each.model, each.version): (each, shown) for each, shown in every}
        found = [(each, shown, each.snapshot(len(shown.kept))) for each, shown in every]
        for i, (name, text) in enumerate(COUNTERS.items()):
            yield Family(name, text, "counter", _PER_LABEL, [Lines(s.of, s.counted(snap, i)) for _, s, snap in found])
        outcomes = [
            Lines(shown.of_outcomes[p, a], shown.summed(snap.outcomes[p, a]))
            for _, shown, snap in found
            for p in range(len(PREDICTED))
            for a in range(len(ACTUAL))
        ]
        yield Family(*_OUTCOMES, "counter", _PER_OUTCOME, outcomes)
        recallable = [
            Lines(shown.of_predicted[p], shown.summed(snap.recallable[p]))
            for _, shown, snap in found
            for p in range(len(PREDICTED))
        ]
        yield Family(*_RECALLABLE, "counter", _PER_PREDICTED, recallable)
        for i, (name, text) in enumerate(PROMISES.items()):
            yield Family(name, text, "gauge", _PER_LABEL, [Lines(s.of, s.promised(snap, i)) for _, s, snap in found])
        estimates = [Lines(s.of, s.without_other(snap.prevalence)) for _, s, snap in found]
        yield Family(*_PREVALENCE, "gauge", _PER_LABEL, estimates)
        of_version = [(shown.of_version, _of_version(each, shown, snap)) for each, shown, snap in found]
        for i, (name, text) in enumerate(_OF_VERSION.items()):
            yield Family(name, text, "gauge", _PER_VERSION, [Lines(of, values[i : i + 1]) for of, values in of_version])

    def _labels_of(self, counters: ModelCounters) -> "_Shown":
        known = self._shown.get((counters.model, counters.version))
        return known[1] if known is not None and known[0] is counters else _Shown(counters, self._most)


class _Shown:
    """Which labels of a model have series of their own, and which are folded."""

    def __init__(self, counters: ModelCounters, most: int) -> None:
        labels = counters.labels
        folds = len(labels) > most or OTHER in labels
        self.kept = [i for i, label in enumerate(labels[: most - 1] if folds else labels) if label != OTHER]
        self.folded = np.setdiff1d(np.arange(len(labels)), self.kept) if folds else np.zeros(0, np.intp)
        self.names = [labels[i] for i in self.kept] + ([OTHER] if len(self.folded) else [])
        of = [(counters.model, counters.version, name) for name in self.names]
        self.of_version = Names(_PER_VERSION, [(counters.model, counters.version)])
        self.of = Names(_PER_LABEL, of)
        self.of_predicted = [Names(_PER_PREDICTED, [(*each, predicted) for each in of]) for predicted in PREDICTED]
        self.of_outcomes = {
            (p, a): Names(_PER_OUTCOME, [(*each, predicted, actual) for each in of])
            for p, predicted in enumerate(PREDICTED)
            for a, actual in enumerate(ACTUAL)
        }

    def summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[label] with the folded ones added up."""
        return self._with(values, lambda folded: float(folded.sum()))

    def without_other(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[label] where of the folded ones nothing can be said together."""
        return self._with(values, lambda folded: np.nan)

    def counted(self, snapshot: Snapshot, counter: int) -> NDArray[np.float64]:
        """A counter of `COUNTERS`: of the folded labels no sum of rates, which would tell nothing of their prevalence."""
        folded = self.without_other if counter in (RECALL, FALSE_POSITIVES) else self.summed
        return folded(snapshot.sums[counter])

    def promised(self, snapshot: Snapshot, gauge: int) -> NDArray[np.float64]:
        """A gauge of `PROMISES`: the folded labels have a rate together, the mean of theirs, and no other gauge.

        Their relative error is what it would be if their errors were one and the same: it never promises too much.
        """
        rates, errors = snapshot.promises[RATE][self.folded], snapshot.promises[RSE][self.folded]
        values = self.without_other(snapshot.promises[gauge])
        decided = ~np.isnan(rates)
        if len(self.folded) and decided.any():
            if gauge == RATE:
                values[-1] = rates[decided].mean()
            elif gauge == RSE and rates[decided].any():
                values[-1] = np.nansum(rates * errors) / np.nansum(rates)
        return values

    def _with(self, values: NDArray[np.float64], fold: Callable[[NDArray[np.float64]], float]) -> NDArray[np.float64]:
        kept = values[self.kept]
        return np.append(kept, fold(values[self.folded])) if len(self.folded) else kept


def _of_version(counters: ModelCounters, shown: _Shown, snapshot: Snapshot) -> NDArray[np.float64]:
    """The gauges of `_OF_VERSION`, in its order."""
    active = snapshot.active
    generation, policy, since = (0, 0, np.nan)
    if active is not None:
        generation, policy, since = active.generation, active.policy.version, active.activated_s
    return np.array([generation, policy, since, counters.queue_rows(), len(shown.folded), snapshot.window_rows], np.float64)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
