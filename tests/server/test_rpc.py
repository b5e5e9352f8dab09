"""Adapters from plain functions to calls: every call is answered and counted, and none keeps a thread that others need."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from cutpoint.errors import BadRequest, ModelNotFound, PermissionDenied, Unavailable
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.port.admission import Admission
from cutpoint.server.port.rpc import Rpc, answered_stream, client_stream, direct, handlers, pooled
from cutpoint.server.port.transport import Call
from cutpoint.wire import REASON_KEY
from grpc_health.v1 import health_pb2
from transports import WAIT_S, Served, open_requests, serving

Request, Response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse


def a_request(text: str) -> bytes:
    found: bytes = Request(service=text).SerializeToString()
    return found


def answer(request: Any, call: Call) -> Any:
    """SERVING for "", NOT_FOUND or an error nobody foresaw where that is asked for."""
    if request.service == "none":
        raise ModelNotFound("there is none")
    if request.service == "odd":
        raise RuntimeError("a secret")
    return Response(status=1)


class Place:
    """RPCs behind a transport, with a pool and metrics."""

    def __init__(self, served: Served, channel: grpc.Channel, metrics: Metrics) -> None:
        self.served, self.channel, self.metrics = served, channel, metrics

    def handled(self) -> dict[tuple[str, str], float]:
        """Calls answered, by method and code."""
        (family,) = self.metrics.handled.collect()
        return {(each.labels["grpc_method"], each.labels["grpc_code"]): each.value for each in family.samples if each.value}


@contextmanager
def opened(
    make: Callable[[ThreadPoolExecutor], list[Rpc]], guard: Callable[[Call], None] = lambda call: None
) -> Iterator[Place]:
    metrics = Metrics()
    with ThreadPoolExecutor(64) as pool:
        found = handlers({rpc.method: rpc for rpc in make(pool)}, metrics, guard)
        with serving(found) as (served, channel):
            yield Place(served, channel, metrics)


def both(pool: ThreadPoolExecutor) -> list[Rpc]:
    return [direct("/s/Direct", Request, answer), pooled("/s/Pooled", Request, answer, pool)]


@pytest.mark.parametrize("method", ["Direct", "Pooled"])
def test_every_unary_call_is_answered_and_counted(method: str, caplog: pytest.LogCaptureFixture) -> None:
    with opened(both) as place:
        unary = place.channel.unary_unary(f"/s/{method}")
        assert Response.FromString(unary(a_request(""), timeout=WAIT_S)).status == 1
        wrong = {
            "none": (grpc.StatusCode.NOT_FOUND, "there is none", ModelNotFound.reason),
            "odd": (grpc.StatusCode.INTERNAL, "internal error; the server's log has the details", "internal"),
        }
        for text, wanted in wrong.items():
            with pytest.raises(grpc.RpcError) as found:
                unary(a_request(text), timeout=WAIT_S)
            error: Any = found.value
            assert (error.code(), error.details(), dict(error.trailing_metadata())[REASON_KEY]) == wanted
        with pytest.raises(grpc.RpcError) as found:
            unary(b"\xff\xff", timeout=WAIT_S)
        assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert place.handled() == {(method, code): 1 for code in ("OK", "NotFound", "Internal", "InvalidArgument")}
        started = next(iter(place.metrics.started.collect())).samples
        assert {each.labels["grpc_method"]: each.value for each in started}[method] == 4
    assert "a secret" in caplog.text


@pytest.mark.parametrize("method", ["Direct", "Pooled"])
def test_a_unary_call_without_a_message_is_answered_as_grpc_itself_does(method: str) -> None:
    with opened(both) as place:
        with pytest.raises(grpc.RpcError) as found:
            place.channel.stream_unary(f"/s/{method}")(iter(()), timeout=WAIT_S)
        error: Any = found.value
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        assert error.details() == f'"/s/{method}" requires exactly one request message.'


def test_a_caller_who_may_not_is_refused_before_anything_is_read() -> None:
    def guard(call: Call) -> None:
        raise PermissionDenied("not you")

    with opened(both, guard) as place, open_requests() as requests:
        future = place.channel.stream_unary("/s/Direct").future(requests())
        assert future.exception(WAIT_S).code() is grpc.StatusCode.PERMISSION_DENIED
        assert place.handled() == {("Direct", "PermissionDenied"): 1}


class Counting:
    """A client stream's answer: how many messages came, and how each call's messages ended."""

    def __init__(self) -> None:
        self.began: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.threads = threading.active_count

    def answer(self, requests: Iterator[Any], call: Call) -> Any:
        count = 0
        try:
            for request in requests:
                self.began.put(request.service)
                count += 1
        except Exception as error:
            self.ended.put(type(error))
            raise
        self.ended.put(count)
        return Response(status=min(count, 3))


def counted(counting: Counting, **options: Any) -> Callable[[ThreadPoolExecutor], list[Rpc]]:
    return lambda pool: [client_stream("/s/Stream", Request, counting.answer, pool, **options), *both(pool)]


def test_a_stream_of_messages_has_one_answer() -> None:
    counting = Counting()
    with opened(counted(counting)) as place:
        stream = place.channel.stream_unary("/s/Stream")
        for count in (0, 1, 3):
            messages = (a_request(str(i)) for i in range(count))
            assert Response.FromString(stream(messages, timeout=WAIT_S)).status == count
            assert counting.ended.get(timeout=WAIT_S) == count
        with pytest.raises(grpc.RpcError) as found:
            stream(iter((a_request(""), b"\xff")), timeout=WAIT_S)
        assert found.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert counting.ended.get(timeout=WAIT_S) is BadRequest


def test_a_caller_who_leaves_never_looks_like_the_end_of_its_stream() -> None:
    """Otherwise half of a calibration's data would become thresholds when somebody presses Ctrl-C."""
    counting = Counting()
    with opened(counted(counting)) as place, open_requests() as requests:
        stream = place.channel.stream_unary("/s/Stream")
        for i in range(100):
            future = stream.future(requests(a_request(str(i))))
            assert counting.began.get(timeout=WAIT_S) == str(i)
            future.cancel()
            assert counting.ended.get(timeout=WAIT_S) is Unavailable
        late = stream.future(requests(a_request("")), timeout=1.0)
        assert late.exception(WAIT_S).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert counting.ended.get(timeout=WAIT_S) is Unavailable
        place.served.stop()
        assert place.handled() == {("Stream", "Canceled"): 100, ("Stream", "DeadlineExceeded"): 1}


