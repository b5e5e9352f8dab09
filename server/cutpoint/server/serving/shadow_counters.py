"""What shadows would have decided: counted like live decisions, under names of their own, since nobody was answered by them."""

import threading
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..policy.policies import Active

_OF = ("model", "version", "policy")
_COUNTERS = {
    "cutpoint_shadow_decisions": "Decisions that the shadow made: nobody was answered by them.",
    "cutpoint_shadow_positives": "Decisions of the shadow at or above its threshold.",
    "cutpoint_shadow_expected_positives": "Positives that the shadow's calibration expects of its decisions.",
    "cutpoint_shadow_expected_positives_variance": "Binomial variance of these: the sum of p(1-p) over decisions.",
}
_LIVE = ("negative", "positive")
_OUTCOMES = ("scored", "dropped", "failed")


class ShadowCounters:
    """The accounting of one shadow: arrays by label, added to under a lock that a scrape takes too."""

    def __init__(self, model: str, version: int, policy: str, labels: tuple[str, ...]) -> None:
        """All start at zero. `policy` is the stored policy that the shadow decides by; empty for the version's active one."""
        self.of, self.labels = (model, str(version), policy), labels
        self._lock = threading.Lock()
        self._sums = np.zeros((len(_COUNTERS), len(labels)))
        self._disagreed = np.zeros((len(_LIVE), len(labels)))
        self._requests = dict.fromkeys(_OUTCOMES, 0)

    def add(
        self, decisions: NDArray[np.bool_], active: Active, live: NDArray[np.bool_] | None, both: NDArray[np.bool_] | None
    ) -> None:
        """Account for one request.

        Args:
            decisions: of the shadow, [..., label].
            active: by which it decided.
            live: decisions of the live one on the same rows and labels; None where it made none.
            both: which labels both decide, [label]; None where there is no `live`.
        """
        flat = decisions.reshape(-1, len(self.labels))
        count = len(flat) * active.decides
        expected = count * active.rates
        sums = (count, np.count_nonzero(flat, axis=0), expected, expected * (1 - active.rates))
        disagreed = None
        if live is not None and both is not None:
            theirs = live.reshape(flat.shape)
            disagreed = np.stack([np.count_nonzero(flat & ~theirs, axis=0), np.count_nonzero(theirs & ~flat, axis=0)]) * both
        with self._lock:
            self._sums += sums
            if disagreed is not None:
                self._disagreed += disagreed
            self._requests["scored"] += 1

    def miss(self, outcome: str) -> None:
        """Count a request that was not scored: "dropped" or "failed"."""
        with self._lock:
            self._requests[outcome] += 1

    def snapshot(self) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, int]]:
        """Counters [counter, label], disagreements [live decision, label] and requests by outcome, of one moment."""
        with self._lock:
            return self._sums.copy(), self._disagreed.copy(), dict(self._requests)


class AllShadowCounters(Collector):
    """Those of all shadows of a server, rendered at the scrape."""

    def __init__(self) -> None:
        """None yet."""
        self._all: dict[tuple[str, str, str], ShadowCounters] = {}

    def of(self, model: str, version: int, policy: str, labels: tuple[str, ...]) -> ShadowCounters:
        """The counters of a shadow; those that are there go on, unless the labels changed."""
        made = ShadowCounters(model, version, policy, labels)
        known = self._all.get(made.of)
        if known is None or known.labels != labels:
            self._all[made.of] = known = made
        return known

    def remove(self, counters: ShadowCounters) -> None:
        """Forget the series of a shadow that is gone."""
        if self._all.get(counters.of) is counters:
            del self._all[counters.of]

    def collect(self) -> Iterable[Metric]:
        """The families as Prometheus reads them."""
        every = [(each.of, each.labels, *each.snapshot()) for each in list(self._all.values())]
        for i, (name, text) in enumerate(_COUNTERS.items()):
            family = CounterMetricFamily(name, text, labels=(*_OF, "label"))
            for of, labels, sums, _, _ in every:
                for label, value in zip(labels, sums[i], strict=True):
                    family.add_metric((*of, label), value)
            yield family
        text = "Rows or windows that live and shadow decide differently, by what the live one decided."
        disagreements = CounterMetricFamily("cutpoint_shadow_disagreements", text, labels=(*_OF, "label", "live"))
        text = "Requests that a shadow was to score: scored, dropped since the server was busy, or failed."
        requests = CounterMetricFamily("cutpoint_shadow_requests", text, labels=(*_OF, "outcome"))
        for of, labels, _, disagreed, counts in every:
            for live, row in zip(_LIVE, disagreed, strict=True):
                for label, value in zip(labels, row, strict=True):
                    disagreements.add_metric((*of, label, live), value)
            for outcome, value in counts.items():
                requests.add_metric((*of, outcome), value)
        yield from (disagreements, requests)
