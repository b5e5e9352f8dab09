"""Streams: the same scores as one by one, in order, bounded, with errors that say where."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest
from cutpoint import errors
from cutpoint.client import AioClient, Client, Connection, Scores, inference, streaming
from cutpoint.client.testing import FakeServer
from cutpoint.oip import inference_pb2 as oip
from processes import ServerProcess

X = np.random.default_rng(0).normal(size=(60, 2, 4)).astype(np.float32)


def streamed(target: str, model: str, batches: Any, aio: bool, **given: Any) -> list[Scores]:
    """All scores of a stream by either client."""
    found: list[Scores] = []
    collect(target, model, batches, aio, found.append, **given)
    return found


def collect(target: str, model: str, batches: Any, aio: bool, take: Callable[[Scores], Any], **given: Any) -> None:
    if not aio:
        with Client(target) as client:
            for scores in client.stream(model, batches, **given):
                take(scores)
        return

    async def scene() -> None:
        async with AioClient(target) as client:
            async for scores in client.stream(model, batches, **given):
                take(scores)

    asyncio.run(scene())


def faked(logits: Callable[[Any], Any] = lambda x: x[:, :1]) -> FakeServer:
    return FakeServer(logits, model="m")


@pytest.mark.parametrize("aio", [False, True])
def test_a_stream_scores_as_single_calls_do(client: Client, client_server: ServerProcess, fresh: str, aio: bool) -> None:
    client.calibrate(fresh, "max_fbeta=1", targets=(X[:, 0, :2] > 0.5).astype(int), logits=X[:, 0, :2])
    found = streamed(client_server.target, fresh, iter(X), aio)
    assert len(found) == len(X)
    for scores, x in zip(found, X, strict=True):
        wanted = client.score(fresh, x)
        np.testing.assert_array_equal(scores.logits, wanted.logits)
        np.testing.assert_array_equal(scores.decisions, wanted.decisions)
        assert (scores.labels, scores.policy_version) == (wanted.labels, 1)


@pytest.mark.parametrize("aio", [False, True])
@pytest.mark.parametrize(
    ("kind", "batch"),
    [(errors.BadRequest, np.zeros((1, 3))), (errors.BadRequest, np.full((1, 4), np.nan)), (errors.BadInput, [["a"]])],
)
def test_an_error_names_its_batch_after_the_scores_before_it(
    client_server: ServerProcess, fresh: str, aio: bool, kind: type[errors.CutpointError], batch: Any
) -> None:
    taken: list[Scores] = []
    with pytest.raises(errors.CutpointError, match=r"^batch 7: ") as refused:
        collect(client_server.target, fresh, [*X[:7], batch, *X[7:20]], aio, taken.append)
    assert type(refused.value) is kind
    np.testing.assert_array_equal(np.stack([scores.logits for scores in taken]), X[:7, :, :2])


@pytest.mark.parametrize("aio", [False, True])
def test_an_unknown_model_is_an_error_of_the_first_batch(client_server: ServerProcess, aio: bool) -> None:
    with pytest.raises(errors.ModelNotFound, match=r"^batch 0: Request for unknown model: 'none'"):
        streamed(client_server.target, "none", X, aio)


@pytest.mark.parametrize("aio", [False, True])
def test_no_more_batches_are_read_than_may_be_without_an_answer(aio: bool) -> None:
    read: list[int] = []
    taken: list[Scores] = []

    def batches() -> Iterator[np.ndarray]:
        for i in range(40):
            read.append(i)
            assert len(read) <= len(taken) + 4  # three are without an answer, and the reader of one more has just taken it
            yield np.full((1, 1), i)

    with faked() as server:
        collect(server.target, "m", batches(), aio, taken.append, most_in_flight=3)
        assert [scores.logits.item() for scores in taken] == list(range(40))
        taken.clear()
        read.clear()
        with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
            stack.enter_context(server.holding())
            done = pool.submit(collect, server.target, "m", batches(), aio, taken.append, most_in_flight=3)
            server.wait_for(41)
            assert len(read) <= 3
            stack.close()
            done.result()
    assert len(taken) == 40


@pytest.mark.parametrize("aio", [False, True])
def test_scores_come_while_the_next_batch_is_still_awaited(aio: bool) -> None:
    answered = threading.Event()

    def batches() -> Iterator[Any]:
        yield [[1.0]]
        assert answered.wait(60)  # goes on only after the first scores were given
        yield [[2.0]]

    async def slow() -> AsyncIterator[Any]:
        yield [[1.0]]
        while not answered.is_set():
            await asyncio.sleep(0)
        yield [[2.0]]

    with faked() as server:
        taken: list[Scores] = []

        def take(scores: Scores) -> None:
            taken.append(scores)
            answered.set()

        collect(server.target, "m", slow() if aio else batches(), aio, take)
    assert [scores.logits.item() for scores in taken] == [1, 2]


@pytest.mark.parametrize("aio", [False, True])
def test_what_the_batches_raise_is_raised_after_the_scores_before_it(aio: bool) -> None:
    def batches() -> Iterator[Any]:
        yield [[1.0]]
        yield [[2.0]]
        raise OSError("the file ends here")

    taken: list[Scores] = []
    with faked() as server, pytest.raises(OSError, match="the file ends here"):
        collect(server.target, "m", batches(), aio, taken.append)
    assert len(taken) == 2


@pytest.mark.parametrize("aio", [False, True])
def test_no_batches_are_no_scores(aio: bool) -> None:
    with faked() as server:
        assert streamed(server.target, "m", [], aio) == []


@pytest.mark.parametrize("aio", [False, True])
def test_leaving_the_loop_ends_the_stream(aio: bool) -> None:
    ended = threading.Event()

    def endless() -> Iterator[Any]:
        try:
            while True:
                yield [[1.0]]
        finally:
            ended.set()

    with faked() as server:
        if aio:

            async def scene() -> None:
                async with AioClient(server.target) as client:
                    scores = client.stream("m", endless())
                    assert (await anext(scores)).logits.item() == 1
                    await asyncio.to_thread(server.wait_for, 1 + streaming.IN_FLIGHT)  # the reader waits for room now
                    await scores.aclose()  # type: ignore[attr-defined]
                    for _ in range(1000):  # the reader is told by the loop
                        await asyncio.sleep(0)
                    assert ended.is_set()

            asyncio.run(scene())
        else:
            with Client(server.target) as client:
                for scores in client.stream("m", endless()):
                    assert scores.logits.item() == 1
                    server.wait_for(1 + streaming.IN_FLIGHT)  # the reader waits for room now
                    break
                assert ended.wait(10)


@pytest.mark.parametrize("aio", [False, True])
def test_a_server_that_goes_away_is_said_with_the_batch_to_go_on_from(aio: bool) -> None:
    with faked() as server:
        server.fail(errors.Unavailable("stopping"), after=3)
        taken: list[Scores] = []
        # Where the end meets a message that is being sent, grpc.aio loses what the server said.
        said = "(does not answer: stopping|ended the stream)" if aio else "does not answer: stopping"
        with pytest.raises(errors.Unavailable, match=rf"^batch 3: server .* {said}"):
            collect(server.target, "m", X[:9], aio, taken.append)
        assert len(taken) == 3
        with pytest.raises(errors.DeadlineExceeded, match=r"^batch 0: "), server.holding():
            streamed(server.target, "m", X[:9], aio, timeout_s=0.1)


@pytest.mark.parametrize("aio", [False, True])
def test_options_reach_the_server_with_every_batch(aio: bool) -> None:
    with faked() as server:
        found = streamed(
            server.target, "m", [[[1.0]], [[2.0]]], aio, outputs=["logits"], priority=3, version=1, most_in_flight=1
        )  # fmt: skip
        assert [(r.outputs, r.priority, r.version, r.streamed) for r in server.requests] == [(("logits",), 3, "1", True)] * 2
    assert [scores.logits.item() for scores in found] == [1, 2]
    for given in ({"most_in_flight": 0}, {"outputs": ["best"]}):
        with Client("127.0.0.1:1") as client, pytest.raises(errors.BadInput, match=next(iter(given))):
            client.stream("m", [], **given)  # type: ignore[arg-type]


class Shuffled(grpc.GenericRpcHandler):
    """A server of the protocol that answers a stream's requests last to first, or not all."""

    def __init__(self, most: int) -> None:
        self._most = most

    def service(self, details: Any) -> Any:
        def answer(requests: Iterable[Any], context: Any) -> Iterator[Any]:
            for request in [*requests][::-1][: self._most]:
                raw = request.raw_input_contents[0]
                response = oip.ModelStreamInferResponse()
                inner = response.infer_response
                inner.model_name, inner.model_version, inner.id = "m", "1", request.id
                inner.outputs.add(name="logits", datatype="FP32", shape=[1, 1])
                inner.raw_output_contents.append(raw)
                yield response

        stream = oip.ModelStreamInferResponse.SerializeToString
        return grpc.stream_stream_rpc_method_handler(answer, oip.ModelInferRequest.FromString, stream)


@pytest.mark.parametrize("aio", [False, True])
def test_answers_out_of_order_are_put_in_order_and_missing_ones_missed(aio: bool) -> None:
    batches = [np.full((1, 1), i) for i in range(6)]
    for most in (6, 4):
        server = grpc.server(ThreadPoolExecutor(2), handlers=(Shuffled(most),))
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            if most == 6:
                found = streamed(target, "m", batches, aio, outputs=["logits"])
                assert [scores.logits.item() for scores in found] == list(range(6))
            else:
                with pytest.raises(errors.InternalError, match="the server ended the stream without an answer to batch 0"):
                    streamed(target, "m", batches, aio, outputs=["logits"])
        finally:
            server.stop(None).wait()


def test_an_error_of_another_server_is_in_its_words() -> None:
    answers = streaming.Answers(inference.Asked("m"))
    with pytest.raises(errors.CutpointError, match="UNKNOWN: out of memory"):
        next(answers.of(oip.ModelStreamInferResponse(error_message="out of memory")))


def test_a_token_is_sent_with_a_stream() -> None:
    with faked() as server, Client(server.target, Connection(token="abc")) as client:
        list(client.stream("m", [[[1.0]]]))
        assert server.requests[0].metadata["authorization"] == "Bearer abc"
