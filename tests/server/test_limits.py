"""gRPC's limits against hostile clients: each attack is sent to a real transport, which then answers an honest client."""

import resource
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import http2
import pytest
from cutpoint.server.port.limits import channel_options
from cutpoint.server.port.transport import Call, Transport

MIB = 1 << 20
ECHO, STREAM = "/test.Service/Echo", "/test.Service/Stream"


class Echoing:
    """A transport with the server's options that says how many bytes came; for tests some options are shorter."""

    def __init__(self, **changed: int) -> None:
        self.streamed: list[tuple[int | None, bool]] = []
        given = dict(channel_options(8)) | {f"grpc.{name.replace('__', '.')}": value for name, value in changed.items()}
        self.transport = Transport({ECHO: self._echo, STREAM: self._stream}, tuple(given.items()))
        self.port = self.transport.listen("127.0.0.1:0")
        assert self.port
        self.transport.start()

    def __enter__(self) -> "Echoing":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.answers()
        finally:
            self.transport.stop(0)

    def answers(self) -> None:
        """An honest client is answered."""
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options) as channel:
            assert channel.unary_unary(ECHO)(b"12345", timeout=60) == b"5"

    @staticmethod
    def _echo(call: Call) -> None:
        call.read(lambda data: call.finish(b"none" if data is None else str(len(data)).encode()))

    def _stream(self, call: Call) -> None:
        def received(data: bytes | None) -> None:
            self.streamed.append((None if data is None else len(data), call.gone))
            if data is None:
                call.finish()
            else:
                call.send(str(len(data)).encode(), lambda ok: call.read(received) if ok else None)

        call.read(received)


@pytest.fixture
def server() -> Iterator[Echoing]:
    with Echoing() as echoing:
        yield echoing


def call(server: Echoing, method: str, data: Any, compression: grpc.Compression | None = None, metadata: Any = ()) -> Any:
    """Answer, or (code, details)."""
    options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options) as channel:
        try:
            if method == STREAM:
                return list(channel.stream_stream(method)(iter(data), compression=compression, timeout=60, metadata=metadata))
            return channel.unary_unary(method)(data, compression=compression, timeout=60, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, error.details()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_arrive_up_to_the_limit(server: Echoing, compression: grpc.Compression) -> None:
    for size in (0, 1, 1000, 100_000, 8 * MIB):
        assert call(server, ECHO, bytes(size), compression) == str(size).encode()
    code, details = call(server, ECHO, bytes(8 * MIB + 1), compression)
    assert code == "INVALID_ARGUMENT"
    assert "larger than max when inflated (8388608 bytes)" in details
    assert call(server, STREAM, [bytes(1000), b"", bytes(5000)], compression) == [b"1000", b"0", b"5000"]


def test_a_bomb_in_a_stream_ends_it_and_is_not_its_end(server: Echoing) -> None:
    code, details = call(server, STREAM, [bytes(3000), bytes(9 * MIB), bytes(5)], grpc.Compression.Gzip)
    assert code == "INVALID_ARGUMENT"
    assert "larger than max" in details
    assert server.streamed[0] == (3000, False)
    # The handler hears of the end when the call has ended, and sees that the caller's stream was not whole.
    until(lambda: len(server.streamed) == 2)
    assert server.streamed[1] == (None, True)


def test_a_bomb_takes_no_more_than_twice_the_limit(server: Echoing) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(256)) + packer.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with http2.Connection(server.port) as connection:
        for stream in (1, 3, 5, 7):
            connection.send(http2.request(stream, ECHO, ("grpc-encoding", "gzip")))
            connection.send_data(stream, http2.message(bomb, compressed=True))
        assert connection.wait(lambda: all(connection.over(stream) for stream in (1, 3, 5, 7)))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (
        grown_kib < 128 << 10
    )  # two at a time, each twice 8 MiB, and the bombs themselves; gRPC's own way takes 256 MiB and more


def test_too_many_pings_end_the_connection(server: Echoing) -> None:
    with http2.Connection(server.port) as connection:
        connection.send(http2.frame(http2.PING, 0, 0, b"12345678") * 10)
        assert connection.wait(lambda: connection.closed)
        assert b"too_many_pings" in b"".join(payload for _, _, _, payload in connection.of(http2.GOAWAY))


@pytest.mark.parametrize("with_call", [False, True])
def test_pings_at_the_allowed_pace_are_answered(with_call: bool) -> None:
    # gRPC's default would end this: five minutes between pings with a call, two hours without.
    with Echoing(http2__min_ping_interval_without_data_ms=1) as server, http2.Connection(server.port) as connection:
        if with_call:
            connection.send(http2.request(1, STREAM))
        for number in range(1, 21):
            sent_s = time.monotonic()
            connection.send(http2.frame(http2.PING, 0, 0, struct.pack(">Q", number)))
            assert connection.wait(lambda number=number: len([each for each in connection.of(http2.PING) if each[1]]) == number)
            until(lambda sent_s=sent_s: time.monotonic() > sent_s + 0.01)
        assert connection.of(http2.GOAWAY) == []


def test_whoever_answers_no_pings_is_cut_off() -> None:
    options = {"keepalive_time_ms": 100, "keepalive_timeout_ms": 100, "http2__ping_timeout_ms": 100}
    with Echoing(**options) as server, http2.Connection(server.port) as connection:
        connection.answer_pings = False
        connection.send(http2.request(1, STREAM))
        assert connection.wait(lambda: connection.closed)


