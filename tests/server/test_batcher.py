"""Batcher and lanes with a session that waits until it is told to go on, so that what runs together is known."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cutpoint.errors import Aborted, BadRequest, DeadlineExceeded, InternalError, Overloaded
from cutpoint.server.runs.batcher import Batcher, Batching, Ticket, Timing
from cutpoint.server.runs.cost import padded_size
from cutpoint.server.runs.lanes import Lanes
from cutpoint.server.runs.session import Abort, TensorSpec
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
Outputs = dict[str, NDArray[Any]]
WAIT_S = 60.0


class Gate:
    """A session that doubles `x`, one run per permit, and remembers what it ran."""

    inputs = outputs = (TensorSpec("x", "FP32", (-1, 2)),)

    def __init__(self, compute: Callable[[Arrays], Outputs] | None = None) -> None:
        self.permits = threading.Semaphore(0)
        self.started = threading.Semaphore(0)
        self.runs: list[Arrays] = []
        self.wide: list[bool] = []
        self.aborts: list[Abort] = []
        self.threads: list[str] = []
        self.compute = compute or (lambda arrays: {"y": arrays["x"] * 2})

    def run(self, inputs: Arrays, *, wide: bool = False, abort: Abort | None = None) -> Outputs:
        self.runs.append(inputs)
        self.wide.append(wide)
        if abort is not None:  # a run made at once is waited for by nobody who could stop it
            self.aborts.append(abort)
        self.threads.append(threading.current_thread().name)
        self.started.release()
        assert self.permits.acquire(timeout=WAIT_S)
        return self.compute(inputs)

    def wait_started(self, runs: int = 1) -> None:
        """Wait until so many more runs have begun."""
        for _ in range(runs):
            assert self.started.acquire(timeout=WAIT_S)

    @property
    def rows(self) -> list[int]:
        return [len(arrays["x"]) for arrays in self.runs]

    @property
    def values(self) -> list[list[float]]:
        return [arrays["x"][:, 0].tolist() for arrays in self.runs]


class Clock:
    """Seconds that pass when a test says so; lanes that sleep until then are woken."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float, lanes: Lanes) -> None:
        with lanes.changed:
            self.now_s += seconds
            lanes.changed.notify_all()


class Request:
    """One request, and how it ended."""

    def __init__(self, batcher: Batcher, arrays: Arrays, prepare: Callable[[], Arrays] | None = None, **given: Any) -> None:
        self.answers: list[tuple[Outputs | None, BaseException | None, Timing]] = []
        self.thread = ""
        self._answered = threading.Event()
        rows = len(next(iter(arrays.values())))
        kind = tuple((name, array.dtype.str, array.shape[1:]) for name, array in arrays.items())
        self.ticket: Ticket = batcher.submit(prepare or (lambda: arrays), rows, kind, self._answer, **given)

    def _answer(self, outputs: Outputs | None, error: BaseException | None, timing: Timing) -> None:
        self.answers.append((outputs, error, timing))
        self.thread = threading.current_thread().name
        self._answered.set()

    @property
    def answered(self) -> bool:
        return self._answered.is_set()

    def _only(self) -> tuple[Outputs | None, BaseException | None, Timing]:
        assert self._answered.wait(WAIT_S)
        (answer,) = self.answers
        return answer

    @property
    def y(self) -> list[float]:
        """The first column of the output."""
        outputs, error, _ = self._only()
        assert outputs is not None, error
        assert error is None
        assert (outputs["y"][:, 1] == -outputs["y"][:, 0]).all()
        found: list[float] = outputs["y"][:, 0].tolist()
        return found

    @property
    def error(self) -> BaseException:
        outputs, error, _ = self._only()
        assert outputs is None and error is not None
        return error

    @property
    def timing(self) -> Timing:
        return self._only()[2]


@contextmanager
def opened(count: int, *gates: Gate, clock: Callable[[], float] | None = None) -> Iterator[Lanes]:
    """Lanes whose threads have ended when the block does."""
    lanes = Lanes(count, clock or Clock())
    try:
        yield lanes
    finally:
        for gate in gates:
            gate.permits.release(10_000)
        lanes.close(WAIT_S)
        assert not any(thread.is_alive() for thread in lanes._threads)
        assert lanes.running == 0


