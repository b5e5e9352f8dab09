"""What Prometheus sees of outcomes; they start at zero with a model version, and go with it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..monitoring.accounting import ModelCounters
from ..monitoring.tally import Tallies

REASONS = (
    "unknown_request", "ambiguous_request", "no_such_row", "row_not_given", "other_version", "unknown_label", "not_alerted",
    "conflict", "other_logits",
)  # fmt: skip


class Counters(Protocol):
    """Told of what is new; a version that is not served any more is nobody's business."""

    def counted(self, model: str, version: int, label: int, predicted: bool, actual: bool, n: int) -> None:
        """`n` outcomes of a label, by its place in the model's order, came to be known."""
        ...

    def recallable(self, model: str, version: int, label: int, predicted: bool, weight: float) -> None:
        """Positives came to be known from which recall can be estimated; they stand for `weight` of them."""
        ...

    def unmatched(self, model: str, reason: str, n: int) -> None:
        """`n` outcomes fit no decision."""
        ...


class OutcomeCounters(Collector):
    """The counters of all models; those with a label are in the counters of their version, beside its decisions.

    Attributes:
        pool_rows: how many rows with outcomes are kept of the versions in service, asked at each scrape.
        dropped: how many decisions were not kept that should have been, likewise.
    """

    def __init__(self, of_version: Callable[[str, int], ModelCounters | None]) -> None:
        """No model yet; `of_version` gives the counters of a version in service."""
        self._of_version = of_version
        self._unmatched = Tallies("cutpoint_outcomes_unmatched", "Outcomes that fit no decision.", ("model", "reason"))
        self._dropped = Tallies(
            "cutpoint_decisions_not_kept", "Decisions whose outcome will be unmatched: too many at a time.", ()
        )
        self._versions: set[tuple[str, int]] = set()
        self.pool_rows: Callable[[], Mapping[tuple[str, int], int]] = dict
        self.dropped: Callable[[], int] = int

    def add_version(self, model: str, version: int) -> None:
        """Start the series of a version at zero; where it has some, they go on."""
        self._versions.add((model, version))
        for reason in REASONS:
            self._unmatched.labels(model, reason)

    def remove_version(self, model: str, version: int) -> None:
        """Forget the series of a version that is gone, and those of a model of which no other is left."""
        self._versions.discard((model, version))
        if not any(name == model for name, _ in self._versions):
            for reason in REASONS:
                self._unmatched.remove(model, reason)

    def counted(self, model: str, version: int, label: int, predicted: bool, actual: bool, n: int) -> None:
        """See `Counters`."""
        counters = self._of_version(model, version)
        if counters is not None and label < len(counters.labels):
            counters.outcome(label, predicted, actual, n)

    def recallable(self, model: str, version: int, label: int, predicted: bool, weight: float) -> None:
        """See `Counters`."""
        counters = self._of_version(model, version)
        if counters is not None and label < len(counters.labels):
            counters.recallable(label, predicted, weight)

    def unmatched(self, model: str, reason: str, n: int) -> None:
        """See `Counters`."""
        if any(name == model for name, _ in self._versions):
            self._unmatched.labels(model, reason).add(n)

    def collect(self) -> Iterable[Metric]:
        """The families as Prometheus reads them."""
        yield from self._unmatched.collect()
        self._dropped.labels().set(float(self.dropped()))
        yield from self._dropped.collect()
        rows = GaugeMetricFamily(
            "cutpoint_outcome_pool_rows", "Rows and windows kept with their scores and outcomes.", labels=("model", "version")
        )
        kept = self.pool_rows()
        for model, version in sorted(self._versions):
            rows.add_metric((model, str(version)), kept.get((model, version), 0))
        yield rows
