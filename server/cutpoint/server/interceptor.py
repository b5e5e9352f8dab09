"""Around every unary answer: the usual gRPC counters, and errors to status codes."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from cutpoint.errors import CutpointError
from cutpoint.wire import REASON_KEY, status_of

from .metrics import Metrics

log = logging.getLogger("cutpoint.server")


# Characters of a message: clients drop an answer whose trailing metadata exceed 8 KiB, and with it the status.
_LONGEST = 1000


class Interceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Counts RPCs under their long-standing names and answers errors by the table in `cutpoint.wire.status`.

    What nobody foresaw becomes INTERNAL with a fixed text; the traceback goes to the log and not to the caller.
    """

    def __init__(self, metrics: Metrics) -> None:
        """Count in `metrics`."""
        self._metrics = metrics

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """Wrap the method's handler; streaming answers (reflection, health watches) are left alone."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.response_streaming:
            return handler
        _, service, method = handler_call_details.method.split("/", 2)
        if handler.request_streaming:
            wrapped = self._wrap(handler.stream_unary, "client_stream", service, method)
            make = grpc.stream_unary_rpc_method_handler
        else:
            wrapped = self._wrap(handler.unary_unary, "unary", service, method)
            make = grpc.unary_unary_rpc_method_handler
        return make(wrapped, handler.request_deserializer, handler.response_serializer)

    def _wrap(self, answer: Any, kind: str, service: str, method: str) -> Any:
        of = (kind, service, method)
        started, handling = self._metrics.started.labels(*of), self._metrics.handling.labels(*of)

        async def counted(request: Any, context: Any) -> Any:
            started.inc()
            begun = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                return await answer(request, context)
            except CutpointError as error:
                code = status_of(error)
                await context.abort(code, str(error)[:_LONGEST], ((REASON_KEY, error.reason),))
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
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


def _camel(code: grpc.StatusCode) -> str:
    """`RESOURCE_EXHAUSTED` as `ResourceExhausted`, the spelling that grpc_code has everywhere."""
    return "OK" if code is grpc.StatusCode.OK else code.name.title().replace("_", "")
