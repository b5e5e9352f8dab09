"""What Prometheus sees: live decisions beside the positives that the calibration expects, and the usual server figures.

Positives and expected positives are both counters, never a rate: for every decision the label's calibrated rate is added to
the second, so that their sums compare over any time, across threshold changes, restarts and replicas. Every metric of this
server is named in this folder, but those of shadows, which are in `shadow_counters`: what never answered is under names of its
own, so that no sum of live decisions has it.
"""

import contextlib
import platform
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version as version_of
from typing import TypeVar
from weakref import WeakValueDictionary

import onnxruntime
from prometheus_client import (
    CollectorRegistry,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.registry import Collector

from ..outcomes.counters import OutcomeCounters
from ..serving.shadow_counters import AllShadowCounters
from .accounting import ModelCounters
from .page import Page
from .per_label import PerLabel
from .series import ModelSeries
from .tally import Spreads, Tallies

C = TypeVar("C", bound=Collector)

# Seconds: 0.1 ms to 10 s, three a decade.
_BUCKETS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
INVALID = ("nan", "infinite")
_CALIBRATED = ("applied", "stored", "rejected", "failed")


class Metrics:
    """All metrics of one server, in a registry of its own.

    Attributes:
        accounts: whether decisions are counted and stages timed.
    """

    def __init__(self, *, most_labels: int = 512, accounts: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        """Register everything here, so that several servers can live in one process.

        Args:
            most_labels: of a model that have series of their own, the fold of all others being one of them.
            accounts: whether decisions are counted and stages timed.
            clock: seconds, increasing.
        """
        self.accounts, self._clock = accounts, clock
        self._infos: dict[tuple[str, int], tuple[str, str, str, str]] = {}
        self._lock = threading.Lock()
        self._shown: dict[str, ModelSeries] = {}
        self._made: WeakValueDictionary[str, ModelSeries] = WeakValueDictionary()
        disable_created_metrics()  # a second series for every counter, which triples the cost of a scrape
        self.registry, self._rest = CollectorRegistry(), CollectorRegistry()
        for registry in (self.registry, self._rest):
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
        self._per_label = PerLabel(most_labels)
        self.registry.register(self._per_label)
        self.page = Page(self.registry, self._rest, [self._per_label])
        self.shadows = self._register(AllShadowCounters())
        self.outcomes = self._register(OutcomeCounters(self._per_label.of))

        def tallies(name: str, text: str, labels: tuple[str, ...], gauge: bool = False) -> Tallies:
            return self._register(Tallies(name, text, labels, gauge=gauge))

        def spreads(name: str, text: str, labels: tuple[str, ...], bounds: Sequence[float] = _BUCKETS_S) -> Spreads:
            return self._register(Spreads(name, text, labels, bounds))

        grpc_labels = ("grpc_type", "grpc_service", "grpc_method")
        self.started = tallies("grpc_server_started", "RPCs started.", grpc_labels)
        self.handled = tallies("grpc_server_handled", "RPCs answered, by code.", (*grpc_labels, "grpc_code"))
        self.handling = spreads("grpc_server_handling_seconds", "Time to answer an RPC.", grpc_labels)
        of = ("model",)
        self._spreads = {
            "decode": spreads("cutpoint_decode_seconds", "Time from a request's message to its arrays.", of),
            "queue": spreads("cutpoint_queue_seconds", "Time a request waited for a model run.", of),
            "inference": spreads("cutpoint_inference_seconds", "Time of a model run.", of),
            "answer": spreads("cutpoint_answer_seconds", "Time from the end of a request's run to its answer's message.", of),
            "request": spreads("cutpoint_request_seconds", "Time from a request's message to its answer's message.", of),
            "batch_rows": spreads("cutpoint_batch_rows", "Rows in a model run.", of, _BUCKETS_ROWS),
            "calibration": spreads("cutpoint_calibration_seconds", "Time of a Calibrate call.", of),
        }
        self._inflight = tallies("cutpoint_inflight_requests", "Inference requests being answered.", of, gauge=True)
        self._invalid = tallies(
            "cutpoint_invalid_scores",
            "Logits that are no finite numbers: of nan nothing is decided, infinite ones are decided like others.",
            ("model", "version", "reason"),
        )
        self._calibrations = tallies("cutpoint_calibrations", "Calibrate calls, by outcome.", ("model", "outcome"))
        self.loads = tallies("cutpoint_model_loads", "Model versions loaded, by outcome.", ("model", "outcome"))
        self.ready = tallies(
            "cutpoint_model_ready", "1 while the version is served, 0 while it cannot be.", ("model", "version"), gauge=True
        )
        self.info = self._register(
            Gauge(
                "cutpoint_model_info", "Always 1; what the model is.", ("model", "version", "digest", "provider"), registry=None
            )
        )
        build = Gauge(
            "cutpoint_build_info", "Always 1; what the server is.", ("version", "python", "onnxruntime"), registry=None
        )
        build.labels(version_of("cutpoint"), platform.python_version(), onnxruntime.__version__).set(1)
        self._register(build)

    def _register(self, collector: C) -> C:
        self.registry.register(collector)
        self._rest.register(collector)
        return collector

    def series(self, model: str) -> ModelSeries:
        """What a model adds to as it answers; not shown before `add_model`."""
        with self._lock:
            found = self._shown.get(model) or self._made.get(model)
            if found is None:
                names = tuple(self._spreads)
                found = ModelSeries(lambda name: self._spreads[name].make(), names, self._inflight.make(), self.accounts)
                self._made[model] = found
            return found

    def counters(self, model: str, version: int, labels: tuple[str, ...]) -> ModelCounters:
        """The counters of a version's decisions, at zero; not shown before `add_model`."""
        return ModelCounters(model, version, labels, counts=self.accounts, clock=self._clock)

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
        counters = counters or self.counters(model, version, labels)
        before = self._per_label.models.get((model, str(version)))
        if before is not None:
            counters.go_on_from(before)
        self._per_label.models[model, str(version)] = counters
        self.outcomes.add_version(model, version)
        self.set_ready(model, version, True)
        self._forget_info(model, version)
        self._infos[model, version] = (str(model), str(version), digest[:12], provider)
        self.info.labels(*self._infos[model, version]).set(1)
        for reason in INVALID:
            self._invalid.labels(model, version, reason)
        series = self.series(model)
        with self._lock:
            if self._shown.setdefault(model, series) is series:
                for name, spreads in self._spreads.items():
                    spreads.put(series.spreads[name], model)
                self._inflight.put(series.inflight, model)
                for outcome in _CALIBRATED:
                    self._calibrations.labels(model, outcome)
        return counters

    def set_ready(self, model: str, version: int, ready: bool) -> None:
        """Say that a version is served, or that it cannot be."""
        self.ready.labels(model, version).set(float(ready))

    def count_invalid(self, model: str, version: int, reason: str, count: int) -> None:
        """Count logits that are no finite numbers, for one of the reasons in `INVALID`; of a version that is served."""
        if (model, str(version)) in self._per_label.models:
            self._invalid.labels(model, version, reason).add(count)

    def count_calibration(self, model: str, outcome: str, seconds: float) -> None:
        """Count a Calibrate call: applied, stored, rejected or failed; of a model that is served still."""
        series = self._shown.get(model)
        if series is not None:
            self._calibrations.labels(model, outcome).add()
            series.spreads["calibration"].observe(seconds)

    def remove_version(self, model: str, version: int) -> None:
        """Forget the series of a version that is gone."""
        self._per_label.models.pop((model, str(version)), None)
        self.outcomes.remove_version(model, version)
        self.ready.remove(model, version)
        self._forget_info(model, version)
        for reason in INVALID:
            self._invalid.remove(model, version, reason)

    def remove_model(self, model: str) -> None:
        """Forget the series of a model of which no version is left, and of those that could not be served."""
        for family in (self.loads, self.ready):
            family.remove_all(model)
        with self._lock:
            self._shown.pop(model, None)
            for spreads in self._spreads.values():
                spreads.remove(model)
            self._inflight.remove(model)
            for outcome in _CALIBRATED:
                self._calibrations.remove(model, outcome)

    def _forget_info(self, model: str, version: int) -> None:
        known = self._infos.pop((model, version), None)
        if known is not None:
            with contextlib.suppress(KeyError):
                self.info.remove(*known)
