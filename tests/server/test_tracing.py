"""Spans of a real server, kept in memory by OpenTelemetry's own SDK, and sent to a collector over OTLP."""

import queue
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bundles import linear_bundle
from cutpoint.client import Client
from cutpoint.errors import BadConfig, CutpointError
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server import Listening, ServerConfig, running
from cutpoint.server.tracing.tracing import Tracing, tracing_to
from cutpoint.wire import encode_input
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from processes import ENVIRONMENT, cutpoint, serving
from prometheus_client.openmetrics.parser import text_string_to_metric_families

X = np.arange(12, dtype=np.float32).reshape(3, 4)
Y = np.array([[0, 1], [1, 0], [1, 1]], np.uint8)
INFER, STREAM = "/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WAIT_S = 60


class Kept(SpanProcessor):
    """Spans as they end."""

    def __init__(self) -> None:
        self.ended: queue.SimpleQueue[ReadableSpan] = queue.SimpleQueue()

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.put(span)

    def take(self, count: int) -> list[ReadableSpan]:
        return [self.ended.get(timeout=WAIT_S) for _ in range(count)]


class Place:
    """A server, what it traces, and a word for every call that has arrived."""

    def __init__(self, channel: grpc.Channel, kept: Kept, arrived: threading.Semaphore, at: Listening) -> None:
        self.kept, self.arrived, self.target, self.metrics_url = kept, arrived, at.grpc_target, at.metrics_url
        self._infer: Any = channel.unary_unary(INFER, lambda m: m.SerializeToString(), oip.ModelInferResponse.FromString)
        self._stream: Any = channel.stream_stream(
            STREAM, lambda m: m.SerializeToString(), oip.ModelStreamInferResponse.FromString
        )

    def infer(self, *metadata: tuple[str, str], model: str = "linear", x: np.ndarray = X) -> oip.ModelInferResponse:
        return self._infer(request(model, x), metadata=metadata, timeout=WAIT_S)

    def stream(self, *messages: oip.ModelInferRequest) -> list[oip.ModelStreamInferResponse]:
        return list(self._stream(iter(messages), timeout=WAIT_S))


def request(model: str, x: np.ndarray) -> oip.ModelInferRequest:
    tensor, raw = encode_input("x", x)
    return oip.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw])


def until(kept: Kept, name: str) -> list[ReadableSpan]:
    """Spans up to the one of this name, which ends after those inside it."""
    found = kept.take(1)
    while found[-1].name != name:
        found += kept.take(1)
    return found


@pytest.fixture
def place(models: Path) -> Iterator[Place]:
    linear_bundle(models)
    kept, arrived = Kept(), threading.Semaphore(0)

    def chance() -> float:
        arrived.release()
        return 0.5

    config = ServerConfig(models=models, port=0, metrics_port=0)
    tracing = Tracing(kept, 1.0, "test", chance)
    with running(config, tracing=tracing) as at, grpc.insecure_channel(at.grpc_target) as channel:
        yield Place(channel, kept, arrived, at)


def by_name(spans: Sequence[ReadableSpan]) -> dict[str, ReadableSpan]:
    found = {span.name: span for span in spans}
    assert len(found) == len(spans)
    return found


def test_a_request_has_its_stages_inside_it_one_after_the_other(place: Place) -> None:
    with Client(place.target) as client:
        client.calibrate("linear", "max_fbeta=1", inputs=X, targets=Y)
    calibrated = place.kept.take(1)[0]
    assert calibrated.name == "cutpoint.v1.CalibrationService/Calibrate"
    place.infer()
    spans = by_name(until(place.kept, INFER[1:]))
    whole = spans.pop("inference.GRPCInferenceService/ModelInfer")
    assert whole.kind is SpanKind.SERVER and whole.parent is None and whole.status.status_code is StatusCode.UNSET
    assert dict(whole.attributes or {}) == {
        "rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer",
        "rpc.grpc.status_code": 0, "cutpoint.model": "linear", "cutpoint.version": 1, "cutpoint.rows": 3,
        "cutpoint.policy_version": 1,
    }  # fmt: skip
    assert whole.resource.attributes["service.name"] == "test"
    order = [name for name in ("decode", "queue", "inference", "threshold") if name in spans]
    assert set(order) >= {"decode", "inference", "threshold"} and set(order) == set(spans)
    assert whole.context is not None and whole.start_time is not None and whole.end_time is not None
    at = whole.start_time
    for name in order:
        span = spans[name]
        assert span.parent is not None and span.parent.span_id == whole.context.span_id
        assert span.start_time is not None and span.end_time is not None
        assert at <= span.start_time + 2 and span.start_time <= span.end_time + 2, name
        at = span.end_time
    assert at <= whole.end_time


