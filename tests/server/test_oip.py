"""The Open Inference Protocol as tritonclient speaks it (in a process of its own), health and reflection."""

from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cutpoint.oip import inference_pb2 as oip
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from processes import ServerProcess, run_script

OIP, V1 = "inference.GRPCInferenceService", "cutpoint.v1.CalibrationService"


@pytest.fixture(scope="module")
def triton(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = run_script(Path(__file__).with_name("triton_script.py"), server.target)
    return found


def test_live_and_ready(triton: dict[str, Any]) -> None:
    assert triton["live"] is triton["ready"] is True
    assert triton["model_ready"] == [True, True, False, False]


def test_metadata(triton: dict[str, Any]) -> None:
    assert (triton["server"]["name"], triton["server"]["version"]) == ("cutpoint", version_of("cutpoint"))
    assert set(triton["server"]["extensions"]) >= {"binary_tensor_data", "statistics", "system_shared_memory"}
    assert triton["simple"] == {
        "name": "simple",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": name, "datatype": "INT32", "shape": ["-1", "16"]} for name in ("INPUT0", "INPUT1")],
        "outputs": [{"name": name, "datatype": "INT32", "shape": ["-1", "16"]} for name in ("OUTPUT0", "OUTPUT1")],
    }
    assert [(each["name"], each["datatype"], each["shape"]) for each in triton["windows"]["outputs"]] == [
        ("logits", "FP32", ["-1", "-1", "3"]),
        ("scores", "FP32", ["-1", "-1", "3"]),
        ("decisions", "BOOL", ["-1", "-1", "3"]),
        ("labels", "BYTES", ["3"]),
    ]
    assert triton["versions"] == ["1", "12"]


def test_two_inputs_raw_typed_and_compressed(triton: dict[str, Any]) -> None:
    assert triton["sum"] and triton["difference"] and triton["typed"] and triton["gzip"]
    assert triton["response"] == ["seven", "simple", "1", 2]
    assert triton["order"] == ["OUTPUT1", "OUTPUT0"]


def test_outputs_derived_from_logits(triton: dict[str, Any]) -> None:
    assert triton["logits"] and triton["scores"]
    assert triton["labels"] == ["a", "b", "c"]
    assert not triton["decisions"], "without a policy nothing is decided"


def test_text_goes_in_and_out_as_it_is(triton: dict[str, Any]) -> None:
    assert triton["text"] == ["é", "plain", ""]


def test_sixty_requests_at_a_time_get_their_own_rows(triton: dict[str, Any]) -> None:
    assert triton["concurrent"] == 60


@pytest.mark.parametrize(
    ("case", "code", "text"),
    [
        ("unknown model", "NOT_FOUND", "Request for unknown model: 'none' is not found"),
        ("unknown version", "NOT_FOUND", "Request for unknown model: 'simple' version 9 is not found; served: [1]"),
        ("one input", "INVALID_ARGUMENT", "inputs for model 'simple' is ['INPUT0']; expected ['INPUT0', 'INPUT1']"),
        ("unknown output", "INVALID_ARGUMENT", "output for model 'simple' is 'O'; expected among ['OUTPUT0', 'OUTPUT1']"),
        ("no decisions", "FAILED_PRECONDITION", "model 'sequences' version 1 has no active policy"),
        (
            "mixed", "INVALID_ARGUMENT",
            "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'simple'",
        ),
    ],
)  # fmt: skip
def test_errors_as_triton_users_see_them(triton: dict[str, Any], case: str, code: str, text: str) -> None:
    found_code, found_text = triton[case]
    assert found_code.removeprefix("StatusCode.") == code
    assert found_text.startswith(text)


def test_the_highest_version_answers_unless_one_is_named(channel: grpc.Channel) -> None:
    infer = channel.unary_unary(
        f"/{OIP}/ModelInfer", oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString
    )
    for version, wanted in (("", "12"), ("1", "1"), ("12", "12")):
        request = oip.ModelInferRequest(model_name="versions", model_version=version, raw_input_contents=[bytes(16)])
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        assert infer(request).model_version == wanted


def test_a_graph_of_fixed_batch_and_one_that_is_no_row_map_are_answered_alone(channel: grpc.Channel) -> None:
    infer = channel.unary_unary(
        f"/{OIP}/ModelInfer", oip.ModelInferRequest.SerializeToString, oip.ModelInferResponse.FromString
    )

    def ask(model: str, x: np.ndarray) -> Any:
        request = oip.ModelInferRequest(model_name=model, raw_input_contents=[x.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=x.shape)
        request.outputs.add(name="logits")
        return infer.future(request)

    fixed = [ask("fixed", np.full((2, 3), i, np.float32)) for i in range(20)]
    for i, answer in enumerate(fixed):
        assert np.frombuffer(answer.result().raw_output_contents[0], np.float32).tolist() == [i] * 4
    means = [ask("mean", np.array([[i, 0], [i + 2, 4]], np.float32)) for i in range(20)]
    for i, answer in enumerate(means):
        assert np.frombuffer(answer.result().raw_output_contents[0], np.float32).tolist() == [i + 1, 2]


def test_health_check_and_watch_are_serving(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", OIP, V1):
        request = health_pb2.HealthCheckRequest(service=service)
        assert stub.Check(request, timeout=30).status == health_pb2.HealthCheckResponse.SERVING
        watch = stub.Watch(request, timeout=30)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    with pytest.raises(grpc.RpcError) as unknown:
        stub.Check(health_pb2.HealthCheckRequest(service="none"), timeout=30)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes_what_is_served(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        OIP, V1, "cutpoint.v1.SignalService", "cutpoint.v1.OutcomeService", "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip
    pool = DescriptorPool(database)
    request = GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))(model_name="m")
    assert oip.ModelInferRequest.FromString(request.SerializeToString()).model_name == "m"
    calibrate = pool.FindServiceByName(V1).FindMethodByName("Calibrate")
    assert (calibrate.client_streaming, calibrate.input_type.name) == (True, "CalibrateRequest")


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{OIP}/TraceSetting")(b"", timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
