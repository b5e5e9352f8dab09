"""From plain functions to what answers calls: messages parsed, errors to status codes, RPCs counted, roles checked."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import grpc
from cutpoint.errors import BadRequest, CutpointError, DeadlineExceeded, Overloaded, Unavailable
from cutpoint.wire import REASON_KEY, status_of
from google.protobuf.message import DecodeError

from ..monitoring.metrics import Metrics
from .admission import NO_MESSAGE, Admission
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


def handlers(rpcs: Mapping[str, Rpc], metrics: Metrics, guard: Guard | None) -> dict[str, Handler]:
    """What a transport needs, by method: every RPC counted under the usual names, and guarded.

    Args:
        rpcs: by method.
        metrics: where they are counted.
        guard: raises for a caller who may not call this; None for no questions.
    """
    return {method: _counted(rpc, metrics, guard) for method, rpc in rpcs.items()}


def _counted(rpc: Rpc, metrics: Metrics, guard: Guard | None) -> Handler:
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
            if guard is not None:
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


def pooled(
    method: str,
    request: Any,
    answer: Callable[[Any, Call], Any],
    pool: Executor,
    *,
    admission: Admission | None = None,
    check: Callable[[bytes], None] | None = None,
) -> Rpc:
    """A unary RPC that is answered in a thread of `pool`: for what reads files or waits.

    Args:
        method: its full name.
        request: the class of its message.
        answer: from a message and its call to the response.
        pool: threads to answer in.
        admission: what may come in, where messages may be large.
        check: raises for bytes that are not worth to be parsed.
    """

    def work(call: Call, data: bytes) -> None:
        if check is not None:
            check(data)
        _answer(call, answer, parsed(request, data))

    def taken(call: Call, data: bytes) -> None:
        pool.submit(safely, call, lambda: work(call, data))

    def handle(call: Call) -> None:
        if admission is None:
            read(call, lambda data: taken(call, data))
            return

        def received(data: bytes) -> None:
            call.on_end(lambda: admission.leave(len(data)))
            safely(call, lambda: taken(call, data))

        admission.enter(call, received)

    return Rpc(method, "unary", handle)


def client_stream(
    method: str,
    request: Any,
    answer: Callable[[Iterator[Any], Call], Any],
    pool: Executor,
    *,
    at_most: int = 16,
    idle_s: float = 600.0,
) -> Rpc:
    """An RPC of many messages and one answer, in a thread of `pool`; a message is read when the one before it was taken.

    A stream has no thread before its first message; afterwards it keeps one while it waits for the next.

    Args:
        method: its full name.
        request: the class of its messages.
        answer: from the messages and their call to the response.
        pool: threads to wait in.
        at_most: streams that have a thread at a time; more are refused as Overloaded, so that the pool stays free for others.
        idle_s: a caller who sends nothing for so long is answered DeadlineExceeded.
    """
    free = threading.Semaphore(at_most)

    def handle(call: Call) -> None:
        def work(first: bytes | None) -> None:
            try:
                safely(call, lambda: _answer(call, answer, messages(call, request, first, idle_s)))
            finally:
                free.release()

        def begin(first: bytes | None) -> None:
            if not free.acquire(blocking=False):
                raise Overloaded(f"{at_most} calls of {method} are being answered, as many as may be; retry later")
            try:
                pool.submit(work, first)
            except BaseException:
                free.release()
                raise

        call.read(lambda first: safely(call, lambda: begin(first)))

    return Rpc(method, "client_stream", handle)


def answered_stream(
    method: str,
    request: Any,
    answer: Callable[[Any, Call], Any],
    pool: Executor,
    *,
    at_most: int = 1024,
    admission: Admission | None = None,
    check: Callable[[bytes], None] | None = None,
) -> Rpc:
    """An RPC in which every message gets an answer, in order: a message is read when the one before it was answered.

    It has a thread of `pool` while it answers, and none while it waits, so that it may be without an end. When the server
    stops, what was read is answered.

    Args:
        method: its full name.
        request: the class of its messages.
        answer: from a message and the call to the response.
        pool: threads to answer in.
        at_most: streams that are open at a time; more are refused as Overloaded.
        admission: told of the bytes held, and asked whether more may be; None for no bound.
        check: raises for bytes that are not worth to be parsed.
    """
    free = threading.Semaphore(at_most)

    def handle(call: Call) -> None:
        if not free.acquire(blocking=False):
            raise Overloaded(f"{at_most} calls of {method} are open, as many as may be; retry later")
        call.on_end(free.release)
        lock, stopping, busy, held = threading.Lock(), False, False, 0

        def stop() -> None:
            nonlocal stopping
            with lock:
                stopping = True
                idle = not busy
            if idle:
                call.finish(code=grpc.StatusCode.UNAVAILABLE, details="the server is stopping")

        def received(data: bytes | None) -> None:
            nonlocal busy
            if data is None:
                call.finish()
                return
            with lock:
                busy = True
            hold(len(data))
            pool.submit(safely, call, lambda: work(data))

        def work(data: bytes) -> None:
            try:
                if check is not None:
                    check(data)
                message = answer(parsed(request, data), call).SerializeToString()
            finally:
                hold(0)
            call.send(message, sent)

        def hold(size: int) -> None:
            """Have the bytes of the one message that is answered counted, in place of those of the one before it."""
            nonlocal held
            if admission is not None:
                with lock:
                    before, held = held, size
                if size:
                    admission.hold(size)
                if before:
                    admission.release(before)

        def sent(ok: bool) -> None:
            nonlocal busy
            with lock:
                busy = False
            if stopping:
                stop()
            elif ok:
                read_on()

        def read_on() -> None:
            if admission is None or not admission.hold_back(call, read_on):
                call.read(lambda data: safely(call, lambda: received(data)))

        call.on_stop = stop
        sent(True)

    return Rpc(method, "bidi_stream", handle)


def read(call: Call, then: Callable[[bytes], Any]) -> None:
    """Give the call's one message to `then`, whose errors become the call's status; nothing, where the caller has gone."""

    def received(data: bytes | None) -> None:
        if data is None:
            call.finish(code=grpc.StatusCode.UNIMPLEMENTED, details=NO_MESSAGE.format(call.method))
        else:
            safely(call, lambda: then(data))

    call.read(received)


def messages(call: Call, request: Any, first: bytes | None, idle_s: float) -> Iterator[Any]:
    """The messages of a stream from `first` on, waited for one by one.

    Raises:
        Unavailable: the caller has gone; nobody hears it. The end of its stream is the iterator's end, and only that.
        DeadlineExceeded: nothing came for `idle_s` seconds.
    """
    data = first
    while data is not None:
        yield parsed(request, data)
        arrived: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        call.read(arrived.put)
        try:
            data = arrived.get(timeout=idle_s)
        except queue.Empty:
            raise DeadlineExceeded(f"no message came for {idle_s:g} s") from None
    if call.gone:
        raise Unavailable("the caller is gone")


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
