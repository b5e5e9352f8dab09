"""ModelStreamInfer: its order, its errors, what holds it back, and that nothing stays behind, alone and on a real server."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bundles import linear_bundle, slow_onnx
from cutpoint.errors import BadRequest, Overloaded
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.port.admission import Admission
from cutpoint.server.port.rpc import Rpc, handlers
from cutpoint.server.protocol.infer_stream import REASON_PARAMETER, InferStream, Reply, varint
from cutpoint.wire import encode_input
from processes import ServerProcess, run_script
from processes import serving as serving_process
from transports import WAIT_S, Served, open_requests, serving

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
ERRORS_END = (("triton_grpc_error", "true"),)
MIB = 1 << 20


def infer_stream(channel: grpc.Channel, requests: Iterator[Any], **given: Any) -> Any:
    method = channel.stream_stream(
        METHOD, lambda each: each.SerializeToString(), oip.ModelStreamInferResponse.FromString
    )  # fmt: skip
    return method(requests, **given)


def asked(name: str, size: int = 0) -> oip.ModelInferRequest:
    return oip.ModelInferRequest(id=name, raw_input_contents=[bytes(size)] if size else [])


class Answers:
    """What requests of streams are given to: answered when the test says so, or at once."""

    def __init__(self) -> None:
        self.arrived: queue.SimpleQueue[tuple[str, Reply]] = queue.SimpleQueue()
        self.taken_back: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.at_once: Callable[[str, Reply], None] | None = None
        self.submitted = 0

    def submit(self, data: bytes, reply: Reply) -> Callable[[], None] | None:
        name = oip.ModelInferRequest.FromString(data).id
        self.submitted += 1
        if self.at_once is not None:
            self.at_once(name, reply)
            return None
        self.arrived.put((name, reply))
        return lambda: self.taken_back.put(name)

    def take(self, count: int) -> dict[str, Reply]:
        """The next requests, by their names."""
        return dict(self.arrived.get(timeout=WAIT_S) for _ in range(count))


def answer(name: str, reply: Reply, size: int = 0) -> None:
    response = oip.ModelInferResponse(id=name, raw_output_contents=[bytes(size)] if size else [])
    reply(response.SerializeToString(), None, name)


class Place:
    def __init__(self, served: Served, channel: grpc.Channel, answers: Answers, admission: Admission, metrics: Metrics) -> None:
        self.served, self.channel, self.answers, self.admission, self.metrics = served, channel, answers, admission, metrics

    def code(self) -> str:
        """How the one stream ended, as counted."""
        while not (found := [each.labels["grpc_code"] for each in self._handled() if each.value]):
            pass
        (code,) = found
        return str(code)

    def _handled(self) -> list[Any]:
        return list(next(iter(self.metrics.handled.collect())).samples)


@contextmanager
def streaming(max_bytes: int = 1 << 30) -> Iterator[Place]:
    answers, admission, metrics = Answers(), Admission(10, max_bytes, 64 * MIB), Metrics()
    rpc = Rpc(METHOD, "bidi_stream", lambda call: InferStream(call, admission, answers.submit).start())
    options = ("grpc.max_receive_message_length", 64 * MIB)
    with serving(handlers({METHOD: rpc}, metrics, lambda call: None), options) as (served, channel):
        yield Place(served, channel, answers, admission, metrics)
        served.stop(0.0)
        assert admission.held_bytes == 0, "what came in was let go"
        assert not admission._streams


def test_answers_come_in_the_order_of_the_requests() -> None:
    with streaming() as place:
        responses = infer_stream(place.channel, iter([asked(str(i)) for i in range(20)]))
        waiting = place.answers.take(20)
        for name in reversed(waiting):
            answer(name, waiting[name])
        assert [each.infer_response.id for each in responses] == [str(i) for i in range(20)]
        assert place.code() == "OK"


def test_answers_given_at_once_and_in_number_take_no_stack() -> None:
    with streaming() as place:
        place.answers.at_once = answer
        responses = infer_stream(place.channel, (asked(str(i)) for i in range(5000)))
        assert [each.infer_response.id for each in responses] == [str(i) for i in range(5000)]


def test_no_request_no_answer() -> None:
    with streaming() as place:
        assert list(infer_stream(place.channel, iter(()))) == []
        assert place.code() == "OK"


def test_an_error_is_said_in_the_stream_which_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def respond(name: str, reply: Reply) -> None:
        errors = {"bad": BadRequest("not this one"), "busy": Overloaded("later"), "odd": RuntimeError("a secret")}
        if name in errors:
            reply(None, errors[name], name)
        else:
            answer(name, reply)

    with streaming() as place:
        place.answers.at_once = respond
        responses = list(infer_stream(place.channel, iter([asked(name) for name in ("1", "bad", "2", "busy", "odd", "3")])))
        assert [(each.infer_response.id, each.error_message) for each in responses] == [
            ("1", ""), ("bad", "not this one"), ("2", ""), ("busy", "later"),
            ("odd", "internal error; the server's log has the details"), ("3", ""),
        ]  # fmt: skip
        reasons = [each.infer_response.parameters[REASON_PARAMETER].string_param for each in responses if each.error_message]
        assert reasons == ["bad_request", "overloaded", "internal"]
        assert place.code() == "OK"
    assert "a secret" in caplog.text


def test_an_error_ends_the_stream_where_that_was_asked_for_after_the_answers_before_it() -> None:
    with streaming() as place, open_requests() as requests:
        stream = requests(*(asked(name, 1000) for name in ("1", "2", "bad", "4", "5")))
        responses = infer_stream(place.channel, stream, metadata=ERRORS_END)
        waiting = place.answers.take(5)
        waiting["bad"](None, BadRequest("not this one"), "bad")
        answer("4", waiting["4"])
        answer("2", waiting["2"])
        answer("1", waiting["1"])
        assert [next(responses).infer_response.id for _ in range(2)] == ["1", "2"]
        with pytest.raises(grpc.RpcError) as ended:
            next(responses)
        assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "not this one")
        assert place.answers.taken_back.get(timeout=WAIT_S) == "5"
        answer("5", waiting["5"])  # too late, and no harm
        assert place.code() == "InvalidArgument"


def test_no_more_requests_are_under_way_than_may_be() -> None:
    written = [0]

    def requests() -> Iterator[oip.ModelInferRequest]:
        for i in range(400):
            written[0] += 1
            yield asked(str(i), 1 << 18)

    with streaming() as place:
        responses = infer_stream(place.channel, requests())
        waiting = place.answers.take(64)
        for _ in range(20):
            ping(place)
        assert place.answers.submitted == 64 and written[0] < 100
        for name, reply in waiting.items():
            answer(name, reply)
        answering = threading.Thread(target=lambda: [answer(*each) for each in iter(place.answers.arrived.get, None)])
        answering.start()
        assert [each.infer_response.id for each in responses] == [str(i) for i in range(400)]
        place.answers.arrived.put(None)
        answering.join(WAIT_S)


def ping(place: Place) -> bytes:
    """A round trip on the same connection: what could be written until now has been written."""
    with pytest.raises(grpc.RpcError):
        place.channel.unary_unary("/none/at/all")(b"", timeout=WAIT_S)
    return b""


def test_a_caller_who_does_not_read_is_not_read_either_and_holds_up_nobody_else() -> None:
    with streaming(max_bytes=16 * MIB) as place:
        place.answers.at_once = lambda name, reply: answer(name, reply, MIB)
        responses = infer_stream(place.channel, (asked(str(i), 1000) for i in range(200)))
        assert next(responses).infer_response.id == "0"
        for _ in range(20):
            ping(place)
        assert place.answers.submitted < 20
        assert place.admission.held_bytes == 0, "what was answered counts no more, read or not"
        assert [each.infer_response.id for each in responses] == [str(i) for i in range(1, 200)]


def test_a_stream_reads_on_when_others_have_made_room() -> None:
    with streaming(max_bytes=MIB) as place, open_requests() as requests:
        first = infer_stream(place.channel, requests(asked("first", MIB)))
        waiting = place.answers.take(1)
        place.answers.at_once = answer
        # This one has read already when the room is gone, so its first message still comes; its second does not.
        second = infer_stream(place.channel, iter([asked(str(i), 1000) for i in range(10)]))
        answer("first", waiting["first"])
        assert next(first).infer_response.id == "first"
        assert [each.infer_response.id for each in second] == [str(i) for i in range(10)]
        first.cancel()


def test_a_caller_who_leaves_has_everything_taken_back() -> None:
    with streaming() as place, open_requests() as requests:
        stream = requests(*(asked(str(i), 1000) for i in range(10)))
        responses = infer_stream(place.channel, stream)
        waiting = place.answers.take(10)
        assert place.admission.held_bytes > 10_000
        answer("0", waiting["0"])
        assert next(responses).infer_response.id == "0"
        responses.cancel()
        assert {place.answers.taken_back.get(timeout=WAIT_S) for _ in range(9)} == {str(i) for i in range(1, 10)}
        assert place.code() == "Canceled"
        for name in list(waiting)[1:]:
            answer(name, waiting[name])  # a run that could not be stopped any more
        while place.admission.held_bytes:
            pass


def test_a_stop_answers_what_was_read_and_ends_the_stream() -> None:
    with streaming() as place, open_requests() as requests:
        busy = infer_stream(place.channel, requests(asked("1"), asked("2")))
        idle = infer_stream(place.channel, requests())
        while len(place.served.transport._calls) < 2:
            pass
        waiting = place.answers.take(2)
        stopping = threading.Thread(target=place.served.stop)
        stopping.start()
        with pytest.raises(grpc.RpcError) as ended:
            next(idle)
        assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        assert stopping.is_alive(), "it waits for what was accepted"
        for name, reply in waiting.items():
            answer(name, reply)
        assert [next(busy).infer_response.id for _ in range(2)] == ["1", "2"]
        with pytest.raises(grpc.RpcError) as ended:
            next(busy)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        stopping.join(WAIT_S)
        assert not stopping.is_alive()


@pytest.mark.parametrize("value", [1, 127, 128, 300, 16_384, (1 << 31) - 1])
def test_varints_are_protobufs(value: int) -> None:
    assert varint(value) == oip.InferParameter(int64_param=value).SerializeToString()[1:]


# On a real server.


def request_of(model: str, x: np.ndarray, name: str = "") -> oip.ModelInferRequest:
    tensor, raw = encode_input("x", x)
    return oip.ModelInferRequest(model_name=model, id=name, inputs=[tensor], raw_input_contents=[raw])


@pytest.fixture(scope="module")
def triton(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = run_script(Path(__file__).with_name("triton_stream_script.py"), server.target)
    return found


def test_tritonclient_streams(triton: dict[str, Any]) -> None:
    assert triton["errors"] == []
    assert triton["ids"] and triton["sums"] and triton["gzip"]
    assert triton["final"] == ["5", True, 2]


def test_tritonclient_sees_errors_between_answers_or_as_the_status(triton: dict[str, Any]) -> None:
    assert triton["between"][::2] == ["1", "3"]
    assert "Request for unknown model: 'none' is not found" in triton["between"][1]
    assert triton["status"][0] == "1"
    assert triton["status"][1].removeprefix("StatusCode.") == "NOT_FOUND"
    assert triton["status"][2] == "Request for unknown model: 'none' is not found"


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_stream_answers_as_single_calls_do(channel: grpc.Channel, compression: grpc.Compression) -> None:
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(int(rows), 3)).astype(np.float32) for rows in rng.integers(1, 20, 300)]
    requests = [request_of("foreign", x, str(i)) for i, x in enumerate(inputs)]
    responses = list(infer_stream(channel, iter(requests), compression=compression, timeout=WAIT_S))
    infer = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer", oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString
    )
    assert len(responses) == 300
    for i, (request, response) in enumerate(zip(requests, responses, strict=True)):
        assert response.error_message == "" and response.infer_response.id == str(i)
        if i % 30 == 0:
            assert response.infer_response == infer(request)
        logits = response.infer_response.outputs[0]
        assert (logits.name, list(logits.shape)) == ("logits", [len(inputs[i]), 2])
        raw = np.frombuffer(response.infer_response.raw_output_contents[0], np.float32).reshape(-1, 2)
        np.testing.assert_array_equal(raw, inputs[i][:, :2])


def test_models_of_one_stream_may_differ_and_bytes_that_are_no_request_are_an_error(channel: grpc.Channel) -> None:
    x = np.ones((1, 3), np.float32)
    method = channel.stream_stream(METHOD, None, oip.ModelStreamInferResponse.FromString)
    messages = [
        request_of("foreign", x, "1").SerializeToString(),
        b"\xff\xff",
        request_of("mean", x[:, :2], "3").SerializeToString(),
    ]
    responses = list(method(iter(messages), timeout=WAIT_S))
    assert [each.infer_response.id for each in responses] == ["1", "", "3"]
    assert responses[1].error_message.startswith("request is 2 bytes that are no such message")


def test_callers_who_leave_in_the_middle_leave_nothing_in_flight(models: Path) -> None:
    slow_onnx(models / "slow" / "1" / "model.onnx", 100_000)
    linear_bundle(models)
    inflight = 'cutpoint_inflight_requests{model="slow"}'
    rows = 'cutpoint_queue_rows{model="slow",version="1"}'
    x = np.ones((1, 2), np.float32)
    with serving_process(models, "--lanes", "1", "--max-requests", "40") as server:
        for how in ("stream", "unary"):
            with grpc.insecure_channel(server.target) as channel, open_requests() as requests:
                if how == "stream":
                    messages = requests(*(request_of("slow", x, str(i)) for i in range(40)))
                    calls = [infer_stream(channel, messages)]
                else:
                    infer = channel.unary_unary(
                        "/inference.GRPCInferenceService/ModelInfer",
                        oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString,
                    )  # fmt: skip
                    calls = [infer.future(request_of("slow", x, str(i))) for i in range(40)]
                while server.metrics()[inflight] < 20:
                    pass
                for call in calls:
                    call.cancel()
                while (found := server.metrics())[inflight] or found[rows]:
                    pass
        with grpc.insecure_channel(server.target) as channel:  # and all places are free again
            infer = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString,
            )  # fmt: skip
            futures = [infer.future(request_of("linear", np.ones((1, 4), np.float32), str(i))) for i in range(40)]
            assert [each.result(WAIT_S).id for each in futures] == [str(i) for i in range(40)]
