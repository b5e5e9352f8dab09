"""The fuzzer below gRPC: connections that say damaged HTTP/2, or too much of it, to a real port."""

import contextlib
import random
import socket
import struct
from collections.abc import Callable

import http2
from fuzz_messages import INFER, damage, linear_request

GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + http2.frame(http2.SETTINGS, 0, 0)
_READ_S = 0.05


def right_call() -> bytes:
    """All that a client says who makes one call, of two streams."""
    data = http2.message(linear_request().SerializeToString())
    calls = [http2.request(stream, INFER) + http2.frame(http2.DATA, http2.END_STREAM, stream, data) for stream in (1, 3)]
    return GREETING + http2.frame(http2.SETTINGS, http2.ACK, 0) + b"".join(calls)


def damaged_connection(rng: random.Random, port: int) -> None:
    """Say something damaged, hear what comes, and hang up one way or another."""
    said = right_call()
    keep = rng.choice((0, 24, len(GREETING), len(GREETING) + 9))  # left as it is, for the rest to be read at all
    data = said[:keep] + damage(rng, said[keep:])
    with contextlib.suppress(OSError), http2.connect(port) as connection:
        if rng.random() < 0.2:  # a reset, and no end, when it is closed
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(data)
        if rng.random() < 0.5:
            connection.settimeout(_READ_S)
            connection.recv(1 << 16)


def _flood(port: int, data: bytes, times: int, greeting: bytes = GREETING) -> None:
    with contextlib.suppress(OSError), http2.connect(port) as connection:
        connection.sendall(greeting)
        for _ in range(times):
            connection.sendall(data)


def _resets(port: int) -> None:
    cancel = struct.pack(">I", 8)
    streams = range(1, 8001, 2)
    said = b"".join(http2.request(each, INFER) + http2.frame(http2.RESET, 0, each, cancel) for each in streams)
    _flood(port, said, 1)


def _silent(port: int) -> None:
    opened = [http2.connect(port) for _ in range(100)]
    for i, each in enumerate(opened):
        with contextlib.suppress(OSError):
            each.sendall(GREETING[: i % len(GREETING)])
    for each in opened:
        each.close()


# By name: what a hostile client does to a port.
ATTACKS: dict[str, Callable[[int], None]] = {
    "garbage": lambda port: _flood(port, random.Random(0).randbytes(4096), 200, b""),
    "http/1.1": lambda port: _flood(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 50, b""),
    "tls": lambda port: _flood(port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(508), 1, b""),
    "a greeting and no more": _silent,
    "opened and reset": _resets,
    "pings": lambda port: _flood(port, http2.frame(http2.PING, 0, 0, b"12345678") * 100, 200),
    "settings": lambda port: _flood(port, http2.frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 99)) * 100, 200),
    "headers without an end": lambda port: _flood(
        port, http2.frame(http2.CONTINUATION, 0, 1, http2.literal("a", "x" * 16_000)), 500,
        GREETING + http2.frame(http2.HEADERS, 0, 1, http2.literal(":method", "POST")),
    ),
    "large headers": lambda port: _flood(port, http2.request(1, INFER, ("k", "v" * 15_000)), 1),
    "windows": lambda port: _flood(port, http2.frame(http2.WINDOW, 0, 0, b"\x7f\xff\xff\xff"), 10),
    "empty data": lambda port: _flood(port, http2.frame(http2.DATA, 0, 1) * 100, 100, GREETING + http2.request(1, INFER)),
    "a length that lies": lambda port: _flood(
        port, http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"x", claimed=(1 << 32) - 1)), 1,
        GREETING + http2.request(1, INFER),
    ),
}  # fmt: skip
