"""What a model version has done: the sums are the sums, from any number of threads."""

import math
import sys
import threading
from random import Random

from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.protocol.statistics import Statistics


class Clock:
    """Seconds since the epoch, as told."""

    now_s = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now_s


def pair(duration: oip.StatisticDuration) -> tuple[int, int]:
    return duration.count, duration.ns


def test_nothing_has_happened_at_first() -> None:
    message = Statistics("m", 3).message()
    assert (message.name, message.version) == ("m", "3")
    assert (message.last_inference, message.inference_count, message.execution_count) == (0, 0, 0)
    assert pair(message.inference_stats.success) == pair(message.inference_stats.fail) == (0, 0)
    assert len(message.batch_stats) == 0


def test_requests_runs_failures_and_cancellations_are_told_apart() -> None:
    clock = Clock()
    statistics = Statistics("m", 1, clock)
    statistics.record(4, queue_s=0.001, input_s=0.0001, infer_s=0.02, output_s=0.0002, total_s=0.0213)
    clock.now_s += 1
    statistics.record(1, queue_s=0.002, input_s=0.0003, infer_s=0.01, output_s=0.0004, total_s=0.0127)
    statistics.record_run(5, 0.02)
    statistics.record_run(5, 0.03)
    statistics.record_run(1, 0.01)
    clock.now_s += 1
    statistics.record_failure(0.5)
    statistics.record_cancel(0.25)
    statistics.record_cancel(0.25)
    message = statistics.message()
    assert (message.inference_count, message.execution_count, message.last_inference) == (5, 3, 1_700_000_001_250)
    stats = message.inference_stats
    assert pair(stats.success) == (2, 34_000_000)
    assert pair(stats.fail) == (1, 500_000_000)
    assert pair(stats.queue) == (2, 3_000_000)
    assert pair(stats.compute_input) == (2, 400_000)
    assert pair(stats.compute_infer) == (2, 30_000_000)
    assert pair(stats.compute_output) == (2, 600_000)
    assert [(each.batch_size, *pair(each.compute_infer)) for each in message.batch_stats] == [
        (1, 1, 10_000_000),
        (5, 2, 50_000_000),
    ]
    assert pair(message.response_stats["0"].cancel) == (2, 500_000_000)
    assert pair(message.response_stats["0"].success) == pair(stats.success)


def test_no_count_is_lost_between_threads() -> None:
    statistics = Statistics("m", 1)
    each, threads = 3000, 8
    start = threading.Barrier(threads)

    def work(seed: int) -> None:
        random = Random(seed)
        start.wait()
        for _ in range(each):
            statistics.record(2, 1e-6, 1e-6, 1e-6, 1e-6, 4e-6)
            statistics.record_run(random.randint(1, 4), 1e-6)
            statistics.record_failure(1e-6)
            statistics.record_cancel(1e-6)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    message = statistics.message()
    total = each * threads
    assert (message.inference_count, message.execution_count) == (2 * total, total)
    stats = message.inference_stats
    assert (stats.success.count, stats.fail.count, message.response_stats["0"].cancel.count) == (total, total, total)
    assert sum(size.compute_infer.count for size in message.batch_stats) == total
    assert math.isclose(stats.success.ns, total * 4e3, rel_tol=1e-6)


def test_a_message_is_of_one_moment() -> None:
    statistics = Statistics("m", 1)
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            statistics.record(1, 1e-6, 1e-6, 1e-6, 1e-6, 4e-6)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    workers = [threading.Thread(target=work) for _ in range(2)]
    try:
        for worker in workers:
            worker.start()
        for _ in range(3000):
            message = statistics.message()
            stats = message.inference_stats
            counts = {message.inference_count, stats.success.count, stats.queue.count, stats.compute_output.count}
            counts.add(message.response_stats["0"].success.count)
            assert len(counts) == 1
            assert math.isclose(stats.success.ns, 4e3 * stats.success.count, rel_tol=1e-6)
    finally:
        done.set()
        for worker in workers:
            worker.join()
        sys.setswitchinterval(before)


def test_the_table_of_sizes_stays_small() -> None:
    statistics = Statistics("m", 1)
    for rows in range(1, 20_001):
        statistics.record_run(rows, 1e-3)
    sizes = statistics.message().batch_stats
    assert len(sizes) <= 256 + 8
    assert sum(size.compute_infer.count for size in sizes) == 20_000
    assert {size.batch_size for size in sizes} >= {1, 200, 32768}


def test_counters_never_go_back() -> None:
    statistics = Statistics("m", 1)
    random = Random(0)
    before = 0
    for _ in range(2000):
        statistics.record(1, 0, 0, 0, 0, random.random() * 1e-6)
        ns = statistics.message().inference_stats.success.ns
        assert ns >= before
        before = ns
