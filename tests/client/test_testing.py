"""The fake server for users' tests: that it answers as a real one does, to any client, and does as it is told."""

import asyncio
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from cutpoint import errors
from cutpoint.client import AioClient, Client, Connection, Retry
from cutpoint.client.testing import FakeServer
from processes import ENVIRONMENT, ServerProcess

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)


def faked(**given: Any) -> FakeServer:
    settings: dict[str, Any] = {"model": "m", "labels": ["a", "b"], "thresholds": 0.5}
    return FakeServer(lambda x: x[..., :2], **(settings | given))


def test_it_answers_as_a_real_server_does(client: Client, client_server: ServerProcess, fresh: str) -> None:
    asked = {"objective": "max_fbeta=1", "calibrator": "none", "targets": (X[:, :2] > 0.3).astype(int), "logits": X[:, :2]}
    policy = client.calibrate(fresh, **asked).policy  # type: ignore[arg-type]
    wanted = client.score(fresh, X)
    fake = faked(model=fresh, thresholds=[label.threshold for label in policy.labels])
    with fake as server, Client(server.target) as other:
        found = other.score(fresh, X)
        assert np.asarray(found.decisions).any()
        np.testing.assert_array_equal(found.logits, wanted.logits)
        np.testing.assert_array_equal(found.decisions, wanted.decisions)
        np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-6)
        for name in ("labels", "model", "model_version", "policy_version", "undecided_labels"):
            assert getattr(found, name) == getattr(wanted, name)
        for call in (
            lambda c: c.score("none", X),
            lambda c: c.score(fresh, X, version=9),
            lambda c: c.score(fresh, X * np.float32(np.nan)),
            lambda c: c.score(fresh, X, input_name="y"),
        ):
            with pytest.raises(errors.CutpointError) as one:
                call(client)
            with pytest.raises(errors.CutpointError) as two:
                call(other)
            assert type(one.value) is type(two.value)


def test_rows_at_or_above_the_threshold_are_decided_and_labels_without_one_never() -> None:
    x = np.array([[0.5, 9], [0.49, 9]])
    with faked(thresholds=[0.5, None], policy_version=7) as server, Client(server.target) as client:
        found = client.score("m", x)
        assert np.asarray(found.decisions).tolist() == [[True, False], [False, False]]
        assert (found.policy_version, found.undecided_labels, found.labels) == (7, 1, ("a", "b"))
        server.decide_by(9, policy_version=8)
        found = client.score("m", x)
        assert np.asarray(found.decisions).tolist() == [[False, True], [False, True]]
        assert (found.policy_version, found.undecided_labels) == (8, 0)
        server.decide_by(None, policy_version=0)
        assert (client.score("m", x).decisions, client.score("m", x).policy_version) == (None, None)
        with pytest.raises(errors.NotCalibrated):
            client.score("m", x, outputs=["decisions"])
        np.testing.assert_allclose(client.score("m", [[0.0, 1000.0], [-1000.0, 1.0]]).scores[:, 0], [0.5, 0])


def test_only_what_was_asked_for_is_answered() -> None:
    with faked() as server, Client(server.target) as client:
        found = client.score("m", X, outputs=("decisions",), priority=2, request_id="r1", timeout_s=30)
        assert found.decisions is not None and len(found) == 50
        for name in ("logits", "scores", "labels"):
            with pytest.raises(errors.BadInput, match=f"output {name} is not there; expected one that was asked for"):
                getattr(found, name)
        assert repr(found) == "Scores(50 rows, m/1, policy 1)"
        (received,) = server.requests
        assert (received.model, received.version, received.request_id, received.outputs, received.priority) == (
            "m", "", "r1", ("decisions",), 2,
        )  # fmt: skip
        assert received.timeout_s is not None and 0 < received.timeout_s <= 31
        np.testing.assert_array_equal(received.x, X)
        labels = client.score("m", X, outputs=["labels"])
        assert (labels.labels, len(labels)) == (("a", "b"), 0)
        with pytest.raises(errors.BadInput, match="output decisions is not there"):
            _ = labels.decisions
        for given in ({"outputs": "logits"}, {"outputs": ["best"]}, {"priority": -1}):
            with pytest.raises(errors.BadInput, match=next(iter(given))):
                client.score("m", X, **given)  # type: ignore[arg-type]


