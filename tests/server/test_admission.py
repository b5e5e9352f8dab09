"""Admission with calls that say when they are read: how many, how many bytes, who waits unread, and that nothing is lost."""

import threading
from collections.abc import Callable
from typing import Any, cast

import grpc
import numpy as np
import pytest
from cutpoint.errors import Overloaded
from cutpoint.server.port.admission import Admission
from cutpoint.server.port.transport import Call

KIB = 1 << 10
MIB = 1 << 20


class FakeCall:
    """A call whose message comes when the test says so."""

    method = "/s/m"

    def __init__(self) -> None:
        self.then: Callable[[bytes | None], None] | None = None
        self.reads = 0
        self.gone = False
        self.code: grpc.StatusCode | None = None
        self._calling_back: list[Callable[[], None]] = []

    def read(self, then: Callable[[bytes | None], None]) -> None:
        self.reads += 1
        if self.gone:
            then(None)
        else:
            self.then = then

    def on_gone(self, callback: Callable[[], None]) -> None:
        callback() if self.gone else self._calling_back.append(callback)

    def finish(
        self,
        message: bytes | None = None,
        code: grpc.StatusCode = grpc.StatusCode.OK,
        details: str = "",
        trailing: object = (),
    ) -> None:
        if self.code is None and not self.gone:
            self.code = code

    def arrive(self, message: bytes | None) -> None:
        """Its message comes; None where its caller sent none or has gone."""
        assert self.then is not None
        then, self.then = self.then, None
        then(message)

    def leave(self) -> None:
        """Its caller goes, as a transport says it."""
        self.gone = True
        if self.then is not None:
            self.arrive(None)
        for callback in self._calling_back:
            callback()


class Desk:
    """An admission, those who came to it, and what it let in."""

    def __init__(self, max_requests: int = 100, max_bytes: int = 10 * MIB, largest: int = MIB) -> None:
        self.now_s = 0.0
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.admission = Admission(
            max_requests, max_bytes, largest, now_s=lambda: self.now_s, later=lambda *each: self.later.append(each)
        )
        self.inside: list[bytes] = []

    def enter(self) -> FakeCall:
        call = FakeCall()
        self.admission.enter(cast(Call, call), self.inside.append)
        return call

    def leave(self) -> None:
        self.admission.leave(len(self.inside.pop(0)))

    def assert_empty(self) -> None:
        """As in the beginning: as many as may be can enter, and as many bytes."""
        assert (self.admission._requests, self.admission.held_bytes, self.admission._reading) == (0, 0, 0)
        assert not self.admission._unread and not self.admission._streams


def test_a_request_within_the_bounds_is_read_at_once() -> None:
    desk = Desk()
    call = desk.enter()
    assert call.reads == 1
    call.arrive(b"message")
    assert desk.inside == [b"message"]
    assert desk.admission.held_bytes == 7
    desk.leave()
    desk.assert_empty()


def test_more_requests_than_may_be_are_refused_unread() -> None:
    desk = Desk(max_requests=2)
    calls = [desk.enter(), desk.enter()]
    with pytest.raises(Overloaded, match="2 requests are being answered, as many as may be; retry later"):
        desk.enter()
    for call in calls:
        call.arrive(b"12345")
    with pytest.raises(Overloaded):
        desk.enter()  # they are still being answered
    desk.leave()
    desk.enter().arrive(b"next")
    desk.leave()
    desk.leave()
    desk.assert_empty()


def test_requests_beyond_the_bytes_wait_unread_in_their_order() -> None:
    desk = Desk(max_bytes=4 * MIB)
    calls = [desk.enter() for _ in range(10)]
    assert [call.reads for call in calls] == [1] * 4 + [0] * 6, "each of those to come may be as large as the largest"
    for call in calls[:4]:
        call.arrive(bytes(MIB))
    assert desk.admission.held_bytes == 4 * MIB
    assert sum(call.reads for call in calls) == 4
    desk.leave()
    assert [call.reads for call in calls] == [1] * 5 + [0] * 5
    desk.leave()
    desk.leave()
    assert [call.reads for call in calls] == [1] * 7 + [0] * 3
    for call in calls[4:7]:
        call.arrive(b"small")
    assert desk.admission.held_bytes == MIB + 15
    while desk.inside:
        desk.leave()
        for call in calls:
            if call.then is not None:
                call.arrive(b"small")
    assert [call.reads for call in calls] == [1] * 10
    desk.assert_empty()


def test_what_is_held_never_exceeds_the_bytes_by_more_than_one_message() -> None:
    rng = np.random.default_rng(0)
    desk = Desk(max_requests=1000, max_bytes=3 * MIB)
    calls: list[FakeCall] = []
    most = 0
    for _ in range(5000):
        act = rng.random()
        reading = [call for call in calls if call.then is not None]
        if act < 0.5 and len(calls) < 60:
            calls.append(desk.enter())
        elif act < 0.8 and reading:
            call = reading[int(rng.integers(0, len(reading)))]
            call.arrive(bytes(int(rng.choice([100, 1000, 300_000, MIB]))))
            calls.remove(call)
        elif desk.inside:
            desk.leave()
        most = max(most, desk.admission.held_bytes)
    assert 2 * MIB < most <= 4 * MIB
    while calls or desk.inside:
        for call in [call for call in calls if call.then is not None]:
            call.arrive(b"")
            calls.remove(call)
        if desk.inside:
            desk.leave()
    desk.assert_empty()


def test_what_waits_unread_is_bounded_by_the_windows_that_it_takes() -> None:
    desk = Desk(max_requests=10_000, max_bytes=100 * MIB, largest=100 * MIB)
    for _ in range(1 + 100):  # one is read, and a window of a MiB for each MiB of the bound
        desk.enter()
    with pytest.raises(Overloaded, match="100 requests wait to be read"):
        desk.enter()


