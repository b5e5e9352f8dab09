"""The asynchronous client: `Client`, awaited."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from cutpoint.calibration.policy import Policy
from cutpoint.errors import Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from numpy.typing import ArrayLike

from . import messages, methods
from .client import TIMEOUT_S
from .results import Calibration, PolicySummary, Scores


class AioClient:
    """`Client` for asyncio, with the same calls, arguments, results and errors. Use it with `async with`."""

    def __init__(
        self,
        target: str = "127.0.0.1:8001",
        *,
        timeout_s: float = TIMEOUT_S,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Connect lazily to `target`, "host:port"; with `credentials`, over TLS."""
        self.target = target
        self._timeout_s = timeout_s
        self._channel = (
            grpc.aio.secure_channel(target, credentials, methods.OPTIONS)
            if credentials is not None
            else grpc.aio.insecure_channel(target, methods.OPTIONS)
        )

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
        self, model: str, x: ArrayLike, *, version: str | int = "", input_name: str = "x", timeout_s: float | None = None
    ) -> Scores:
        """As `Client.score`; of a large array, two requests are under way at a time: more would only wait in the server."""
        parts = messages.infer_parts(model, x, version, input_name)
        answers: dict[int, oip.ModelInferResponse] = {}

        async def work() -> None:
            for part in parts:  # of both workers: each takes the next one
                with part.named():
                    answers[part.start] = await self._call(methods.MODEL_INFER, part.request, timeout_s)

        tasks = [asyncio.create_task(work()) for _ in range(2)]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return messages.scores_of([answers[start] for start in sorted(answers)])

    async def calibrate(
        self,
        model: str,
        objective: str | Sequence[str],
        *,
        targets: ArrayLike | None = None,
        inputs: ArrayLike | None = None,
        logits: ArrayLike | None = None,
        histograms: Sequence[bytes] = (),
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
        header = messages.calibrate_header(
            model, version, objective, delta=delta, simultaneous=simultaneous, by_group=by_group, calibrator=calibrator,
            min_positives=min_positives, shrink=shrink, fallback=fallback, author=author, activate=activate,
            allow_undecided=allow_undecided,
        )  # fmt: skip
        labelled = messages.Labelled(targets, inputs, logits, histograms, weights, groups)
        requests = messages.calibrate_requests(header, labelled)
        return messages.calibration_of(await self._call(methods.CALIBRATE, requests, timeout_s))

    async def policies(self, model: str, *, version: str | int = "", timeout_s: float | None = None) -> list[PolicySummary]:
        """As `Client.policies`."""
        request = v1.ListPoliciesRequest(model=model, model_version=str(version))
        response = await self._call(methods.LIST_POLICIES, request, timeout_s)
        return [messages.summary_of(message) for message in response.policies]

    async def policy(
        self, model: str, policy_version: int = 0, *, version: str | int = "", timeout_s: float | None = None
    ) -> Policy:
        """As `Client.policy`."""
        request = v1.GetPolicyRequest(
            model=model, model_version=str(version), version=messages.whole_number("policy_version", policy_version, 0)
        )
        return messages.policy_of((await self._call(methods.GET_POLICY, request, timeout_s)).policy)

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
            version=messages.whole_number("policy_version", policy_version, 1),
            expected_active=expected_active,
        )
        return int((await self._call(methods.ACTIVATE_POLICY, request, timeout_s)).previous)

    async def _call(self, method: methods.Method, request: Any, timeout_s: float | None, wait_for_ready: bool = False) -> Any:
        with methods.typed_errors(self.target):
            call = method.on(self._channel)
            return await call(
                request, timeout=self._timeout_s if timeout_s is None else timeout_s, wait_for_ready=wait_for_ready
            )
