"""Bad input over the wire: the right status code, the reason in the trailing metadata, a message that names the fault."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from bundles import slow_onnx
from cutpoint.calibration import ScoreHistogram
from cutpoint.errors import BadRequest
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.protocol.delivery import check_inputs
from cutpoint.server.protocol.shared_memory import SharedMemory
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import REASON_KEY, encode_input, tensor_of
from fuzz_calls import InProcess, Tally, in_process
from fuzz_messages import INFER, Case
from grpc_health.v1 import health_pb2
from processes import ServerProcess

OIP, V1 = "inference.GRPCInferenceService", "cutpoint.v1.CalibrationService"
GOOD = np.zeros((2, 4), np.float32)
Call = tuple[grpc.StatusCode, str, str]
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def failure(call: Any, request: Any) -> Call:
    with pytest.raises(grpc.RpcError) as refused:
        call(request, timeout=30)
    error: Any = refused.value
    return error.code(), dict(error.trailing_metadata() or ()).get(REASON_KEY, ""), error.details()


def infer(channel: grpc.Channel, request: oip.ModelInferRequest) -> Call:
    method = channel.unary_unary(
        f"/{OIP}/ModelInfer", oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString
    )
    return failure(method, request)


def calibrate(channel: grpc.Channel, *messages: v1.CalibrateRequest) -> Call:
    method = channel.stream_unary(f"/{V1}/Calibrate", v1.CalibrateRequest.SerializeToString, v1.CalibrateResponse.FromString)
    return failure(method, iter(messages))


def ask(x: np.ndarray = GOOD, model: str = "uncalibrated", name: str = "x", **fields: Any) -> oip.ModelInferRequest:
    tensor, raw = encode_input(name, x)
    return oip.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[raw], **fields)


def header(objective: str = "max_fbeta=1", model: str = "uncalibrated", **fields: Any) -> v1.CalibrateRequest:
    return v1.CalibrateRequest(header=v1.CalibrateHeader(model=model, objective=objective, activate=True, **fields))


def chunk(targets: np.ndarray | None = None, **arrays: np.ndarray) -> v1.CalibrateRequest:
    data = {name: tensor_of(array) for name, array in arrays.items()}
    labelled = v1.LabelledChunk(**data)  # type: ignore[arg-type]
    if targets is not None:
        labelled.targets.CopyFrom(tensor_of(targets))
    return v1.CalibrateRequest(chunk=labelled)


LOGITS = np.array([[3, 1], [2, 2], [1, 3]], np.float32)
TARGETS = np.array([[1, 0], [0, 1], [0, 0]], np.uint8)


@pytest.mark.parametrize(
    ("request_", "code", "reason", "text"),
    [
        (ask(np.zeros((2, 3), np.float32)), INVALID, "bad_request", "shape of input 'x' .* is [2, 3]; expected [-1, 4]"),
        (ask(np.zeros(4, np.float32)), INVALID, "bad_request", "shape of input 'x'"),
        (ask(np.zeros((1, 1, 4), np.float32)), INVALID, "bad_request", "shape of input 'x'"),
        (ask(np.zeros((0, 4), np.float32)), INVALID, "bad_request", "-1 being any size from 1"),
        (ask(np.zeros((2, 4))), INVALID, "bad_request", "datatype of input 'x' .* is FP64; expected FP32"),
        (ask(np.array([["a"] * 4])), INVALID, "bad_request", "datatype of input 'x'"),
        (ask(np.array([[0, 0, np.nan, 0]], np.float32)), INVALID, "bad_request", "input 'x'[0, 2] .* is nan; expected a"),
        (ask(np.array([[0, np.inf, 0, 0]], np.float32)), INVALID, "bad_request", "input 'x'[0, 1] .* is inf"),
        (ask(name="y"), INVALID, "bad_request", "inputs for model 'uncalibrated' is ['y']; expected ['x']"),
        (ask(model="none"), NOT_FOUND, "model_not_found", "unknown model: 'none'"),
        (ask(model=""), NOT_FOUND, "model_not_found", "unknown model: ''"),
        (ask(model="x" * 20_000), NOT_FOUND, "model_not_found", "unknown model: 'xxx"),
        # Three characters a byte on the wire: a text of as many characters would exceed what clients take.
        (ask(model="\U0001f600" * 20_000), NOT_FOUND, "model_not_found", "unknown model: '\U0001f600"),
        (ask(model="\x01%" * 20_000), NOT_FOUND, "model_not_found", "unknown model: '\x01%"),
        (ask(model_version="2"), NOT_FOUND, "model_not_found", "version 2 is not found; served: [1]"),
        (ask(model_version="one"), NOT_FOUND, "model_not_found", "version one is not found"),
        (ask(model_version="-1"), NOT_FOUND, "model_not_found", "version -1 is not found"),
        (ask(model_version="9" * 5000), NOT_FOUND, "model_not_found", "version 9999"),
        (
            ask(outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")]),
            INVALID, "bad_request", "output for model 'uncalibrated' is 'probabilities'; expected among ['logits', 'scores'",
        ),
        (
            ask(outputs=[oip.ModelInferRequest.InferRequestedOutputTensor(name="decisions")]),
            grpc.StatusCode.FAILED_PRECONDITION, "not_calibrated", "has no active policy; calibrate it",
        ),
        (ask(np.zeros((3, 3), np.float32), model="fixed"), INVALID, "bad_request", "expected [2, 3]"),
        (ask(np.array([[-1]], np.float32), model="log"), grpc.StatusCode.INTERNAL, "bad_scores", "model 'log' answered NaN"),
        (ask(np.array([b"\xff"], object), model="text", name="s"), INVALID, "bad_request", "text in UTF-8"),
        (oip.ModelInferRequest(model_name="uncalibrated"), INVALID, "bad_request", "inputs for model 'uncalibrated' is []"),
    ],
)  # fmt: skip
def test_inference(
    channel: grpc.Channel, request_: oip.ModelInferRequest, code: grpc.StatusCode, reason: str, text: str
) -> None:
    found = infer(channel, request_)
    assert found[:2] == (code, reason), found
    for part in text.split(" .* "):
        assert part in found[2]


def test_an_unknown_service_with_a_long_name_is_not_found(channel: grpc.Channel) -> None:
    check = channel.unary_unary("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest.SerializeToString)
    for name in ("x" * 100_000, "é" * 100_000):
        code, _, text = failure(check, health_pb2.HealthCheckRequest(service=name))
        assert code is NOT_FOUND
        assert text.startswith(f"unknown service '{name[:100]}")


@pytest.fixture(scope="module")
def one_lane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """A server's handlers with one lane, and a model that keeps it busy for a while."""
    models = tmp_path_factory.mktemp("one-lane") / "models"
    slow_onnx(models / "slow" / "1" / "model.onnx", 50_000)
    with in_process(models, lanes=1) as server:
        yield server


