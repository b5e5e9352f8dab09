"""Around every unary answer: the usual gRPC counters, errors to status codes, and how many are being made."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from cutpoint.errors import BadRequest, CutpointError
from cutpoint.wire import REASON_KEY, status_of
from google.protobuf.message import DecodeError

from .metrics import Metrics

log = logging.getLogger("cutpoint.server")

# Characters of a message: clients drop an answer whose trailing metadata exceed 8 KiB, and with it the status.
_LONGEST = 1000
# The caller's deadline passes a little before ours, which began when the request arrived, and its cancellation may be first.
_TRANSIT_S = 0.01


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Counts RPCs under their long-standing names and answers errors by the table in `cutpoint.wire.status`.

    What nobody foresaw becomes INTERNAL with a fixed text; the traceback goes to the log and not to the caller.
    """

    def __init__(self, metrics: Metrics) -> None:
        """Count in `metrics`."""
        self._metrics = metrics
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def drained(self) -> None:
        """Return when no unary answer is being made. Health watches and reflection streams do not count: they never end."""
        await self._idle.wait()

    def _answered(self, context: Any) -> None:
        self._answering -= 1
        if self._answering == 0:
            self._idle.set()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the method's handler; streaming answers (reflection, health watches) are left alone."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.response_streaming:
            return handler
        _, service, method = handler_call_details.method.split("/", 2)
        # Messages are parsed inside the wrapper: of one that is none, grpc itself would say UNKNOWN and nobody would count it.
        parse = handler.request_deserializer
        if handler.request_streaming:
            wrapped = self._wrap(
                handler.stream_unary, lambda stream: _parsed_stream(parse, stream), "client_stream", service, method
            )
            return grpc.stream_unary_rpc_method_handler(wrapped, None, handler.response_serializer)
        wrapped = self._wrap(handler.unary_unary, lambda data: _parsed(parse, data), "unary", service, method)
        return grpc.unary_unary_rpc_method_handler(wrapped, None, handler.response_serializer)

    def _wrap(self, answer: Any, parse: Callable[[Any], Any], kind: str, service: str, method: str) -> Any:
        of = (kind, service, method)
        started, handling = self._metrics.started.labels(*of), self._metrics.handling.labels(*of)

        async def counted(request: Any, context: Any) -> Any:
            started.inc()
            begun = time.perf_counter()
            code = grpc.StatusCode.OK
            self._answering += 1
            self._idle.clear()
            # Not when the handler returns: the answer has yet to be sent, and stopping then would take it back.
            context.add_done_callback(self._answered)
            try:
                return await answer(parse(request), context)
            except CutpointError as error:
                code = status_of(error)
                await context.abort(code, str(error)[:_LONGEST], ((REASON_KEY, error.reason),))
            except asyncio.CancelledError:
                left_s = context.time_remaining()
                late = left_s is not None and left_s <= _TRANSIT_S
                code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = context.code() or grpc.StatusCode.UNKNOWN
                raise
            except Exception:
                code = grpc.StatusCode.INTERNAL
                log.exception("%s/%s failed", service, method)
                await context.abort(code, "internal error; the server's log has the details", ((REASON_KEY, "internal"),))
            finally:
                handling.observe(time.perf_counter() - begun)
                self._metrics.handled.labels(*of, _camel(code)).inc()

        return counted


def _parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except DecodeError:
        raise BadRequest.of(
            "request", f"{len(data)} bytes that are no such message", "a message of this method's type"
        ) from None


async def _parsed_stream(parse: Callable[[bytes], Any], stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for data in stream:
        yield _parsed(parse, data)


def _camel(code: grpc.StatusCode) -> str:
    """`RESOURCE_EXHAUSTED` as `ResourceExhausted`: grpc-go's spelling, which dashboards for grpc_code look for."""
    if code is grpc.StatusCode.OK:
        return "OK"
    return "Canceled" if code is grpc.StatusCode.CANCELLED else code.name.title().replace("_", "")
