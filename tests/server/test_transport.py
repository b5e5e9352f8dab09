"""The transport with real clients: what is read, sent, held back, cut off and counted on the wire."""

import gc
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from cutpoint.server.port.idle import Idle
from cutpoint.server.port.transport import Call, Transport
from transports import WAIT_S, open_requests, serving


def echo(call: Call) -> None:
    call.read(call.finish)


def echo_stream(call: Call) -> None:
    """Every message back, one at a time; OK when the caller has ended."""

    def received(message: bytes | None) -> None:
        if message is None:
            call.finish()
        else:
            call.send(message, lambda ok: call.read(received) if ok else None)

    call.read(received)


def hold(into: "queue.SimpleQueue[Call]") -> Callable[[Call], None]:
    """A handler that does nothing but keep its calls."""
    return into.put


def refusal(error: Any) -> tuple[grpc.StatusCode, str]:
    return error.value.code(), error.value.details()


def test_a_unary_call_gets_its_answer_metadata_and_peer() -> None:
    seen: dict[str, Any] = {}

    def handle(call: Call) -> None:
        seen.update(metadata=dict(call.metadata), peer=call.peer, deadline=call.deadline, identities=call.identities())
        call.read(lambda message: call.finish(message, trailing=(("after", "all"),)))

    with serving({"m": handle}) as (served, channel):
        answer, call = channel.unary_unary("/s/m").with_call(b"\x00\xff", metadata=(("k", "v"), ("b-bin", b"\x01")))
        assert answer == b"\x00\xff"
        assert dict(call.trailing_metadata())["after"] == "all"
        assert served.code() is grpc.StatusCode.OK
    assert (seen["metadata"]["k"], seen["metadata"]["b-bin"]) == ("v", b"\x01")
    assert seen["peer"].startswith("ipv4:127.0.0.1:")
    assert (seen["deadline"], seen["identities"]) == (None, ())


def test_streams_both_ways() -> None:
    with serving({"m": echo_stream}) as (served, channel):
        messages = [bytes([i]) * i for i in range(100)]
        assert list(channel.stream_stream("/s/m")(iter(messages))) == messages
        assert list(channel.stream_stream("/s/m")(iter(()))) == []
        assert [served.code(), served.code()] == [grpc.StatusCode.OK] * 2


def test_an_unknown_method_is_unimplemented() -> None:
    with serving({"m": echo}) as (_, channel):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/s/other")(b"")
        assert refusal(error) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def test_what_is_said_after_the_first_answer_is_ignored() -> None:
    said: list[bool] = []

    def handle(call: Call) -> None:
        def received(message: bytes | None) -> None:
            call.finish(b"first")
            call.finish(b"second", grpc.StatusCode.INTERNAL)
            call.send(b"third", said.append)

        call.read(received)

    with serving({"m": handle}) as (served, channel):
        assert channel.unary_unary("/s/m")(b"") == b"first"
        assert served.code() is grpc.StatusCode.OK
        served.stop()
        assert served.codes.empty()
        assert said == [False]