@pytest.mark.parametrize("rows", [1 << 20, 1 << 31, 1 << 37])
@pytest.mark.parametrize(
    ("contents", "says"), [("raw", "raw contents of input 'x' for model 'slow' is 8 bytes"), ("typed", "is 2 elements")]
)
def test_rows_that_are_not_there_are_refused_and_keep_nobody_out(
    one_lane: InProcess, rows: int, contents: str, says: str
) -> None:
    x = np.array([[1, 2]], np.float32)
    honest = Case(INFER, (ask(x, "slow").SerializeToString(),), frozenset({"OK"}), answer={"logits": x})
    lie = ask(x, "slow")
    if contents == "typed":
        lie.inputs[0].contents.fp32_contents.extend([1, 2])
        del lie.raw_input_contents[:]
    lie.inputs[0].shape[0] = rows
    refused = Case(INFER, (lie.SerializeToString(),), frozenset({"INVALID_ARGUMENT"}), says)
    # The first one keeps the lane, so that the others wait: rows that are not there must not be counted among them.
    tally = Tally()
    one_lane.answer([honest, refused, honest, refused, honest], tally)
    assert tally.wrong == []


@pytest.mark.parametrize(
    ("rows", "size", "region", "says"),
    [
        (7000, 7000, "r", "shared_memory_byte_size in region 'r' is 7000 bytes; expected at most 6000"),
        (9000, 9000, "r", "shared_memory_offset + shared_memory_byte_size in region 'r'"),
        (1 << 31, 5000, "r", "shared_memory_byte_size of input 'x' for model 'm' is 5000 bytes"),
        (1 << 31, 1 << 31, "r", "in region 'r'"),
        (5000, 5000, "none", "shared memory region is 'none'"),
    ],
)
def test_rows_in_shared_memory_are_refused_before_they_are_counted_where_it_does_not_hold_them(
    rows: int, size: int, region: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "region").write_bytes(bytes(8000))
    memory = SharedMemory(tmp_path, max_read_bytes=6000)
    memory.register("r", "/region", 0, 8000)
    request = in_region(5000, 5000, "r")
    check_inputs(request, memory)
    with pytest.raises(BadRequest, match="shared memory is off"):
        check_inputs(request, None)
    with pytest.raises(BadRequest) as refused:
        check_inputs(in_region(rows, size, region), memory)
    assert says in str(refused.value)


