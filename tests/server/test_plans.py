"""Messages that are alike are read by their head; what comes out is what parsing would have given."""

import gc
import uuid
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest
from bundles import linear_bundle, linear_onnx, policy
from cutpoint.bundle import write_policy
from cutpoint.client import Client
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.protocol.plans import Plans
from processes import ServerProcess, serving

METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("plans") / "models"
    models.mkdir()
    return models


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[ServerProcess]:
    models = repository
    path = linear_bundle(models)
    write_policy(path, policy(path, {"a": 0.0, "b": 0.5}))
    linear_bundle(models, name="other")
    linear_onnx(models / "half" / "1" / "model.onnx", np.eye(4, 2), ["n", 4])
    with serving(models, "--model-control", "poll", "--poll-s", 0.1) as process:
        yield process


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target) as connected:
        yield connected


def message(x: np.ndarray, model: str = "linear", request_id: str = "", wanted: tuple[str, ...] = ()) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[x.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    for name in wanted:
        request.outputs.add(name=name)
    return request


def ask(channel: grpc.Channel, data: bytes) -> oip.ModelInferResponse:
    return oip.ModelInferResponse.FromString(channel.unary_unary(METHOD)(data, timeout=60))


def logits(answer: oip.ModelInferResponse) -> np.ndarray:
    at = [output.name for output in answer.outputs].index("logits")
    return np.frombuffer(answer.raw_output_contents[at], np.float32).reshape(tuple(answer.outputs[at].shape))


def test_each_of_many_alike_gets_its_own_answer(channel: grpc.Channel) -> None:
    rng = np.random.default_rng(0)
    for i in range(200):
        rows, wanted = int(rng.integers(1, 4)), (("logits",), ("decisions", "logits"), ())[i % 3]
        x = rng.normal(size=(rows, 4)).astype(np.float32)
        answer = ask(channel, message(x, request_id=("", "id")[i % 2], wanted=wanted).SerializeToString())
        np.testing.assert_array_equal(logits(answer), x[:, :2])
        assert answer.id == ("", "id")[i % 2]
        assert [output.name for output in answer.outputs][: len(wanted)] == list(wanted)


def test_a_message_whose_rows_are_in_shared_memory_is_read_by_its_head_too(channel: grpc.Channel) -> None:
    path = Path("/dev/shm", f"cutpoint-test-{uuid.uuid4().hex}")
    memory = "/inference.GRPCInferenceService/SystemSharedMemory"
    unregister = oip.SystemSharedMemoryUnregisterRequest(name="region").SerializeToString()
    request = oip.ModelInferRequest(model_name="linear")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=(2, 4))
    tensor.parameters["shared_memory_region"].string_param = "region"
    tensor.parameters["shared_memory_byte_size"].int64_param = 32
    data = request.SerializeToString()
    try:
        path.write_bytes(bytes(32))
        register = oip.SystemSharedMemoryRegisterRequest(name="region", key=path.name, byte_size=32)
        channel.unary_unary(memory + "Register")(register.SerializeToString(), timeout=60)
        for i in range(5):
            x = np.random.default_rng(i).normal(size=(2, 4)).astype(np.float32)
            path.write_bytes(x.tobytes())
            np.testing.assert_array_equal(logits(ask(channel, data)), x[:, :2])
        x[1, 2] = np.nan
        path.write_bytes(x.tobytes())
        with pytest.raises(grpc.RpcError, match="expected a finite number"):
            ask(channel, data)
        channel.unary_unary(memory + "Unregister")(unregister, timeout=60)
        with pytest.raises(grpc.RpcError, match="'region', which is not registered"):
            ask(channel, data)
    finally:
        path.unlink()


def test_a_wrong_number_is_told_of_one_read_by_its_head_too(channel: grpc.Channel) -> None:
    x = np.zeros((1, 4), np.float32)
    ask(channel, message(x).SerializeToString())
    x[0, 2] = np.nan
    for _ in range(3):
        with pytest.raises(grpc.RpcError, match=r"input 'x'\[0, 2\] for model 'linear' is nan") as refused:
            ask(channel, message(x).SerializeToString())
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    x[0, 2] = 1
    np.testing.assert_array_equal(logits(ask(channel, message(x).SerializeToString())), x[:, :2])


