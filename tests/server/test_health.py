"""grpc.health.v1 over a real transport: Watch tells every change and ends when the server stops."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import grpc
import pytest
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.port.health import Readiness
from cutpoint.server.port.rpc import handlers
from cutpoint.server.port.transport import Call
from grpc_health.v1 import health_pb2, health_pb2_grpc
from transports import WAIT_S, Served, serving

UNKNOWN, SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


@contextmanager
def watched() -> Iterator[tuple[Readiness, Served, health_pb2_grpc.HealthStub]]:
    readiness = Readiness(("a.Service",))
    with serving(handlers({rpc.method: rpc for rpc in readiness.rpcs()}, Metrics(), lambda call: None)) as (served, channel):
        yield readiness, served, health_pb2_grpc.HealthStub(channel)


def asked(service: str = "") -> Any:
    return health_pb2.HealthCheckRequest(service=service)


@pytest.mark.parametrize("service", ["", "a.Service"])
def test_watch_tells_every_change_and_ends_at_the_stop(service: str) -> None:
    with watched() as (readiness, served, stub):
        watch = stub.Watch(asked(service))
        assert next(watch).status == NOT_SERVING
        for ready in (True, False, True):
            readiness.set(ready)
            assert next(watch).status == (SERVING if ready else NOT_SERVING)
            assert stub.Check(asked(service), timeout=WAIT_S).status == (SERVING if ready else NOT_SERVING)
        readiness.set(True)  # no change: nothing is said
        readiness.set(False)
        assert next(watch).status == NOT_SERVING
        stopping = threading.Thread(target=served.stop)
        stopping.start()
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        stopping.join(WAIT_S)
        assert not stopping.is_alive()
        assert not readiness._watches


def test_a_service_that_is_not_there_is_unknown_to_watch_and_not_found_to_check() -> None:
    with watched() as (readiness, _, stub):
        watch = stub.Watch(asked("none"))
        assert next(watch).status == UNKNOWN
        readiness.set(True)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Check(asked("none"), timeout=WAIT_S)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        watch.cancel()


def test_those_who_leave_are_forgotten() -> None:
    with watched() as (readiness, _, stub):
        watches = [stub.Watch(asked()) for _ in range(50)]
        for watch in watches:
            assert next(watch).status == NOT_SERVING
        assert len(readiness._watches) == 50
        for watch in watches:
            watch.cancel()
        while readiness._watches:
            pass
        readiness.set(True)
        assert stub.Check(asked(), timeout=WAIT_S).status == SERVING


def test_the_last_state_is_told_however_many_changes_came_at_a_time() -> None:
    with watched() as (readiness, _, stub):
        watch = stub.Watch(asked())
        states: queue.SimpleQueue[int] = queue.SimpleQueue()

        def listen() -> None:
            try:
                for state in watch:
                    states.put(state.status)
            except grpc.RpcError:
                states.put(-1)

        listening = threading.Thread(target=listen)
        listening.start()
        assert states.get(timeout=WAIT_S) == NOT_SERVING
        changing = [threading.Thread(target=lambda: [readiness.set(i % 2 == 0) for i in range(200)]) for _ in range(3)]
        for thread in changing:
            thread.start()
        for thread in changing:
            thread.join(WAIT_S)
        readiness.set(True)
        before, found = NOT_SERVING, 0
        while before != SERVING or not states.empty():
            found = states.get(timeout=WAIT_S)
            assert found != before, "nothing is said twice"
            before = found
        readiness.set(False)
        while (found := states.get(timeout=WAIT_S)) != NOT_SERVING:
            pass
        watch.cancel()
        listening.join(WAIT_S)


class SlowCall:
    """A call whose messages are sent when the test says so."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.on_stop: Callable[[], None] | None = None
        self.ended = False
        self._then: list[Callable[[bool], None]] = []

    def read(self, then: Callable[[bytes | None], None]) -> None:
        then(asked().SerializeToString())

    def on_gone(self, callback: Callable[[], None]) -> None:
        pass

    def send(self, message: bytes, then: Callable[[bool], None]) -> None:
        assert not self._then, "one at a time"
        self.sent.append(health_pb2.HealthCheckResponse.FromString(message).status)
        self._then.append(then)

    def arrive(self) -> None:
        self._then.pop()(True)

    def finish(self, **status: object) -> None:
        assert not self._then, "a message is on its way"
        self.ended = True


def test_what_changed_while_a_message_was_sent_is_told_after_it() -> None:
    readiness, call = Readiness(()), SlowCall()
    watch = next(rpc for rpc in readiness.rpcs() if rpc.method.endswith("/Watch"))
    watch.handle(cast(Call, call))
    assert call.sent == [NOT_SERVING]
    readiness.set(True)
    assert call.sent == [NOT_SERVING], "the one before it is on its way"
    call.arrive()
    assert call.sent == [NOT_SERVING, SERVING]
    readiness.set(False)
    readiness.set(True)
    call.arrive()
    assert call.sent == [NOT_SERVING, SERVING], "nothing has changed in the end"


def test_a_watch_ends_when_the_last_state_has_been_sent() -> None:
    readiness, call = Readiness(()), SlowCall()
    readiness.set(True)
    watch = next(rpc for rpc in readiness.rpcs() if rpc.method.endswith("/Watch"))
    watch.handle(cast(Call, call))
    readiness.set(False)  # while the first message is on its way
    assert call.on_stop is not None
    call.on_stop()
    assert call.sent == [SERVING] and not call.ended
    call.arrive()
    assert call.sent == [SERVING, NOT_SERVING] and not call.ended
    call.arrive()
    assert call.ended
