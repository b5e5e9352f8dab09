"""Which calls are traced, and where their spans go: to a collector over OTLP.

A caller who sends a `traceparent` (W3C Trace Context) has decided whether its call is traced; of the others a share is.
Whatever is not traced costs a look at its metadata.
"""

import logging
import os
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version as version_of
from typing import Any

import grpc
from cutpoint.errors import BadConfig
from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ..port.rpc import Rpc
from ..port.transport import Call
from .request import RequestTrace

log = logging.getLogger("cutpoint.server")

Metadata = Iterable[tuple[str, str | bytes]]

# Of one export, its repetitions included; and so of the last one, for which the end of the server waits.
_EXPORT_S = 3.0
_EVERY_MS = 2000.0
# Services whose calls are traced whole; inference says its stages, see `RequestTrace`.
_TRACED = ("/cutpoint.v1.", "/inference.GRPCInferenceService/Repository")


class Tracing:
    """Begins the traces of calls, and sends them off in the background."""

    def __init__(self, processor: SpanProcessor, ratio: float, name: str, chance: Callable[[], float] = random.random) -> None:
        """Give spans to `processor`.

        Args:
            processor: what becomes of spans that have ended.
            ratio: share of the calls without a traceparent that is traced, 0 to 1.
            name: of the service.
            chance: numbers from 0 to 1.
        """
        resource = Resource.create(
            {
                "service.name": name,
                "service.version": version_of("cutpoint"),
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        # Who is traced is decided here, before anything is made.
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("cutpoint.server")
        self._propagator = TraceContextTextMapPropagator()
        self._ratio, self._chance = ratio, chance

    def begin(self, method: str, metadata: Metadata) -> RequestTrace | None:
        """The trace of a request that begins now, which whoever asked is to end; None for most."""
        parent = None
        for key, value in metadata:
            if key == "traceparent":
                parent = value
                break
        if parent is None:
            if self._chance() >= self._ratio:
                return None
            return RequestTrace(self._tracer, method, Context())
        context = self._propagator.extract({k: v for k, v in metadata if isinstance(v, str)}, Context())
        found = otel.get_current_span(context).get_span_context()
        if found.is_valid:
            return RequestTrace(self._tracer, method, context) if found.trace_flags.sampled else None
        return RequestTrace(self._tracer, method, Context()) if self._chance() < self._ratio else None

    def begin_call(self, call: Call) -> RequestTrace | None:
        """The trace of a call that begins now, which ends when the call is answered or its caller is gone; None for most."""
        trace = self.begin(call.method, call.metadata)
        if trace is not None:
            counted = call.done

            def done(code: grpc.StatusCode) -> None:
                trace.end_with(code)
                if counted is not None:
                    counted(code)

            call.done = done
        return trace

    def rpcs(self, rpcs: Mapping[str, Rpc]) -> dict[str, Rpc]:
        """The same RPCs; those that are traced whole have a span from their begin to their status."""
        return {method: self._traced(rpc) if method.startswith(_TRACED) else rpc for method, rpc in rpcs.items()}

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._provider.shutdown()

    def _traced(self, rpc: Rpc) -> Rpc:
        def handle(call: Call) -> None:
            self.begin_call(call)
            rpc.handle(call)

        return Rpc(rpc.method, rpc.kind, handle)


def tracing_to(endpoint: str, ratio: float, name: str) -> Tracing:
    """Tracing to the collector at `endpoint`, "host:port" in the clear or "https://host:port" over TLS.

    It need not be there: what cannot be sent is dropped, which the log says.

    Raises:
        BadConfig: the endpoint is none, or has a password in it, which is not for the log and not sent either.
    """
    _, at, rest = endpoint.rpartition("@")
    if at:
        raise BadConfig.of(
            "trace_endpoint", f"...@{rest}", "no user or password in it; OTEL_EXPORTER_OTLP_HEADERS is for those"
        )
    scheme, _, address = endpoint.rpartition("://")
    host, _, port = address.rpartition(":")
    if scheme not in ("", "http", "https") or not host or not port.isdecimal() or "/" in address:
        raise BadConfig.of(
            "trace_endpoint", endpoint, "HOST:PORT of a collector that takes OTLP over gRPC, or https://HOST:PORT"
        )
    settings: dict[str, Any] = {"insecure": True} if scheme != "https" else {}
    exporter = OTLPSpanExporter(f"{scheme or 'http'}://{address}", timeout=_EXPORT_S, **settings)
    log.info("traces go to %s: those that callers ask for, and %g %% of the others", endpoint, 100 * ratio)
    return Tracing(BatchSpanProcessor(exporter, schedule_delay_millis=_EVERY_MS), ratio, name)
