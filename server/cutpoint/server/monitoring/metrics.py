"""What Prometheus sees: live decisions beside the positives that the calibration expects, and the usual server figures.

Positives and expected positives are both counters, never a rate: for every decision the label's calibrated rate is added to
the second, so that their sums compare over any time, across threshold changes, restarts and replicas. Per label and request the
cost is an addition in a numpy array; text is made at the scrape. Every metric of this server is in this file, but those of
shadows, which are in `shadow_counters`: what never answered is under names of its own, so that no sum of live decisions has it.
"""

import contextlib
import platform
import threading
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version as version_of
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..outcomes.counters import OutcomeCounters
from ..policy.policies import Active
from ..serving.shadow_counters import AllShadowCounters
from .tally import Spreads, Tallies

C = TypeVar("C", bound=Collector)

# Seconds: 0.5 ms to 10 s, three a decade.
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_PER_LABEL = ("model", "version", "label")

_COUNTERS = {
    "cutpoint_decisions": "Decisions made: rows or windows held against the label's threshold.",
    "cutpoint_positives": "Decisions at or above the threshold.",
    "cutpoint_expected_positives": "Positives that the calibration expects: its rate for the label, summed over decisions.",
    "cutpoint_expected_positives_variance": "Binomial variance of the expected positives: the sum of p(1-p) over decisions.",
}
_POSITIVES = 1  # their row; the others are of `Active.per_decision`
_GAUGES = {
    "cutpoint_expected_positive_rate": "Share of decisions expected to be positive under the active policy, 0 to 1.",
    "cutpoint_expected_positive_rate_rse": "Relative standard error of the expected rate, from the amount of calibration data.",
    "cutpoint_threshold": "Active threshold, a logit.",
}


class ModelCounters:
    """The accounting of one model version: float64 [label] arrays, added to under a lock that a scrape takes too."""

    def __init__(self, model: str, version: int, labels: tuple[str, ...]) -> None:
        """All counters start at zero, so that the first event is an increase."""
        self.model, self.version, self.labels = model, str(version), labels
        self._lock = threading.Lock()
        self._sums = np.zeros((len(_COUNTERS), len(labels)))
        self._gauges = np.full((len(_GAUGES), len(labels)), np.nan)
        self.active: Active | None = None
        self.queue_rows: Callable[[], int] = lambda: 0

    def apply(self, active: Active | None) -> None:
        """Make this the policy in force; an older generation than the present one is ignored, whatever order they come in."""
        with self._lock:
            if active is None or (self.active is not None and active.generation <= self.active.generation):
                return
            rows = np.array([label.counts.rows for label in active.policy.labels], float)
            positives = np.where(active.decides & (active.rates > 0), active.rates * rows, np.nan)
            rse = np.sqrt((1 - active.rates) / positives)
            rates = np.where(active.decides, active.rates, np.nan)
            self._gauges = np.stack([rates, rse, active.thresholds.astype(float)])
            self.active = active

    def go_on_from(self, before: "ModelCounters") -> None:
        """Count on where those of the same model version stopped, which was loaded anew; not where its labels changed."""
        if before.labels == self.labels:
            self._lock, self._sums = before._lock, before._sums

    def add(self, decisions: NDArray[np.bool_], active: Active) -> None:
        """Account for decisions [..., label] made by `active`, which may have been replaced meanwhile."""
        flat = decisions.reshape(-1, len(self.labels))
        positives = flat[0] if len(flat) == 1 else np.count_nonzero(flat, axis=0)
        expected = active.per_decision * len(flat)
        with self._lock:
            self._sums += expected
            self._sums[_POSITIVES] += positives

    def snapshot(self) -> tuple[NDArray[np.float64], NDArray[np.float64], Active | None]:
        """Counters [counter, label], gauges [gauge, label] and the active policy, of one moment."""
        with self._lock:
            return self._sums.copy(), self._gauges.copy(), self.active


