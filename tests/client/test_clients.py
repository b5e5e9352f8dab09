"""`Client` and `AioClient` against a real server: equal results, equal errors."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cutpoint import errors
from cutpoint.client import AioClient, Client, Scores
from processes import ServerProcess

X = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
Y = (X[:, :2] > 0.5).astype(np.int8)


def awaited(target: str, call: Callable[[AioClient], Awaitable[Any]], timeout_s: float = 60.0) -> Any:
    async def scene() -> Any:
        async with AioClient(target, timeout_s=timeout_s) as client:
            return await call(client)

    return asyncio.run(scene())


def assert_equal(one: Scores, other: Scores) -> None:
    for name in ("logits", "scores", "decisions", "labels", "model", "model_version", "policy_version", "undecided_labels"):
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b


def test_both_clients_give_equal_results(client: Client, client_server: ServerProcess, fresh: str) -> None:
    target = client_server.target
    assert client.ready() is awaited(target, lambda c: c.ready()) is True
    client.wait_ready(60)
    awaited(target, lambda c: c.wait_ready(60))
    assert_equal(client.score(fresh, X), awaited(target, lambda c: c.score(fresh, X)))
    one = client.calibrate(fresh, "max_fbeta=1", targets=Y, inputs=X, author="é")
    two = awaited(target, lambda c: c.calibrate(fresh, "max_fbeta=1", targets=Y, inputs=X, author="é"))
    assert (one.activated, two.activated) == (True, True)
    assert (one.policy.version, two.policy.version, two.policy.parent) == (1, 2, 1)
    assert one.policy.labels == two.policy.labels
    scores = client.score(fresh, X)
    assert_equal(scores, awaited(target, lambda c: c.score(fresh, X)))
    assert (scores.policy_version, len(scores), scores.model, scores.model_version) == (2, 50, fresh, 1)
    assert client.policies(fresh) == awaited(target, lambda c: c.policies(fresh))
    assert client.policy(fresh, 1) == awaited(target, lambda c: c.policy(fresh, 1)) == one.policy
    assert client.policy(fresh) == awaited(target, lambda c: c.policy(fresh)) == two.policy
    assert client.activate(fresh, 1, expected_active=2) == 2
    assert awaited(target, lambda c: c.activate(fresh, 2, expected_active=1)) == 1


def test_anything_like_an_array_is_scored_as_float32(client: Client, fresh: str) -> None:
    for x in ([[1, 2, 3, 4]], np.array([[1, 2, 3, 4]], np.int64), np.array([[1.0, 2, 3, 4]]), X[:1, ::-1], X.T[:4].T):
        scores = client.score(fresh, x)
        assert scores.logits.dtype == np.float32
        np.testing.assert_array_equal(scores.logits, np.asarray(x, np.float32)[:, :2])


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (errors.ModelNotFound, lambda c: c.score("none", X)),
        (errors.ModelNotFound, lambda c: c.score("many", X, version="2")),
        (errors.BadRequest, lambda c: c.score("many", X[:, :3])),
        (errors.BadRequest, lambda c: c.score("many", X * np.float32(np.nan))),
        (errors.BadRequest, lambda c: c.score("many", X, input_name="y")),
        (errors.BadRequest, lambda c: c.score("simple", np.zeros((1, 16)), input_name="INPUT0")),
        (errors.PolicyNotFound, lambda c: c.policy("many")),
        (errors.PolicyNotFound, lambda c: c.activate("many", 4)),
        (errors.ModelNotFound, lambda c: c.policies("none")),
        (errors.BadInput, lambda c: c.calibrate("many", "best=1", targets=np.zeros((50, 512)), inputs=X)),
        (errors.Uncalibratable, lambda c: c.calibrate("many", "max_fbeta=1", targets=np.zeros((50, 512)), inputs=X)),
        (errors.BadInput, lambda c: c.score("many", np.zeros(4))),
        (errors.BadInput, lambda c: c.score("many", np.zeros((0, 4)))),
        (errors.BadInput, lambda c: c.score("many", [["a", "b"]])),
        (errors.BadInput, lambda c: c.calibrate("many", "max_fbeta=1", targets=Y)),
        (errors.BadInput, lambda c: c.calibrate("many", "max_fbeta=1", targets=Y, inputs=X, logits=X)),
        (errors.BadInput, lambda c: c.calibrate("many", "max_fbeta=1", targets=Y[:3], inputs=X)),
        (errors.BadInput, lambda c: c.calibrate("many", "max_fbeta=1", targets=Y, logits=X)),
        (errors.BadRequest, lambda c: c.calibrate("many", "max_fbeta=1", targets=Y[:, 0], inputs=X)),
        (errors.BadInput, lambda c: c.calibrate("many", "max_fbeta=1", targets=1, inputs=X)),
        (errors.BadInput, lambda c: c.calibrate("many", "max_fbeta=1", targets=Y, inputs=X, min_positives=-1)),
        (errors.BadInput, lambda c: c.activate("many", -1)),
        (errors.BadInput, lambda c: c.score("many", X.astype(complex))),
    ],
)
def test_both_clients_raise_the_same_class_with_the_same_words(
    client: Client, client_server: ServerProcess, kind: type[errors.CutpointError], call: Callable[[Any], Any]
) -> None:
    with pytest.raises(errors.CutpointError) as one:
        call(client)

    async def wrapped(c: AioClient) -> Any:
        return await call(c)

    with pytest.raises(errors.CutpointError) as two:
        awaited(client_server.target, wrapped)
    assert type(one.value) is type(two.value) is kind
    assert str(one.value) == str(two.value)


def test_a_large_array_is_split_and_joined(client: Client, client_server: ServerProcess) -> None:
    # Rows of 560 KB go 14 to a request, by bytes; small rows go 1024 to a request, whose answers of 512 labels are large.
    x = np.random.default_rng(1).normal(size=(30, 140, 1000)).astype(np.float32)
    scores = client.score("windows", x)
    np.testing.assert_array_equal(scores.logits, x[..., :3])
    assert_equal(scores, awaited(client_server.target, lambda c: c.score("windows", x)))
    many = np.random.default_rng(2).normal(size=(9000, 4)).astype(np.float32)
    wanted = many[:, np.arange(512) % 4]
    for found in (client.score("many", many), awaited(client_server.target, lambda c: c.score("many", many))):
        np.testing.assert_array_equal(found.logits, wanted)


def test_many_labels_are_calibrated_in_several_messages(client: Client) -> None:
    x = np.random.default_rng(3).normal(size=(40_000, 4)).astype(np.float32)
    y = (x[:, np.arange(512) % 4] > 2).astype(np.uint8)
    done = client.calibrate("many", "max_fbeta=1", targets=y, inputs=x, activate=False)
    assert [label.counts.rows for label in done.policy.labels] == [40_000] * 512
    assert all(
        label.expected and label.expected.precision and label.expected.precision.value == 1 for label in done.policy.labels
    )


def test_the_first_error_of_several_requests_is_raised(client_server: ServerProcess) -> None:
    x = np.zeros((9000, 4), np.float32)
    x[5000] = np.nan
    with pytest.raises(errors.BadRequest, match="expected a finite number"):
        awaited(client_server.target, lambda c: c.score("many", x))


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def unreachable() -> str:
    """A port where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{closed.getsockname()[1]}"