@contextmanager
def batching(
    gate: Gate, lanes: int = 1, *, batchable: bool = True, clock: Clock | None = None, **settings: Any
) -> Iterator[Batcher]:
    clock = clock or Clock()
    given: dict[str, Any] = {"max_rows": 8, "max_waiting_rows": 100}
    observe = settings.pop("observe_run", lambda rows, seconds: None)
    with opened(lanes, gate, clock=clock) as threads:
        batcher = Batcher(
            gate, threads, Batching(**{**given, **settings}), batchable=batchable, observe_run=observe, clock=clock,
            core_clock=clock,
        )  # fmt: skip
        yield batcher
        gate.permits.release(10_000)
        assert batcher.waiting_rows >= 0


def rows(*values: float) -> Arrays:
    return {"x": np.array([[v, -v] for v in values], np.float32)}


def wide(*values: float) -> Arrays:
    """Requests of another kind."""
    return {"x": np.array([[v, -v, 0] for v in values], np.float32)}


def occupied(batcher: Batcher, gate: Gate, value: float = 0) -> Request:
    """A request that runs, so that all that follow wait."""
    request = Request(batcher, rows(value))
    gate.wait_started()
    return request


@pytest.fixture
def gate() -> Iterator[Gate]:
    found = Gate()
    yield found
    found.permits.release(10_000)


# Who shares a run.


def test_callers_share_a_run_and_get_exactly_their_own_rows(gate: Gate) -> None:
    observed: list[int] = []
    with batching(gate, observe_run=lambda count, seconds: observed.append(count)) as batcher:
        first = occupied(batcher, gate)
        others = [Request(batcher, each) for each in (rows(1), rows(2, 3), rows(4, 5, 6), rows(7, 8), rows(9))]
        assert batcher.waiting_rows == 9
        gate.permits.release(10)
        assert [each.y for each in (first, *others)] == [[0], [2], [4, 6], [8, 10, 12], [14, 16], [18]]
        assert batcher.waiting_rows == 0
    assert gate.rows == observed == [1, 8, 1]  # six requests in three runs, never more than 8 rows of several callers


def test_a_request_above_the_limit_runs_alone(gate: Gate) -> None:
    with batching(gate) as batcher:
        occupied(batcher, gate)
        requests = [Request(batcher, rows(*range(20))), Request(batcher, rows(1)), Request(batcher, rows(*range(9)))]
        gate.permits.release(10)
        assert [len(each.y) for each in requests] == [20, 1, 9]
    assert gate.rows == [1, 20, 1, 9]


def test_a_graph_of_fixed_batch_runs_every_request_alone(gate: Gate) -> None:
    with batching(gate, batchable=False, sizes=(4, 8)) as batcher:
        occupied(batcher, gate)
        requests = [Request(batcher, each) for each in (rows(1), rows(2, 3), rows(4))]
        gate.permits.release(10)
        assert [each.y for each in requests] == [[2], [4, 6], [8]]
    assert gate.rows == [1, 1, 2, 1], "and is never padded"


def test_only_requests_of_one_kind_share_a_run_and_others_keep_their_place(gate: Gate) -> None:
    double = {"x": np.ones((1, 2))}
    with batching(gate) as batcher:
        occupied(batcher, gate)
        asked = [rows(1), wide(2), rows(3), double, wide(4), rows(5)]
        requests = [Request(batcher, each) for each in asked]
        gate.permits.release(10)
        for request, arrays in zip(requests, asked, strict=True):
            outputs, error, _ = request._only()
            assert outputs is not None, error
            np.testing.assert_array_equal(outputs["y"], arrays["x"] * 2)
            assert outputs["y"].dtype == arrays["x"].dtype
    assert gate.values == [[0], [1, 3, 5], [2, 4], [1]], "the others in the order of their first"


def test_a_large_request_of_another_kind_does_not_part_those_around_it(gate: Gate) -> None:
    with batching(gate) as batcher:
        occupied(batcher, gate)
        requests = [Request(batcher, each) for each in (rows(1), wide(*range(8)), rows(2), wide(9))]
        gate.permits.release(10)
        assert [each._only()[1] for each in requests] == [None] * 4
    assert gate.values == [[0], [1, 2], [*range(8)], [9]]


def test_a_batch_that_is_full_keeps_the_order_of_its_kind(gate: Gate) -> None:
    with batching(gate, max_rows=4) as batcher:
        occupied(batcher, gate)
        requests = [Request(batcher, each) for each in (rows(1, 2, 3), rows(4, 5), rows(6))]
        gate.permits.release(10)
        assert [each.y for each in requests] == [[2, 4, 6], [8, 10], [12]]
    assert gate.values == [[0], [1, 2, 3], [4, 5, 6]], "6 would have fitted, but does not overtake its own kind"