@pytest.mark.parametrize("where", ["handler", "read", "send", "gone"])
def test_an_error_in_a_callback_is_internal_and_the_server_lives_on(where: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    gone = threading.Event()

    def handle(call: Call) -> None:
        if where == "handler":
            fail()
        elif where == "read":
            call.on_gone(gone.set)  # what is left to be cleaned up is told
            call.read(fail)
        elif where == "send":
            call.send(b"one", fail)
        else:
            call.on_gone(fail)
            call.on_gone(gone.set)

    with serving({"m": handle, "echo": echo}) as (served, channel):
        call = channel.unary_stream("/s/m")(b"")
        if where == "gone":
            assert served.transport is not None
            while not served.transport._calls:
                pass
            call.cancel()
        else:
            with pytest.raises(grpc.RpcError) as error:
                list(call)
            assert refusal(error) == (grpc.StatusCode.INTERNAL, "internal error; the server's log has the details")
        assert served.code() is (grpc.StatusCode.CANCELLED if where == "gone" else grpc.StatusCode.INTERNAL)
        if where in ("read", "gone"):
            assert gone.wait(WAIT_S)
        assert channel.unary_unary("/s/echo")(b"still here") == b"still here"
        served.stop()
        assert not served.transport._calls
    assert "unforeseen" in caplog.text


@pytest.mark.parametrize("how", ["cancelled", "late", "connection"])
def test_a_caller_who_leaves_is_gone_and_counted_as_such(how: str) -> None:
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    gone, ends = threading.Event(), queue.SimpleQueue[Any]()
    with serving({"m": hold(calls)}) as (served, channel), open_requests() as requests:
        future = channel.stream_unary("/s/m").future(requests(b"1"), timeout=1.0 if how == "late" else None)
        call = calls.get(timeout=WAIT_S)
        assert (call.deadline is None) == (how != "late")
        call.on_gone(gone.set)
        call.read(ends.put)
        assert ends.get(timeout=WAIT_S) == b"1"
        call.read(lambda message: ends.put((message, call.gone)))
        if how == "cancelled":
            future.cancel()
        elif how == "connection":
            channel.close()
        assert served.code() is (grpc.StatusCode.DEADLINE_EXCEEDED if how == "late" else grpc.StatusCode.CANCELLED)
        assert gone.wait(WAIT_S)
        assert ends.get(timeout=WAIT_S) == (None, True), "the end of a stream that its caller did not end"
        call.finish(b"too late")
        at_once: list[object] = []
        call.on_gone(lambda: at_once.append("gone"))
        call.read(at_once.append)
        call.send(b"", at_once.append)
        assert at_once == ["gone", None, False]
        assert served.codes.empty()


def test_the_end_of_a_stream_is_told_from_its_caller_leaving() -> None:
    ends: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
    began: queue.SimpleQueue[None] = queue.SimpleQueue()

    def handle(call: Call) -> None:
        name = str(dict(call.metadata)["name"])

        def received(message: bytes | None) -> None:
            if message is not None:
                began.put(None)
                call.read(received)
                return
            ends.put((name, call.gone))
            call.finish(b"")

        call.read(received)

    with serving({"m": handle}) as (_, channel), open_requests() as requests:
        method = channel.stream_unary("/s/m")
        for _ in range(100):
            assert method(iter((b"1",)), metadata=(("name", "ends"),)) == b""
            leaving = method.future(requests(b"1"), metadata=(("name", "leaves"),))
            for _ in range(2):
                began.get(timeout=WAIT_S)
            leaving.cancel()
        found = [ends.get(timeout=WAIT_S) for _ in range(200)]
    assert set(found) == {("ends", False), ("leaves", True)}


def test_a_sender_is_held_back_while_nothing_is_read() -> None:
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    size, count = 1 << 20, 200
    written = [0]

    def requests() -> Iterator[bytes]:
        for _ in range(count):
            written[0] += 1
            yield bytes(size)

    with serving({"m": hold(calls), "echo": echo}) as (_, channel):
        future = channel.stream_unary("/s/m").future(requests())
        call = calls.get(timeout=WAIT_S)
        for _ in range(20):  # round trips on the same connection, time enough for what may be written to be written
            assert channel.unary_unary("/s/echo")(b"ping") == b"ping"
        assert written[0] < 20, "of 200"
        seen, before = [0], written[0]

        def received(message: bytes | None) -> None:
            if message is None:
                call.finish(b"done")
                return
            seen[0] += 1
            assert written[0] < seen[0] + before + 20
            call.read(received)

        call.read(received)
        assert future.result(WAIT_S) == b"done"
        assert seen[0] == written[0] == count


def test_a_reader_that_does_not_read_holds_the_server_back() -> None:
    sent = [0]

    def handle(call: Call) -> None:
        def more(ok: bool) -> None:
            if ok and sent[0] < 200:
                sent[0] += 1
                call.send(bytes(1 << 20), more)
            elif ok:
                call.finish()

        call.read(lambda message: more(True))

    with serving({"m": handle, "echo": echo}) as (served, channel):
        call = channel.unary_stream("/s/m")(b"")
        next(call)
        for _ in range(20):
            channel.unary_unary("/s/echo")(b"ping")
        assert sent[0] < 40
        assert sum(1 for _ in call) == 199
        assert served.code() is grpc.StatusCode.OK


def test_a_message_beyond_the_limit_is_refused_by_the_transport() -> None:
    with serving({"m": echo}, ("grpc.max_receive_message_length", 1000)) as (_, channel):
        with pytest.raises(grpc.RpcError) as error:
            channel.unary_unary("/s/m")(bytes(1001))
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert channel.unary_unary("/s/m")(bytes(1000)) == bytes(1000)


def test_stop_waits_for_what_was_accepted() -> None:
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    with serving({"m": hold(calls)}) as (served, channel):
        future = channel.unary_unary("/s/m").future(b"")
        call = calls.get(timeout=WAIT_S)
        stopping = threading.Thread(target=served.stop)
        stopping.start()
        while not served.transport.stopping:
            pass
        call.finish(b"in time")
        assert future.result(WAIT_S) == b"in time"
        stopping.join(WAIT_S)
        assert not stopping.is_alive()
        assert served.code() is grpc.StatusCode.OK


def test_stop_cuts_off_what_takes_longer_than_the_grace() -> None:
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    with serving({"m": hold(calls)}) as (served, channel), open_requests() as requests:
        future = channel.stream_unary("/s/m").future(requests())
        call = calls.get(timeout=WAIT_S)
        gone = threading.Event()
        call.on_gone(gone.set)
        served.stop(0.01)
        assert future.exception(WAIT_S).code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert gone.is_set() and call.gone and not served.transport._calls
        assert served.code() is grpc.StatusCode.CANCELLED
        # The queue is shut down: whatever a thread still says must not reach it.
        ends: list[object] = []
        call.send(b"late", ends.append)
        call.read(ends.append)
        call.finish(b"late")
        assert ends == [False, None]


def test_calls_without_end_are_asked_to_end_and_finish_what_they_began() -> None:
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    asked = threading.Event()

    def handle(call: Call) -> None:
        call.on_stop = asked.set
        calls.put(call)

    with serving({"m": handle}) as (served, channel), open_requests() as requests:
        answers = channel.stream_stream("/s/m")(requests())
        call = calls.get(timeout=WAIT_S)
        stopping = threading.Thread(target=served.stop)
        stopping.start()
        assert asked.wait(WAIT_S)
        call.send(b"the rest", lambda ok: call.finish(code=grpc.StatusCode.UNAVAILABLE, details="the server is stopping"))
        assert next(answers) == b"the rest"
        with pytest.raises(grpc.RpcError) as error:
            next(answers)
        assert refusal(error) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        stopping.join(WAIT_S)
        assert not stopping.is_alive()


def test_a_call_that_learns_late_that_it_has_no_end_is_asked_at_once() -> None:
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    with serving({"m": hold(calls)}) as (served, channel), open_requests() as requests:
        answers = channel.stream_stream("/s/m")(requests())
        call = calls.get(timeout=WAIT_S)
        stopping = threading.Thread(target=served.stop)
        stopping.start()
        while not served.transport.stopping:
            pass
        call.on_stop = call.finish
        assert list(answers) == []
        stopping.join(WAIT_S)
        assert not stopping.is_alive()


def living() -> int:
    return sum(type(each) is Call for each in gc.get_objects())


def test_calls_leave_nothing_behind() -> None:
    gc.collect()
    before = living()
    calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
    handlers = {"echo": echo, "stream": echo_stream, "hold": hold(calls)}
    with serving(handlers) as (served, channel), open_requests() as requests:
        unary, stream, held = (
            channel.unary_unary("/s/echo"),
            channel.stream_stream("/s/stream"),
            channel.stream_unary("/s/hold"),
        )
        gc.disable()
        try:
            for _ in range(1200):
                assert unary(b"x") == b"x"
            while served.transport._calls:
                pass
            assert living() - before <= 1, "unary calls go without the garbage collector"
        finally:
            gc.enable()
        for _ in range(400):
            assert list(stream(iter((b"a", b"b")))) == [b"a", b"b"]
        for _ in range(400):
            future = held.future(requests())
            call = calls.get(timeout=WAIT_S)
            gone = threading.Event()
            call.on_gone(gone.set)
            future.cancel()
            assert gone.wait(WAIT_S)
            del call
        served.stop()
        assert not served.transport._calls
    gc.collect()
    assert living() == before


def test_two_transports_never_share_a_port() -> None:
    with serving({"m": echo}) as (served, _):
        other = Transport({}, (("grpc.so_reuseport", 0),))
        assert other.listen(f"127.0.0.1:{served.port}") == 0


def test_work_for_idle_moments_is_done_once_nothing_more_is_ready() -> None:
    idle, waiting = Idle(), list[Call]()
    together: list[int] = []

    def answer() -> None:
        together.append(len(waiting))
        for call in waiting:
            call.finish(b"answer")
        waiting.clear()

    def handle(call: Call) -> None:
        assert idle.here

        def received(data: bytes | None) -> None:
            if not waiting:
                idle.add(answer)
            waiting.append(call)

        call.read(received)

    assert not idle.here
    with serving({"m": handle}, idle=idle) as (_, channel):
        ask = channel.unary_unary("/s/m")
        for _ in range(5):
            futures = [ask.future(b"question", timeout=WAIT_S) for _ in range(20)]
            assert [future.result() for future in futures] == [b"answer"] * 20
    assert sum(together) == 100
    assert not idle.waits


def test_work_that_fails_in_an_idle_moment_is_logged_and_the_rest_is_done(caplog: pytest.LogCaptureFixture) -> None:
    idle, done = Idle(), list[str]()

    def fail() -> None:
        raise RuntimeError("no")

    idle.add(fail)
    idle.add(lambda: done.append("done"))
    idle.do()
    assert done == ["done"]
    assert "work that waited" in caplog.text
