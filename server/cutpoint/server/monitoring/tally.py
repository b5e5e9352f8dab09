"""Counters and histograms for what happens at every request, at a fraction of prometheus_client's cost.

An increment there takes one to four microseconds; at ten thousand requests a second and eight of them a request, a third of a
core. Here they are additions to a list under a lock; text is made at the scrape.
"""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally:
    """One number that is added to, from any thread."""

    __slots__ = ("_lock", "_value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Add `amount`."""
        with self._lock:
            self._value += amount

    @property
    def value(self) -> float:
        """The sum so far."""
        return self._value


class Spread:
    """A histogram of one label set: counts by bucket, and the sum."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper ends, increasing, without infinity."""
        self._bounds = list(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        at = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[at] += 1
            self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper end, the last one infinity, and the sum, of one moment."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        seen, result = 0, []
        for bound, count in zip([*self._bounds, float("inf")], counts, strict=True):
            seen += count
            result.append((floatToGoString(bound), float(seen)))
        return result, total


class Tallies(Collector):
    """A family of tallies, one for each set of label values."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], *, gauge: bool = False) -> None:
        """A counter called `name`, or a gauge where it also goes down."""
        self._name, self._text, self._labels, self._gauge = name, text, labels, gauge
        self._children: dict[tuple[str, ...], Tally] = {}

    def labels(self, *values: object) -> Tally:
        """The one of these label values; starts at zero."""
        return self._children.setdefault(tuple(map(str, values)), Tally())

    def remove(self, *values: object) -> None:
        """Forget the one of these label values."""
        self._children.pop(tuple(map(str, values)), None)

    def collect(self) -> Iterable[Metric]:
        """The family as Prometheus reads it."""
        kind = GaugeMetricFamily if self._gauge else CounterMetricFamily
        family = kind(self._name, self._text, labels=self._labels)
        for values, tally in list(self._children.items()):
            family.add_metric(values, tally.value)
        yield family


class Spreads(Collector):
    """A family of histograms, one for each set of label values."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], bounds: Sequence[float]) -> None:
        """A histogram called `name` with these buckets."""
        self._name, self._text, self._labels, self._bounds = name, text, labels, bounds
        self._children: dict[tuple[str, ...], Spread] = {}

    def labels(self, *values: object) -> Spread:
        """The one of these label values; starts empty."""
        return self._children.setdefault(tuple(map(str, values)), Spread(self._bounds))

    def remove(self, *values: object) -> None:
        """Forget the one of these label values."""
        self._children.pop(tuple(map(str, values)), None)

    def collect(self) -> Iterable[Metric]:
        """The family as Prometheus reads it."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, spread in list(self._children.items()):
            buckets, total = spread.buckets()
            family.add_metric(values, buckets, total)
        yield family