def test_messages_that_do_not_arrive_are_given_up_without_anybody_else_coming() -> None:
    desk = Desk(max_bytes=4 * MIB, largest=MIB)
    slow = [desk.enter() for _ in range(4)]  # their heads came, their bodies do not
    honest = desk.enter()
    assert [call.reads for call in slow] == [1] * 4 and honest.reads == 0
    ((seconds, look),) = desk.later
    assert seconds == 10
    desk.now_s = 9
    look()
    assert all(call.code is None for call in slow), "they have their time"
    desk.now_s = 10
    desk.later[-1][1]()
    assert all(call.code is grpc.StatusCode.DEADLINE_EXCEEDED for call in slow)
    for call in slow:
        call.arrive(None)  # as a transport says that the call has ended
    assert honest.reads == 1
    honest.arrive(b"x")
    desk.later[-1][1]()
    assert len(desk.later) == 3, "nobody waits, so nobody looks again"


def test_a_message_larger_than_all_that_may_be_held_is_read_when_nothing_else_is_here() -> None:
    desk = Desk(max_bytes=MIB, largest=64 * MIB)
    first, second = desk.enter(), desk.enter()
    assert (first.reads, second.reads) == (1, 0)
    first.arrive(bytes(5 * MIB))
    assert second.reads == 0 and desk.admission.full
    desk.leave()
    assert second.reads == 1
    second.arrive(b"x")
    desk.leave()
    desk.assert_empty()


def test_small_messages_teach_that_more_may_be_read_at_a_time() -> None:
    desk = Desk(max_requests=4000, max_bytes=4 * MIB)
    for _ in range(2000):
        desk.enter().arrive(b"small")
        desk.leave()
    calls = [desk.enter() for _ in range(100)]
    assert sum(call.reads for call in calls) == 64  # of 64 KiB at least each
    for call in calls:
        call.arrive(b"small")
    while desk.inside:
        desk.leave()
    desk.assert_empty()


def test_callers_that_leave_while_unread_free_their_places_at_once() -> None:
    desk = Desk(max_requests=5, max_bytes=MIB)
    reading, *unread = (desk.enter() for _ in range(5))
    assert [call.reads for call in unread] == [0] * 4
    for call in unread[:3]:
        call.leave()
    again = [desk.enter() for _ in range(3)]  # for others, though nothing was answered yet
    with pytest.raises(Overloaded):
        desk.enter()
    reading.arrive(bytes(MIB))
    desk.leave()
    assert [call.reads for call in (unread[3], *again)] == [1, 0, 0, 0]
    for call in (unread[3], *again):
        call.arrive(bytes(MIB))
        desk.leave()
    assert [call.reads for call in unread[:3]] == [0, 0, 0]
    desk.assert_empty()


def test_callers_that_leave_while_they_are_read_free_their_places() -> None:
    desk = Desk(max_requests=3, max_bytes=MIB)
    reading, waiting, last = desk.enter(), desk.enter(), desk.enter()
    reading.leave()
    assert (waiting.reads, last.reads) == (1, 0)
    waiting.leave()
    assert last.reads == 1
    last.arrive(b"x")
    desk.leave()
    assert desk.inside == []
    desk.assert_empty()


def test_a_caller_who_left_in_the_meantime_is_no_obstacle() -> None:
    """Its going is told a moment after it went: until then it looks like those who wait."""
    desk = Desk(max_bytes=MIB)
    first, gone, last = desk.enter(), desk.enter(), desk.enter()
    gone.gone = True
    first.arrive(bytes(MIB))
    desk.leave()
    assert last.reads == 1
    gone.leave()
    last.arrive(b"x")
    desk.leave()
    desk.assert_empty()


def test_a_caller_who_ends_without_a_message_is_told_so() -> None:
    desk = Desk()
    call = desk.enter()
    call.arrive(None)
    assert call.code is grpc.StatusCode.UNIMPLEMENTED
    desk.assert_empty()


def test_streams_are_counted_in_bytes_and_wait_while_there_are_too_many() -> None:
    desk, went = Desk(max_bytes=MIB), list[str]()
    assert not desk.admission.hold_back("a", lambda: went.append("a"))
    desk.admission.hold(MIB)
    unread = desk.enter()
    assert unread.reads == 0, "streams and calls share the bytes"
    for name in ("a", "b", "a"):
        assert desk.admission.hold_back(name, lambda name=name: went.append(name))  # type: ignore[misc]
    assert went == []
    desk.admission.release(1)
    assert went == ["a", "b"], "once each"
    assert unread.reads == 1
    unread.arrive(b"")
    desk.leave()
    desk.admission.release(MIB - 1)
    assert went == ["a", "b"]
    desk.assert_empty()


def test_everything_balances_when_many_threads_come_and_go() -> None:
    desk = Desk(max_requests=50, max_bytes=MIB, largest=MIB)
    lock, failures = threading.Lock(), list[Any]()

    def come_and_go(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(1000):
                inside: list[bytes] = []
                call = FakeCall()
                try:
                    desk.admission.enter(cast(Call, call), inside.append)
                except Overloaded:
                    continue
                with lock:  # a transport tells a call's events one after another
                    if rng.random() < 0.3 or call.then is None:
                        call.leave()
                    else:
                        call.arrive(bytes(int(rng.integers(0, 300_000))))
                for message in inside:
                    desk.admission.leave(len(message))
                size = int(rng.integers(0, 1000))
                desk.admission.hold(size)
                desk.admission.release(size)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=come_and_go, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    desk.assert_empty()
