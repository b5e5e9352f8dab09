"""gRPC without an event loop: C-core's completion queue, driven by one serving thread.

grpc.aio spends more on a small request than the model does (two threads, a socket pair and several futures a call). Here the
thread that polls is the thread that parses and queues, and whoever has the answer sends it, from any thread. This module and
`call` are the only ones that know `grpc._cython.cygrpc`, on which grpc's own server is written. It is private: whoever raises
the versions of grpcio in pyproject.toml runs the server's tests with the oldest and the newest of them.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined,unused-ignore]

from .call import Call as Call
from .idle import Idle

log = logging.getLogger("cutpoint.server")

# How long calls that were cut off may take to be told so, in seconds: they are told in microseconds.
_CLOSE_S = 10.0
_REQUESTED = object()  # tag: a new call
_SHUT_DOWN = object()  # tag: no call is left
_AT_ONCE = 0.0  # a deadline that has passed: what is ready, and no waiting
# Events that may come before work that waits for a moment without any is done all the same.
_MOST_BEFORE = 256
# Times in a row that nothing is ready before nothing is: at each C-core looks at one socket, which may have half a message.
_QUIET = 4


class Transport:
    """One port, or several, and the thread that serves them."""

    def __init__(
        self, handlers: Mapping[str, Callable[[Call], None]], options: tuple[tuple[str, Any], ...], idle: Idle | None = None
    ) -> None:
        """Nothing listens yet.

        Args:
            handlers: what answers a call, by method; called on the serving thread, and must not block.
            options: channel arguments. With "grpc.per_message_decompression" 0 compressed messages are inflated here, up to
                "grpc.max_receive_message_length".
            idle: work for moments without events.
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
        self._idle_work = Idle() if idle is None else idle
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
        poll, accept, idle, before, quiet = self._queue.poll, self._accept, self._idle_work, 0, 0
        idle.begin()
        while True:
            event = tag = None
            try:
                event = poll(_AT_ONCE) if idle.waits else poll()
                tag = event.tag
                if idle.waits:
                    before += 1
                    quiet = quiet + 1 if event.completion_type == cygrpc.CompletionType.queue_timeout else 0
                    if before >= _MOST_BEFORE or quiet >= _QUIET:
                        before = quiet = 0
                        idle.do()
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
        call = None
        try:
            if event.success:
                call = Call(event, self)
        except Exception:
            log.exception("a call could not be taken over")
        with self._idle:
            if call is not None:
                self._calls.add(call)
            # The last call may come when stopping has begun: it is answered like those before it.
            if self.stopping or not event.success:
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
        call.tell(handler, call)
