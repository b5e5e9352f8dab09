"""What requests and runs took: told to the histograms of a model and the statistics of each version, none lost."""

import threading

import pytest
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.monitoring.series import ModelSeries
from cutpoint.server.protocol.statistics import Statistics


def followed(metrics: Metrics, *versions: int) -> tuple[ModelSeries, list[Statistics]]:
    series, found = metrics.series("m"), [Statistics("m", version) for version in versions]
    for statistics in found:
        series.follow(statistics)
    return series, found


def counts(series: ModelSeries) -> dict[str, tuple[float, float]]:
    """Observations and their sum, by histogram."""
    found = {name: spread.buckets() for name, spread in series.spreads.items()}
    return {name: (buckets[-1][1], total) for name, (buckets, total) in found.items() if buckets[-1][1]}


def test_a_request_is_seen_at_once_by_whoever_looks() -> None:
    series, (statistics,) = followed(Metrics(), 1)
    series.answered(statistics, 3, decode_s=0.001, queue_s=0.002, run_s=0.004, output_s=0.0005, request_s=0.008)
    series.ran(statistics, 5, 0.004)
    message = statistics.message()
    stats = message.inference_stats
    assert (message.inference_count, message.execution_count, stats.success.count) == (3, 1, 1)
    assert (stats.success.ns, stats.queue.ns, stats.compute_infer.ns, stats.compute_output.ns) == (
        8_000_000, 2_000_000, 4_000_000, 500_000,
    )  # fmt: skip
    assert [(each.batch_size, each.compute_infer.count) for each in message.batch_stats] == [(5, 1)]
    assert message.last_inference > 1_700_000_000_000
    wanted = {"decode": 0.001, "queue": 0.002, "answer": 0.001, "request": 0.008, "batch_rows": 5.0, "inference": 0.004}
    assert counts(series) == {name: (1, pytest.approx(total)) for name, total in wanted.items()}


def test_versions_have_their_own_and_what_is_gone_stays_in_the_histograms() -> None:
    series, (one, two) = followed(Metrics(), 1, 2)
    for turn in range(1500):  # told on the way, more than once
        of = (one, two, two)[turn % 3]
        series.answered(of, 1 + turn % 3, 0.0, 0.0, 0.0, 0.0, 0.001)
        series.ran(of, 1, 0.001)
    assert (one.message().inference_count, two.message().inference_count) == (500, 500 * (2 + 3))
    assert (one.message().execution_count, two.message().execution_count) == (500, 1000)
    series.answered(one, 1, 0.0, 0.0, 0.0, 0.0, 0.001)
    one = two
    del of
    assert counts(series)["request"][0] == 1501


def test_without_accounting_statistics_are_told_and_histograms_are_not() -> None:
    series, (statistics,) = followed(Metrics(accounts=False), 1)
    series.answered(statistics, 2, 0.0, 0.0, 0.0, 0.0, 0.001)
    series.ran(statistics, 2, 0.001)
    assert (statistics.message().inference_count, statistics.message().execution_count) == (2, 1)
    assert counts(series) == {}


def test_nothing_is_lost_between_threads() -> None:
    series, (statistics,) = followed(Metrics(), 1)
    done = threading.Event()

    def work() -> None:
        for _ in range(5000):
            series.answered(statistics, 1, 0.0, 0.0, 0.0, 0.0, 0.001)
            series.ran(statistics, 2, 0.001)

    def look() -> None:
        before = 0
        while not done.is_set():
            now = statistics.message().inference_count
            assert now >= before
            before = now
            counts(series)

    looking, workers = threading.Thread(target=look), [threading.Thread(target=work) for _ in range(4)]
    for thread in (looking, *workers):
        thread.start()
    for thread in workers:
        thread.join(60)
    done.set()
    looking.join(60)
    message = statistics.message()
    assert (message.inference_count, message.execution_count) == (20_000, 20_000)
    assert {name: count for name, (count, _) in counts(series).items()} == dict.fromkeys(
        ("decode", "queue", "answer", "request", "batch_rows", "inference"), 20_000
    )
