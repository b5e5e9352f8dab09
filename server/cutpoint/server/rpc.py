"""From plain functions to what answers calls: messages parsed, errors to status codes, RPCs counted, roles checked."""

import logging
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import grpc
from cutpoint.errors import BadRequest, CutpointError, Unavailable
from cutpoint.wire import REASON_KEY, status_of
from google.protobuf.message import DecodeError

from .metrics import Metrics
from .transport import Call

log = logging.getLogger("cutpoint.server")

# Characters of a message: clients drop an answer whose trailing metadata exceed 8 KiB, and with it the status.
_LONGEST = 1000

Handler = Callable[[Call], None]
Guard = Callable[[Call], None]


@dataclass(frozen=True)
class Rpc:
    """One RPC: what it is called, and what a call of it is given to.

    Attributes:
        method: "/package.Service/Method".
        kind: as in grpc_type: unary, client_stream, server_stream, bidi_stream.
        handle: answers a call; an error that it raises becomes the call's status.
    """

    method: str
    kind: str
    handle: Handler


def handlers(rpcs: Mapping[str, Rpc], metrics: Metrics, guard: Guard) -> dict[str, Handler]:
    """What a transport needs, by method: every RPC counted under the usual names, and guarded.

    Args:
        rpcs: by method.
        metrics: where they are counted.
        guard: raises for a caller who may not call this.
    """
    return {method: _counted(rpc, metrics, guard) for method, rpc in rpcs.items()}


def _counted(rpc: Rpc, metrics: Metrics, guard: Guard) -> Handler:
    _, service, method = rpc.method.split("/", 2)
    of = (rpc.kind, service, method)
    started, handling = metrics.started.labels(*of), metrics.handling.labels(*of)
    handled = {code: metrics.handled.labels(*of, _camel(code)) for code in (grpc.StatusCode.OK,)}

    def handle(call: Call) -> None:
        started.add()
        begun = time.perf_counter()

        def done(code: grpc.StatusCode) -> None:
            handling.observe(time.perf_counter() - begun)
            if code not in handled:
                handled[code] = metrics.handled.labels(*of, _camel(code))
            handled[code].add()

        call.done = done
        try:
            guard(call)
            rpc.handle(call)
        except Exception as error:
            fail(call, error)

    return handle


def direct(method: str, request: Any, answer: Callable[[Any, Call], Any]) -> Rpc:
    """A unary RPC that is answered on the serving thread: for what takes microseconds.

    Args:
        method: its full name.
        request: the class of its message.
        answer: from a message and its call to the response.
    """

    def handle(call: Call) -> None:
        read(call, lambda data: _answer(call, answer, parsed(request, data)))

    return Rpc(method, "unary", handle)


def pooled(method: str, request: Any, answer: Callable[[Any, Call], Any], pool: Executor) -> Rpc:
    """A unary RPC that is answered in a thread of `pool`: for what reads files or waits."""

    def handle(call: Call) -> None:
        read(call, lambda data: pool.submit(safely, call, lambda: _answer(call, answer, parsed(request, data))))

    return Rpc(method, "unary", handle)


def client_stream(method: str, request: Any, answer: Callable[[Iterator[Any], Call], Any], pool: Executor) -> Rpc:
    """An RPC of many messages and one answer, in a thread of `pool`; a message is read when the one before it was taken."""

    def handle(call: Call) -> None:
        pool.submit(safely, call, lambda: _answer(call, answer, messages(call, request)))

    return Rpc(method, "client_stream", handle)


def read(call: Call, then: Callable[[bytes], Any]) -> None:
    """Give the call's one message to `then`, whose errors become the call's status; nothing, where the caller has gone."""
    call.read(lambda data: None if data is None else safely(call, lambda: then(data)))


def messages(call: Call, request: Any) -> Iterator[Any]:
    """The messages of a stream, waited for one by one; Unavailable, which nobody hears, where the caller goes."""
    while True:
        arrived: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call.read(arrived.put)
        data = arrived.get()
        if data is None:
            if call.gone:
                raise Unavailable("the caller is gone")
            return
        yield parsed(request, data)


def parsed(request: Any, data: bytes) -> Any:
    """A message of class `request`; BadRequest where the bytes are none."""
    try:
        return request.FromString(data)
    except DecodeError:
        raise BadRequest.of(
            "request", f"{len(data)} bytes that are no such message", "a message of this method's type"
        ) from None


def fail(call: Call, error: BaseException) -> None:
    """Answer with an error, by the table in `cutpoint.wire.status`.

    What nobody foresaw becomes INTERNAL with a fixed text; the traceback goes to the log and not to the caller.
    """
    code, text, reason = told(error, call.method)
    call.finish(code=code, details=text, trailing=((REASON_KEY, reason),))


def told(error: BaseException, where: str) -> tuple[grpc.StatusCode, str, str]:
    """What a caller is told of an error: status code, text, reason; the rest goes to the log."""
    if isinstance(error, CutpointError):
        return status_of(error), str(error)[:_LONGEST], error.reason
    log.error("%s failed", where, exc_info=error)
    return grpc.StatusCode.INTERNAL, "internal error; the server's log has the details", "internal"


def _answer(call: Call, answer: Callable[[Any, Call], Any], request: Any) -> None:
    response = answer(request, call)
    call.finish(response.SerializeToString())


def safely(call: Call, work: Callable[[], Any]) -> None:
    """Do `work`; an error becomes the call's status."""
    try:
        work()
    except Exception as error:
        fail(call, error)


def _camel(code: grpc.StatusCode) -> str:
    """`RESOURCE_EXHAUSTED` as `ResourceExhausted`: grpc-go's spelling, which dashboards for grpc_code look for."""
    if code is grpc.StatusCode.OK:
        return "OK"
    return "Canceled" if code is grpc.StatusCode.CANCELLED else code.name.title().replace("_", "")