CALLS: list[Callable[[Any, float | None], Any]] = [
    lambda c, t: c.ready(timeout_s=t),
    lambda c, t: c.wait_ready(t if t is not None else 0.2),
    lambda c, t: c.score("m", X, timeout_s=t),
    lambda c, t: c.calibrate("m", "max_fbeta=1", targets=Y, inputs=X, timeout_s=t),
    lambda c, t: c.policies("m", timeout_s=t),
    lambda c, t: c.policy("m", timeout_s=t),
    lambda c, t: c.activate("m", 1, timeout_s=t),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_never_answers_is_a_deadline(silent: str, call: Callable[[Any, float | None], Any]) -> None:
    with Client(silent) as client, pytest.raises(errors.DeadlineExceeded):
        call(client, 0.2)

    async def wrapped(c: AioClient) -> Any:
        return await call(c, None)

    with pytest.raises(errors.DeadlineExceeded):
        awaited(silent, wrapped, timeout_s=0.2)  # the client's own deadline, where the call gives none


def test_a_deadline_of_zero_is_zero(silent: str) -> None:
    with Client(silent) as client, pytest.raises(errors.DeadlineExceeded):
        client.ready(timeout_s=0)


def test_an_unreachable_server_is_unavailable(unreachable: str) -> None:
    with Client(unreachable) as client, pytest.raises(errors.Unavailable, match=f"server {unreachable} does not answer"):
        client.activate("m", 1)
    with pytest.raises(errors.Unavailable, match=f"server {unreachable} does not answer"):
        awaited(unreachable, lambda c: c.activate("m", 1))
    with Client(unreachable) as client, pytest.raises(errors.DeadlineExceeded):
        client.wait_ready(0.2)


def test_a_client_serves_several_threads(client: Client, fresh: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: client.score(fresh, np.full((1 + i % 3, 4), i)).logits, range(100)))
    for i, logits in enumerate(found):
        np.testing.assert_array_equal(logits, np.full((1 + i % 3, 2), i, np.float32))