def test_failures_come_when_they_are_wanted() -> None:
    with faked() as server, Client(server.target, Connection(retry=Retry(attempts=1))) as client:
        server.fail(errors.Overloaded("too many"), after=1, times=2)
        server.fail(grpc.StatusCode.UNKNOWN)
        assert len(client.score("m", X)) == 50
        for kind in (errors.Overloaded, errors.Overloaded, errors.CutpointError):
            with pytest.raises(errors.CutpointError) as raised:
                client.score("m", X)
            assert type(raised.value) is kind
        assert len(client.score("m", X)) == 50
        assert len(server.requests) == 5


def test_requests_are_held_until_they_are_let_go() -> None:
    with faked() as server, Client(server.target) as client, ThreadPoolExecutor(3) as pool:
        with server.holding():
            futures = [pool.submit(client.score, "m", X) for _ in range(3)]
            server.wait_for(3)
            assert not any(future.done() for future in futures)
            with pytest.raises(errors.DeadlineExceeded):
                client.score("m", X, timeout_s=0.05)
        assert [len(future.result()) for future in futures] == [50] * 3
        with pytest.raises(TimeoutError, match="of 99 requests after 0 s"):
            server.wait_for(99, timeout_s=0)


def test_a_function_that_is_wrong_says_so_in_the_callers_error() -> None:
    for logits, text in (
        (lambda x: x[:1], r"the function of the fake server gave \[1, 4\]; expected \[50, ..., 2\]"),
        (lambda x: x[:, 9:10].reshape(-1)[1:], r"the function of the fake server gave"),
        (lambda x: 1 / 0, "the function of the fake server raised ZeroDivisionError"),
    ):
        fake = FakeServer(logits, model="m", labels=["a", "b"])
        with fake as server, Client(server.target) as client, pytest.raises(errors.InternalError, match=text):
            client.score("m", X)
    with pytest.raises(errors.BadRequest, match="thresholds is 3 of them; expected one for each of 2 labels"):
        faked(thresholds=[1, 2, 3])


def test_it_answers_an_asynchronous_client() -> None:
    async def scene() -> None:
        with faked() as server:
            async with AioClient(server.target) as client:
                assert await client.ready()
                found = await asyncio.gather(*(client.score("m", X[i : i + 1]) for i in range(20)))
                np.testing.assert_array_equal(np.concatenate([scores.logits for scores in found]), X[:20, :2])

    asyncio.run(scene())


def test_it_answers_tritonclient() -> None:
    x = triton.InferInput("x", list(X.shape), "FP32")
    x.set_data_from_numpy(X)
    with faked() as server, triton.InferenceServerClient(server.target) as client:
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m")
        assert client.get_server_metadata().name == "fake"
        assert [tensor.name for tensor in client.get_model_metadata("m").outputs] == ["logits", "scores", "decisions", "labels"]
        found = client.infer("m", [x], request_id="r", outputs=[triton.InferRequestedOutput("decisions")])
        np.testing.assert_array_equal(found.as_numpy("decisions"), X[:, :2] >= 0.5)
        assert (found.get_response().id, found.as_numpy("logits")) == ("r", None)
        with pytest.raises(triton.InferenceServerException, match="unknown model: 'none'"):
            client.infer("none", [x])
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        client.start_stream(lambda result, error: answers.put(result if error is None else error))
        client.async_stream_infer("m", [x])
        client.async_stream_infer("none", [x])
        client.async_stream_infer("m", [x])
        found = [answers.get(timeout=60) for _ in range(3)]
        client.stop_stream()
        np.testing.assert_array_equal(found[0].as_numpy("logits"), X[:, :2])
        assert "unknown model: 'none'" in str(found[1])
        np.testing.assert_array_equal(found[2].as_numpy("logits"), X[:, :2])


HEAVY = ("torch", "scipy", "onnxruntime", "onnx", "pandas", "cutpoint.server", "pytest")


def test_it_needs_nothing_that_the_client_does_not_need() -> None:
    code = f"""
import sys
from cutpoint.client import Client
from cutpoint.client.testing import FakeServer
with FakeServer(lambda x: x, thresholds=0) as server, Client(server.target) as client:
    assert client.score("model", [[1.0]]).decisions.all()
print([name for name in {HEAVY} if name in sys.modules])
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
