"""What may come in: decided before a request is read, so that refusing costs nothing and a flood stays in the network."""

import threading
from collections import deque
from collections.abc import Callable

from cutpoint.errors import Overloaded

from .transport import Call

# A message that is still to come is reckoned as the largest of late; each one that was smaller lowers that by so much.
_FORGET = 0.995
_LEAST_BYTES = 1 << 16


class Admission:
    """Bounds how many requests, and how many bytes of them, one server holds at a time.

    A request within the bounds is read at once. One beyond the bytes waits unread, where gRPC's flow control keeps its body at
    the sender; one beyond the number is refused. Thread-safe.
    """

    def __init__(self, max_requests: int, max_bytes: int, largest: int) -> None:
        """Hold `max_requests` at most, read and unread, and `max_bytes` of messages, each of at most `largest` bytes."""
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._expected = float(min(largest, max_bytes))
        self._lock = threading.Lock()
        self._unread: deque[Callable[[], None]] = deque()
        self._requests = 0
        self._reading = 0
        self.held_bytes = 0

    def enter(self, call: Call, then: Callable[[bytes], None]) -> None:
        """Read the one message of `call` once there is room for it, and give it to `then`.

        Whoever gets the message says `leave(len(message))` when it has been answered.

        Raises:
            Overloaded: too many requests are here already; nothing was read.
        """

        def received(message: bytes | None) -> None:
            with self._lock:
                self._reading -= 1
                if message is None:
                    self._requests -= 1
                else:
                    self.held_bytes += len(message)
                    self._expected = max(len(message), self._expected * _FORGET, _LEAST_BYTES)
                next_ones = self._admit()
            for start in next_ones:
                start()
            if message is not None:
                then(message)

        def read() -> None:
            call.read(received)

        with self._lock:
            if self._requests >= self._max_requests:
                raise Overloaded(f"{self._requests} requests are being answered, as many as may be; retry later")
            self._requests += 1
            self._unread.append(read)
            next_ones = self._admit()
        for start in next_ones:
            start()

    def leave(self, size: int) -> None:
        """A message of `size` bytes has been answered."""
        with self._lock:
            self._requests -= 1
            self.held_bytes -= size
            next_ones = self._admit()
        for start in next_ones:
            start()

    @property
    def full(self) -> bool:
        """Whether as many bytes are held as may be."""
        return self.held_bytes >= self._max_bytes

    def hold(self, size: int) -> None:
        """A message of a stream came: count its bytes; the stream itself is no request, and reads on while there is room."""
        with self._lock:
            self.held_bytes += size

    def release(self, size: int) -> None:
        """A message of a stream was answered."""
        with self._lock:
            self.held_bytes -= size
            next_ones = self._admit()
        for start in next_ones:
            start()

    def _admit(self) -> list[Callable[[], None]]:
        """Those that may be read now, in the order that they came."""
        found = []
        while self._unread and (
            (self._reading == 0 and self.held_bytes < self._max_bytes)
            or self.held_bytes + (self._reading + 1) * self._expected <= self._max_bytes
        ):
            found.append(self._unread.popleft())
            self._reading += 1
        return found
