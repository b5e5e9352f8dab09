"""gRPC without an event loop: C-core's completion queue, driven by one serving thread.

grpc.aio spends more on a small request than the model does (two threads, a socket pair and several futures a call). Here the
thread that polls is the thread that parses and queues, and whoever has the answer sends it, from any thread. This module is
the only one that knows `grpc._cython.cygrpc`, on which grpc's own server is written. It is private: whoever raises the versions
of grpcio in pyproject.toml runs the server's tests with the oldest and the newest of them.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from cutpoint.errors import BadRequest
from cutpoint.wire import REASON_KEY, status_of
from grpc._cython import cygrpc  # type: ignore[attr-defined,unused-ignore]

from .compression import inflate, is_compressed

log = logging.getLogger("cutpoint.server")

_CODES = {code: code.value[0] for code in grpc.StatusCode}
# The caller's deadline passes a little before ours, which began when the request arrived, and its cancellation may be first.
_TRANSIT_S = 0.01
_UNFORESEEN = "internal error; the server's log has the details"
# Bytes of a status's text: gRPC writes three characters for one that is not plain ASCII, and clients drop an answer whose
# trailing metadata exceed 8 KiB, and with it the status.
_LONGEST_TEXT = 2000
# How long calls that were cut off may take to be told so, in seconds: they are told in microseconds.
_CLOSE_S = 10.0
_REQUESTED = object()  # tag: a new call
_SHUT_DOWN = object()  # tag: no call is left


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
                self._tell(then, message)

        with self._lock:
            begun = self._begin((cygrpc.ReceiveMessageOperation(0),), received)
        if not begun:
            then(None)

    def send(self, message: bytes, then: Callable[[bool], None] | None = None) -> None:
        """Send one message of a stream; the next one only after `then(ok)`."""

        def sent(event: Any) -> None:
            if then is not None:
                self._tell(then, bool(event.success))

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
                self._tell(then, None)
            else:
                self.on_gone(lambda: then(None))

        with self._lock:
            head = self._head()
            begun = bool(head) and self._begin(head, headed)
        if not begun:
            self._tell(then, None)

    def _inflate(self, message: bytes, then: Callable[[bytes | None], None]) -> None:
        """Give `then` what a message holds; the call ends where that is too much, or damaged."""
        try:
            found = inflate(message, self._transport.max_inflated_bytes)
        except BadRequest as error:
            self._broken = True  # `then` is told once the call has ended: before, None would be the end of a whole stream
            self.finish(code=status_of(error), details=str(error), trailing=((REASON_KEY, error.reason),))
            self.on_gone(lambda: then(None))
        else:
            self._tell(then, found)

    def _tell(self, then: Callable[[Any], None], value: Any) -> None:
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


class Transport:
    """One port, or several, and the thread that serves them."""

    def __init__(self, handlers: Mapping[str, Callable[[Call], None]], options: tuple[tuple[str, Any], ...]) -> None:
        """Nothing listens yet.

        Args:
            handlers: what answers a call, by method; called on the serving thread, and must not block.
            options: channel arguments. With "grpc.per_message_decompression" 0 compressed messages are inflated here, up to
                "grpc.max_receive_message_length".
        """
        given = dict(options)
        self.max_inflated_bytes = 0
        if given.get("grpc.per_message_decompression") == 0:
            self.max_inflated_bytes = int(given["grpc.max_receive_message_length"])
        # Not the serving thread: 60 KB that hold 64 MB take 50 ms. Two, since each may take twice the largest message.
        self.inflating = ThreadPoolExecutor(2, "inflating")
        self._handlers = dict(handlers)
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(options, False)
        self._server.register_completion_queue(self._queue)
        self._thread = threading.Thread(target=self._serve, name="serving", daemon=True)
        self._calls: set[Call] = set()
        self._idle = threading.Condition()
        self._accepting = False
        self.stopping = False
        self._down = threading.Event()

    def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Bind "host:port", over TLS with `credentials`; the port, 0 where it cannot be bound."""
        try:
            if credentials is None:
                return int(self._server.add_http2_port(address.encode()))
            return int(self._server.add_http2_port(address.encode(), credentials._credentials))  # type: ignore[attr-defined,unused-ignore]
        except RuntimeError:
            return 0

    def start(self) -> None:
        """Serve from now on."""
        self._server.start()
        self._accepting = True
        self._request()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Take no more calls, let those accepted end within `grace_s`, cut the rest off, and return when all is closed.

        Calls with `on_stop` are asked to end first.
        """
        with self._idle:
            self.stopping = True
            endless = [call.on_stop for call in self._calls if call.on_stop is not None]
        self._server.shutdown(self._queue, _SHUT_DOWN)
        for ask in endless:
            ask()
        with self._idle:
            self._idle.wait_for(lambda: not (self._calls or self._accepting), grace_s)
        self._server.cancel_all_calls()
        self._down.wait()
        with self._idle:
            self._idle.wait_for(lambda: not self._calls, _CLOSE_S)
        self._server.destroy()
        self._queue.shutdown()
        self._thread.join()
        self.inflating.shutdown()

    def stops(self, call: Call, callback: Callable[[], None] | None) -> bool:
        """Have `callback` called when the server begins to stop; True where it has begun, and nobody else will call it."""
        with self._idle:
            call._on_stop = callback
            return self.stopping

    def calls(self) -> list[Call]:
        """Those that have not ended."""
        with self._idle:
            return list(self._calls)

    def forget(self, call: Call) -> None:
        """The call has ended on the wire."""
        with self._idle:
            self._calls.discard(call)
            if self.stopping:
                self._idle.notify_all()

    def _request(self) -> None:
        self._server.request_call(self._queue, self._queue, _REQUESTED)

    def _serve(self) -> None:
        poll, accept = self._queue.poll, self._accept
        while True:
            event = poll()
            tag = event.tag
            try:
                if tag is _REQUESTED:
                    accept(event)
                elif tag is _SHUT_DOWN:
                    self._down.set()
                elif tag is not None:
                    tag(event)
                elif event.completion_type == cygrpc.CompletionType.queue_shutdown:
                    return
            except Exception:
                log.exception("the serving thread met an error that nobody foresaw")
            # An event keeps its call alive, and polling while it does makes C-core spin.
            event = tag = None

    def _accept(self, event: Any) -> None:
        call = Call(event, self) if event.success else None
        with self._idle:
            if call is not None:
                self._calls.add(call)
            # The last call may come when stopping has begun: it is answered like those before it.
            if self.stopping or call is None:
                self._accepting = False
                self._idle.notify_all()
            else:
                self._request()
        if call is None:
            return
        handler = self._handlers.get(call.method)
        if handler is None:
            call.finish(code=grpc.StatusCode.UNIMPLEMENTED, details="Method not found!")
            return
        call._tell(handler, call)


def _ignore(event: Any) -> None:
    """For operations whose end nobody waits for."""