def test_the_time_of_a_traced_request_names_its_trace(place: Place) -> None:
    place.infer(("traceparent", f"00-{TRACE}-{PARENT}-01"))
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    with urllib.request.urlopen(urllib.request.Request(place.metrics_url, headers=accept), timeout=WAIT_S) as answer:
        page = answer.read().decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    found = [sample.exemplar for sample in families["cutpoint_request_seconds"].samples if sample.exemplar is not None]
    (example,) = found
    assert example.labels == {"trace_id": TRACE}
    assert 0 < example.value < WAIT_S
    with urllib.request.urlopen(place.metrics_url, timeout=WAIT_S) as answer:  # the classic format has no such thing
        assert TRACE not in answer.read().decode()


def test_a_request_that_waits_has_its_wait(models: Path) -> None:
    """Of a model that lanes run: not one so quick that it is run at once."""
    linear_bundle(models)
    kept = Kept()
    config = ServerConfig(models=models, port=0, metrics_port=0, queue_delay_ms=20.0, lanes=1, provider="cpu")
    with running(config, tracing=Tracing(kept, 1.0, "test")) as at, grpc.insecure_channel(at.grpc_target) as channel:
        infer: Any = channel.unary_unary(INFER, lambda m: m.SerializeToString())
        big = np.zeros((20_000, 4), np.float32)  # more than a serving thread would run itself
        infer(request("linear", big), timeout=WAIT_S)
        spans = until(kept, INFER[1:])
    assert {"decode", "queue", "inference", "threshold"} <= {span.name for span in spans}


def test_callers_say_what_is_traced_and_where_it_belongs(place: Place) -> None:
    place.infer(("traceparent", f"00-{TRACE}-{PARENT}-01"), ("tracestate", "vendor=1"))
    spans = until(place.kept, INFER[1:])
    for span in spans:
        assert span.context is not None and f"{span.context.trace_id:032x}" == TRACE
    whole = spans[-1]
    assert whole.parent is not None and whole.parent.is_remote and f"{whole.parent.span_id:016x}" == PARENT
    assert whole.context is not None and whole.context.trace_state.get("vendor") == "1"


@pytest.mark.parametrize(
    ("traceparent", "chance", "traced"),
    [
        (None, 0.009, True), (None, 0.01, False), (f"00-{TRACE}-{PARENT}-01", 0.9, True),
        (f"00-{TRACE}-{PARENT}-00", 0.0, False), (f"00-{TRACE}-{PARENT}-03", 0.9, True), ("00-xyz", 0.5, False),
        ("00-xyz", 0.0, True), (f"00-{'0' * 32}-{PARENT}-01", 0.5, False),
        (f"ff-{TRACE}-{PARENT}-01", 0.5, False), (b"\x00\xff", 0.5, False), ("", 0.5, False),
    ],
)  # fmt: skip
def test_which_calls_are_traced(traceparent: Any, chance: float, traced: bool) -> None:
    tracing = Tracing(SimpleSpanProcessor(InMemorySpanExporter()), 0.01, "test", chance=lambda: chance)
    metadata = [("user-agent", "x")] + ([] if traceparent is None else [("traceparent", traceparent)])
    found = tracing.begin(INFER, metadata)
    assert (found is not None) is traced
    if found is not None:
        assert re.fullmatch("[0-9a-f]{32}", found.trace_id)
        assert (found.trace_id == TRACE) is (traceparent is not None and TRACE in str(traceparent))
    tracing.close()


def test_what_fails_says_how(place: Place) -> None:
    for model, x, code in (("linear", X[:, :2], 3), ("none", X, 5)):
        with pytest.raises(grpc.RpcError):
            place.infer(model=model, x=x)
        (span,) = place.kept.take(1)
        attributes = dict(span.attributes or {})
        assert attributes["rpc.grpc.status_code"] == code
        assert attributes["error.type"] in ("INVALID_ARGUMENT", "NOT_FOUND")
        assert span.status.status_code is StatusCode.UNSET, "the caller's fault is no error of a server's span"


def test_every_request_of_a_stream_has_a_span_of_its_own(place: Place) -> None:
    answers = place.stream(request("linear", X), request("none", X), request("linear", X[:1]))
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    whole = [until(place.kept, STREAM[1:])[-1] for _ in range(3)]
    assert sorted((dict(span.attributes or {}))["rpc.grpc.status_code"] for span in whole) == [0, 0, 5]
    assert len({span.context.trace_id for span in whole if span.context is not None}) == 3


def test_a_caller_who_leaves_ends_the_span(place: Place) -> None:
    with grpc.insecure_channel(place.target) as channel:
        calibrate: Any = channel.stream_unary("/cutpoint.v1.CalibrationService/Calibrate")
        never = threading.Event()

        def messages() -> Iterator[bytes]:
            never.wait(WAIT_S)
            yield b""

        call = calibrate.future(messages())
        assert place.arrived.acquire(timeout=WAIT_S)
        call.cancel()
        never.set()
    spans = place.kept.take(1)
    assert dict(spans[0].attributes or {})["rpc.grpc.status_code"] == grpc.StatusCode.CANCELLED.value[0]


