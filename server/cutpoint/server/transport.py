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
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined,unused-ignore]

log = logging.getLogger("cutpoint.server")

_CODES = {code: code.value[0] for code in grpc.StatusCode}
# The caller's deadline passes a little before ours, which began when the request arrived, and its cancellation may be first.
_TRANSIT_S = 0.01
_REQUESTED = object()  # tag: a new call
_SHUT_DOWN = object()  # tag: no call is left


class Call:
    """One RPC, whatever its kind; every method may be called from any thread, callbacks come on the serving thread.

    Attributes:
        method: "/package.Service/Method".
        metadata: what the caller sent along, (key, value) pairs.
        deadline: when the caller stops waiting, in `time.monotonic()` seconds; None for never.
        gone: whether nobody waits any more: cancelled, too late, or the connection is lost.
        done: told the status code, once, when the call is answered or its caller is gone.
        on_stop: called when the server begins to stop; for calls without an end of their own.
    """

    __slots__ = (
        "_call", "_calling_back", "_closed", "_headed", "_lock", "_status", "deadline", "done", "gone", "metadata", "method",
        "on_stop",
    )  # fmt: skip

    def __init__(self, event: Any, closed: Callable[["Call"], None]) -> None:
        """Take over the call of a request event; `closed` is told when it has ended on the wire."""
        details = event.call_details
        self._call = event.call
        self.method = details.method.decode("latin-1")
        self.metadata: tuple[tuple[str, str | bytes], ...] = tuple(event.invocation_metadata)
        left_s = details.deadline - time.time() if details.deadline is not None else float("inf")
        self.deadline = time.monotonic() + left_s if left_s < 1e9 else None
        self.gone = False
        self.done: Callable[[grpc.StatusCode], None] | None = None
        self.on_stop: Callable[[], None] | None = None
        self._closed = closed
        self._headed = False
        self._status: grpc.StatusCode | None = None
        self._calling_back: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(0),), self._on_close)

    @property
    def peer(self) -> str:
        """Where the caller is, as gRPC writes it."""
        found = self._call.peer()
        return found.decode() if isinstance(found, bytes) else str(found)

    def identities(self) -> tuple[str, ...]:
        """Names in the client's certificate (common name and alternative names); empty without mutual TLS."""
        found = cygrpc.auth_context(self._call)
        names = [*(found.get("x509_common_name") or ()), *(found.get("x509_subject_alternative_name") or ())]
        return tuple(name.decode("utf-8", "replace") for name in names)

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the caller is gone; at once where it is gone already."""
        with self._lock:
            if not self.gone:
                self._calling_back.append(callback)
                return
        callback()

    def read(self, then: Callable[[bytes | None], None]) -> None:
        """Have the next message given to `then`; None at the end of the caller's stream. One read at a time.

        While nothing is read, gRPC's flow control holds the sender back.
        """

        def received(event: Any) -> None:
            then(event.batch_operations[0].message())

        self._start((cygrpc.ReceiveMessageOperation(0),), received)

    def send(self, message: bytes, then: Callable[[bool], None] | None = None) -> None:
        """Send one message of a stream; the next one only after `then(ok)`."""
        with self._lock:
            head, self._headed = () if self._headed else (cygrpc.SendInitialMetadataOperation(None, 0),), True

        def sent(event: Any) -> None:
            if then is not None:
                then(bool(event.success))

        self._start((*head, cygrpc.SendMessageOperation(message, 0)), sent)

    def finish(
        self,
        message: bytes | None = None,
        code: grpc.StatusCode = grpc.StatusCode.OK,
        details: str = "",
        trailing: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Answer, with a last message where there is one, and a status. What is said after the first time is ignored."""
        with self._lock:
            if self._status is not None:
                return
            self._status = code
            head, self._headed = self._headed, True
        operations: list[Any] = [] if head else [cygrpc.SendInitialMetadataOperation(None, 0)]
        if message is not None:
            operations.append(cygrpc.SendMessageOperation(message, 0))
        operations.append(cygrpc.SendStatusFromServerOperation(trailing or None, _CODES[code], details.encode(), 0))
        if self.done is not None:
            self.done(code)
        self._start(tuple(operations), _ignore)

    def _start(self, operations: tuple[Any, ...], then: Callable[[Any], None]) -> None:
        self._call.start_server_batch(operations, then)

    def _on_close(self, event: Any) -> None:
        """The call has ended on the wire: it was answered, or nobody waits any more."""
        cancelled = bool(event.batch_operations[0].cancelled())
        with self._lock:
            unanswered = self._status is None
            if unanswered:
                late = self.deadline is not None and time.monotonic() >= self.deadline - _TRANSIT_S
                self._status = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            self.gone = True
            callbacks, self._calling_back = self._calling_back, []
        if unanswered and self.done is not None:
            assert self._status is not None
            self.done(self._status)
        if cancelled or unanswered:
            for callback in callbacks:
                callback()
        self._closed(self)


class Transport:
    """One port, or several, and the thread that serves them."""

    def __init__(self, handlers: Mapping[str, Callable[[Call], None]], options: tuple[tuple[str, Any], ...]) -> None:
        """Nothing listens yet.

        Args:
            handlers: what answers a call, by method; called on the serving thread, and must not block.
            options: channel arguments.
        """
        self._handlers = dict(handlers)
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(options, False)
        self._server.register_completion_queue(self._queue)
        self._thread = threading.Thread(target=self._serve, name="serving", daemon=True)
        self._calls: set[Call] = set()
        self._idle = threading.Condition()
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
        self._request()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Take no more calls, let those accepted end within `grace_s`, cut the rest off, and return when all is closed.

        Calls with `on_stop` are asked to end, not waited for.
        """
        with self._idle:
            self.stopping = True
            endless = [call for call in self._calls if call.on_stop is not None]
        self._server.shutdown(self._queue, _SHUT_DOWN)
        for call in endless:
            if call.on_stop is not None:
                call.on_stop()
        self._wait_idle(grace_s)
        self._server.cancel_all_calls()
        self._down.wait()
        self._server.destroy()
        self._queue.shutdown()
        self._thread.join()

    def _wait_idle(self, grace_s: float) -> None:
        with self._idle:
            self._idle.wait_for(lambda: all(call.on_stop is not None for call in self._calls), grace_s)

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
        if not event.success:  # the server is shutting down
            return
        self._request()
        call = Call(event, self._forget)
        with self._idle:
            self._calls.add(call)
        handler = self._handlers.get(call.method)
        if handler is None:
            call.finish(code=grpc.StatusCode.UNIMPLEMENTED, details="Method not found!")
            return
        try:
            handler(call)
        except Exception:
            log.exception("%s failed", call.method)
            call.finish(code=grpc.StatusCode.INTERNAL, details="internal error; the server's log has the details")

    def _forget(self, call: Call) -> None:
        with self._idle:
            self._calls.discard(call)
            if self.stopping:
                self._idle.notify_all()


def _ignore(event: Any) -> None:
    """For operations whose end nobody waits for."""
