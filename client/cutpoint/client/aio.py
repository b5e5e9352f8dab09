"""The asynchronous client: `Client`, awaited."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from cutpoint.calibration.policy import Policy
from cutpoint.errors import Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.v1 import outcome_pb2
from numpy.typing import ArrayLike

from . import calibration, methods, outcome_stream, outcomes, signals, streaming
from .client import TIMEOUT_S
from .connection import Channel, Connection
from .inference import Asked
from .outcomes import FromOutcomes, Outcomes, OutcomeSummary, Reported, Sampling
from .results import Calibration, PolicySummary, Scores


class AioClient:
    """`Client` for asyncio, with the same calls, arguments, results and errors. Use it with `async with`."""

    def __init__(
        self,
        target: str | Sequence[str] = "127.0.0.1:8001",
        connection: Connection | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """As `Client`."""
        self._channel = Channel(grpc.aio, target, Connection.of(connection, credentials), timeout_s)

    @property
    def target(self) -> str:
        """The servers, as they were given."""
        return str(self._channel.servers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def ready(self, *, timeout_s: float | None = None) -> bool:
        """As `Client.ready`."""
        return bool((await self._call(methods.SERVER_READY, oip.ServerReadyRequest(), timeout_s)).ready)

    async def wait_ready(self, timeout_s: float) -> None:
        """As `Client.wait_ready`."""
        if not (await self._call(methods.SERVER_READY, oip.ServerReadyRequest(), timeout_s, wait_for_ready=True)).ready:
            raise Unavailable(f"server {self.target} is not ready: it is starting or stopping")

    async def score(
        self,
        model: str,
        x: ArrayLike,
        *,
        version: str | int = "",
        input_name: str = "x",
        outputs: Sequence[str] = (),
        priority: int = 0,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Scores:
        """As `Client.score`; of a large array, two requests are under way at a time: more would only wait in the server."""
        asked = Asked(model, version, input_name, outputs, priority, request_id)
        parts = asked.parts(x)
        answers: dict[int, oip.ModelInferResponse] = {}

        async def work() -> None:
            for part in parts:  # of both workers: each takes the next one
                with part.named():
                    answers[part.start] = await self._call(methods.MODEL_INFER, part, timeout_s)

        tasks = [asyncio.create_task(work()) for _ in range(2)]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return asked.scores_of([answers[start] for start in sorted(answers)])

    def stream(
        self,
        model: str,
        batches: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        version: str | int = "",
        input_name: str = "x",
        outputs: Sequence[str] = (),
        priority: int = 0,
        request_id: str = "",
        most_in_flight: int = streaming.IN_FLIGHT,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Scores]:
        """As `Client.stream`, for `async for`; batches may come from an asynchronous iterator, and are read in this loop."""
        asked = Asked(model, version, input_name, outputs, priority, request_id)
        requests = streaming.AioRequests(asked, batches, most_in_flight)
        return self._stream(requests, streaming.Answers(asked), timeout_s)

    async def _stream(
        self, requests: streaming.AioRequests, answers: streaming.Answers, timeout_s: float | None
    ) -> AsyncIterator[Scores]:
        method, call = methods.MODEL_STREAM_INFER, None
        try:
            with streaming.naming(lambda: answers.given), self._channel.errors(method):
                call = self._channel.on(method)(aiter(requests), timeout=timeout_s, metadata=self._channel.metadata())
                async for message in call:
                    for scores in answers.of(message):
                        requests.answered()
                        yield scores
            streaming.finish(requests, answers)
        finally:
            requests.close()
            if call is not None:
                call.cancel()

    def stream_signal(
        self,
        model: str,
        chunks: Iterable[ArrayLike] | AsyncIterable[ArrayLike],
        *,
        version: str | int = "",
        rate_hz: float | None = None,
        start_s: float = 0.0,
        labels: Sequence[str] = (),
        events: signals.Events | None = None,
        events_only: bool = False,
        sequence_windows: int | None = None,
        scale: float | None = None,
        offset: float = 0.0,
        timeout_s: float | None = None,
    ) -> AsyncIterator[signals.SignalPart]:
        """As `Client.stream_signal`, for `async for`; chunks may come from an asynchronous iterator, read in this loop."""
        asked = signals.SignalAsked(
            model, version, rate_hz=rate_hz, start_s=start_s, labels=labels, events=events, events_only=events_only,
            sequence_windows=sequence_windows, scale=scale, offset=offset,
        )  # fmt: skip
        return signals.aio_stream_signal(self._channel, asked, chunks, timeout_s)

    async def calibrate(
        self,
        model: str,
        objective: str | Sequence[str],
        *,
        targets: ArrayLike | None = None,
        inputs: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        histograms: Sequence[bytes] = (),
        from_outcomes: FromOutcomes | None = None,
        weights: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        delta: float | None = None,
        simultaneous: bool = False,
        by_group: bool = False,
        calibrator: str = "auto",
        min_positives: int = 0,
        shrink: float = 0.0,
        fallback: str = "none",
        version: str | int = "",
        author: str = "",
        activate: bool = True,
        allow_undecided: bool = False,
        timeout_s: float | None = None,
    ) -> Calibration:
        """As `Client.calibrate`."""
        header = calibration.calibrate_header(
            model, version, objective, delta=delta, simultaneous=simultaneous, by_group=by_group, calibrator=calibrator,
            min_positives=min_positives, shrink=shrink, fallback=fallback, author=author, activate=activate,
            allow_undecided=allow_undecided,
        )  # fmt: skip
        labelled = calibration.Labelled(targets, inputs, logits, histograms, weights, groups, from_outcomes)
        requests = calibration.calibrate_requests(header, labelled)
        return calibration.calibration_of(await self._call(methods.CALIBRATE, requests, timeout_s))

    async def policies(self, model: str, *, version: str | int = "", timeout_s: float | None = None) -> list[PolicySummary]:
        """As `Client.policies`."""
        request = v1.ListPoliciesRequest(model=model, model_version=str(version))
        response = await self._call(methods.LIST_POLICIES, request, timeout_s)
        return [calibration.summary_of(message) for message in response.policies]

    async def policy(
        self, model: str, policy_version: int = 0, *, version: str | int = "", timeout_s: float | None = None
    ) -> Policy:
        """As `Client.policy`."""
        request = v1.GetPolicyRequest(
            model=model, model_version=str(version), version=calibration.whole_number("policy_version", policy_version, 0)
        )
        return calibration.policy_of((await self._call(methods.GET_POLICY, request, timeout_s)).policy)

    async def activate(
        self,
        model: str,
        policy_version: int,
        *,
        expected_active: int | None = None,
        version: str | int = "",
        timeout_s: float | None = None,
    ) -> int:
        """As `Client.activate`."""
        request = v1.ActivatePolicyRequest(
            model=model,
            model_version=str(version),
            version=calibration.whole_number("policy_version", policy_version, 1),
            expected_active=expected_active,
        )
        return int((await self._call(methods.ACTIVATE_POLICY, request, timeout_s)).previous)

    async def report_outcomes(
        self,
        model: str,
        targets: ArrayLike,
        *,
        sampling: Sampling,
        probability: float | None = None,
        request_id: str | Sequence[str] | None = None,
        rows: ArrayLike | None = None,
        windows: ArrayLike | None = None,
        keys: Sequence[str] | None = None,
        logits: ArrayLike | None = None,
        labels: Sequence[str] = (),
        policy_version: int = 0,
        times_s: ArrayLike | None = None,
        version: str | int = "",
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> Reported:
        """As `Client.report_outcomes`."""
        asked = outcomes.Asked(model, str(version), sampling, probability, replace)
        given = Outcomes(targets, request_id, rows, windows, keys, logits, labels, policy_version, times_s)
        reported = Reported()
        for message, of in asked.messages(given):
            with outcomes.naming(of, reported):
                reported.add(await self._call(methods.REPORT_OUTCOMES, message, timeout_s), of)
        return reported

    def stream_outcomes(
        self,
        model: str,
        batches: Iterable[Outcomes] | AsyncIterable[Outcomes],
        *,
        sampling: Sampling,
        probability: float | None = None,
        version: str | int = "",
        replace: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Reported]:
        """As `Client.stream_outcomes`, for `async for`; batches may come from an asynchronous iterator, read in this loop."""
        asked = outcomes.Asked(model, str(version), sampling, probability, replace)
        return outcome_stream.aio_stream(self._channel, asked, batches, timeout_s)

    async def outcome_summary(
        self,
        model: str,
        *,
        version: str | int = "",
        since_s: float | None = None,
        until_s: float | None = None,
        timeout_s: float | None = None,
    ) -> OutcomeSummary:
        """As `Client.outcome_summary`."""
        request = outcome_pb2.GetOutcomeSummaryRequest(
            model=model, model_version=str(version), since_s=since_s, until_s=until_s
        )
        return outcomes.summary_of(await self._call(methods.GET_OUTCOME_SUMMARY, request, timeout_s))

    async def _call(self, method: methods.Method, request: Any, timeout_s: float | None, wait_for_ready: bool = False) -> Any:
        for attempt in self._channel.attempts(method, timeout_s):
            with attempt:
                return await self._channel.on(method)(
                    request, timeout=attempt.timeout_s, metadata=self._channel.metadata(), wait_for_ready=wait_for_ready
                )
            await asyncio.sleep(attempt.delay_s)
        raise AssertionError("attempts end with an answer or an error")
