"""A transport in this process, with handlers of the test's own, and a client of it."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from cutpoint.server.port.idle import Idle
from cutpoint.server.port.transport import Call, Transport

WAIT_S = 60.0


class Served:
    """A transport on a free port, and what happened to its calls: those of handlers under a short name, "m" for "/s/m"."""

    def __init__(
        self, handlers: dict[str, Callable[[Call], None]], *options: tuple[str, Any], idle: Idle | None = None
    ) -> None:
        self.codes: queue.SimpleQueue[grpc.StatusCode] = queue.SimpleQueue()
        self.transport = Transport(
            {
                name if name.startswith("/") else f"/s/{name}": handler if name.startswith("/") else self._watched(handler)
                for name, handler in handlers.items()
            },
            (("grpc.so_reuseport", 0), ("grpc.http2.bdp_probe", 0), *options),
            idle,
        )
        self.port = self.transport.listen("127.0.0.1:0")
        self.transport.start()
        self._stopped = False

    def _watched(self, handler: Callable[[Call], None]) -> Callable[[Call], None]:
        def handle(call: Call) -> None:
            call.done = self.codes.put
            handler(call)

        return handle

    def code(self) -> grpc.StatusCode:
        """The next status that `done` was told."""
        return self.codes.get(timeout=WAIT_S)

    def stop(self, grace_s: float = WAIT_S) -> None:
        if not self._stopped:
            self._stopped = True
            self.transport.stop(grace_s)


@contextmanager
def serving(
    handlers: dict[str, Callable[[Call], None]], *options: tuple[str, Any], idle: Idle | None = None
) -> Iterator[tuple[Served, grpc.Channel]]:
    served = Served(handlers, *options, idle=idle)
    # A window of fixed size: otherwise it grows with the time that a busy machine takes to answer.
    own = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0))
    try:
        with grpc.insecure_channel(f"127.0.0.1:{served.port}", own) as channel:
            yield served, channel
    finally:
        served.stop(0.0)


@contextmanager
def open_requests() -> Iterator[Callable[..., Iterator[Any]]]:
    """Makes streams of requests that stay open until the end of the block."""
    end = threading.Event()

    def requests(*messages: Any) -> Iterator[Any]:
        yield from messages
        end.wait(WAIT_S)

    try:
        yield requests
    finally:
        end.set()