def test_a_batch_looks_past_a_bounded_number_of_others_and_nothing_is_lost(gate: Gate) -> None:
    kinds = [{"x": np.full((1, 2 + i), i, np.float32)} for i in range(1, 101)]
    with batching(gate, max_waiting_rows=1000) as batcher:
        occupied(batcher, gate)
        requests = [Request(batcher, each) for each in (rows(1), *kinds, rows(2))]
        gate.permits.release(1000)
        assert [each._only()[1] for each in requests] == [None] * 102
        assert batcher.waiting_rows == 0
    assert gate.values[:3] == [[0], [1], [1]], "behind a hundred others a mate is not found"
    assert [arrays["x"].shape[1] for arrays in gate.runs[2:66]] == [*range(3, 67)], "in order of arrival"


def test_priorities_go_first_and_equal_ones_in_order_of_arrival(gate: Gate) -> None:
    with batching(gate, max_rows=1) as batcher:
        occupied(batcher, gate)
        given = [(2, 21), (0, 1), (1, 11), (2, 22), (0, 2), (1, 12)]
        requests = [Request(batcher, rows(value), priority=priority) for priority, value in given]
        gate.permits.release(10)
        assert [each.y for each in requests] == [[2 * value] for _, value in given]
    assert gate.values == [[0], [1], [2], [11], [12], [21], [22]]


def test_others_that_were_looked_past_keep_their_priority_and_order(gate: Gate) -> None:
    with batching(gate) as batcher:
        occupied(batcher, gate)
        asked = [(0, rows(1)), (0, wide(2)), (1, wide(6)), (0, wide(3)), (1, rows(5)), (0, wide(4))]
        requests = [Request(batcher, arrays, priority=priority) for priority, arrays in asked]
        gate.permits.release(10)
        assert [each._only()[1] for each in requests] == [None] * 6
    assert gate.values == [[0], [1, 5], [2, 3, 4, 6]]


def test_a_stream_of_one_kind_does_not_starve_another(gate: Gate) -> None:
    with batching(gate, max_rows=2) as batcher:
        occupied(batcher, gate)
        requests = [Request(batcher, each) for each in (rows(1), wide(99), rows(2))]
        for i in range(10):  # there are always more of the first kind
            requests += [Request(batcher, rows(100 + i)), Request(batcher, rows(200 + i))]
            gate.permits.release()
            gate.wait_started()
        gate.permits.release(100)
        assert [each._only()[1] for each in requests] == [None] * 23
    assert gate.values[:3] == [[0], [1, 2], [99]]


# Lanes.


def test_as_many_runs_at_a_time_as_lanes(gate: Gate) -> None:
    with batching(gate, 3) as batcher:
        requests = []
        for i in range(3):
            requests.append(Request(batcher, rows(i)))
            gate.wait_started()  # the next begins while this one still runs
        requests += [Request(batcher, rows(3)), Request(batcher, rows(4))]
        assert batcher.waiting_rows == 2
        gate.permits.release(10)
        assert [each.y for each in requests] == [[0], [2], [4], [6], [8]]
    assert len(set(gate.threads[:3])) == 3


def test_a_model_may_run_fewer_times_at_a_time_than_there_are_lanes() -> None:
    slow, quick = Gate(), Gate()
    with opened(3, slow, quick) as lanes:
        limited = Batcher(slow, lanes, Batching(max_rows=1, max_running=1), clock=Clock())
        free = Batcher(quick, lanes, Batching(), clock=Clock())
        held = [Request(limited, rows(i)) for i in range(3)]
        slow.wait_started()
        other = Request(free, rows(7))
        quick.permits.release()
        assert other.y == [14], "lanes are free for other models"
        assert limited.waiting_rows == 2 and slow.rows == [1]
        slow.permits.release(3)
        assert [each.y for each in held] == [[0], [2], [4]]


