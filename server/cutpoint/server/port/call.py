"""One RPC, from its first byte to its last, whatever thread it is answered from."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from cutpoint.errors import BadRequest
from cutpoint.wire import REASON_KEY, status_of
from grpc._cython import cygrpc  # type: ignore[attr-defined,unused-ignore]

from .compression import inflate, is_compressed

if TYPE_CHECKING:
    from .transport import Transport

log = logging.getLogger("cutpoint.server")

_CODES = {code: code.value[0] for code in grpc.StatusCode}
# The caller's deadline passes a little before ours, which began when the request arrived, and its cancellation may be first.
_TRANSIT_S = 0.01
_UNFORESEEN = "internal error; the server's log has the details"
# Bytes of a status's text: gRPC writes three characters for one that is not plain ASCII, and clients drop an answer whose
# trailing metadata exceed 8 KiB, and with it the status.
_LONGEST_TEXT = 2000


class Call:
    """One RPC, whatever its kind; every method may be called from any thread.

    Callbacks come on the serving thread, or at once, on the thread that asks, where the call has ended already; those of
    messages that came compressed on another. One that raises ends the call as INTERNAL.

    Attributes:
        method: "/package.Service/Method".
        metadata: what the caller sent along, (key, value) pairs.
        deadline: when the caller stops waiting, in `time.monotonic()` seconds; None for never.
        caller: who calls, as far as the server's guard found out; empty before.
        gone: whether the call has ended on the wire: answered and sent, cancelled, too late, or the connection is lost.
        done: told the status code, once, when the call is answered or its caller is gone.
    """

    __slots__ = (
        "_broken", "_call", "_calling_back", "_ending", "_headed", "_lock", "_on_stop", "_status", "_transport", "caller",
        "deadline", "done", "gone", "metadata", "method",
    )  # fmt: skip

    def __init__(self, event: Any, transport: "Transport") -> None:
        """Take over the call of a request event; `transport` is told when it has ended on the wire."""
        details = event.call_details
        self._call = event.call
        self.method = details.method.decode("latin-1")
        self.metadata: tuple[tuple[str, str | bytes], ...] = tuple(event.invocation_metadata)
        left_s = details.deadline - time.time() if details.deadline is not None else float("inf")
        self.deadline = time.monotonic() + left_s if left_s < 1e9 else None
        self.caller = ""
        self.gone = False
        self.done: Callable[[grpc.StatusCode], None] | None = None
        self._transport = transport
        self._on_stop: Callable[[], None] | None = None
        self._broken = self._headed = False
        self._status: grpc.StatusCode | None = None
        self._calling_back: list[Callable[[], None]] = []
        self._ending: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(0),), self._on_close)

    @property
    def peer(self) -> str:
        """Where the caller is, as gRPC writes it."""
        found = self._call.peer()
        return found.decode() if isinstance(found, bytes) else str(found)

    @property
    def on_stop(self) -> Callable[[], None] | None:
        """Called when the server begins to stop, at once where it has begun; for calls without an end of their own."""
        return self._on_stop

    @on_stop.setter
    def on_stop(self, callback: Callable[[], None] | None) -> None:
        if self._transport.stops(self, callback) and callback is not None:
            callback()

    def identities(self) -> tuple[str, ...]:
        """Names in the client's certificate (common name and alternative names); empty without mutual TLS."""
        found = cygrpc.auth_context(self._call)
        names = [*(found.get(b"x509_common_name") or ()), *(found.get(b"x509_subject_alternative_name") or ())]
        return tuple(name.decode("utf-8", "replace") for name in names)

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the caller leaves before the answer has been sent; at once where the call has ended."""
        with self._lock:
            if not self.gone:
                self._calling_back.append(callback)
                return
        callback()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the call has ended on the wire: the answer is sent, or nobody waits for it."""
        with self._lock:
            if not self.gone:
                self._ending.append(callback)
                return
        callback()

    def read(self, then: Callable[[bytes | None], None]) -> None:
        """Have the next message given to `then`; None at the end of the caller's stream. One read at a time.

        While nothing is read, gRPC's flow control holds the sender back. None comes of a caller who is gone too, and `gone` is
        True by then, unless something was sent before.
        """

        def received(event: Any) -> None:
            message = event.batch_operations[0].message()
            if message is None:
                self._make_sure(then)
            elif self._transport.max_inflated_bytes and is_compressed(message):
                self._transport.inflating.submit(self._inflate, message, then)
            else:
                self.tell(then, message)

        with self._lock:
            begun = self._begin((cygrpc.ReceiveMessageOperation(0),), received)
        if not begun:
            then(None)

    def send(self, message: bytes, then: Callable[[bool], None] | None = None) -> None:
        """Send one message of a stream; the next one only after `then(ok)`."""

        def sent(event: Any) -> None:
            if then is not None:
                self.tell(then, bool(event.success))

        with self._lock:
            begun = self._begin((*self._head(), cygrpc.SendMessageOperation(message, 0)), sent)
        if not begun and then is not None:
            then(False)

    def finish(
        self,
        message: bytes | None = None,
        code: grpc.StatusCode = grpc.StatusCode.OK,
        details: str = "",
        trailing: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Answer, with a last message where there is one, and a status. What is said after the first time is ignored."""
        last = () if message is None else (cygrpc.SendMessageOperation(message, 0),)
        text = details.encode("utf-8", "replace")
        if len(text) > _LONGEST_TEXT:
            text = text[:_LONGEST_TEXT].decode("utf-8", "ignore").encode()
        status = cygrpc.SendStatusFromServerOperation(trailing or None, _CODES[code], text, 0)
        with self._lock:
            if self._status is not None:
                return
            self._status = code
        self._say_done(code)  # before it is sent: whoever has the answer finds it counted
        with self._lock:
            self._begin((*self._head(), *last, status), _ignore)

    def _head(self) -> tuple[Any, ...]:
        """What goes before everything else; the lock is held."""
        head, self._headed = () if self._headed else (cygrpc.SendInitialMetadataOperation(None, 0),), True
        return head

    def _begin(self, operations: tuple[Any, ...], then: Callable[[Any], None]) -> bool:
        """Start operations, with the lock held; False where the call has ended: then `then` is not called.

        A stopped transport's queue takes nothing more (C-core aborts the process), and all its calls have ended before.
        """
        return not self.gone and self._call.start_server_batch(operations, then) == 0

    def _make_sure(self, then: Callable[[bytes | None], None]) -> None:
        """Nothing more comes: the caller said so, or it left, which C-core may report a moment later.

        What is sent after a caller has left does not arrive, so sending the head tells the two apart.
        """

        def headed(event: Any) -> None:
            if event.success:
                self.tell(then, None)
            else:
                self.on_gone(lambda: then(None))

        with self._lock:
            head = self._head()
            begun = bool(head) and self._begin(head, headed)
        if not begun:
            self.tell(then, None)

    def _inflate(self, message: bytes, then: Callable[[bytes | None], None]) -> None:
        """Give `then` what a message holds; the call ends where that is too much, or damaged."""
        try:
            found = inflate(message, self._transport.max_inflated_bytes)
        except BadRequest as error:
            self._broken = True  # `then` is told once the call has ended: before, None would be the end of a whole stream
            self.finish(code=status_of(error), details=str(error), trailing=((REASON_KEY, error.reason),))
            self.on_gone(lambda: then(None))
        else:
            self.tell(then, found)

    def tell(self, then: Callable[[Any], None], value: Any) -> None:
        """Call `then` with `value`; an error that it raises ends the call as INTERNAL."""
        try:
            then(value)
        except Exception:
            log.exception("%s failed", self.method)
            self._broken = True
            self.finish(code=grpc.StatusCode.INTERNAL, details=_UNFORESEEN)

    def _say_done(self, code: grpc.StatusCode) -> None:
        if self.done is not None:
            try:
                self.done(code)
            except Exception:
                log.exception("%s could not be counted", self.method)

    def _on_close(self, event: Any) -> None:
        """The call has ended on the wire: it was answered, or nobody waits any more."""
        cancelled = bool(event.batch_operations[0].cancelled())
        with self._lock:
            found = self._status
            if found is None:
                late = self.deadline is not None and time.monotonic() >= self.deadline - _TRANSIT_S
                self._status = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            self.gone = True
            callbacks, self._calling_back = self._calling_back, []
            ending, self._ending = self._ending, []
            status = self._status
        if found is None and status is not None:
            self._say_done(status)
        left = cancelled or found is None or self._broken
        for callback in (*(callbacks if left else ()), *ending):
            try:
                callback()
            except Exception:
                log.exception("%s failed after its end", self.method)
        self._transport.forget(self)


def _ignore(event: Any) -> None:
    """For operations whose end nobody waits for."""
