"""Tallies against prometheus_client's own metrics: the same events give the same text."""

import threading

import numpy as np
import pytest
from cutpoint.server.monitoring.tally import Spreads, Tallies
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

BOUNDS = (0.0005, 0.001, 0.25, 1.0, 10.0)
LABELS = ("model", "version")
ODD = 'a "quoted" \\ back\nslash é'


@pytest.fixture(autouse=True)
def _without_created() -> None:
    disable_created_metrics()


def lines(registry: CollectorRegistry) -> list[str]:
    return generate_latest(registry).decode().splitlines()


def registries() -> tuple[CollectorRegistry, CollectorRegistry]:
    return CollectorRegistry(), CollectorRegistry()


@pytest.mark.parametrize("name", ["cutpoint_things", "cutpoint_things_total"])
def test_counters_read_as_prometheus_writes_them(name: str) -> None:
    ours, theirs = registries()
    counter, tallies = Counter(name, "Things.", LABELS, registry=theirs), Tallies(name, "Things.", LABELS)
    ours.register(tallies)
    assert lines(ours) == lines(theirs), "before any event"
    for model, version, amount in (("a", 1, 1.0), ("b", 12, 0.1), ("a", 1, 2.5), (ODD, "x", 1e18), ("a", 2, 0.0)):
        counter.labels(model, version).inc(amount)
        tallies.labels(model, version).add(amount)
    counter.labels("starts", "at zero")
    tallies.labels("starts", "at zero")
    assert lines(ours) == lines(theirs)
    assert 'cutpoint_things_total{model="a",version="1"} 3.5' in lines(ours)
    counter.remove("a", 1)
    tallies.remove("a", 1)
    tallies.remove("never", "there")
    assert lines(ours) == lines(theirs)


def test_gauges_read_as_prometheus_writes_them() -> None:
    ours, theirs = registries()
    gauge, tallies = Gauge("in_flight", "Now.", LABELS, registry=theirs), Tallies("in_flight", "Now.", LABELS, gauge=True)
    ours.register(tallies)
    for amount in (1, 1, -1, 3, -7):
        gauge.labels("a", 1).inc(amount)
        tallies.labels("a", 1).add(amount)
    assert lines(ours) == lines(theirs)
    assert tallies.labels("a", "1").value == -3


def test_histograms_read_as_prometheus_writes_them() -> None:
    ours, theirs = registries()
    histogram = Histogram("took_seconds", "Time.", LABELS, registry=theirs, buckets=BOUNDS)
    spreads = Spreads("took_seconds", "Time.", LABELS, BOUNDS)
    ours.register(spreads)
    rng = np.random.default_rng(0)
    values = [*BOUNDS, 0.0, 1e9, *np.nextafter(BOUNDS, 0), *np.nextafter(BOUNDS, 1e9), *rng.exponential(1.0, 1000).tolist()]
    for i, value in enumerate(values):
        histogram.labels("a", i % 3).observe(value)
        spreads.labels("a", i % 3).observe(value)
    histogram.labels("none", "yet")
    spreads.labels("none", "yet")
    assert lines(ours) == lines(theirs)
    histogram.remove("a", 1)
    spreads.remove("a", 1)
    assert lines(ours) == lines(theirs)


def test_no_event_is_lost_between_threads() -> None:
    tallies, spreads = Tallies("n", "N.", ("of",)), Spreads("s", "S.", ("of",), (1.0, 2.0))

    def count() -> None:
        for i in range(20_000):
            tallies.labels(i % 2).add()
            spreads.labels("all").observe(i % 3)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [tallies.labels(i).value for i in range(2)] == [40_000, 40_000]
    buckets, total = spreads.labels("all").buckets()
    assert buckets[-1] == ("+Inf", 80_000) and total == 4 * sum(i % 3 for i in range(20_000))