class Collector(grpc.GenericRpcHandler):
    """A collector that keeps what it is sent, on a port of its own."""

    def __init__(self) -> None:
        self.spans: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.server = grpc.server(ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers((self,))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, details: Any) -> Any:
        if details.method != "/opentelemetry.proto.collector.trace.v1.TraceService/Export":
            return None
        return grpc.unary_unary_rpc_method_handler(self._export, collector.ExportTraceServiceRequest.FromString)

    def _export(self, message: Any, context: Any) -> bytes:
        for of_resource in message.resource_spans:
            resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            for scope in of_resource.scope_spans:
                for span in scope.spans:
                    self.spans.put((resource, span))
        return collector.ExportTraceServiceResponse().SerializeToString()


@pytest.fixture
def collecting() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.stop(0).wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_sends_its_spans_to_a_collector(models: Path, collecting: Collector, workers: int) -> None:
    linear_bundle(models)
    options = (
        "--trace-endpoint",
        f"127.0.0.1:{collecting.port}",
        "--trace-ratio",
        "0",
        "--name",
        "bearings-1",
        "--workers",
        workers,
    )
    with serving(models, *options) as process:
        with grpc.insecure_channel(process.target) as channel:
            infer: Any = channel.unary_unary(INFER, lambda m: m.SerializeToString())
            for _ in range(20):
                infer(request("linear", X), timeout=WAIT_S)  # none of these, at a ratio of 0
            infer(request("linear", X), metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),), timeout=WAIT_S)
        names = set()
        while f"{INFER[1:]}" not in names:
            resource, span = collecting.spans.get(timeout=WAIT_S)
            assert span.trace_id.hex() == TRACE
            assert resource["service.name"] == "bearings-1"
            names.add(span.name)
        assert names >= {"decode", "inference", "threshold"}
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        with urllib.request.urlopen(urllib.request.Request(process.metrics_url, headers=accept), timeout=WAIT_S) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            samples = [sample for family in families for sample in family.samples if sample.exemplar is not None]
        assert [sample.exemplar.labels["trace_id"] for sample in samples if sample.exemplar is not None] == [TRACE]


def test_what_was_traced_is_sent_at_the_end(models: Path, collecting: Collector) -> None:
    linear_bundle(models)
    with serving(models, "--trace-endpoint", f"127.0.0.1:{collecting.port}", "--trace-ratio", "1") as process:
        with Client(process.target) as client:
            client.score("linear", X)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(WAIT_S) == 0
    while collecting.spans.get(timeout=WAIT_S)[1].name != INFER[1:]:
        pass


def test_a_collector_that_is_not_there_hurts_nobody(models: Path) -> None:
    linear_bundle(models)
    with serving(models, "--trace-endpoint", "127.0.0.1:1", "--trace-ratio", "1") as process:
        with Client(process.target) as client:
            for _ in range(50):
                client.score("linear", X)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(WAIT_S) == 0
    log = (models.parent / "server.log").read_text()
    assert "Failed to export" in log or "aborting retry" in log or "UNAVAILABLE" in log
    assert "Traceback" not in log
    assert "traces go to 127.0.0.1:1: those that callers ask for, and 100 % of the others" in log


@pytest.mark.parametrize("endpoint", ["", "here", "127.0.0.1", "ftp://h:1", "http://h:1/v1/traces", ":1", "h:x"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(BadConfig, match="trace_endpoint"):
        tracing_to(endpoint, 0.01, "test")


@pytest.mark.parametrize("endpoint", ["https://user:secret@host:4317", "user:secret@host:4317", "http://secret@@host:1"])
def test_a_password_in_an_endpoint_is_refused_and_not_repeated(endpoint: str) -> None:
    with pytest.raises(BadConfig, match=r"trace_endpoint.*OTEL_EXPORTER_OTLP_HEADERS") as found:
        tracing_to(endpoint, 0.01, "test")
    assert "secret" not in str(found.value)


def test_without_the_extra_the_command_says_what_to_install(models: Path) -> None:
    linear_bundle(models)
    code = "import sys; sys.modules['opentelemetry'] = None; from cutpoint.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--models", str(models), "--port", "0", "--trace-endpoint", "h:1"],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[-1]
        == "error: --trace-endpoint needs the package opentelemetry: pip install 'cutpoint[tracing]'"
    )
    wrong = cutpoint("serve", "--models", models, "--trace-ratio", "2")
    assert wrong.returncode == 2 and "trace_ratio" in wrong.stderr
    alone = cutpoint("serve", "--models", models, "--trace-ratio", "0.5")
    assert alone.returncode == 2
    assert alone.stderr == "error: serve: trace_ratio needs trace_endpoint: without it nothing is traced\n"


def test_nothing_of_it_is_imported_where_nobody_wants_it(models: Path) -> None:
    linear_bundle(models)
    code = (
        "import sys\nfrom pathlib import Path\nfrom cutpoint.server import Listening, ServerConfig, running\n"
        f"with running(ServerConfig(models=Path({str(models)!r}), port=0, metrics_port=0)):\n"
        "    print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_bad_requests_are_still_refused_as_they_are(place: Place) -> None:
    with Client(place.target) as client, pytest.raises(CutpointError):
        client.score("linear", X[:, :1])
