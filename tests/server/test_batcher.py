"""The batcher with a session that waits until it is told to go on, so that what runs together is known."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from cutpoint.errors import Overloaded
from cutpoint.server.batcher import Batcher, Timing
from cutpoint.server.session import TensorSpec
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]


class Gate:
    """A session that doubles `x`, one run per permit, and remembers what it ran."""

    inputs = outputs = (TensorSpec("x", "FP32", (-1, 2)),)

    def __init__(self, compute: Callable[[Arrays], Outputs] | None = None) -> None:
        self.permits = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.runs: list[Arrays] = []
        self.compute = compute or (lambda arrays: {"y": arrays["x"] * 2})

    def run(self, inputs: Arrays) -> Outputs:
        self.runs.append(inputs)
        self.started.release()
        assert self.permits.acquire(timeout=60)
        return self.compute(inputs)

    @property
    def rows(self) -> list[int]:
        return [len(arrays["x"]) for arrays in self.runs]


@pytest.fixture
def gate() -> Iterator[Gate]:
    found = Gate()
    yield found
    found.permits.release(1000)  # lets the threads end, whatever happened


@asynccontextmanager
async def lanes(session: Any, count: int = 1, **settings: Any) -> AsyncIterator[Batcher]:
    executor = ThreadPoolExecutor(count)
    given: dict[str, Any] = {"lanes": count, "max_batch_rows": 8, "max_waiting_rows": 100}
    try:
        yield Batcher(session, executor, **{**given, **settings})
    finally:
        executor.shutdown(wait=False)


def rows(*values: float) -> Arrays:
    return {"x": np.array([[v, -v] for v in values], np.float32)}


async def started(gate: Gate, runs: int = 1) -> None:
    """Wait until so many more runs have begun."""
    for _ in range(runs):
        assert await asyncio.to_thread(gate.started.acquire, timeout=60)


async def queued(batcher: Batcher, *requests: Arrays) -> list[asyncio.Task[tuple[Outputs, Timing]]]:
    """Requests that are waiting, in this order."""
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(batcher.run(request)))
        await asyncio.sleep(0)  # a turn of the loop, in which the task reaches the queue
    return tasks


def test_callers_share_a_run_and_get_exactly_their_own_rows(gate: Gate) -> None:
    observed: list[int] = []

    async def scene() -> None:
        async with lanes(gate, observe_run=lambda count, seconds: observed.append(count)) as batcher:
            first = await queued(batcher, rows(0))
            await started(gate)
            others = await queued(batcher, rows(1), rows(2, 3), rows(4, 5, 6), rows(7, 8), rows(9))
            assert batcher.waiting_rows == 9
            gate.permits.release(10)
            answers = await asyncio.gather(*first, *others)
            assert [answer["y"][:, 0].tolist() for answer, _ in answers] == [
                [0], [2], [4, 6], [8, 10, 12], [14, 16], [18],
            ]  # fmt: skip
            assert all((answer["y"][:, 1] == -answer["y"][:, 0]).all() for answer, _ in answers)
            assert batcher.waiting_rows == 0

    asyncio.run(scene())
    assert gate.rows == observed == [1, 8, 1]  # six requests in three runs, never more than 8 rows of several callers


def test_a_request_above_the_limit_runs_alone(gate: Gate) -> None:
    async def scene() -> None:
        async with lanes(gate) as batcher:
            tasks = await queued(batcher, rows(0))
            await started(gate)
            tasks += await queued(batcher, rows(*range(20)), rows(1))
            gate.permits.release(10)
            answers = await asyncio.gather(*tasks)
            assert [len(answer["y"]) for answer, _ in answers] == [1, 20, 1]

    asyncio.run(scene())
    assert gate.rows == [1, 20, 1]


def test_a_graph_of_fixed_batch_runs_every_request_alone(gate: Gate) -> None:
    async def scene() -> None:
        async with lanes(gate, batchable=False) as batcher:
            tasks = await queued(batcher, rows(0))
            await started(gate)
            tasks += await queued(batcher, rows(1), rows(2))
            gate.permits.release(10)
            await asyncio.gather(*tasks)

    asyncio.run(scene())
    assert gate.rows == [1, 1, 1]


def test_only_requests_of_one_kind_share_a_run(gate: Gate) -> None:
    wide = {"x": np.ones((1, 3), np.float32)}
    double = {"x": np.ones((1, 2), np.float64)}

    async def scene() -> None:
        async with lanes(gate) as batcher:
            tasks = await queued(batcher, rows(0))
            await started(gate)
            tasks += await queued(batcher, rows(1), rows(2), wide, wide, double, rows(3))
            gate.permits.release(10)
            answers = await asyncio.gather(*tasks)
            assert [answer["y"].shape[1] for answer, _ in answers] == [2, 2, 2, 3, 3, 2, 2]
            assert answers[5][0]["y"].dtype == np.float64

    asyncio.run(scene())
    assert gate.rows == [1, 2, 2, 1, 1]  # in order of arrival


def test_lanes_run_at_a_time(gate: Gate) -> None:
    async def scene() -> None:
        async with lanes(gate, 3) as batcher:
            tasks: list[asyncio.Task[tuple[Outputs, Timing]]] = []
            for i in range(3):
                tasks += await queued(batcher, rows(i))
                await started(gate)  # the next begins while this one still runs
            tasks += await queued(batcher, rows(3), rows(4))
            assert batcher.waiting_rows == 2
            gate.permits.release(10)
            answers = await asyncio.gather(*tasks)
            assert [answer["y"][0, 0] for answer, _ in answers] == [0, 2, 4, 6, 8]

    asyncio.run(scene())


def test_cancelled_requests_are_not_computed_and_do_not_hold_up_others(gate: Gate) -> None:
    async def scene() -> None:
        async with lanes(gate) as batcher:
            first = await queued(batcher, rows(0))
            await started(gate)
            one, gone, two, also_gone = await queued(batcher, rows(1), rows(66), rows(2), rows(99))
            gone.cancel()
            also_gone.cancel()
            gate.permits.release(10)
            await asyncio.gather(*first, one, two)
            assert (await one)[0]["y"][0, 0] == 2
            assert (await two)[0]["y"][0, 0] == 4
            assert gone.cancelled() and also_gone.cancelled()
            again = await batcher.run(rows(5))
            assert again[0]["y"][0, 0] == 10

    asyncio.run(scene())
    assert [arrays["x"][:, 0].tolist() for arrays in gate.runs] == [[0], [1, 2], [5]]


def test_a_caller_who_leaves_during_the_run_spoils_nothing(gate: Gate) -> None:
    async def scene() -> None:
        async with lanes(gate) as batcher:
            first = await queued(batcher, rows(0))
            await started(gate)
            gone, mate = await queued(batcher, rows(1), rows(2, 3))
            gate.permits.release()
            await asyncio.gather(*first)
            await started(gate)
            gone.cancel()
            gate.permits.release(10)
            answer, _ = await mate
            assert answer["y"][:, 0].tolist() == [4, 6]

    asyncio.run(scene())


def test_one_failing_request_does_not_hurt_its_mates() -> None:
    def compute(arrays: Arrays) -> Outputs:
        if (arrays["x"] == 13).any():
            raise RuntimeError("unlucky")
        return {"y": arrays["x"] * 2}

    gate = Gate(compute)

    async def scene() -> None:
        async with lanes(gate) as batcher:
            tasks = await queued(batcher, rows(0))
            await started(gate)
            tasks += await queued(batcher, rows(1), rows(13), rows(2))
            gate.permits.release(10)
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(answers[2], RuntimeError) and str(answers[2]) == "unlucky"
            for i, wanted in ((0, 0), (1, 2), (3, 4)):
                answer = answers[i]
                assert not isinstance(answer, BaseException)
                assert answer[0]["y"][0, 0] == wanted

    asyncio.run(scene())
    assert gate.rows == [1, 3, 1, 1, 1]


@pytest.mark.parametrize("output", [np.zeros((1, 2)), np.zeros((5, 2)), np.float32(0)])
def test_outputs_of_another_number_of_rows_are_never_shared_out(output: Any) -> None:
    def compute(arrays: Arrays) -> Outputs:
        return {"y": np.asarray(output)} if len(arrays["x"]) > 1 else {"y": arrays["x"]}

    gate = Gate(compute)

    async def scene() -> None:
        async with lanes(gate) as batcher:
            tasks = await queued(batcher, rows(0))
            await started(gate)
            tasks += await queued(batcher, rows(1), rows(2))
            gate.permits.release(10)
            answers = await asyncio.gather(*tasks)
            assert [answer["y"][0, 0] for answer, _ in answers] == [0, 1, 2]  # each run again, alone

    asyncio.run(scene())
    assert gate.rows == [1, 2, 1, 1]


def test_too_many_waiting_rows_are_refused_before_any_work(gate: Gate) -> None:
    async def scene() -> None:
        async with lanes(gate, max_waiting_rows=5) as batcher:
            tasks = await queued(batcher, rows(0))
            await started(gate)
            tasks += await queued(batcher, rows(1, 2, 3), rows(4, 5))
            with pytest.raises(Overloaded, match="5 rows are waiting and 1 more exceed 5; retry later"):
                await batcher.run(rows(6))
            gate.permits.release(10)
            await asyncio.gather(*tasks)
            answer, _ = await batcher.run(rows(7))
            assert answer["y"][0, 0] == 14

    asyncio.run(scene())
    assert sum(gate.rows) == 7


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(gate: Gate) -> None:
    gate.permits.release(10)

    async def scene() -> None:
        async with lanes(gate, max_waiting_rows=2) as batcher:
            answer, _ = await batcher.run(rows(*range(50)))
            assert len(answer["y"]) == 50

    asyncio.run(scene())


def test_times_are_the_clocks(gate: Gate) -> None:
    now = [0.0]
    runs: list[tuple[int, float]] = []

    async def scene() -> None:
        async with lanes(gate, clock=lambda: now[0], observe_run=lambda n, s: runs.append((n, s))) as batcher:
            first = await queued(batcher, rows(0))
            await started(gate)
            now[0] = 2.0
            second = await queued(batcher, rows(1))
            now[0] = 5.0
            gate.permits.release()
            await asyncio.gather(*first)
            await started(gate)
            now[0] = 6.0
            gate.permits.release()
            assert (await first[0])[1] == Timing(queue_s=0.0, run_s=5.0)
            assert (await second[0])[1] == Timing(queue_s=3.0, run_s=1.0)

    asyncio.run(scene())
    assert runs == [(1, 5.0), (1, 1.0)]
