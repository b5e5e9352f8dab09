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
from cutpoint.client import AioClient, Client, inference
from cutpoint.client import calibration as calibrations
from cutpoint.dataset import SparseRows
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


def sent(x: Any) -> list[oip.ModelInferRequest]:
    """The requests of an array, as protobuf reads their bytes."""
    return [oip.ModelInferRequest.FromString(part.message()) for part in inference.Asked("m", "2").parts(x)]


def test_parts_are_joined_in_order() -> None:
    parts = [answer(rows=rows, logits=np.full((rows, 1), rows, np.float32)) for rows in (2, 1, 3)]
    scores = inference.Asked("m").scores_of(parts)
    assert scores.logits[:, 0].tolist() == [2, 2, 1, 3, 3, 3]
    assert (len(scores), scores.policy_version, scores.undecided_labels) == (6, 1, 0)
    assert inference.Asked("m").scores_of([answer(policy=None)] * 2).decisions is None


@pytest.mark.parametrize("second", [answer(policy=2), answer(policy=None), answer(version="2")])
def test_a_policy_that_changes_between_parts_is_a_conflict(second: oip.ModelInferResponse) -> None:
    with pytest.raises(errors.Conflict, match="the policy of model 'm' changed while these rows were scored"):
        inference.Asked("m").scores_of([answer(), second, answer()])


def test_a_model_without_logits_is_a_bad_input() -> None:
    with pytest.raises(errors.BadInput, match=r"model 'm' is without outputs \['logits', 'scores', 'labels'\]"):
        inference.Asked("m").scores_of([oip.ModelInferResponse(model_name="m", model_version="1")])


@pytest.mark.parametrize(
    ("shape", "parts"), [((3000, 4), 3), ((1024, 4), 1), ((30, 140, 1000), 3), ((2, 3_000_000), 2), ((1, 1), 1)]
)
def test_large_arrays_are_split_between_rows(shape: tuple[int, ...], parts: int) -> None:
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    requests = sent(x)
    assert len(requests) == parts
    assert {(request.model_name, request.model_version) for request in requests} == {("m", "2")}
    np.testing.assert_array_equal(np.concatenate([decode_inputs(request)["x"] for request in requests]), x)


def test_sparse_rows_are_sent_dense_and_made_so_a_request_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x = SparseRows(np.arange(1, 3001), np.arange(3000) % 4, np.arange(3001), (3000, 4))
    whole, most = x[:], []
    read = SparseRows.__getitem__
    monkeypatch.setattr(SparseRows, "__getitem__", lambda self, rows: most.append(rows) or read(self, rows))
    requests = sent(x)
    np.testing.assert_array_equal(np.concatenate([decode_inputs(request)["x"] for request in requests]), whole)
    _, *chunks = calibrations.calibrate_requests(
        v1.CalibrateHeader(model="m"), calibrations.Labelled(np.arange(3000) % 2, inputs=x)
    )
    np.testing.assert_array_equal(np.concatenate([array_of("d", c.chunk.inputs) for c in chunks]), whole)
    assert len(most) == len(requests) + len(chunks)
    assert len(requests) == 3