def test_streams_that_say_nothing_take_no_thread() -> None:
    counting = Counting()
    with opened(counted(counting, at_most=1)) as place, open_requests() as requests:
        stream = place.channel.stream_unary("/s/Stream")
        idle = [stream.future(requests()) for _ in range(80)]
        while len(place.served.transport._calls) < 80:
            pass
        assert Response.FromString(place.channel.unary_unary("/s/Pooled")(a_request(""), timeout=WAIT_S)).status == 1
        assert Response.FromString(stream(iter((a_request(""),)), timeout=WAIT_S)).status == 1
        for future in idle:
            future.cancel()


def test_more_streams_than_may_have_a_thread_are_refused_and_others_still_have_one() -> None:
    counting = Counting()
    with opened(counted(counting, at_most=3)) as place, open_requests() as requests:
        stream = place.channel.stream_unary("/s/Stream")
        held = [stream.future(requests(a_request(str(i)))) for i in range(3)]
        assert {counting.began.get(timeout=WAIT_S) for _ in range(3)} == {"0", "1", "2"}
        with pytest.raises(grpc.RpcError) as found:
            stream(iter((a_request(""),)), timeout=WAIT_S)
        error: Any = found.value
        assert (error.code(), dict(error.trailing_metadata())[REASON_KEY]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert "3 calls of /s/Stream are being answered" in error.details()
        assert Response.FromString(place.channel.unary_unary("/s/Pooled")(a_request(""), timeout=WAIT_S)).status == 1
        held[0].cancel()
        assert counting.ended.get(timeout=WAIT_S) is Unavailable
        while True:  # its place is free a moment later
            try:
                assert Response.FromString(stream(iter((a_request(""),)), timeout=WAIT_S)).status == 1
                break
            except grpc.RpcError as again:
                assert again.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for future in held:
            future.cancel()


def test_a_stream_that_falls_silent_is_ended() -> None:
    counting = Counting()
    with opened(counted(counting, idle_s=0.05)) as place, open_requests() as requests:
        future = place.channel.stream_unary("/s/Stream").future(requests(a_request("")))
        error = future.exception(WAIT_S)
        assert (error.code(), error.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no message came for 0.05 s")


class Weighing:
    """An answer that waits to be let go, and what admission held meanwhile."""

    def __init__(self, **bounds: int) -> None:
        self.admission = Admission(bounds.get("max_requests", 8), bounds.get("max_bytes", 1 << 20), 1 << 20)
        self.began: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.go_on = threading.Semaphore(0)

    def answer(self, request: Any, call: Call) -> Any:
        self.began.put(self.admission.held_bytes)
        assert self.go_on.acquire(timeout=WAIT_S)
        return answer(request, call)

    def check(self, data: bytes) -> None:
        if b"many" in data:
            raise BadRequest("too many")

    def rpcs(self, pool: ThreadPoolExecutor) -> list[Rpc]:
        of = {"admission": self.admission, "check": self.check}
        return [
            pooled("/s/Unary", Request, self.answer, pool, **of),  # type: ignore[arg-type]
            answered_stream("/s/Answered", Request, self.answer, pool, **of),  # type: ignore[arg-type]
        ]


def test_the_bytes_of_a_unary_call_are_held_until_it_is_answered_and_calls_are_bounded() -> None:
    weighing = Weighing(max_requests=1)
    with opened(weighing.rpcs) as place:
        unary = place.channel.unary_unary("/s/Unary")
        message = a_request("x" * 1000)
        first = unary.future(message, timeout=WAIT_S)
        assert weighing.began.get(timeout=WAIT_S) == len(message)
        with pytest.raises(grpc.RpcError) as found:
            unary(message, timeout=WAIT_S)
        assert found.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        weighing.go_on.release(100)
        assert Response.FromString(first.result(WAIT_S)).status == 1
        invalid = "INVALID_ARGUMENT"
        for wrong, code in ((a_request("many"), invalid), (b"\xff", invalid), (a_request("odd"), "INTERNAL")):
            while True:  # the place of the one before is free a moment after its answer
                with pytest.raises(grpc.RpcError) as found:
                    unary(wrong, timeout=WAIT_S)
                if found.value.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    break
            assert found.value.code().name == code
        place.served.stop()
    assert weighing.admission.held_bytes == 0


def test_a_stream_whose_messages_are_answered_holds_the_one_that_is_and_waits_for_room() -> None:
    weighing = Weighing(max_bytes=100)
    with opened(weighing.rpcs) as place, open_requests() as requests:
        call = place.channel.stream_stream("/s/Answered")
        message = a_request("x" * 1000)
        first = call(requests(message, message), timeout=WAIT_S)
        assert weighing.began.get(timeout=WAIT_S) == len(message)
        other = call(requests(message), timeout=WAIT_S)
        while not weighing.admission._streams:  # there is no room, so that it is not read
            pass
        assert weighing.began.empty()
        weighing.go_on.release(100)
        assert Response.FromString(next(first)).status == Response.FromString(next(first)).status == 1
        assert Response.FromString(next(other)).status == 1
        assert [weighing.began.get(timeout=WAIT_S) for _ in range(2)] == [len(message)] * 2
        with pytest.raises(grpc.RpcError) as found:
            next(call(requests(a_request("many")), timeout=WAIT_S))
        assert (found.value.code(), found.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "too many")  # type: ignore[attr-defined]
        first.cancel()
        other.cancel()
        place.served.stop()
    assert weighing.admission.held_bytes == 0
