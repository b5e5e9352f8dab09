"""What Prometheus sees of outcomes; they start at zero with a model version, and go with it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..monitoring.tally import Tallies

REASONS = (
    "unknown_request", "ambiguous_request", "no_such_row", "other_version", "unknown_label", "conflict", "other_logits",
)  # fmt: skip
_WORDS = ("negative", "positive")
_PER_LABEL = ("model", "version", "label")


class Counters(Protocol):
    """Told of what is new; a version that is not served any more is nobody's business."""

    def counted(self, model: str, version: int, label: str, predicted: bool, actual: bool, n: int) -> None:
        """`n` outcomes of a label came to be known."""
        ...

    def recallable(self, model: str, version: int, label: str, predicted: bool, weight: float) -> None:
        """Positives came to be known from which recall can be estimated; they stand for `weight` of them."""
        ...

    def unmatched(self, model: str, reason: str, n: int) -> None:
        """`n` outcomes fit no decision."""
        ...


class OutcomeCounters(Collector):
    """The counters of all models.

    Attributes:
        pool_rows: how many rows with outcomes are kept of the versions in service, asked at each scrape.
        dropped: how many decisions were not kept that should have been, likewise.
    """

    def __init__(self) -> None:
        """No model yet."""
        self._outcomes = Tallies(
            "cutpoint_outcomes", "Outcomes reported later, each label of a decision once.", (*_PER_LABEL, "predicted", "actual")
        )
        self._recallable = Tallies(
            "cutpoint_outcomes_recallable_positives",
            "Positive outcomes of reviews that see misses too, weighed by the inverse of their probability.",
            (*_PER_LABEL, "predicted"),
        )
        self._unmatched = Tallies("cutpoint_outcomes_unmatched", "Outcomes that fit no decision.", ("model", "reason"))
        self._dropped = Tallies(
            "cutpoint_decisions_not_kept", "Decisions whose outcome will be unmatched: too many at a time.", ()
        )
        self._versions: dict[tuple[str, int], tuple[str, ...]] = {}
        self.pool_rows: Callable[[], Mapping[tuple[str, int], int]] = dict
        self.dropped: Callable[[], int] = int

    def add_model(self, model: str, version: int, labels: tuple[str, ...]) -> None:
        """Start the series of a version at zero; where it has some, they go on."""
        self._versions[model, version] = labels
        for label in labels:
            for predicted in _WORDS:
                self._recallable.labels(model, version, label, predicted)
                for actual in _WORDS:
                    self._outcomes.labels(model, version, label, predicted, actual)
        for reason in REASONS:
            self._unmatched.labels(model, reason)

    def remove_version(self, model: str, version: int) -> None:
        """Forget the series of a version that is gone, and those of a model of which no other is left."""
        for label in self._versions.pop((model, version), ()):
            for predicted in _WORDS:
                self._recallable.remove(model, version, label, predicted)
                for actual in _WORDS:
                    self._outcomes.remove(model, version, label, predicted, actual)
        if not any(name == model for name, _ in self._versions):
            for reason in REASONS:
                self._unmatched.remove(model, reason)

    def counted(self, model: str, version: int, label: str, predicted: bool, actual: bool, n: int) -> None:
        """See `Counters`."""
        if label in self._versions.get((model, version), ()):
            self._outcomes.labels(model, version, label, _WORDS[predicted], _WORDS[actual]).add(n)

    def recallable(self, model: str, version: int, label: str, predicted: bool, weight: float) -> None:
        """See `Counters`."""
        if label in self._versions.get((model, version), ()):
            self._recallable.labels(model, version, label, _WORDS[predicted]).add(weight)

    def unmatched(self, model: str, reason: str, n: int) -> None:
        """See `Counters`."""
        if any(name == model for name, _ in self._versions):
            self._unmatched.labels(model, reason).add(n)

    def collect(self) -> Iterable[Metric]:
        """The families as Prometheus reads them."""
        for family in (self._outcomes, self._recallable, self._unmatched):
            yield from family.collect()
        tally = self._dropped.labels()
        tally.add(self.dropped() - tally.value)
        yield from self._dropped.collect()
        rows = GaugeMetricFamily(
            "cutpoint_outcome_pool_rows", "Rows and windows kept with their scores and outcomes.", labels=("model", "version")
        )
        for (model, version), count in sorted(self.pool_rows().items()):
            rows.add_metric((model, str(version)), count)
        yield rows
