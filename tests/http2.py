"""HTTP/2 by hand, for what no gRPC client does: frames as a hostile client would send them."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_STREAMS, INITIAL_WINDOW = 3, 4
REFUSED_STREAM = 7
WAIT_S = 60.0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """RFC 9113, section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header that is not indexed (RFC 7541, section 6.2.2)."""
    return b"\0" + _string(name.encode()) + _string(value.encode())


def request(stream: int, method: str, *more: tuple[str, str]) -> bytes:
    """The HEADERS of a gRPC call."""
    fields = (
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "test"),
        ("content-type", "application/grpc"), ("te", "trailers"), *more,
    )  # fmt: skip
    return frame(HEADERS, END_HEADERS, stream, b"".join(literal(*field) for field in fields))


def message(data: bytes, *, compressed: bool = False, claimed: int | None = None) -> bytes:
    """A gRPC message as it stands in DATA; `claimed` is a length that lies."""
    return struct.pack(">BI", compressed, len(data) if claimed is None else claimed) + data


def connect(port: int) -> socket.socket:
    """A connection on which nothing was said."""
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)


class Connection:
    """One connection, whose frames are read by a thread of its own."""

    def __init__(self, port: int, settings: dict[int, int] | None = None) -> None:
        """Connect and greet, with settings of the client's."""
        self._socket = connect(port)
        self._changed = threading.Condition()
        self.frames: list[tuple[int, int, int, bytes]] = []
        self.settings: dict[int, int] = {}
        self.closed = False
        self.answer_pings = True
        self._window, self._windows = 65535, {0: 0}
        greeting = b"".join(struct.pack(">HI", *setting) for setting in (settings or {}).items())
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, greeting))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self.wait(lambda: bool(self.settings))
        self.send(frame(SETTINGS, ACK, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):  # the server may have hung up
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def send(self, data: bytes) -> bool:
        """False where the server has hung up."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def send_data(self, stream: int, data: bytes, *, end: bool = True, wait_s: float = WAIT_S) -> int:
        """DATA within what flow control allows; the bytes that the server took before the call ended or nothing moved."""
        sent = 0
        while sent < len(data):
            if not self.wait(lambda: self._room(stream) > 0 or self.over(stream) or self.closed, wait_s) or self.over(stream):
                break
            with self._changed:
                size = min(16384, self._room(stream), len(data) - sent)
                self._window -= size
                self._windows[stream] = self._windows.get(stream, 0) - size
            flags = END_STREAM if end and sent + size == len(data) else 0
            if size <= 0 or not self.send(frame(DATA, flags, stream, data[sent : sent + size])):
                break
            sent += size
        return sent

    def wait(self, found: Callable[[], bool], wait_s: float = WAIT_S) -> bool:
        """Until `found()`; False where the time runs out."""
        with self._changed:
            return self._changed.wait_for(found, wait_s)

    def of(self, kind: int) -> list[tuple[int, int, int, bytes]]:
        """The frames of a kind that came."""
        return [each for each in self.frames if each[0] == kind]

    def over(self, stream: int) -> bool:
        """Whether a call has ended: reset, or its trailers came."""
        return any(each[2] == stream and (each[0] == RESET or each[1] & END_STREAM) for each in self.frames)

    def trailers(self, stream: int) -> bytes:
        """The last headers of a call, as they came; names and values are in them as plain text, or in Huffman's code."""
        return b"".join(each[3] for each in self.frames if each[2] == stream and each[0] == HEADERS)

    def _room(self, stream: int) -> int:
        return min(self._window, self.settings.get(INITIAL_WINDOW, 65535) + self._windows.get(stream, 0))

    def _read(self) -> None:
        buffer = b""
        while True:
            while len(buffer) >= 9 and len(buffer) >= 9 + int.from_bytes(buffer[:3], "big"):
                size = int.from_bytes(buffer[:3], "big")
                self._take(buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big"), buffer[9 : 9 + size])
                buffer = buffer[9 + size :]
            try:
                more = self._socket.recv(1 << 16)
            except OSError:
                more = b""
            if not more:
                break
            buffer += more
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        with self._changed:
            if kind == WINDOW and stream:
                self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(payload, "big")
            elif kind == WINDOW:
                self._window += int.from_bytes(payload, "big")
            elif kind == SETTINGS and not flags & ACK:
                for start in range(0, len(payload), 6):
                    name, value = struct.unpack(">HI", payload[start : start + 6])
                    self.settings[name] = value
            elif kind == PING and not flags & ACK and self.answer_pings:
                self.send(frame(PING, ACK, 0, payload))
            self.frames.append((kind, flags, stream, payload))
            self._changed.notify_all()


def _string(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes((len(data),)) + data
    rest, size = len(data) - 127, b"\x7f"
    while rest >= 128:
        size, rest = size + bytes((rest % 128 + 128,)), rest // 128
    return size + bytes((rest,)) + data
