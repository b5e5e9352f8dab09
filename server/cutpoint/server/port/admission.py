"""What may come in: decided before a request is read, so that refusing costs nothing and a flood stays in the network."""

import threading
import time
from collections.abc import Callable

import grpc
from cutpoint.errors import DeadlineExceeded, Overloaded
from cutpoint.wire import REASON_KEY, status_of

from .limits import WINDOW_BYTES
from .transport import Call

# A message that is still to come is reckoned as the largest of late; each one that was smaller lowers that by so much.
_FORGET = 0.995
_LEAST_BYTES = 1 << 16
_LEAST_UNREAD = 64
NO_MESSAGE = '"{}" requires exactly one request message.'  # as grpc's own servers say it


def _in_a_thread(seconds: float, work: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, work)
    timer.daemon = True
    timer.start()


class Admission:
    """Bounds how many requests, and how many bytes of them, one server holds at a time.

    A request within the bounds is read at once. One beyond the bytes waits unread, where gRPC's flow control keeps its body at
    the sender; one beyond the number is refused. Thread-safe.
    """

    def __init__(
        self,
        max_requests: int,
        max_bytes: int,
        largest: int,
        *,
        read_s: float = 10.0,
        now_s: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], None] = _in_a_thread,
    ) -> None:
        """Hold `max_requests` at most, read and unread, and `max_bytes` of messages, each of at most `largest` bytes.

        Args:
            max_requests: how many requests.
            max_bytes: how many bytes of them.
            largest: bytes of one message.
            read_s: while others wait to be read, a message has to arrive within so many seconds; its call ends otherwise.
            now_s: a steady clock, in seconds.
            later: calls what it is given after so many seconds.
        """
        self._later, self._watching = later, False
        self._read_s, self._now_s = read_s, now_s
        # Each may have sent its window: together no more than what is read may be.
        self._max_unread = max(_LEAST_UNREAD, max_bytes // WINDOW_BYTES)
        self._arriving: dict[Call, float] = {}  # since when, the oldest first
        self._max_requests, self._max_bytes = max_requests, max_bytes
        self._expected = float(min(largest, max_bytes))
        self._lock = threading.Lock()
        self._unread: dict[Call, Callable[[], None]] = {}  # in the order that they came
        self._streams: dict[object, Callable[[], None]] = {}
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
            if message is None:  # the caller has gone, or sent none: then it is told so
                call.finish(code=grpc.StatusCode.UNIMPLEMENTED, details=NO_MESSAGE.format(call.method))
            with self._lock:
                self._reading -= 1
                self._arriving.pop(call, None)
                if message is None:
                    self._requests -= 1
                else:
                    self.held_bytes += len(message)
                    self._expected = max(len(message), self._expected * _FORGET, _LEAST_BYTES)
                next_ones = self._admit() if self._unread or self._streams else ()
            for start in next_ones:
                start()
            if message is not None:
                then(message)

        def read() -> None:
            call.read(received)

        with self._lock:
            if self._requests >= self._max_requests:
                raise Overloaded(f"{self._requests} requests are being answered, as many as may be; retry later")
            if len(self._unread) >= self._max_unread:
                raise Overloaded(f"{len(self._unread)} requests wait to be read, as many as may; retry later")
            self._requests += 1
            self._unread[call] = read
            next_ones = self._admit()
            waits = call in self._unread
            late = self._late() if waits else []
        for start in next_ones:
            start()
        self._give_up(late)
        if waits:
            call.on_gone(lambda: self._forget(call))
            self._watch()

    def _watch(self) -> None:
        """Look again when those that are arriving now have had their time, as long as somebody waits for theirs to end."""
        with self._lock:
            if self._watching or not self._unread:
                return
            self._watching = True
        self._later(self._read_s, self._look)

    def _look(self) -> None:
        with self._lock:
            self._watching = False
            late = self._late() if self._unread else []
        self._give_up(late)
        self._watch()

    def _give_up(self, late: list[Call]) -> None:
        """End these calls, which makes their room free: their reads end."""
        for slow in late:
            error = DeadlineExceeded(f"the message did not arrive within {self._read_s:g} s, and others wait")
            slow.finish(code=status_of(error), details=str(error), trailing=((REASON_KEY, error.reason),))

    def leave(self, size: int) -> None:
        """A message of `size` bytes has been answered."""
        with self._lock:
            self._requests -= 1
            self.held_bytes -= size
            next_ones = self._admit() if self._unread or self._streams else ()
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

    def hold_back(self, stream: object, go_on: Callable[[], None]) -> bool:
        """Whether `stream` may not read now; then `go_on` is called once there is room."""
        with self._lock:
            if not self.full:
                return False
            self._streams[stream] = go_on
            return True

    def release(self, size: int) -> None:
        """A message of a stream was answered."""
        with self._lock:
            self.held_bytes -= size
            next_ones = self._admit() if self._unread or self._streams else ()
        for start in next_ones:
            start()

    def _forget(self, call: Call) -> None:
        """A caller left; if unread, it makes room for others who would be refused."""
        with self._lock:
            if self._unread.pop(call, None) is not None:
                self._requests -= 1

    def _late(self) -> list[Call]:
        """Those whose message has been arriving for too long; each is named once."""
        before_s = self._now_s() - self._read_s
        found = []
        for call, since_s in self._arriving.items():
            if since_s > before_s:
                break
            found.append(call)
        for call in found:
            del self._arriving[call]
        return found

    def _admit(self) -> list[Callable[[], None]]:
        """Those that may be read now, in the order that they came."""
        found: list[Callable[[], None]] = []
        if self._streams and not self.full:
            found.extend(self._streams.values())
            self._streams.clear()
        while self._unread and (
            (self._reading == 0 and self.held_bytes < self._max_bytes)
            or self.held_bytes + (self._reading + 1) * self._expected <= self._max_bytes
        ):
            call = next(iter(self._unread))
            found.append(self._unread.pop(call))
            self._arriving[call] = self._now_s()
            self._reading += 1
        return found