class _PerModel(Collector):
    """Renders the arrays of all models at the scrape."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], ModelCounters] = {}

    def collect(self) -> Iterable[Metric]:
        models = [(model, *model.snapshot()) for model in list(self.models.values())]
        for i, (name, text) in enumerate(_COUNTERS.items()):
            counter = CounterMetricFamily(name, text, labels=_PER_LABEL)
            for model, sums, _, _ in models:
                for label, value in zip(model.labels, sums[i], strict=True):
                    counter.add_metric((model.model, model.version, label), value)
            yield counter
        for i, (name, text) in enumerate(_GAUGES.items()):
            gauge = GaugeMetricFamily(name, text, labels=_PER_LABEL)
            for model, _, gauges, _ in models:
                for label, value in zip(model.labels, gauges[i], strict=True):
                    if not np.isnan(value):
                        gauge.add_metric((model.model, model.version, label), value)
            yield gauge
        generation = GaugeMetricFamily(
            "cutpoint_threshold_generation", "How many times the active policy has been set.", labels=("model", "version")
        )
        policy_version = GaugeMetricFamily(
            "cutpoint_policy_version", "Version of the active policy; 0 for none.", labels=("model", "version")
        )
        activated = GaugeMetricFamily(
            "cutpoint_threshold_activated_timestamp_seconds",
            "When the active policy became active.",
            labels=("model", "version"),
        )
        waiting = GaugeMetricFamily("cutpoint_queue_rows", "Rows waiting for a model run.", labels=("model", "version"))
        for model, _, _, active in models:
            of = (model.model, model.version)
            waiting.add_metric(of, model.queue_rows())
            policy_version.add_metric(of, active.policy.version if active else 0)
            generation.add_metric(of, active.generation if active else 0)
            if active is not None:
                activated.add_metric(of, active.activated_s)
        yield from (generation, policy_version, activated, waiting)


class Metrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        """Register everything here, so that several servers can live in one process."""
        self._infos: dict[tuple[str, int], tuple[str, str, str, str]] = {}
        disable_created_metrics()  # a second series for every counter, which triples the cost of a scrape
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._per_model = _PerModel()
        self.registry.register(self._per_model)
        self.shadows = self._register(AllShadowCounters())
        self.outcomes = self._register(OutcomeCounters())

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def tallies(name: str, text: str, labels: tuple[str, ...], gauge: bool = False) -> Tallies:
            return self._register(Tallies(name, text, labels, gauge=gauge))

        def spreads(name: str, text: str, labels: tuple[str, ...], bounds: Sequence[float] = _BUCKETS_S) -> Spreads:
            return self._register(Spreads(name, text, labels, bounds))

        grpc_labels = ("grpc_type", "grpc_service", "grpc_method")
        self.started = tallies("grpc_server_started", "RPCs started.", grpc_labels)
        self.handled = tallies("grpc_server_handled", "RPCs answered, by code.", (*grpc_labels, "grpc_code"))
        self.handling = spreads("grpc_server_handling_seconds", "Time to answer an RPC.", grpc_labels)
        self.queue = spreads("cutpoint_queue_seconds", "Time a request waited for a model run.", ("model",))
        self.inference = spreads("cutpoint_inference_seconds", "Time of a model run.", ("model",))
        self.batch_rows = spreads("cutpoint_batch_rows", "Rows in a model run.", ("model",), _BUCKETS_ROWS)
        self.inflight = tallies("cutpoint_inflight_requests", "Inference requests being answered.", ("model",), gauge=True)
        self.invalid = counter(
            "cutpoint_invalid_scores_total", "Scores on which nothing can be decided.", ("model", "version", "reason")
        )
        self.calibrations = counter("cutpoint_calibrations_total", "Calibrate calls, by outcome.", ("model", "outcome"))
        self.calibration_time = spreads("cutpoint_calibration_seconds", "Time of a Calibrate call.", ("model",))
        self.loads = tallies("cutpoint_model_loads", "Model versions loaded, by outcome.", ("model", "outcome"))
        self.ready = tallies(
            "cutpoint_model_ready", "1 while the version is served, 0 while it cannot be.", ("model", "version"), gauge=True
        )
        self.info = Gauge(
            "cutpoint_model_info",
            "Always 1; what the model is.",
            ("model", "version", "digest", "provider"),
            registry=self.registry,
        )
        Gauge(
            "cutpoint_build_info", "Always 1; what the server is.", ("version", "python", "onnxruntime"), registry=self.registry
        ).labels(version_of("cutpoint"), platform.python_version(), onnxruntime.__version__).set(1)

    def _register(self, collector: C) -> C:
        self.registry.register(collector)
        return collector

    def add_model(
        self,
        model: str,
        version: int,
        labels: tuple[str, ...],
        digest: str,
        provider: str,
        counters: ModelCounters | None = None,
    ) -> ModelCounters:
        """Start a model version's series at zero, or where those of the one that it replaces are.

        Args:
            model: name.
            version: number.
            labels: of its decisions.
            digest: of its graph.
            provider: that computes it.
            counters: of its decisions; made here when None.
        """
        counters = counters or ModelCounters(model, version, labels)
        before = self._per_model.models.get((model, str(version)))
        if before is not None:
            counters.go_on_from(before)
        self._per_model.models[model, str(version)] = counters
        self.outcomes.add_model(model, version, labels)
        self.set_ready(model, version, True)
        self._forget_info(model, version)
        self._infos[model, version] = (str(model), str(version), digest[:12], provider)
        self.info.labels(*self._infos[model, version]).set(1)
        self.invalid.labels(model, version, "nan")
        for outcome in ("applied", "stored", "rejected", "failed"):
            self.calibrations.labels(model, outcome)
        for metric in (self.queue, self.inference, self.batch_rows, self.inflight, self.calibration_time):
            metric.labels(model)
        return counters

    def set_ready(self, model: str, version: int, ready: bool) -> None:
        """Say that a version is served, or that it cannot be."""
        tally = self.ready.labels(model, version)
        tally.add(float(ready) - tally.value)

    def remove_version(self, model: str, version: int) -> None:
        """Forget the series of a version that is gone."""
        self._per_model.models.pop((model, str(version)), None)
        self.outcomes.remove_version(model, version)
        self.ready.remove(model, version)
        self._forget_info(model, version)
        with contextlib.suppress(KeyError):
            self.invalid.remove(model, str(version), "nan")

    def remove_model(self, model: str) -> None:
        """Forget the series of a model of which no version is left."""
        for metric in (self.queue, self.inference, self.batch_rows, self.inflight, self.calibration_time):
            metric.remove(model)
        for outcome in ("applied", "stored", "rejected", "failed"):
            with contextlib.suppress(KeyError):
                self.calibrations.remove(model, outcome)

    def _forget_info(self, model: str, version: int) -> None:
        known = self._infos.pop((model, version), None)
        if known is not None:
            self.info.remove(*known)


def observer(metrics: Metrics, model: str) -> Callable[[int, float], Any]:
    """What a batcher calls after each run, with the label children looked up once."""
    rows, seconds = metrics.batch_rows.labels(model), metrics.inference.labels(model)

    def observe(count: int, run_s: float) -> None:
        rows.observe(count)
        seconds.observe(run_s)

    return observe