def test_several_models_take_turns() -> None:
    gates = [Gate() for _ in range(3)]
    order: list[float] = []
    for gate in gates:
        gate.compute = lambda arrays: order.append(float(arrays["x"][0, 0])) or {"y": arrays["x"] * 2}  # type: ignore[func-returns-value]
    with opened(1, *gates) as lanes:
        one, two, three = (Batcher(gate, lanes, Batching(max_rows=1), clock=Clock()) for gate in gates)
        first = occupied(one, gates[0])
        # The first has much to do, the others little.
        requests = [Request(one, rows(10 + i)) for i in range(6)]
        requests += [Request(two, rows(20 + i)) for i in range(2)] + [Request(three, rows(30))]
        for gate in gates:
            gate.permits.release(100)
        assert first.y == [0]
        assert [each._only()[1] for each in requests] == [None] * 9
    assert order[0] == 0
    assert {order[1], order[2], order[3]} == {10, 20, 30}
    assert {order[4], order[5]} == {11, 21}
    assert order[6:] == [12, 13, 14, 15]


def test_a_run_is_wide_only_when_nothing_else_waits(gate: Gate) -> None:
    with batching(gate, max_rows=1) as batcher:
        requests = [occupied(batcher, gate), Request(batcher, rows(1)), Request(batcher, rows(2))]
        gate.permits.release(10)
        assert [each.y for each in requests] == [[0], [2], [4]]
    assert gate.wide == [True, False, True]


def test_a_run_is_wide_only_when_nothing_else_runs() -> None:
    gate, other = Gate(), Gate()
    with opened(2, gate, other) as lanes:
        batcher, beside = (Batcher(each, lanes, Batching(), clock=Clock()) for each in (gate, other))
        first = occupied(batcher, gate)
        second = occupied(beside, other)
        gate.permits.release(10)
        assert first.y == [0]
        third = Request(batcher, rows(1))  # the other model still runs
        assert third.y == [2]
        other.permits.release(10)
        assert second.y == [0]
    assert (gate.wide, other.wide) == ([True, False], [False])