@pytest.mark.parametrize("labels", [1, 512])
@pytest.mark.parametrize("name", ["inputs", "logits"])
def test_calibration_data_are_split_with_their_targets(labels: int, name: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.choice([0, 1, -1], (5000, labels))
    data = rng.normal(size=(5000, labels)).astype(np.float32)
    header = v1.CalibrateHeader(model="m")
    weights, groups = rng.random(5000), np.array([f"machine {i}" for i in range(5000)])
    labelled = calibrations.Labelled(y, weights=weights, groups=groups, **{name: data})
    first, *chunks = calibrations.calibrate_requests(header, labelled)
    assert first.header == header
    assert len(chunks) == (5 if name == "inputs" else 4 if labels == 512 else 1)  # logits are not held to rows of an answer
    assert all(chunk.ByteSize() < inference.REQUEST_BYTES + 1000 for chunk in chunks)
    np.testing.assert_array_equal(np.concatenate([array_of("d", getattr(c.chunk, name)) for c in chunks]), data)
    np.testing.assert_array_equal(np.concatenate([array_of("t", c.chunk.targets) for c in chunks]), np.where(y < 0, 255, y))
    np.testing.assert_array_equal(np.concatenate([array_of("w", c.chunk.weights) for c in chunks]), weights)
    sent = np.concatenate([array_of("g", c.chunk.groups) for c in chunks])
    assert [name.decode() for name in sent] == groups.tolist()


def header_of(objective: str | list[str] = "max_fbeta=1", **given: Any) -> v1.CalibrateHeader:
    settings: dict[str, Any] = {
        "delta": None, "simultaneous": False, "by_group": False, "calibrator": "auto", "min_positives": 0, "shrink": 0.0,
        "fallback": "none", "author": "ann", "activate": True, "allow_undecided": False,
    }  # fmt: skip
    return calibrations.calibrate_header("m", 1, objective, **(settings | given))


def test_a_header_says_everything_that_was_asked_for() -> None:
    wanted = ["recall_at_least=0.90", "a: b:fpr_at_most=.05"]
    found = header_of(wanted, delta=0.05, by_group=True, calibrator="platt", min_positives=3, shrink=4, fallback="previous")
    assert found == v1.CalibrateHeader(
        model="m", model_version="1", objective="recall_at_least=0.9", label_objectives={"a: b": "fpr_at_most=0.05"},
        guarantee=v1.Guarantee(delta=0.05, by_group=True), calibrator="platt", min_positives=3, shrink=4.0,
        fallback="previous", author="ann", activate=True,
    )  # fmt: skip
    assert not header_of().HasField("guarantee")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"objective": "best=1"}, "objective is 'best=1'; expected one of"),
        ({"objective": []}, "objective is not given"),
        ({"objective": ["max_fbeta=1", "max_fbeta=2"]}, "expected one for all labels, and others as LABEL:NAME=VALUE"),
        ({"objective": ["max_fbeta=1", "a:max_fbeta=2", "a:max_fbeta=3"]}, "objective of label 'a' is given twice"),
        ({"delta": 0.1}, "guarantee for objective is max_fbeta=1; expected recall_at_least"),
        ({"objective": "recall_at_least=0.9", "delta": 1}, "calibration: delta is 1"),
        ({"simultaneous": True}, "delta is not given; expected a probability"),
        ({"by_group": True}, "delta is not given; expected a probability"),
        ({"calibrator": "best"}, "calibration: calibrator"),
        ({"shrink": -1}, "calibration: shrink is -1"),
        ({"shrink": float("nan")}, "calibration: shrink is nan"),
        ({"fallback": "any"}, "calibration: fallback is 'any'"),
        ({"min_positives": -1}, "min_positives is -1; expected a whole number from 0"),
    ],
)
def test_a_header_that_the_server_would_refuse_is_refused_here(given: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.BadInput) as refused:
        header_of(**given)
    assert text in str(refused.value)


Z, T = np.zeros((3, 2), np.float32), np.array([[1, 0], [0, 1], [0, 0]])
SURE = {"objective": "recall_at_least=0.5", "delta": 0.1}


@pytest.mark.parametrize(
    ("labelled", "given", "text"),
    [
        ({}, {}, "one of them, not two, not none"),
        ({"targets": T, "logits": Z, "inputs": Z}, {}, "one of them, not two"),
        ({"logits": Z, "histograms": [b"h"]}, {}, "one of them, not two"),
        ({"targets": T, "histograms": [b"h"]}, {}, "no targets, weights or groups beside histograms"),
        ({"histograms": b"h"}, {}, "histograms is bytes; expected a list of bytes"),
        ({"histograms": [Z]}, {}, "histograms is ndarray; expected a list of bytes"),
        ({"logits": Z}, {}, "targets is not given; expected 0, 1 and -1 for max_fbeta=1: it needs the classes"),
        ({"targets": T[:2], "logits": Z}, {}, "targets and data is 2 and 3 rows"),
        ({"targets": T[:, :1], "logits": Z}, {}, "targets is [3, 1]; expected the shape of the logits, [3, 2]"),
        ({"targets": T + 1, "logits": Z}, {}, "targets[0, 0] is 2; expected 0, 1, or -1, 255 or NaN"),
        ({"targets": T, "logits": Z.astype(str)}, {}, "dtype of the data is <U32; expected real numbers"),
        ({"targets": T, "logits": Z, "weights": [1, 2]}, {}, "shape of weights is [2]; expected [3], one for each row"),
        ({"targets": T, "logits": Z, "weights": [1, -2, 0]}, {}, "weights is [-2]; expected finite numbers from 0"),
        ({"targets": T, "logits": Z, "weights": [1, np.nan, 0]}, {}, "weights is [nan]; expected finite numbers from 0"),
        ({"targets": T, "logits": Z, "weights": ["a", "b", "c"]}, {}, "weights is <U1 [3]; expected numbers"),
        ({"targets": T, "logits": Z, "groups": ["a", "b"]}, {}, "shape of groups is [2]; expected [3], one for each row"),
        ({"targets": T, "logits": Z, "groups": [0.5, 1, 2]}, {}, "dtype of groups is float64; expected integers or text"),
        ({"targets": T, "logits": Z, "groups": np.full(3, 2**64 - 1, np.uint64)}, {}, "groups is 18446744073709551615"),
        ({"targets": T, "logits": Z, "weights": [1, 1, 1]}, SURE, "weights is given; expected none with a guarantee"),
        ({"targets": T, "logits": Z}, SURE | {"by_group": True}, "groups is not given; expected one for each row"),
    ],
)
def test_data_that_the_server_would_refuse_are_refused_here(labelled: dict[str, Any], given: dict[str, Any], text: str) -> None:
    with pytest.raises(errors.BadInput) as refused:
        calibrations.calibrate_requests(header_of(**given), calibrations.Labelled(**labelled))
    assert text in str(refused.value)


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