def test_a_ping_is_waited_for_no_longer_than_said() -> None:
    given = dict(channel_options(8))  # the shorter of the two counts only where both are set
    assert given["grpc.http2.ping_timeout_ms"] == given["grpc.keepalive_timeout_ms"] < given["grpc.keepalive_time_ms"]


def test_whoever_says_nothing_is_cut_off() -> None:
    with Echoing(server_handshake_timeout_ms=100) as server:
        opened = [http2.connect(server.port) for _ in range(20)]
        for each in opened:
            each.settimeout(60)
            while each.recv(1000):
                pass
            each.close()


def test_idle_connections_are_closed_and_streams_are_not_idle() -> None:
    with (
        Echoing(max_connection_idle_ms=300) as server,
        http2.Connection(server.port) as idle,
        http2.Connection(server.port) as busy,
    ):
        busy.send(http2.request(1, STREAM))
        assert idle.wait(lambda: idle.closed or bool(idle.of(http2.GOAWAY)))
        busy.send_data(1, http2.message(b"123"), end=True)
        assert busy.wait(lambda: busy.over(1))


def test_streams_beyond_the_limit_are_refused(server: Echoing) -> None:
    with http2.Connection(server.port) as connection:
        limit = connection.settings[http2.MAX_STREAMS]
        assert limit == 1024
        for number in range(limit + 100):
            connection.send(http2.request(2 * number + 1, ECHO))
        assert connection.wait(lambda: len(connection.of(http2.RESET)) == 100)
        assert {struct.unpack(">I", payload)[0] for *_, payload in connection.of(http2.RESET)} == {http2.REFUSED_STREAM}
        server.answers()


def test_opening_and_resetting_does_not_keep_others_waiting(server: Echoing) -> None:
    reset = struct.pack(">I", 8)
    with http2.Connection(server.port) as connection:
        for number in range(20_000):
            stream = 2 * number + 1
            if not connection.send(http2.request(stream, STREAM) + http2.frame(http2.RESET, 0, stream, reset)):
                break
        server.answers()
    until(lambda: len(server.transport._calls) == 0)


def test_headers_have_a_limit(server: Echoing) -> None:
    assert call(server, ECHO, b"1", metadata=(("k", "v" * 7000),)) == b"1"
    for size in (20_000, 200_000):
        code, details = call(server, ECHO, b"1", metadata=(("k", "v" * size),))
        assert (code, "exceeds" in details) == ("RESOURCE_EXHAUSTED", True)


def test_headers_without_an_end_take_no_memory(server: Echoing) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    more = http2.frame(http2.CONTINUATION, 0, 1, http2.literal("a", "x" * 16_000))
    with http2.Connection(server.port) as connection:
        connection.send(http2.frame(http2.HEADERS, 0, 1, http2.literal(":method", "POST")))
        for _ in range(5000):
            if not connection.send(more):
                break
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # 80 MB were sent


def test_other_floods_do_no_harm(server: Echoing) -> None:
    for blob in (
        http2.frame(http2.SETTINGS, 0, 0),
        http2.frame(2, 0, 1, b"\0\0\0\0\1"),  # PRIORITY
        http2.frame(http2.WINDOW, 0, 0, b"\0\0\0\1"),
        http2.frame(http2.RESET, 0, 1, b"\0\0\0\1"),
        http2.frame(http2.DATA, 0, 0),
        http2.frame(200, 0, 0, b"unknown"),
    ):
        with http2.Connection(server.port) as connection:
            for _ in range(100):
                if not connection.send(blob * 200):
                    break
        server.answers()


def test_a_message_that_is_too_large_or_ends_early_is_refused(server: Echoing) -> None:
    assert call(server, ECHO, bytes(8 * MIB)) == b"8388608"
    code, details = call(server, ECHO, bytes(8 * MIB + 1))
    assert (code, "larger than max" in details) == ("RESOURCE_EXHAUSTED", True)
    with http2.Connection(server.port) as connection:
        connection.send(http2.request(1, ECHO))
        connection.send_data(1, http2.message(b"x", claimed=100))
        assert connection.wait(lambda: connection.over(1))


def test_an_unknown_compression_is_told_so(server: Echoing) -> None:
    with http2.Connection(server.port) as connection:
        connection.send(http2.request(1, ECHO, ("grpc-encoding", "snappy")))
        connection.send_data(1, http2.message(b"x", compressed=True))
        assert connection.wait(lambda: connection.over(1))


def test_the_number_of_connections_leaves_files_for_the_rest() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        for files, wanted in ((512, 384), (100, 16)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            assert dict(channel_options(1))["grpc.max_allowed_incoming_connections"] == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert dict(channel_options(1))["grpc.max_allowed_incoming_connections"] <= 10_000


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    with Echoing(max_allowed_incoming_connections=5) as server:
        held = [http2.Connection(server.port) for _ in range(4)]
        try:
            more = [http2.connect(server.port) for _ in range(5)]
            closed = 0
            for each in more:
                each.settimeout(1)
                try:
                    closed += each.recv(1000) == b""
                except (TimeoutError, ConnectionError) as error:
                    closed += not isinstance(error, TimeoutError)
                each.close()
            assert closed >= 3
        finally:
            for connection in held:
                connection.__exit__(None, None, None)
        until(lambda: threading.active_count() < 50)


def until(found: Any) -> None:
    """Ask again until it is so."""
    end_s = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end_s
