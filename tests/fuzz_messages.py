"""The fuzzer's messages: right ones of every RPC, wrong ones of every kind with what must be said of them, and damaged ones."""

import gzip
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bundles import IR, OPSET, linear_bundle, policy, simple_onnx, text_onnx
from cutpoint.bundle import POLICY_FILE
from cutpoint.calibration import ScoreHistogram
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.v1 import outcome_pb2 as outcome
from cutpoint.v1 import signal_pb2 as signals
from cutpoint.wire import encode_input, tensor_of
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from onnx import TensorProto, helper
from signal_bundles import signal_bundle

OIP, CALIBRATION, SIGNAL = "/inference.GRPCInferenceService/", "/cutpoint.v1.CalibrationService/", "/cutpoint.v1.SignalService/"
OUTCOME = "/cutpoint.v1.OutcomeService/"
INFER, STREAM, CALIBRATE = f"{OIP}ModelInfer", f"{OIP}ModelStreamInfer", f"{CALIBRATION}Calibrate"
# What may be answered to nonsense. UNAVAILABLE: to RepositoryModelLoad without explicit control; ABORTED: a policy's
# compare-and-set; FAILED_PRECONDITION: no policy, or a bundle that cannot be served.
EXPECTED = frozenset(
    {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
        "RESOURCE_EXHAUSTED",
        "UNIMPLEMENTED",
        "ABORTED",
        "UNAVAILABLE",
    }
)
# What goes to the disk, or answers with all that was ever calibrated, is tried a tenth as often.
_SLOW = {
    CALIBRATE, f"{CALIBRATION}ListPolicies", f"{CALIBRATION}ActivatePolicy", f"{OIP}RepositoryModelLoad",
    f"{OIP}RepositoryModelUnload", f"{SIGNAL}ScoreSignal", f"{OUTCOME}ReportOutcomes", f"{OUTCOME}StreamOutcomes",
    f"{OUTCOME}GetOutcomeSummary",
}  # fmt: skip
STREAMS = {
    STREAM, CALIBRATE, f"{SIGNAL}ScoreSignal", f"{OUTCOME}StreamOutcomes",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        method: its full name.
        messages: what is sent, in order.
        codes: statuses that are right.
        says: a part of the text of a refusal; empty where nothing is known of it.
        answer: outputs that are right, by name, where they are known: such a call must be answered with them.
    """

    method: str
    messages: tuple[bytes, ...]
    codes: frozenset[str] = EXPECTED
    says: str = ""
    answer: dict[str, Any] = field(default_factory=dict)


def fuzz_models(models: Path) -> None:
    """The repository that the cases are about; `coming` is what is loaded and unloaded, `probe` what must always be right."""
    models.mkdir(parents=True, exist_ok=True)
    for name in ("linear", "coming"):
        linear_bundle(models, name=name)
    calibrated = linear_bundle(models, name="calibrated")
    (calibrated / POLICY_FILE).write_text(policy(calibrated, {"a": 0.5, "b": None}).to_json())
    signal_bundle(models, "signals")
    simple_onnx(models / "simple" / "1" / "model.onnx")
    simple_onnx(models / "probe" / "1" / "model.onnx")
    text_onnx(models / "text" / "1" / "model.onnx")
    _identity_onnx(models / "narrow" / "1" / "model.onnx", TensorProto.INT8)
    _identity_onnx(models / "half" / "1" / "model.onnx", TensorProto.FLOAT16)


def _identity_onnx(path: Path, kind: int) -> None:
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", [x], [y])
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR), path)


def request(model: str, arrays: dict[str, np.ndarray], **fields: Any) -> oip.ModelInferRequest:
    """A right request with raw contents."""
    made = oip.ModelInferRequest(model_name=model, **fields)
    for name, array in arrays.items():
        tensor, raw = encode_input(name, array)
        made.inputs.append(tensor)
        made.raw_input_contents.append(raw)
    return made


def probe(rng: random.Random) -> Case:
    """A right request of which the answer is known."""
    rows = rng.randint(1, 3)
    one, two = (np.array([[rng.randint(-999, 999) for _ in range(16)] for _ in range(rows)], np.int32) for _ in "ab")
    message = request("probe", {"INPUT0": one, "INPUT1": two}).SerializeToString()
    return Case(INFER, (message,), frozenset({"OK"}), answer={"OUTPUT0": one + two, "OUTPUT1": one - two})


def linear_request(rows: int = 2, **fields: Any) -> oip.ModelInferRequest:
    """A right request to `linear`."""
    return request("linear", {"x": np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)}, **fields)


def seeds(region: str) -> list[tuple[str, tuple[Any, ...]]]:
    """Right calls of every RPC, as messages; `region` is a shared memory object of at least 1 KiB."""
    typed = oip.ModelInferRequest(model_name="simple", id="seven")
    for name in ("INPUT0", "INPUT1"):
        tensor = typed.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        tensor.contents.int_contents.extend(range(16))
    full = linear_request(id="id", model_version="1")
    full.parameters["priority"].int64_param = 3
    full.parameters["timeout"].int64_param = 10_000_000
    full.parameters["own"].string_param = "text"
    full.parameters["share"].double_param = 0.5
    full.outputs.add(name="logits").parameters["classification"].int64_param = 2
    full.outputs.add(name="scores")
    shared = oip.ModelInferRequest(model_name="linear")
    _share(shared.inputs.add(name="x", datatype="FP32", shape=[2, 4]).parameters, "fuzz", 0, 32)
    _share(shared.outputs.add(name="logits").parameters, "fuzz", 64, 16)
    words = request("text", {"s": np.array([b"one", "é".encode(), b""], object)})
    infers = [
        typed, full, shared, words, linear_request(), linear_request(5),
        request("calibrated", {"x": np.ones((1, 4), np.float32)}),
        request("narrow", {"x": np.ones((1, 4), np.int8)}), request("half", {"x": np.ones((2, 4), np.float16)}),
        request("signals", {"x": np.ones((1, 20, 8), np.float32)}),
    ]  # fmt: skip
    logits = np.array([[3, 1], [2, 2], [1, 3], [0, 0]], np.float32)
    targets = np.array([[1, 0], [0, 1], [0, 0], [1, 1]], np.uint8)
    counted = ScoreHistogram(("a", "b"), bits=6)
    counted.update(logits, targets)
    header = v1.CalibrateRequest(
        header=v1.CalibrateHeader(model="calibrated", objective="max_fbeta=1", activate=True, author="fuzz")
    )
    guaranteed = v1.CalibrateRequest(
        header=v1.CalibrateHeader(
            model="calibrated", objective="recall_at_least=0.5", label_objectives={"a": "precision_at_least=0.5"},
            min_positives=1, guarantee=v1.Guarantee(delta=0.1), calibrator="platt", shrink=1.0,
        )
    )  # fmt: skip
    scored = v1.CalibrateRequest(chunk=v1.LabelledChunk(logits=tensor_of(logits), targets=tensor_of(targets)))
    weighed = v1.CalibrateRequest(
        chunk=v1.LabelledChunk(
            inputs=tensor_of(np.ones((4, 4), np.float32)), targets=tensor_of(targets), groups=tensor_of(np.arange(4)),
        )
    )  # fmt: skip
    histogram = v1.CalibrateRequest(chunk=v1.LabelledChunk(histogram=counted.to_bytes()))
    opened = signals.SignalRequest(
        header=signals.SignalHeader(model="signals", events=signals.SignalEvents(hysteresis=1, min_duration_s=0.1))
    )
    resampled = signals.SignalRequest(
        header=signals.SignalHeader(model="signals", rate_hz=250, datatype="INT16", scale=0.1, labels=["hiss"], start_s=5)
    )
    samples = signals.SignalRequest(chunk=np.arange(400, dtype=np.float32).tobytes())
    counts = signals.SignalRequest(chunk=np.arange(400, dtype=np.int16).tobytes(), channels=1)
    asked = request("calibrated", {"x": np.ones((2, 4), np.float32)}, id="asked")
    requested = outcome.ReportOutcomesRequest(
        model="calibrated", sampling="SAMPLING_RANDOM", probability=0.5,
        outcomes=[
            outcome.Outcome(requested=outcome.Requested(request_id="asked", row=1), positive=["a"], negative=["b"]),
            outcome.Outcome(requested=outcome.Requested(request_id="asked"), targets=b"\x01\xff"),
        ],
    )  # fmt: skip
    kept = outcome.Scored(key="k", logits=[1.0, -1.0], policy_version=1, time_s=5.0)
    by_score = outcome.ReportOutcomesRequest(model="calibrated", outcomes=[outcome.Outcome(scored=kept, negative=["a"])])
    from_outcomes = v1.CalibrateRequest(
        header=v1.CalibrateHeader(
            model="calibrated", objective="max_fbeta=1", outcomes=v1.KeptOutcomes(since_s=1, until_s=1e10, any_sampling=True)
        )
    )
    summed = outcome.GetOutcomeSummaryRequest(model="calibrated", since_s=1, until_s=1e10)
    reflect = reflection_pb2.ServerReflectionRequest
    load, unload = oip.RepositoryModelLoadRequest, oip.RepositoryModelUnloadRequest
    unary = {
        "ServerLive": oip.ServerLiveRequest(), "ServerReady": oip.ServerReadyRequest(),
        "ModelReady": oip.ModelReadyRequest(name="linear", version="1"), "ServerMetadata": oip.ServerMetadataRequest(),
        "ModelMetadata": oip.ModelMetadataRequest(name="calibrated"), "ModelConfig": oip.ModelConfigRequest(name="signals"),
        "ModelStatistics": oip.ModelStatisticsRequest(name="linear", version="1"),
        "RepositoryIndex": oip.RepositoryIndexRequest(ready=True),
        "SystemSharedMemoryStatus": oip.SystemSharedMemoryStatusRequest(name="fuzz"),
        "SystemSharedMemoryUnregister": oip.SystemSharedMemoryUnregisterRequest(name="fuzz2"),
    }  # fmt: skip
    register = oip.SystemSharedMemoryRegisterRequest(name="fuzz", key=region, byte_size=1024)
    return [
        (f"{OIP}SystemSharedMemoryRegister", (register,)),  # first: others are about it
        *[(INFER, (each,)) for each in infers],
        *[(STREAM, tuple(infers[i : i + 4])) for i in range(0, len(infers), 3)],
        *[(OIP + name, (message,)) for name, message in unary.items()],
        (f"{OIP}RepositoryModelLoad", (load(model_name="coming"),)),
        (f"{OIP}RepositoryModelUnload", (unload(model_name="coming"),)),
        (CALIBRATE, (header, scored, scored)), (CALIBRATE, (guaranteed, weighed)), (CALIBRATE, (header, histogram)),
        (INFER, (asked,)), (f"{OUTCOME}ReportOutcomes", (requested,)), (f"{OUTCOME}ReportOutcomes", (by_score,)),
        (f"{OUTCOME}StreamOutcomes", (requested, by_score)), (f"{OUTCOME}GetOutcomeSummary", (summed,)),
        (CALIBRATE, (from_outcomes,)),
        (f"{CALIBRATION}ListPolicies", (v1.ListPoliciesRequest(model="calibrated"),)),
        (f"{CALIBRATION}GetPolicy", (v1.GetPolicyRequest(model="calibrated", version=1),)),
        (f"{CALIBRATION}ActivatePolicy", (v1.ActivatePolicyRequest(model="calibrated", version=1, expected_active=1),)),
        (f"{SIGNAL}ScoreSignal", (opened, samples, samples)), (f"{SIGNAL}ScoreSignal", (resampled, counts)),
        ("/grpc.health.v1.Health/Check", (health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService"),)),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", (reflect(list_services=""),)),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
         (reflect(file_containing_symbol="inference.GRPCInferenceService"), reflect(file_by_filename="x"))),
    ]  # fmt: skip


def damaged(rng: random.Random, of: list[tuple[str, tuple[bytes, ...]]]) -> Case:
    """A right call with one of its messages damaged, or sent to another RPC."""
    method, messages = rng.choice(of)
    while method in _SLOW and rng.random() > 0.1:
        method, messages = rng.choice(of)
    parts = list(messages)
    at = rng.randrange(len(parts))
    parts[at] = damage(rng, parts[at])
    if len(parts) > 1 and rng.random() < 0.1:
        rng.shuffle(parts)
    if rng.random() < 0.03:
        # Not loading and unloading: a request's first field is the model's name, to which that would really be done.
        method = rng.choice([each for each, _ in of if "RepositoryModel" not in each])
    if method not in STREAMS:
        parts = parts[at : at + 1] if at < len(parts) else parts[:1]
    return Case(method, tuple(parts))


def damage(rng: random.Random, data: bytes) -> bytes:
    """Do one or a few things to some bytes that break what they say."""
    for _ in range(1 if rng.random() < 0.7 else rng.randint(2, 6)):
        data = rng.choice(_DAMAGES)(rng, data)
    return data


def _at(rng: random.Random, data: bytes) -> int:
    # Descriptions come first, contents last and large: half of the time only the first bytes are looked at.
    return rng.randrange(min(len(data), 120) if rng.random() < 0.5 else len(data)) if data else 0


def _flip(rng: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(rng.randint(1, 4) if data else 0):
        made[_at(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(made)


def _set(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + bytes((rng.choice((0, 1, 127, 128, 255, rng.randrange(256))),)) + data[at + 1 :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _at(rng, data)]


def _drop(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + data[at + rng.randint(1, 9) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + rng.randbytes(rng.randint(1, 12)) + data[at:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    return data[:at] + data[at : at + rng.randint(1, 40)] * rng.choice((2, 3, 200)) + data[at:]


def _twice(rng: random.Random, data: bytes) -> bytes:
    return data + data if rng.random() < 0.5 else data + data[_at(rng, data) :]


# Varints: -1, the largest, one of eleven bytes, and what does not fit int32.
_NUMBERS = (b"\xff" * 9 + b"\x01", b"\x80" * 9 + b"\x01", b"\xff" * 11, b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x08")


def _number(rng: random.Random, data: bytes) -> bytes:
    at = _at(rng, data)
    number = rng.choice(
        (b"\xff" * 9 + b"\x01", b"\x80" * 9 + b"\x01", b"\xff" * 11, b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x08")
    )
    return data[:at] + number + data[at + rng.randint(0, 2) :]


def _field(rng: random.Random, data: bytes) -> bytes:
    """A field of any number and wire type, a group and one of a length that lies among them."""
    key, wire = rng.randint(0, 20), rng.randrange(8)
    body = rng.choice((b"", b"\x00", b"\x7fabc", rng.randbytes(8), b"\xff\xff\xff\xff\x07" + b"x" * 9))
    made = bytes(((key << 3 | wire) & 127,)) + body
    return made + data if rng.random() < 0.5 else data + made


def _nest(rng: random.Random, data: bytes) -> bytes:
    """Messages in messages, or groups in groups, deeper than any parser goes."""
    depth, key = rng.choice((5, 99, 101, 300)), rng.randint(1, 12)
    if rng.random() < 0.5:
        return data + bytes((key << 3 & 127 | 3,)) * depth + bytes((key << 3 & 127 | 4,)) * rng.choice((0, depth))
    inner = b""
    for _ in range(depth):
        inner = bytes((key << 3 & 127 | 2,)) + _varint(len(inner)) + inner
    return data + inner


def _empty(rng: random.Random, data: bytes) -> bytes:
    return b""


def _noise(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randint(1, 200))


_DAMAGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip, _flip, _flip, _set, _set, _cut, _drop, _insert, _repeat, _twice, _number, _number, _field, _nest, _empty, _noise
)  # fmt: skip


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def wrong(rng: random.Random) -> Case:
    """A well-formed inference request with one thing wrong, and what the answer must name."""
    return rng.choice(_WRONGS)(rng)


def _refused(made: oip.ModelInferRequest, says: str, code: str = "INVALID_ARGUMENT") -> Case:
    return Case(INFER, (made.SerializeToString(),), frozenset({code}), says)


def _word(rng: random.Random) -> str:
    alphabet = rng.choice(("abcxyz01", "x", "é€😀", "\x00\x01\n\"'%\\", "../"))
    return "".join(rng.choices(alphabet, k=rng.choice((0, 1, 3, 20)))) * (200 if rng.random() < 0.1 else 1)


def _size(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 3, 4, 5, -1, -2, 1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63), rng.randint(-9, 99)))


def _wrong_shape(rng: random.Random) -> Case:
    made = linear_request()
    shape = [2, 4]
    while shape == [2, 4]:
        shape = [_size(rng) for _ in range(rng.choice((0, 1, 2, 2, 2, 3, 40, 400)))]
    del made.inputs[0].shape[:]
    made.inputs[0].shape.extend(shape)
    return _refused(made, "input 'x'")


def _wrong_datatype(rng: random.Random) -> Case:
    made = linear_request()
    made.inputs[0].datatype = rng.choice(("FP64", "INT32", "BYTES", "BF16", "FP16", "fp32", "BOOL", _word(rng)))
    return _refused(made, "datatype of input 'x'")


def _wrong_name(rng: random.Random) -> Case:
    made = linear_request()
    made.inputs[0].name = rng.choice(("X", "x ", "logits", _word(rng) + "y"))
    return _refused(made, "inputs for model 'linear'")


def _wrong_model(rng: random.Random) -> Case:
    made = linear_request()
    made.model_name = _word(rng) + "?"
    return _refused(made, "Request for unknown model: '", "NOT_FOUND")


def _wrong_version(rng: random.Random) -> Case:
    made = linear_request()
    made.model_version = rng.choice(("2", "-1", "01", "1.0", "9" * 5000, _word(rng) + "!"))
    return _refused(made, "version ", "NOT_FOUND")


def _wrong_count(rng: random.Random) -> Case:
    made = linear_request()
    count = rng.choice((0, 2, 3, 50))
    del made.raw_input_contents[:]
    made.raw_input_contents.extend([bytes(32)] * count)
    return _refused(made, "raw_input_contents for model 'linear'" if count else "fp32_contents of input 'x'")


def _wrong_bytes(rng: random.Random) -> Case:
    made = linear_request()
    size = rng.choice((0, 1, 31, 33, 64, 10_000))
    made.raw_input_contents[0] = bytes(size)
    return _refused(made, "raw contents of input 'x'")


def _not_finite(rng: random.Random) -> Case:
    x = np.zeros((3, 4), np.float32)
    x[rng.randrange(3), rng.randrange(4)] = rng.choice((np.nan, np.inf, -np.inf))
    return _refused(request("linear", {"x": x}), "input 'x'[")


def _lying_bytes(rng: random.Random) -> Case:
    made = request("text", {"s": np.array([b"one", b"two"], object)})
    raw = bytearray(made.raw_input_contents[0])
    raw[rng.choice((0, 7)) : rng.choice((4, 11))] = rng.choice((1 << 31, (1 << 32) - 1, 4, 2, 0, 100)).to_bytes(4, "little")
    made.raw_input_contents[0] = bytes(raw[: rng.randint(0, len(raw))]) if rng.random() < 0.3 else bytes(raw)
    whole = _elements(made.raw_input_contents[0]) == 2
    code = frozenset({"OK" if whole else "INVALID_ARGUMENT"})
    return Case(INFER, (made.SerializeToString(),), code, "raw contents of input 's'")


def _elements(raw: bytes) -> int:
    """How many elements contents of BYTES hold; -1 where they do not end with one."""
    count = 0
    while len(raw) >= 4:
        size = int.from_bytes(raw[:4], "little")
        if len(raw) < 4 + size:
            return -1
        raw, count = raw[4 + size :], count + 1
    return -1 if raw else count


def _not_text(rng: random.Random) -> Case:
    made = request("text", {"s": np.array([b"\xff" + rng.randbytes(4), b"two"], object)})
    return _refused(made, "UTF-8")


def _mixed(rng: random.Random) -> Case:
    made = linear_request()
    made.inputs[0].contents.fp32_contents.extend([0.0] * rng.choice((1, 8)))
    return _refused(made, "contents field must not be specified when using raw_input_contents for 'x' for model 'linear'")


def _wrong_contents(rng: random.Random) -> Case:
    made = oip.ModelInferRequest(model_name="linear")
    contents = made.inputs.add(name="x", datatype="FP32", shape=[2, 4]).contents
    kind = rng.choice(("fp64_contents", "int_contents", "int64_contents", "uint64_contents"))
    getattr(contents, kind).extend([1] * 8)
    contents.fp32_contents.extend([1] * rng.choice((0, 1, 7, 9, 300)))
    return _refused(made, "fp32_contents of input 'x'")


def _out_of_range(rng: random.Random) -> Case:
    made = oip.ModelInferRequest(model_name="narrow")
    contents = made.inputs.add(name="x", datatype="INT8", shape=[1, 4]).contents
    contents.int_contents.extend([1, 2, 3, rng.choice((128, -129, 1 << 30, -(1 << 31)))])
    return _refused(made, "int_contents of input 'x'")


def _twice_given(rng: random.Random) -> Case:
    made = linear_request()
    for _ in range(rng.choice((1, 2, 30))):
        made.inputs.append(made.inputs[0])
        made.raw_input_contents.append(bytes(32))
    return _refused(made, "inputs for model 'linear'")


def _many_inputs(rng: random.Random) -> Case:
    made = linear_request()
    count = 10_000 if rng.random() < 0.005 else rng.choice((1, 30))
    for i in range(count):
        made.inputs.add(name=f"x{i}", datatype="FP32", shape=[1])
    return _refused(made, "inputs for model 'linear'" if count < 1000 else "request")


def _wrong_rows(rng: random.Random) -> Case:
    arrays = {"INPUT0": np.zeros((2, 16), np.int32), "INPUT1": np.zeros((rng.choice((1, 3, 7)), 16), np.int32)}
    return _refused(request("simple", arrays), "rows of the inputs for model 'simple'")


def _wrong_parameter(rng: random.Random) -> Case:
    made = linear_request()
    name = rng.choice(("priority", "timeout", "sequence_id"))
    parameter = made.parameters[name]
    kind, value = rng.choice(
        (("string_param", "1"), ("double_param", 1.0), ("int64_param", -1), ("uint64_param", (1 << 64) - 1))
    )
    if rng.random() < 0.9:
        setattr(parameter, kind, value)
    return _refused(made, f"parameter '{name}'")


def _unknown_parameters(rng: random.Random) -> Case:
    made = linear_request()
    for i in range(300 if rng.random() < 0.02 else rng.randint(1, 5)):
        made.parameters[f"{i}{_word(rng)[:50]}"].string_param = _word(rng)
    for tensor in (made.inputs[0], made.outputs.add(name="logits")):
        tensor.parameters["?" + _word(rng)[:50]].double_param = float("nan")
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    return Case(INFER, (made.SerializeToString(),), frozenset({"OK"}), answer={"logits": x[:, :2]})


def _wrong_output(rng: random.Random) -> Case:
    made = linear_request()
    made.outputs.add(name=rng.choice(("LOGITS", "probabilities", _word(rng) + "?")))
    return _refused(made, "output for model 'linear'")


def _no_decisions(rng: random.Random) -> Case:
    made = linear_request()
    made.outputs.add(name="decisions")
    return _refused(made, "has no active policy", "FAILED_PRECONDITION")


def _wrong_classes(rng: random.Random) -> Case:
    made = linear_request()
    parameter = made.outputs.add(name="logits").parameters["classification"]
    kind, value = rng.choice((("int64_param", 0), ("int64_param", -1), ("string_param", "2"), ("bool_param", True)))
    setattr(parameter, kind, value)
    return _refused(made, "classification of output 'logits'")


def _wrong_region(rng: random.Random) -> Case:
    made = oip.ModelInferRequest(model_name="linear")
    parameters = made.inputs.add(name="x", datatype="FP32", shape=[2, 4]).parameters
    _share(parameters, rng.choice(("none", _word(rng) + "?")), 0, 32)
    if rng.random() < 0.5:
        kind, value = rng.choice((("int64_param", -1), ("string_param", "32"), ("int64_param", 31), ("uint64_param", 1 << 63)))
        setattr(parameters["shared_memory_byte_size"], kind, value)
        return _refused(made, "shared_memory_byte_size of input 'x'")
    return _refused(made, "shared memory region")


def _share(parameters: Any, region: str, offset: int, size: int) -> None:
    parameters["shared_memory_region"].string_param = region
    parameters["shared_memory_offset"].int64_param = offset
    parameters["shared_memory_byte_size"].int64_param = size


_WRONGS: tuple[Callable[[random.Random], Case], ...] = (
    _wrong_shape, _wrong_shape, _wrong_shape, _wrong_datatype, _wrong_name, _wrong_model, _wrong_version, _wrong_count,
    _wrong_bytes, _not_finite, _lying_bytes, _not_text, _mixed, _wrong_contents, _out_of_range, _twice_given, _many_inputs,
    _wrong_rows, _wrong_parameter, _unknown_parameters, _wrong_output, _no_decisions, _wrong_classes, _wrong_region,
)  # fmt: skip


def packed(rng: random.Random, of: list[tuple[str, tuple[bytes, ...]]]) -> Case:
    """A right call whose message comes compressed, and damaged then."""
    method, messages = rng.choice([each for each in of if each[0] in (INFER, STREAM)])
    data = gzip.compress(messages[0], 1) if rng.random() < 0.5 else zlib.compress(messages[0], 1)
    return Case(method, (damage(rng, data), *messages[1:]))


def bomb(rng: random.Random, mib: int) -> Case:
    """A few kilobytes that hold so many MiB, by themselves or as the first of a stream."""
    packer = zlib.compressobj(9, zlib.DEFLATED, rng.choice((15, 31)))
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(mib)) + packer.flush()
    says = "larger than max when inflated"
    return Case(rng.choice((INFER, STREAM, f"{OIP}ServerLive")), (data,), frozenset({"INVALID_ARGUMENT"}), says)