def test_what_only_looks_alike_is_parsed(channel: grpc.Channel) -> None:
    x = np.arange(4, dtype=np.float32)[None]
    plain = message(x)
    data = plain.SerializeToString()
    ask(channel, data)
    # The same length, another shape: the bytes of the head differ.
    turned = message(x.reshape(4, 1))
    assert len(turned.SerializeToString()) == len(data)
    with pytest.raises(grpc.RpcError, match="shape of input 'x'"):
        ask(channel, turned.SerializeToString())
    # A field after the contents, which protobuf allows: an id, in place of the one before them.
    late = data[:-16] + x.tobytes()[:16] + b"\x1a\x04late"
    assert ask(channel, late).id == "late"
    assert ask(channel, late[:-4] + b"next").id == "next"
    # The last bytes of one message are another's contents, and no field of their own.
    inside = oip.ModelInferRequest(model_name="linear", raw_input_contents=[x.tobytes()])
    inside.inputs.add(name="x", datatype="FP32", shape=x.shape)
    unknown = inside.SerializeToString() + b"\xfa\x3e\x10" + x.tobytes()  # field 1007, which nobody knows
    for factor in (1, 2, 3):
        changed = unknown[:-16] + (factor * x).tobytes()
        np.testing.assert_array_equal(logits(ask(channel, changed)), x[:, :2])


def test_contents_that_seem_to_be_the_last_field_are_not_taken_for_it(channel: grpc.Channel) -> None:
    x = np.arange(1, 5, dtype=np.float32)[None]
    first = message(x)
    body = first.SerializeToString()
    # After the contents comes a field that nobody knows, which ends in what looks like contents: tag, length, the same bytes.
    inner = b"\x3a\x10" + x.tobytes()
    for hidden in (b"\xfa\x3e" + bytes([len(inner)]) + inner,):
        for factor in (1, 9, 5):
            data = body + hidden[:-16] + (factor * x).tobytes()
            np.testing.assert_array_equal(logits(ask(channel, data)), x[:, :2])


def test_valid_parameters_and_classes_are_read_every_time(channel: grpc.Channel) -> None:
    x = np.ones((1, 4), np.float32)
    request = message(x, wanted=("logits",))
    request.outputs[0].parameters["classification"].int64_param = 1
    for _ in range(3):
        assert ask(channel, request.SerializeToString()).outputs[0].datatype == "BYTES"
    expired = message(x, wanted=("logits",))
    expired.parameters["triton_enable_empty_final_response"].bool_param = True
    for _ in range(3):
        assert ask(channel, expired.SerializeToString()).parameters["triton_final_response"].bool_param


def test_a_plan_keeps_no_model_in_memory(channel: grpc.Channel) -> None:
    class Model:
        labels = ()

    model, plans = Model(), Plans()
    x = np.ones((1, 4), np.float32)
    request = message(x)
    data = request.SerializeToString()
    plans.learn(data, request, cast(Any, model), (("x", "FP32", (1, 4)),), ())
    plan = plans.of(data)
    assert plan is not None and plan.model is model
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and plan.model is None
    plans.forget(plan)
    assert plans.of(data) is None


def test_many_fields_are_refused_before_they_are_parsed(channel: grpc.Channel) -> None:
    for field in (b"\x32\x00", b"\x2a\x00", b"\x3a\x00"):  # outputs, inputs, contents: each empty
        with pytest.raises(grpc.RpcError, match="more than 1024 fields") as refused:
            ask(channel, message(np.ones((1, 4), np.float32)).SerializeToString() + 100_000 * field)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_parameters_are_read_every_time(channel: grpc.Channel) -> None:
    x = np.ones((1, 4), np.float32)
    request = message(x)
    request.parameters["priority"].string_param = "no"
    for _ in range(2):
        with pytest.raises(grpc.RpcError, match="parameter 'priority' is no"):
            ask(channel, request.SerializeToString())


def test_a_model_that_comes_in_place_of_another_answers_the_next(
    server: ServerProcess, repository: Path, channel: grpc.Channel
) -> None:
    x = np.ones((1, 4), np.float32)
    data = message(x, model="half").SerializeToString()
    for _ in range(3):
        np.testing.assert_array_equal(logits(ask(channel, data)), x[:, :2])
    linear_onnx(repository / "half" / "2" / "model.onnx", 5 * np.eye(4, 2), ["n", 4])
    with Client(server.target) as client:
        for _ in range(100_000):  # each is a request; a look comes meanwhile
            if client.score("half", x).model_version == 2:
                break
    for _ in range(3):
        answer = ask(channel, data)
        assert answer.model_version == "2"
        np.testing.assert_array_equal(logits(answer), 5 * x[:, :2])
