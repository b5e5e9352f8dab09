"""The spans of one request: itself, and inside it decode, queue, inference and threshold.

Stages are told when they are over and become spans with the answer: a request that is traced takes some 0.2 ms
longer.
"""

import time
from typing import TYPE_CHECKING

import grpc
from cutpoint.errors import CutpointError
from cutpoint.wire import status_of
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, format_trace_id, set_span_in_context

if TYPE_CHECKING:
    from ..protocol.infer_stream import Reply
    from ..runs.batcher import Timing

_OF_CALLERS = {
    grpc.StatusCode.CANCELLED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNAUTHENTICATED,
}  # fmt: skip


class RequestTrace:
    """One request that is traced.

    Attributes:
        trace_id: 32 hexadecimal digits, for exemplars.
    """

    def __init__(self, tracer: Tracer, method: str, parent: Context) -> None:
        """It begins now, inside `parent`."""
        self._tracer = tracer
        self._start_ns, self._start_s = time.time_ns(), time.perf_counter()
        _, service, name = method.split("/", 2)
        self._span = tracer.start_span(
            f"{service}/{name}",
            parent,
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            start_time=self._start_ns,
        )
        self._stages: list[tuple[str, float, float]] = []
        self._ended = False
        self.trace_id = format_trace_id(self._span.get_span_context().trace_id)

    def decoded(self, model: str, version: int, rows: int, begun_s: float, ended_s: float) -> None:
        """A message has become arrays.

        Args:
            model: that it is for.
            version: of the model.
            rows: of the request.
            begun_s: when that began, in `time.perf_counter()` seconds.
            ended_s: when it was done.
        """
        if self._ended:  # its caller has gone meanwhile
            return
        self._span.set_attributes({"cutpoint.model": model, "cutpoint.version": version, "cutpoint.rows": rows})
        self._stages.append(("decode", begun_s, ended_s))

    def answered(self, timing: "Timing", policy: int | None, ended_s: float) -> None:
        """The model has run, and the answer is a message; `policy` has decided, where there is one."""
        if self._ended:
            return
        queued_s = self._stages[-1][2]
        run_s = queued_s + timing.queue_s
        decided_s = run_s + timing.run_s
        if timing.queue_s > 0:
            self._stages.append(("queue", queued_s, run_s))
        self._stages.append(("inference", run_s, decided_s))
        self._stages.append(("threshold", decided_s, max(ended_s, decided_s)))
        if policy is not None:
            self._span.set_attribute("cutpoint.policy_version", policy)

    def ends_with(self, reply: "Reply") -> "Reply":
        """The same reply, after which the trace ends; for requests in a stream, whose calls go on."""

        def told(message: bytes | None, error: BaseException | None, request_id: str) -> None:
            try:
                reply(message, error, request_id)
            finally:
                code = grpc.StatusCode.OK
                if error is not None:
                    code = status_of(error) if isinstance(error, CutpointError) else grpc.StatusCode.INTERNAL
                self.end_with(code)

        return told

    def end_with(self, code: grpc.StatusCode) -> None:
        """It ends now, with this status; as an error where it is the server's."""
        if self._ended:
            return
        self._ended = True
        inside = set_span_in_context(self._span)
        for name, begun_s, ended_s in self._stages:
            self._tracer.start_span(name, inside, start_time=self._ns(begun_s)).end(self._ns(ended_s))
        self._span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code is not grpc.StatusCode.OK:
            self._span.set_attribute("error.type", code.name)
        if code is not grpc.StatusCode.OK and code not in _OF_CALLERS:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()

    def _ns(self, at_s: float) -> int:
        return self._start_ns + round(1e9 * (at_s - self._start_s))
