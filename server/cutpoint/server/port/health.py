"""Whether the server is ready: one switch, read by grpc.health.v1 and by ServerReady alike."""

import threading
from collections.abc import Callable

import grpc
from grpc_health.v1 import health_pb2

from .rpc import Rpc, direct, parsed, read
from .transport import Call

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Readiness:
    """Off until everything is loaded, and off again before the server stops taking requests."""

    def __init__(self, services: tuple[str, ...]) -> None:
        """Report for the server as a whole ("") and for each of `services`."""
        self.ready = False
        self._services = ("", *services)
        self._lock = threading.Lock()
        self._watches: set[_Watch] = set()

    def set(self, ready: bool) -> None:
        """Turn readiness on or off and tell whoever watches."""
        with self._lock:
            self.ready = ready
            watches = list(self._watches)
        for watch in watches:
            watch.tell()

    def status(self, service: str) -> int:
        """The state of a service as grpc.health.v1 numbers it."""
        if service not in self._services:
            return int(_UNKNOWN)
        return int(_SERVING if self.ready else _NOT_SERVING)

    def rpcs(self) -> list[Rpc]:
        """Check and Watch."""
        watch = Rpc(f"/{SERVICE}/Watch", "server_stream", lambda call: read(call, lambda data: self._watch(call, data)))
        return [direct(f"/{SERVICE}/Check", health_pb2.HealthCheckRequest, self._check), watch]

    def _check(self, request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        status = self.status(request.service)
        if status == _UNKNOWN:
            call.finish(code=grpc.StatusCode.NOT_FOUND, details=f"unknown service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=status)

    def _watch(self, call: Call, data: bytes) -> None:
        service = parsed(health_pb2.HealthCheckRequest, data).service
        watch = _Watch(call, lambda: self.status(service))

        def stop() -> None:
            self._forget(watch)
            watch.end()

        with self._lock:
            self._watches.add(watch)
        watch.tell()
        call.on_gone(lambda: self._forget(watch))
        call.on_stop = stop

    def _forget(self, watch: "_Watch") -> None:
        with self._lock:
            self._watches.discard(watch)


class _Watch:
    """One caller who is told of every change: the latest state, when the one before it has been sent."""

    def __init__(self, call: Call, status: Callable[[], int]) -> None:
        self._call, self._status = call, status
        self._lock = threading.Lock()
        self._sending = False
        self._ending = False
        self._told: int | None = None

    def end(self) -> None:
        """Say the last state, and then that the server is stopping."""
        with self._lock:
            self._ending = True
        self.tell()

    def tell(self) -> None:
        """Send the state as it is now, unless it was the last one said; end, where nothing is left to say."""
        with self._lock:
            status = self._status()
            news, finish = status != self._told and not self._sending, False
            if news:
                self._sending, self._told = True, status
            elif self._ending and not self._sending:
                finish = True
        if finish:
            self._call.finish(code=grpc.StatusCode.UNAVAILABLE, details="the server is stopping")
        if not news:
            return
        self._call.send(health_pb2.HealthCheckResponse(status=status).SerializeToString(), self._sent)

    def _sent(self, ok: bool) -> None:
        with self._lock:
            self._sending = False
        if ok:
            self.tell()
