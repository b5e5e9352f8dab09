"""What is made again, how often, when, and who hears of it: against a server that fails as it is told to."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from cutpoint import errors
from cutpoint.client import AioClient, Client, Connection, Retried, Retry
from cutpoint.client.methods import typed_error
from cutpoint.client.retry import Attempts
from cutpoint.client.testing import FakeServer

ROW = [[1.0, 2.0]]


def faked() -> FakeServer:
    return FakeServer(lambda x: x.reshape(len(x), -1)[:, :1], model="m")


def score(target: str, connection: Connection, x: Any = ROW, aio: bool = False, timeout_s: float = 60) -> Any:
    """The same call by either client."""
    if not aio:
        with Client(target, connection, timeout_s=timeout_s) as client:
            return client.score("m", x)

    async def scene() -> Any:
        async with AioClient(target, connection, timeout_s=timeout_s) as client:
            return await client.score("m", x)

    return asyncio.run(scene())


@pytest.mark.parametrize("aio", [False, True])
@pytest.mark.parametrize("size", [2, 2_000_000])
def test_a_server_that_fails_at_first_is_asked_again_whatever_the_size(aio: bool, size: int) -> None:
    heard: list[Retried] = []
    x = np.ones((1, size), np.float32)  # gRPC's own retries end at 256 KiB
    with faked() as server:
        server.fail(errors.Unavailable("starting"), times=3)
        found = score(server.target, Connection(retry=Retry(backoff_s=0.001, on_retry=heard.append)), x, aio)
        assert found.logits.tolist() == [[1.0]]
        assert len(server.requests) == 4
        assert server.requests[3].x.nbytes == 4 * size
    assert [(one.method, one.attempt) for one in heard] == [("ModelInfer", 1), ("ModelInfer", 2), ("ModelInfer", 3)]
    assert all(type(one.error) is errors.Unavailable and 0 <= one.delay_s <= 0.001 * 2**i for i, one in enumerate(heard))


@pytest.mark.parametrize("aio", [False, True])
def test_the_last_error_is_raised_when_the_attempts_are_used_up(aio: bool) -> None:
    with faked() as server:
        server.fail(errors.Unavailable("still starting"), times=9)
        with pytest.raises(errors.Unavailable, match="does not answer: still starting"):
            score(server.target, Connection(retry=Retry(attempts=3, backoff_s=0)), aio=aio)
        assert len(server.requests) == 3
        with pytest.raises(errors.Unavailable):
            score(server.target, Connection(retry=Retry(attempts=1)), aio=aio)
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.Overloaded("too many"), errors.Overloaded),
        (errors.BadRequest("x"), errors.BadRequest),
        (errors.InternalError("bug"), errors.InternalError),
        (errors.DeadlineExceeded("late"), errors.DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.Overloaded),
        (grpc.StatusCode.UNKNOWN, errors.CutpointError),
    ],
)
def test_what_a_retry_does_not_mend_is_raised_at_once(error: Any, kind: type[errors.CutpointError]) -> None:
    for aio in (False, True):
        with faked() as server:
            server.fail(error)
            with pytest.raises(kind):
                score(server.target, Connection(), aio=aio)
            assert len(server.requests) == 1


@pytest.mark.parametrize("error", [errors.Overloaded("too many"), grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_an_overloaded_server_is_asked_again_only_where_that_is_wanted(error: Any) -> None:
    with faked() as server:
        server.fail(error, times=2)
        score(server.target, Connection(retry=Retry(overloaded=True, backoff_s=0)))
        assert len(server.requests) == 3


def test_a_message_that_is_too_large_is_not_taken_for_overload() -> None:
    heard: list[Retried] = []
    retry = Retry(overloaded=True, backoff_s=0, on_retry=heard.append)
    with faked() as server, pytest.raises(errors.BadRequest, match="larger than max"):
        score(server.target, Connection(retry=retry, max_message_mib=1), np.zeros((1, 1 << 19), np.float32))
    assert heard == []


def test_only_the_part_that_failed_is_sent_again() -> None:
    with faked() as server:
        server.fail(errors.Unavailable("away"), after=1)
        x = np.arange(3000, dtype=np.float32).reshape(3000, 1)
        found = score(server.target, Connection(retry=Retry(backoff_s=0)), x)
        np.testing.assert_array_equal(found.logits, x)
        assert [len(request.x) for request in server.requests] == [1024, 1024, 1024, 952]
        assert server.requests[1].x[0, 0] == server.requests[2].x[0, 0] == 1024


def refusing(target_of: Callable[[str], None], calls: list[str]) -> grpc.Server:
    """A server on which every call of any method is counted and UNAVAILABLE."""
    from concurrent.futures import ThreadPoolExecutor

    class Refusal(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def refuse(request: Any, context: grpc.ServicerContext) -> Any:
                calls.append(details.method.rsplit("/", 1)[1])
                context.abort(grpc.StatusCode.UNAVAILABLE, "no")

            make = (
                grpc.stream_unary_rpc_method_handler if "Calibrate" in details.method else grpc.unary_unary_rpc_method_handler
            )
            return make(refuse)

    server = grpc.server(ThreadPoolExecutor(2), handlers=(Refusal(),))
    target_of(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    return server


def test_what_changes_the_state_is_made_once_and_what_reads_it_four_times() -> None:
    calls: list[str] = []
    targets: list[str] = []
    server = refusing(targets.append, calls)
    made: list[tuple[str, Callable[[Client], Any], int]] = [
        ("ActivatePolicy", lambda c: c.activate("m", 1), 1),
        ("Calibrate", lambda c: c.calibrate("m", "max_fbeta=1", targets=[0, 1], logits=[0.0, 1.0]), 1),
        ("GetPolicy", lambda c: c.policy("m"), 4),
        ("ListPolicies", lambda c: c.policies("m"), 4),
        ("ServerReady", lambda c: c.ready(), 4),
        ("ModelInfer", lambda c: c.score("m", ROW), 4),
    ]
    try:
        with Client(targets[0], Connection(retry=Retry(backoff_s=0))) as client:
            for name, call, times in made:
                calls.clear()
                with pytest.raises(errors.Unavailable):
                    call(client)
                assert calls == [name] * times
    finally:
        server.stop(None).wait()


def test_the_deadline_is_of_all_attempts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    gone = Unavailable_()
    attempts = Attempts(Retry(attempts=9, backoff_s=1, most_backoff_s=4), "M", "server s", 10.0)
    left, delays = [], []
    with pytest.raises(errors.Unavailable):
        for attempt in attempts:
            left.append(attempt.timeout_s)
            with attempt:
                now[0] += 0.5
                raise gone
            delays.append(attempt.delay_s)
            now[0] += attempt.delay_s
    assert left == [10.0, 8.5, 6.0, 1.5]
    assert delays == [1, 2, 4]  # a fourth pause of 4 s would pass the deadline


def test_the_pause_is_anything_between_nothing_and_the_longest() -> None:
    attempts = Attempts(Retry(attempts=400, backoff_s=0.5, most_backoff_s=0.5), "M", "server s", 1e6)
    delays = []
    with pytest.raises(errors.Unavailable):
        for attempt in attempts:
            with attempt:
                raise Unavailable_()
            delays.append(attempt.delay_s)
    assert len(delays) == 399
    assert 0 <= min(delays) < 0.05
    assert 0.45 < max(delays) <= 0.5
    assert float(np.mean(delays)) == pytest.approx(0.25, abs=0.05)


class Unavailable_(grpc.RpcError):
    """What gRPC raises of a server that is gone."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "gone"

    def trailing_metadata(self) -> None:
        return None


@pytest.mark.parametrize(
    "given", [{"attempts": 0}, {"backoff_s": -1}, {"most_backoff_s": float("inf")}, {"backoff_s": float("nan")}]
)
def test_settings_that_cannot_be_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(errors.BadConfig, match=next(iter(given))):
        Retry(**given)


def test_closing_a_client_ends_its_retries() -> None:
    with faked() as server:
        server.fail(errors.Unavailable("away"), times=99)
        heard: list[Retried] = []

        def close(retried: Retried) -> None:
            heard.append(retried)
            client.close()

        client = Client(server.target, Connection(retry=Retry(attempts=99, backoff_s=0, on_retry=close)))
        with pytest.raises(errors.Unavailable, match="is closed"):
            client.score("m", ROW)
        assert (len(server.requests), len(heard)) == (1, 1)


class Lost(Unavailable_):
    """What grpc.aio raises of a stream that ended while it was being written to."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    def details(self) -> str:
        return "Internal error from Core"


def test_an_end_whose_reason_grpc_has_lost_is_no_error_of_the_server() -> None:
    found = typed_error(Lost(), "server s:1")
    assert isinstance(found, errors.Unavailable) and "server s:1 ended the stream" in str(found)