def in_region(rows: int, size: int, region: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="m")
    parameters = request.inputs.add(name="x", datatype="BOOL", shape=[rows]).parameters
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_byte_size"].int64_param = size
    return request


def test_inputs_of_different_rows(channel: grpc.Channel) -> None:
    request = oip.ModelInferRequest(model_name="simple")
    for name, rows in (("INPUT0", 2), ("INPUT1", 3)):
        tensor, raw = encode_input(name, np.zeros((rows, 16), np.int32))
        request.inputs.append(tensor)
        request.raw_input_contents.append(raw)
    code, reason, text = infer(channel, request)
    assert (code, reason) == (INVALID, "bad_request")
    assert "rows of the inputs for model 'simple'" in text


def test_a_message_that_is_too_large_and_one_that_is_none(channel: grpc.Channel, server: ServerProcess) -> None:
    code, _, text = infer(channel, ask(np.zeros((1 << 20, 4), np.float32)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in text
    code, _, _ = failure(channel.unary_unary(f"/{OIP}/ModelInfer"), b"\xff\xff\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert server.process.poll() is None


def histogram(bits: int = 8, **fields: Any) -> v1.CalibrateRequest:
    counted = ScoreHistogram(("a", "b"), bits=bits)
    counted.update(LOGITS, TARGETS)
    return v1.CalibrateRequest(chunk=v1.LabelledChunk(histogram=counted.to_bytes(), **fields))


@pytest.mark.parametrize(
    ("messages", "code", "reason", "text"),
    [
        ((), INVALID, "bad_request", "first calibrate message is not a header"),
        ((v1.CalibrateRequest(),), INVALID, "bad_request", "first calibrate message is not a header"),
        ((chunk(TARGETS, logits=LOGITS), header()), INVALID, "bad_request", "first calibrate message is not a header"),
        ((header(model="none"),), NOT_FOUND, "model_not_found", "unknown model: 'none'"),
        ((header(model_version="7"),), NOT_FOUND, "model_not_found", "version 7"),
        ((header("foo=1"), chunk(TARGETS, logits=LOGITS)), INVALID, "bad_input", "objective is 'foo=1'; expected one of"),
        ((header("recall_at_least=2"), chunk(TARGETS, logits=LOGITS)), INVALID, "bad_input", "recall_at_least is 2.0"),
        ((header(""),), INVALID, "bad_input", "objective is ''"),
        ((header(),), INVALID, "uncalibratable", "no labels: no chunk came after the header"),
        ((header(), header()), INVALID, "bad_request", "calibrate message is header; expected a chunk"),
        ((header(), v1.CalibrateRequest()), INVALID, "bad_request", "calibrate message is empty; expected a chunk"),
        ((header(), chunk(TARGETS)), INVALID, "bad_request", "chunk 0 is without data"),
        ((header(), chunk(logits=LOGITS)), INVALID, "uncalibratable", "0 labelled positives (no classes are known); needs"),
        ((header(), chunk(TARGETS * 0 + 255, logits=LOGITS)), INVALID, "uncalibratable", "is marked as not labelled"),
        (
            (header(), chunk(TARGETS * 0, logits=LOGITS)), INVALID, "uncalibratable",
            "max_fbeta=1 can be met for no label: a: INSUFFICIENT, 0 labelled positives; needs at least 1; b:",
        ),
        (
            (header(), chunk(TARGETS * 0 + 1, logits=LOGITS)), INVALID, "uncalibratable",
            "a: INSUFFICIENT, 0 labelled negatives; needs at least 1",
        ),
        ((header(min_positives=9), chunk(TARGETS, logits=LOGITS)), INVALID, "uncalibratable", "1 labelled positives; needs"),
        ((header(), chunk(TARGETS + 2, logits=LOGITS)), INVALID, "bad_data", "targets is [2, 3]; expected 0, 1, or 255"),
        ((header(), chunk(TARGETS, logits=LOGITS * np.float32(np.nan))), INVALID, "bad_data", "label 'a': scores is NaN in 3"),
        ((header(), chunk(TARGETS.astype(np.int64), logits=LOGITS)),
         INVALID, "bad_request", "datatype of chunk 0: targets is INT64; expected UINT8"),
        ((header(), chunk(TARGETS, logits=LOGITS.astype(float))),
         INVALID, "bad_request", "chunk 0: logits is FP64; expected FP32"),
        ((header(), chunk(TARGETS[:, :1], logits=LOGITS)), INVALID, "bad_request", "targets is [3, 1]; expected that of the"),
        ((header(), chunk(TARGETS[:2], logits=LOGITS)), INVALID, "bad_request", "shape of chunk 0: targets is [2, 2]"),
        ((header(), chunk(TARGETS[:, :1], logits=LOGITS[:, :1])),
         INVALID, "bad_request", "logits is [3, 1]; expected [..., 2 labels]"),
        ((header(), chunk(TARGETS, inputs=np.zeros((3, 5), np.float32))), INVALID, "bad_request", "shape of input 'x'"),
        ((header(), chunk(TARGETS, inputs=np.full((3, 4), np.nan, np.float32))), INVALID, "bad_request", "input 'x'[0, 0]"),
        ((header(), chunk(TARGETS, inputs=np.zeros((2, 4), np.float32))), INVALID, "bad_request", "chunk 0: targets is [3, 2]"),
        (
            (header(), chunk(TARGETS, logits=LOGITS), chunk(TARGETS[:, :1], logits=LOGITS)), INVALID, "bad_request",
            "shape of chunk 1: targets",
        ),
        ((header(model="other-output"), chunk(TARGETS, logits=LOGITS)), INVALID, "bad_request", "without an output 'logits'"),
        ((header(model="simple"), chunk(TARGETS, logits=LOGITS)), INVALID, "bad_request", "without an output 'logits'"),
        ((header(label_objectives={"c": "max_fbeta=1"}),), INVALID, "bad_input",
         "objectives for labels is ['c']; expected labels among ['a', 'b']"),
        ((header(label_objectives={"a": "best=1"}),), INVALID, "bad_input", "objective is 'best=1'; expected one of"),
        ((header(guarantee=v1.Guarantee(delta=0)),), INVALID, "bad_input", "calibration: delta is 0.0"),
        ((header(guarantee=v1.Guarantee(delta=float("nan"))),), INVALID, "bad_input", "calibration: delta is nan"),
        ((header(guarantee=v1.Guarantee(delta=0.1)),),
         INVALID, "bad_input", "guarantee for objective is max_fbeta=1; expected"),
        ((header(calibrator="best"),), INVALID, "bad_input", "calibration: calibrator"),
        ((header(shrink=-1),), INVALID, "bad_input", "calibration: shrink is -1.0"),
        ((header(shrink=float("inf")),), INVALID, "bad_input", "calibration: shrink is inf"),
        ((header(fallback="any"),), INVALID, "bad_input", "calibration: fallback is 'any'"),
        ((header(), chunk(TARGETS, logits=LOGITS, weights=np.ones(3, np.float32))), INVALID, "bad_request",
         "datatype of chunk 0: weights is FP32; expected FP64"),
        ((header(), chunk(TARGETS, logits=LOGITS, weights=np.ones(2))), INVALID, "bad_request",
         "shape of chunk 0: weights is [2]; expected [3]"),
        ((header(), chunk(TARGETS, logits=LOGITS, weights=-np.ones(3))), INVALID, "bad_data", "weights is [-1.0, -1.0, -1.0]"),
        ((header(), chunk(TARGETS, logits=LOGITS, groups=np.ones(3))), INVALID, "bad_request",
         "datatype of chunk 0: groups is FP64; expected BYTES or INT64"),
        ((header(), chunk(TARGETS, logits=LOGITS, groups=np.ones((3, 2), np.int64))), INVALID, "bad_request",
         "shape of chunk 0: groups is [3, 2]; expected [3]"),
        ((header("recall_at_least=0.5", guarantee=v1.Guarantee(delta=0.1, by_group=True)), chunk(TARGETS, logits=LOGITS)),
         INVALID, "bad_data", "groups is not given; expected one for each row"),
        ((header("recall_at_least=0.5", guarantee=v1.Guarantee(delta=0.1)), chunk(TARGETS, logits=LOGITS, weights=np.ones(3))),
         INVALID, "bad_input", "weights is given; expected none with a guarantee"),
        ((header(), chunk(TARGETS, logits=LOGITS), chunk(logits=LOGITS)), INVALID, "bad_request",
         "chunk 1: targets is missing; expected given, as in the chunks before it"),
        ((header(), chunk(TARGETS, logits=LOGITS), chunk(TARGETS, logits=LOGITS, weights=np.ones(3))), INVALID, "bad_request",
         "chunk 1: weights is given; expected missing"),
        ((header(), chunk(TARGETS, logits=LOGITS, groups=np.arange(3)),
          chunk(TARGETS, logits=LOGITS, groups=np.array(["a", "b", "c"]))), INVALID, "bad_request",
         "chunk 1: groups is text; expected integers"),
        ((header(), chunk(TARGETS, logits=LOGITS), histogram()), INVALID, "bad_request",
         "chunk 1: data is a histogram; expected scores, as in the chunks before it"),
        ((header(), histogram(), chunk(TARGETS, logits=LOGITS)), INVALID, "bad_request",
         "chunk 1: data is scores; expected a histogram"),
        ((header(), histogram(targets=tensor_of(TARGETS))), INVALID, "bad_request",
         "chunk 0: targets is given; expected none beside a histogram"),
        ((header(), histogram(), histogram(bits=4)), INVALID, "bad_request",
         "chunk 1: histogram 1: bits is 4; expected 8, as in histogram 0"),
    ],
)  # fmt: skip
def test_calibration(
    channel: grpc.Channel, messages: tuple[v1.CalibrateRequest, ...], code: grpc.StatusCode, reason: str, text: str
) -> None:
    found = calibrate(channel, *messages)
    assert found[:2] == (code, reason), found
    assert text in found[2]


def test_a_model_left_uncalibrated_by_all_of_this_has_no_policies(channel: grpc.Channel) -> None:
    method = channel.unary_unary(
        f"/{V1}/ListPolicies", v1.ListPoliciesRequest.SerializeToString, v1.ListPoliciesResponse.FromString
    )
    assert len(method(v1.ListPoliciesRequest(model="uncalibrated"), timeout=30).policies) == 0


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("ListPolicies", v1.ListPoliciesRequest(model="none"), NOT_FOUND, "model_not_found"),
        ("GetPolicy", v1.GetPolicyRequest(model="uncalibrated"), NOT_FOUND, "policy_not_found"),
        ("GetPolicy", v1.GetPolicyRequest(model="uncalibrated", version=3), NOT_FOUND, "policy_not_found"),
        ("GetPolicy", v1.GetPolicyRequest(model="uncalibrated", version=(1 << 32) - 1), NOT_FOUND, "policy_not_found"),
        ("ActivatePolicy", v1.ActivatePolicyRequest(model="uncalibrated", version=1), NOT_FOUND, "policy_not_found"),
        ("ActivatePolicy", v1.ActivatePolicyRequest(model="uncalibrated"), NOT_FOUND, "policy_not_found"),
        ("ActivatePolicy", v1.ActivatePolicyRequest(model="none", version=1), NOT_FOUND, "model_not_found"),
    ],
)
def test_policies(channel: grpc.Channel, method: str, request_: Any, code: grpc.StatusCode, reason: str) -> None:
    response = getattr(v1, f"{method}Response")
    call = channel.unary_unary(f"/{V1}/{method}", type(request_).SerializeToString, response.FromString)
    assert failure(call, request_)[:2] == (code, reason)
