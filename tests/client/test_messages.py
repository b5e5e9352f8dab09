"""What both clients share, and how they take what a server may answer; the server here is a fake one."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from cutpoint import errors
from cutpoint.client import AioClient, Client, messages
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import REASON_KEY, STATUS, array_of, decode_inputs, encode_raw

OIP, V1 = "inference.GRPCInferenceService", "cutpoint.v1.CalibrationService"


def answer(policy: int | None = 1, version: str = "1", rows: int = 2, **outputs: np.ndarray) -> oip.ModelInferResponse:
    response = oip.ModelInferResponse(model_name="m", model_version=version)
    if policy is not None:
        response.parameters["policy_version"].int64_param = policy
    arrays: dict[str, np.ndarray] = {
        "logits": np.zeros((rows, 1), np.float32), "scores": np.full((rows, 1), 0.5, np.float32),
        "labels": np.array([b"a"], object), **outputs,
    }  # fmt: skip
    if policy is not None:
        arrays["decisions"] = np.ones((rows, 1), bool)
    for name, array in arrays.items():
        datatype = {"f": "FP32", "b": "BOOL", "O": "BYTES"}[array.dtype.kind]
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(encode_raw(array))
    return response


def test_parts_are_joined_in_order() -> None:
    parts = [answer(rows=rows, logits=np.full((rows, 1), rows, np.float32)) for rows in (2, 1, 3)]
    scores = messages.scores_of(parts)
    assert scores.logits[:, 0].tolist() == [2, 2, 1, 3, 3, 3]
    assert (len(scores), scores.policy_version, scores.undecided_labels) == (6, 1, 0)
    assert messages.scores_of([answer(policy=None)] * 2).decisions is None


@pytest.mark.parametrize("second", [answer(policy=2), answer(policy=None), answer(version="2")])
def test_a_policy_that_changes_between_parts_is_a_conflict(second: oip.ModelInferResponse) -> None:
    with pytest.raises(errors.Conflict, match="the policy of model 'm' changed while these rows were scored"):
        messages.scores_of([answer(), second, answer()])


def test_a_model_without_logits_is_a_bad_input() -> None:
    with pytest.raises(errors.BadInput, match=r"model 'm' is without outputs \['logits', 'scores', 'labels'\]"):
        messages.scores_of([oip.ModelInferResponse(model_name="m", model_version="1")])


@pytest.mark.parametrize(
    ("shape", "parts"), [((3000, 4), 3), ((1024, 4), 1), ((30, 140, 1000), 3), ((2, 3_000_000), 2), ((1, 1), 1)]
)
def test_large_arrays_are_split_between_rows(shape: tuple[int, ...], parts: int) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    requests = [part.request for part in messages.infer_parts("m", x, "2", "x")]
    assert len(requests) == parts
    assert {(request.model_name, request.model_version) for request in requests} == {("m", "2")}
    np.testing.assert_array_equal(np.concatenate([decode_inputs(request)["x"] for request in requests]), x)


@pytest.mark.parametrize("labels", [1, 512])
@pytest.mark.parametrize("name", ["inputs", "logits"])
def test_calibration_data_are_split_with_their_targets(labels: int, name: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.choice([0, 1, -1], (5000, labels))
    data = rng.normal(size=(5000, labels)).astype(np.float32)
    header = v1.CalibrateHeader(model="m")
    arrays = {"inputs": None, "logits": None} | {name: data}
    first, *chunks = messages.calibrate_requests(header, y, arrays["inputs"], arrays["logits"])
    assert first.header == header
    assert len(chunks) == 5
    assert all(chunk.ByteSize() < messages.REQUEST_BYTES + 1000 for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate([array_of("d", getattr(c.chunk, name)) for c in chunks]), data)
    np.testing.assert_array_equal(np.concatenate([array_of("t", c.chunk.targets) for c in chunks]), np.where(y < 0, 255, y))


Handler = Callable[[Any, grpc.ServicerContext], Any]


@contextmanager
def faking(service: str, method: str, handler: Handler, stream: bool = False) -> Iterator[str]:
    """A gRPC server of one method that answers what it is told to."""
    kinds: Any = v1 if service == V1 else oip
    make = grpc.stream_unary_rpc_method_handler if stream else grpc.unary_unary_rpc_method_handler
    request, response = getattr(kinds, f"{method}Request"), getattr(kinds, f"{method}Response")
    server = grpc.server(ThreadPoolExecutor(2))
    one = {method: make(handler, request.FromString, response.SerializeToString)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, one),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def infer_async(target: str) -> Any:
    async def scene() -> Any:
        async with AioClient(target) as client:
            return await client.score("m", [[0.0]])

    return asyncio.run(scene())


@pytest.mark.parametrize("kind", [kind for kind in STATUS if kind is not errors.Unavailable])
def test_the_class_that_the_server_raised_is_raised_here(kind: type[errors.CutpointError]) -> None:
    def refuse(request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata(((REASON_KEY, kind.reason),))
        context.abort(STATUS[kind], "what is wrong: é")

    with faking(OIP, "ModelInfer", refuse) as target:
        with Client(target) as client, pytest.raises(kind) as one:
            client.score("m", [[0.0]])
        with pytest.raises(kind) as two:
            infer_async(target)
    assert type(one.value) is type(two.value) is kind
    assert str(one.value) == str(two.value) == "what is wrong: é"


def test_a_conflict_between_two_parts_reaches_the_caller() -> None:
    versions = iter((1, 2, 1, 2))
    fake = faking(OIP, "ModelInfer", lambda request, context: answer(next(versions), rows=1024))
    with fake as target, Client(target) as client, pytest.raises(errors.Conflict):
        client.score("m", np.zeros((2048, 1)))


def test_scoring_is_retried_and_calibrating_is_not() -> None:
    calls: list[str] = []
    lock = threading.Lock()

    def at_first_unavailable(request: Any, context: grpc.ServicerContext) -> Any:
        with lock:
            calls.append("call")
        if len(calls) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return answer()

    with faking(OIP, "ModelInfer", at_first_unavailable) as target, Client(target) as client:
        assert client.score("m", [[0.0], [0.0]]).policy_version == 1
    assert len(calls) == 3

    calls.clear()
    fake = faking(V1, "Calibrate", at_first_unavailable, stream=True)
    with fake as target, Client(target) as client, pytest.raises(errors.Unavailable, match="does not answer: starting"):
        client.calibrate("m", "max_fbeta=1", targets=[[0], [1]], logits=[[0.0], [1.0]])
    assert len(calls) == 1


def test_a_policy_that_cannot_be_read_is_said_to_be_the_servers() -> None:
    response = v1.GetPolicyResponse(policy=v1.Policy(document='{"format": 9}'))
    fake = faking(V1, "GetPolicy", lambda request, context: response)
    with fake as target, Client(target) as client, pytest.raises(errors.InternalError, match="the server sent a policy that"):
        client.policy("m")