def test_a_lane_survives_whatever_is_thrown_in_it(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        def __init__(self) -> None:
            self.left = 1

        def take(self, now_s: float) -> Any:
            self.left -= 1

            def run(*, alone: bool) -> None:
                raise SystemExit("not even this")

            return run if self.left == 0 else None

        def due_s(self) -> float | None:
            return 0.0 if self.left > 0 else None

        def close(self) -> None:
            pass

    with opened(1, gate) as lanes, caplog.at_level(logging.ERROR):
        lanes.add(Odd())
        batcher = Batcher(gate, lanes, Batching(), clock=Clock())
        gate.permits.release(10)
        assert Request(batcher, rows(1)).y == [2]
    assert "not even this" in caplog.text


# Waiting: for others, too long, in vain.


def test_a_free_lane_waits_for_others_only_as_long_as_it_was_told() -> None:
    clock, gate = Clock(), Gate()
    gate.permits.release(100)
    with batching(gate, clock=clock, delay_s=5.0, max_rows=4) as batcher:
        requests = [Request(batcher, rows(1))]
        clock.pass_s(4.0, batcher._lanes)
        requests.append(Request(batcher, rows(2)))
        assert batcher.waiting_rows == 2 and batcher.due_s() == 105.0
        clock.pass_s(1.0, batcher._lanes)
        assert [each.y for each in requests] == [[2], [4]]
        assert requests[0].timing.queue_s == 5.0 and requests[1].timing.queue_s == 1.0
        requests = [Request(batcher, rows(i)) for i in range(4)]  # as many as a run takes: no reason to wait
        assert [each.y for each in requests] == [[0], [2], [4], [6]]
        alone = Request(batcher, rows(1))
        assert not alone.answered
        clock.pass_s(5.0, batcher._lanes)
        assert alone.y == [2]
    assert gate.rows == [2, 4, 1]


def test_what_is_too_late_to_start_is_not_started(gate: Gate) -> None:
    clock = Clock()
    with batching(gate, clock=clock) as batcher:
        first = occupied(batcher, gate)
        late = [
            Request(batcher, rows(66), expires_s=clock.now_s + 1.0),
            Request(batcher, rows(99), expires_s=clock.now_s + 2.0),
        ]
        in_time = Request(batcher, rows(1), expires_s=clock.now_s + 2.5)
        clock.pass_s(2.0, batcher._lanes)
        gate.permits.release(10)
        for each in late:
            assert isinstance(each.error, DeadlineExceeded)
            assert "2.000 s in the queue" in str(each.error)
            assert each.timing == Timing(queue_s=2.0)
        assert (first.y, in_time.y) == ([0], [2])
        assert batcher.waiting_rows == 0
    assert gate.values == [[0], [1]]


def test_only_late_requests_are_answered_without_a_run(gate: Gate) -> None:
    clock = Clock()
    with batching(gate, clock=clock, max_running=1) as batcher:
        first = occupied(batcher, gate)
        late = Request(batcher, rows(66), expires_s=clock.now_s + 1.0)
        clock.pass_s(1.0, batcher._lanes)
        gate.permits.release(10)
        assert isinstance(late.error, DeadlineExceeded) and first.y == [0]
        assert Request(batcher, rows(5)).y == [10], "the place that it took for that is free again"
    assert gate.values == [[0], [5]]


def test_too_many_waiting_rows_are_refused_before_any_work(gate: Gate) -> None:
    with batching(gate, max_waiting_rows=5) as batcher:
        occupied(batcher, gate)
        requests = [Request(batcher, rows(1, 2, 3)), Request(batcher, rows(4, 5))]
        with pytest.raises(Overloaded, match="5 rows are waiting and 1 more exceed 5; retry later"):
            Request(batcher, rows(6))
        gate.permits.release(10)
        assert [each.y for each in requests] == [[2, 4, 6], [8, 10]]
        assert Request(batcher, rows(7)).y == [14]
    assert sum(gate.rows) == 7


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(gate: Gate) -> None:
    gate.permits.release(10)
    with batching(gate, max_waiting_rows=2) as batcher:
        assert len(Request(batcher, rows(*range(50))).y) == 50


def test_times_are_the_clocks(gate: Gate) -> None:
    clock, runs = Clock(), list[tuple[int, float]]()
    with batching(gate, clock=clock, observe_run=lambda n, s: runs.append((n, s))) as batcher:
        first = occupied(batcher, gate)
        clock.pass_s(2.0, batcher._lanes)
        second = Request(batcher, rows(1))
        clock.pass_s(3.0, batcher._lanes)
        gate.permits.release()
        assert first.timing == Timing(queue_s=0.0, run_s=5.0)
        gate.wait_started()
        clock.pass_s(1.0, batcher._lanes)
        gate.permits.release()
        assert second.timing == Timing(queue_s=3.0, run_s=1.0)
    assert runs == [(1, 5.0), (1, 1.0)]


# Callers who leave.


def test_cancelled_requests_are_answered_at_once_and_never_computed(gate: Gate) -> None:
    with batching(gate) as batcher:
        first = occupied(batcher, gate)
        one, gone, two, also_gone = (Request(batcher, rows(value)) for value in (1, 66, 2, 99))
        for each in (gone, also_gone):
            batcher.cancel(each.ticket)
            assert isinstance(each.error, Aborted) and each.thread == threading.current_thread().name
        assert batcher.waiting_rows == 2, "they take nobody's place"
        batcher.cancel(gone.ticket)  # again
        gate.permits.release(10)
        assert [each.y for each in (first, one, two)] == [[0], [2], [4]]
        assert Request(batcher, rows(5)).y == [10]
        assert batcher.waiting_rows == 0
        assert [len(each.answers) for each in (gone, also_gone)] == [1, 1]
    assert gate.values == [[0], [1, 2], [5]]


def test_cancelled_rows_make_room_for_others(gate: Gate) -> None:
    with batching(gate, max_waiting_rows=5) as batcher:
        occupied(batcher, gate)
        gone = Request(batcher, rows(*range(5)))
        batcher.cancel(gone.ticket)
        stays = Request(batcher, rows(1))
        gate.permits.release(10)
        assert stays.y == [2]


def test_a_run_that_nobody_waits_for_is_stopped(gate: Gate) -> None:
    def compute(arrays: Arrays) -> Outputs:
        if gate.aborts[-1].is_set:
            raise Aborted("stopped")
        return {"y": arrays["x"] * 2}

    gate.compute = compute
    with batching(gate) as batcher:
        first = occupied(batcher, gate)
        one, two = Request(batcher, rows(1)), Request(batcher, rows(2))
        gate.permits.release()
        gate.wait_started()
        assert first.y == [0]
        batcher.cancel(one.ticket)
        assert not gate.aborts[1].is_set and not one.answered
        batcher.cancel(two.ticket)
        assert gate.aborts[1].is_set
        gate.permits.release(10)
        assert isinstance(one.error, Aborted) and isinstance(two.error, Aborted)
    assert gate.rows == [1, 2], "nor is it run again"


def test_a_caller_who_leaves_during_the_run_spoils_nothing(gate: Gate) -> None:
    with batching(gate) as batcher:
        first = occupied(batcher, gate)
        gone, mate = Request(batcher, rows(1)), Request(batcher, rows(2, 3))
        gate.permits.release()
        gate.wait_started()
        batcher.cancel(gone.ticket)
        assert not gate.aborts[1].is_set
        gate.permits.release(10)
        assert (first.y, mate.y) == ([0], [4, 6])
        assert gone.y == [2], "answered to nobody, so that what it held is let go"


def test_a_run_is_stopped_when_only_those_who_were_answered_remain(gate: Gate) -> None:
    def refuse() -> Arrays:
        raise BadRequest("not this one")

    with batching(gate) as batcher:
        occupied(batcher, gate)
        bad, good = Request(batcher, rows(1), refuse), Request(batcher, rows(2))
        gate.permits.release()
        gate.wait_started()
        assert isinstance(bad.error, BadRequest)
        batcher.cancel(good.ticket)
        assert gate.aborts[1].is_set


def test_cancelling_what_was_answered_does_nothing(gate: Gate) -> None:
    gate.permits.release(10)
    with batching(gate) as batcher:
        request = Request(batcher, rows(1))
        assert request.y == [2]
        batcher.cancel(request.ticket)
        assert batcher.waiting_rows == 0 and len(request.answers) == 1
        assert Request(batcher, rows(2)).y == [4]


def test_what_was_answered_does_not_keep_its_request_alive(gate: Gate) -> None:
    gate.permits.release(10)
    with batching(gate) as batcher:
        request = Request(batcher, rows(1))
        assert request.y == [2]
        assert request.ticket.prepare() == {}


# What goes wrong in a run.


def test_one_failing_request_does_not_hurt_its_mates() -> None:
    def compute(arrays: Arrays) -> Outputs:
        if (arrays["x"] == 13).any():
            raise RuntimeError("unlucky")
        return {"y": arrays["x"] * 2}

    gate = Gate(compute)
    with batching(gate) as batcher:
        first = occupied(batcher, gate)
        one, bad, two = Request(batcher, rows(1)), Request(batcher, rows(13)), Request(batcher, rows(2))
        gate.permits.release(10)
        assert [each.y for each in (first, one, two)] == [[0], [2], [4]]
        assert isinstance(bad.error, RuntimeError) and str(bad.error) == "unlucky"
    assert gate.rows == [1, 3, 1, 1, 1]


def test_what_cannot_be_prepared_answers_only_its_own(gate: Gate) -> None:
    def refuse() -> Arrays:
        raise BadRequest("not this one")

    with batching(gate) as batcher:
        occupied(batcher, gate)
        one, bad, two = Request(batcher, rows(1)), Request(batcher, rows(13), refuse), Request(batcher, rows(2))
        gate.permits.release(10)
        assert (one.y, two.y) == ([2], [4])
        assert isinstance(bad.error, BadRequest)
        assert isinstance(Request(batcher, rows(3), refuse).error, BadRequest)
    assert gate.values == [[0], [1, 2]]


def test_an_answer_that_fails_does_not_keep_others_from_theirs(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the connection is in pieces")

    with batching(gate, max_running=1) as batcher:
        occupied(batcher, gate)
        batcher.submit(lambda: rows(1), 1, "kind", fail)
        waiting = batcher.submit(lambda: rows(1), 1, "kind", fail)
        mate = Request(batcher, rows(2))
        batcher.cancel(waiting)
        gate.permits.release(10)
        assert mate.y == [4]
        assert Request(batcher, rows(3)).y == [6]
    assert "the connection is in pieces" in caplog.text


@pytest.mark.parametrize("output", [np.zeros((1, 2)), np.zeros((5, 2)), np.float32(0)])
def test_outputs_of_another_number_of_rows_are_never_shared_out(output: Any) -> None:
    gate = Gate(lambda arrays: {"y": np.asarray(output)} if len(arrays["x"]) > 1 else {"y": arrays["x"]})
    with batching(gate) as batcher:
        first = occupied(batcher, gate)
        one, two = Request(batcher, rows(1)), Request(batcher, rows(2))
        gate.permits.release(10)
        assert [each.y for each in (first, one, two)] == [[0], [1], [2]]  # each run again, alone
    assert gate.rows == [1, 2, 1, 1]


def test_padded_outputs_of_another_number_of_rows_are_an_internal_error() -> None:
    gate = Gate(lambda arrays: {"y": arrays["x"][:3]})
    gate.permits.release(10)
    with batching(gate, sizes=(4,)) as batcher:
        error = Request(batcher, rows(1, 2, 3)).error
        assert isinstance(error, InternalError) and str(error) == "output 'y' has shape [3, 2] for 4 rows in"


# Padding.


def test_rows_are_padded_to_the_next_size_and_outputs_are_cut(gate: Gate) -> None:
    sizes, observed = (1, 4, 8), list[int]()
    with batching(gate, sizes=sizes, observe_run=lambda n, s: observed.append(n)) as batcher:
        occupied(batcher, gate)
        requests = [Request(batcher, each) for each in (rows(1), rows(2, 3), rows(4, 5, 6, 7, 8, 9, 10))]
        gate.permits.release(10)
        assert [each.y for each in requests] == [[2], [4, 6], [8, 10, 12, 14, 16, 18, 20]]
        assert len(Request(batcher, rows(*range(11))).y) == 11
    assert gate.values[1:3] == [[1, 2, 3, 3], [4, 5, 6, 7, 8, 9, 10, 10]], "the last row again: a true one"
    assert gate.rows == [1, 4, 8, 11], "more than the largest size is left as it is"
    assert observed == [1, 3, 7, 11]


@pytest.mark.parametrize(
    ("count", "sizes", "wanted"), [(1, (), 1), (1, (1, 2), 1), (3, (2, 4, 8), 4), (8, (2, 4, 8), 8), (9, (2, 4, 8), 9)]
)
def test_padded_sizes(count: int, sizes: tuple[int, ...], wanted: int) -> None:
    assert padded_size(count, sizes) == wanted


# Without a lane's cost.


def kind_of(arrays: Arrays) -> object:
    return tuple((name, array.dtype.str, array.shape[1:]) for name, array in arrays.items())


def test_a_run_is_known_to_be_quick_once_it_was_seen_to_be() -> None:
    clock = Clock()

    def compute(arrays: Arrays) -> Outputs:
        clock.now_s += 1e-4 * len(arrays["x"])
        return {"y": arrays["x"] * 2}

    gate = Gate(compute)
    gate.permits.release(100)
    with batching(gate, quick_s=0.001, clock=clock) as batcher:
        assert not batcher.is_quick(1, None), "nothing is known of it yet"
        assert Request(batcher, rows(1)).y == [2]  # learned in a lane
        assert batcher.is_quick(1, None) and batcher.is_quick(2, None)
        assert not batcher.is_quick(64, None), "64 times as many rows are not taken to be quick"
        outputs, timing = batcher.run_at_once(rows(3), 1, None)
        assert outputs["y"][:, 0].tolist() == [6]
        assert (timing.queue_s, timing.run_s) == (0, pytest.approx(1e-4))
        assert gate.threads == ["lane-0", threading.current_thread().name]


def test_a_run_made_at_once_teaches_too_and_is_observed() -> None:
    clock, observed = Clock(), list[int]()

    def compute(arrays: Arrays) -> Outputs:
        clock.now_s += 1.0  # it has become slow
        return {"y": arrays["x"] * 2}

    gate = Gate(compute)
    gate.permits.release(100)
    with batching(gate, quick_s=0.001, clock=clock, observe_run=lambda count, seconds: observed.append(count)) as batcher:
        batcher.learn(2, 1e-4)
        assert batcher.is_quick(2, None)
        batcher.run_at_once(rows(1, 2), 2, None)
        assert observed == [2]
        assert not batcher.is_quick(2, None), "a long run is not made where it is asked for a second time"


@pytest.mark.parametrize(
    ("cost_s", "given"), [(0.5, {"quick_s": 0.001}), (0.0, {"quick_s": 0.0}), (0.0, {"quick_s": 0.001, "sizes": (1, 4)})]
)
def test_what_is_slow_or_padded_is_not_quick(gate: Gate, cost_s: float, given: dict[str, Any]) -> None:
    with batching(gate, **given) as batcher:
        batcher.learn(1, cost_s)
        assert not batcher.is_quick(1, None)


def test_nothing_is_quick_beyond_what_may_run_at_a_time_or_after_the_end(gate: Gate) -> None:
    with batching(gate, quick_s=0.001, max_running=1) as batcher:
        batcher.learn(1, 1e-4)
        assert batcher.is_quick(1, None)
        first = occupied(batcher, gate)
        assert not batcher.is_quick(1, None), "one runs already"
        gate.permits.release(10)
        assert first.y == [0]
        batcher.close()
        assert not batcher.is_quick(1, None)


def test_what_is_known_of_short_rows_says_nothing_of_long_ones() -> None:
    class Windows(Gate):
        inputs = outputs = (TensorSpec("x", "FP32", (-1, -1)),)

    gate = Windows()
    with batching(gate, quick_s=0.001) as batcher:
        short, long = (kind_of({"x": np.ones((1, size), np.float32)}) for size in (2, 1000))
        batcher.learn(1, 1e-4, short)
        assert batcher.is_quick(1, short) and not batcher.is_quick(1, long)
        for size in range(3, 1000):  # and what is remembered of them has an end
            batcher.learn(1, 1e-4, kind_of({"x": np.ones((1, size), np.float32)}))
        assert len(batcher._cost._seconds) <= 256


# The end.


def test_close_answers_what_waits_and_lets_what_runs_end(gate: Gate) -> None:
    with batching(gate) as batcher:
        first = occupied(batcher, gate)
        waiting, gone = Request(batcher, rows(1)), Request(batcher, rows(2))
        batcher.cancel(gone.ticket)
        batcher.close()
        assert isinstance(waiting.error, Overloaded) and "taken out of service" in str(waiting.error)
        assert batcher.waiting_rows == 0
        batcher.cancel(waiting.ticket)
        assert batcher.waiting_rows == 0
        with pytest.raises(Overloaded, match="taken out of service"):
            Request(batcher, rows(3))
        assert not first.answered
        gate.permits.release(10)
        assert first.y == [0]
        assert [len(each.answers) for each in (first, waiting, gone)] == [1, 1, 1]
    assert gate.values == [[0]]


def test_lanes_that_close_leave_nobody_waiting(gate: Gate) -> None:
    lanes = Lanes(1, Clock())
    batcher = Batcher(gate, lanes, Batching(), clock=Clock())
    first = occupied(batcher, gate)
    waiting = Request(batcher, rows(1))
    lanes.close()
    assert isinstance(waiting.error, Overloaded)
    with pytest.raises(Overloaded):
        Request(batcher, rows(2))
    gate.permits.release(10)
    assert first.y == [0]
    lanes.close(WAIT_S)
    assert not any(thread.is_alive() for thread in lanes._threads)


def test_every_request_is_answered_exactly_once_whatever_happens_at_a_time() -> None:
    """Callers that submit and leave at random, from several threads, against lanes that run, fail and close."""

    def compute(arrays: Arrays) -> Outputs:
        if (arrays["x"] == 13).any():
            raise RuntimeError("unlucky")
        return {"y": arrays["x"] * 2}

    gate = Gate(compute)
    gate.permits.release(1_000_000)
    requests: list[list[tuple[float, Request]]] = [[] for _ in range(4)]
    with batching(gate, 3, max_rows=4, max_waiting_rows=50, max_running=2) as batcher:

        def submit(into: list[tuple[float, Request]], seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(500):
                value, many = float(rng.integers(1, 30)), int(rng.integers(1, 6))
                arrays = rows(*[value] * many) if rng.random() < 0.7 else wide(*[value] * many)
                try:
                    request = Request(batcher, arrays, priority=int(rng.integers(0, 3)))
                except Overloaded:
                    continue
                into.append((value, request))
                if rng.random() < 0.3:
                    batcher.cancel(into[int(rng.integers(0, len(into)))][1].ticket)

        threads = [threading.Thread(target=submit, args=(into, seed)) for seed, into in enumerate(requests)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
        batcher.close()
        answered = 0
        for value, request in (each for some in requests for each in some):
            outputs, error, _ = request._only()
            if outputs is not None:
                assert (outputs["y"][:, 0] == 2 * value).all() and len(outputs["y"]) == request.ticket.rows
                answered += 1
            else:
                assert isinstance(error, Aborted | Overloaded) or (value == 13 and str(error) == "unlucky")
        assert answered > 0  # how many is the machine's affair: who comes to a full queue is refused
        assert batcher.waiting_rows == 0
    assert batcher._running == 0
