"""`cutpoint.v1.CalibrationService`: new thresholds from labelled data, stored, activated, rolled back."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from cutpoint.calibration import Objective, Policy, digest_of, fit_labels, parse_objective, refuse_probabilities
from cutpoint.errors import BadBundle, BadData, BadRequest, CutpointError, PolicyNotFound, Uncalibratable
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.v1 import calibration_pb2_grpc
from cutpoint.wire import array_of
from numpy.typing import NDArray

from .metrics import Metrics
from .models import Models, ServedModel
from .policies import Active, PolicyStore

log = logging.getLogger("cutpoint.server")


class CalibrationService(calibration_pb2_grpc.CalibrationServiceServicer):  # type: ignore[misc,unused-ignore]
    """One method per RPC; the maths is `cutpoint.calibration`'s, the bookkeeping the store's."""

    def __init__(
        self,
        models: Models,
        store: PolicyStore,
        metrics: Metrics,
        max_calibration_mib: int,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Calibrate `models` into `store`; one call may hold `max_calibration_mib` of labelled scores in memory."""
        self._models, self._store, self._metrics = models, store, metrics
        self._max_bytes = max_calibration_mib << 20
        self._now_s = now_s
        self._switching: set[asyncio.Task[Active]] = set()

    async def Calibrate(self, requests: AsyncIterator[v1.CalibrateRequest], context: Any) -> v1.CalibrateResponse:
        """Header, then chunks. Nothing is stored unless everything succeeds; the answer comes after the commit."""
        header = await _first_header(requests)
        model = self._models.get(header.model, header.model_version)
        begun = time.perf_counter()
        outcome = "failed"
        try:
            response = await self._calibrate(model, header, requests)
            outcome = "applied" if response.activated else "stored"
            return response
        except CutpointError:
            outcome = "rejected"
            raise
        finally:
            self._metrics.calibrations.labels(model.name, outcome).inc()
            self._metrics.calibration_time.labels(model.name).observe(time.perf_counter() - begun)

    async def ListPolicies(self, request: v1.ListPoliciesRequest, context: Any) -> v1.ListPoliciesResponse:
        """Newest first, without their documents."""
        model = self._models.get(request.model, request.model_version)
        policies = await asyncio.to_thread(self._store.list, model.name, model.version)
        return v1.ListPoliciesResponse(policies=[_message(policy, model, document=False) for policy in policies])

    async def GetPolicy(self, request: v1.GetPolicyRequest, context: Any) -> v1.GetPolicyResponse:
        """One policy with its document; version 0 is the active one."""
        model = self._models.get(request.model, request.model_version)
        if request.version:
            policy = await asyncio.to_thread(self._store.get, model.name, model.version, request.version)
        elif model.active is not None:
            policy = model.active.policy
        else:
            raise PolicyNotFound(f"model {model.name}/{model.version} has no active policy")
        return v1.GetPolicyResponse(policy=_message(policy, model))

    async def ActivatePolicy(self, request: v1.ActivatePolicyRequest, context: Any) -> v1.ActivatePolicyResponse:
        """Compare-and-set of the active policy; the next answer is decided by it."""
        model = self._models.get(request.model, request.model_version)
        policy = await asyncio.to_thread(self._store.get, model.name, model.version, request.version)
        if policy.model_digest != model.bundle.digest:
            raise BadBundle(
                f"policy {policy.version} was made for another graph than {model.name}/{model.version} has; calibrate it again"
            )
        expected = request.expected_active if request.HasField("expected_active") else None
        active = await self._switch(
            model, self._store.activate, model.name, model.version, policy.version, self._now_s(), expected
        )
        return v1.ActivatePolicyResponse(policy=_message(policy, model), previous=active.previous)

    async def _calibrate(
        self, model: ServedModel, header: v1.CalibrateHeader, requests: AsyncIterator[v1.CalibrateRequest]
    ) -> v1.CalibrateResponse:
        objective = parse_objective(header.objective)
        model.require_labels()
        current = await asyncio.to_thread(self._store.active, model.name, model.version)
        chunks = await self._collect(model, requests)
        policy = await asyncio.to_thread(self._fit, model, header, objective, chunks, current)
        # A label without a threshold decides nothing from now on: the caller has to say that it may.
        if header.activate and (header.allow_undecided or not policy.undecided):
            active = await self._switch(model, self._store.add_and_activate, policy, self._now_s())
            return v1.CalibrateResponse(policy=_message(active.policy, model), activated=True)
        stored = await asyncio.to_thread(self._store.add, policy)
        log.info("stored policy %d of %s/%d, not activated", stored.version, model.name, model.version)
        return v1.CalibrateResponse(policy=_message(stored, model), activated=False)

    async def _collect(
        self, model: ServedModel, requests: AsyncIterator[v1.CalibrateRequest]
    ) -> tuple[list[NDArray[np.float32]], list[NDArray[np.uint8]]]:
        """Every chunk as logits [row, label] and targets [row, label], windows taken as rows."""
        logits: list[NDArray[np.float32]] = []
        targets: list[NDArray[np.uint8]] = []
        held = 0
        async for request in requests:
            if request.WhichOneof("part") != "chunk":
                raise BadRequest.of("calibrate message", request.WhichOneof("part") or "empty", "a chunk after the header")
            some_logits, some_targets = await _score_chunk(model, request.chunk, f"chunk {len(logits)}")
            held += some_logits.nbytes + some_targets.nbytes
            if held > self._max_bytes:
                raise BadData.of(
                    "labelled scores", f"over {held >> 20} MiB", f"at most {self._max_bytes >> 20} (see --max-calibration-mib)"
                )
            logits.append(some_logits)
            targets.append(some_targets)
        if not logits:
            raise Uncalibratable("no labels: no chunk came after the header")
        return logits, targets

    def _fit(
        self,
        model: ServedModel,
        header: v1.CalibrateHeader,
        objective: Objective,
        chunks: tuple[list[NDArray[np.float32]], list[NDArray[np.uint8]]],
        current: Active | None,
    ) -> Policy:
        logits, targets = (np.concatenate(part) for part in chunks)
        refuse_probabilities("logits", logits)
        return Policy(
            model=model.name,
            model_version=model.version,
            model_digest=model.bundle.digest,
            parent=current.policy.version if current is not None else None,
            created=datetime.fromtimestamp(self._now_s(), UTC).isoformat(timespec="seconds"),
            author=header.author or "unknown",
            data_digest=digest_of(logits, targets),
            labels=fit_labels(logits, targets, model.labels, objective, header.min_positives),
        )

    async def _switch(self, model: ServedModel, change: Callable[..., Active], *arguments: Any) -> Active:
        """Change the store and then the model, to the end: a caller who leaves meanwhile must not leave the two apart."""

        async def both() -> Active:
            active = await asyncio.to_thread(change, *arguments)
            model.apply(active)
            made = active.policy
            log.info("policy %d of %s/%d is active; made by %s", made.version, model.name, model.version, made.author)
            return active

        task = asyncio.create_task(both())
        self._switching.add(task)
        task.add_done_callback(self._switching.discard)
        return await asyncio.shield(task)


async def _first_header(requests: AsyncIterator[v1.CalibrateRequest]) -> v1.CalibrateHeader:
    async for request in requests:
        if request.WhichOneof("part") == "header":
            return request.header
        break
    raise BadRequest.of("first calibrate message", "not a header", "a header with model and objective")


async def _score_chunk(model: ServedModel, chunk: v1.LabelledChunk, name: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    data = chunk.WhichOneof("data")
    if data == "inputs":
        if len(model.inputs) != 1:
            raise BadRequest.of(f"{name}: inputs", f"one tensor for {len(model.inputs)} inputs", "logits for such a model")
        try:
            logits = await model.logits({next(iter(model.inputs)): array_of(f"{name}: inputs", chunk.inputs)})
        except BadRequest as error:
            raise BadRequest(f"{name}: {error}") from error
    elif data == "logits":
        logits = array_of(f"{name}: logits", chunk.logits)
        if logits.dtype != np.float32:
            raise BadRequest.of(f"datatype of {name}: logits", str(logits.dtype), "FP32")
    else:
        raise BadRequest.of(f"{name}", "without data", "inputs or logits, with targets")
    targets = array_of(f"{name}: targets", chunk.targets)
    if targets.dtype != np.uint8:
        raise BadRequest.of(f"datatype of {name}: targets", str(targets.dtype), "UINT8")
    if targets.shape != logits.shape or logits.ndim < 2 or logits.shape[-1] != len(model.labels):
        raise BadRequest.of(
            f"shape of {name}: targets", list(targets.shape), f"that of the logits, {[*logits.shape[:-1], len(model.labels)]}"
        )
    return logits.reshape(-1, len(model.labels)), targets.reshape(-1, len(model.labels))


def _message(policy: Policy, model: ServedModel, *, document: bool = True) -> v1.Policy:
    return v1.Policy(
        model=policy.model,
        model_version=str(policy.model_version),
        version=policy.version,
        active=model.active is not None and model.active.policy.version == policy.version,
        created=policy.created,
        author=policy.author,
        objectives=sorted({label.objective for label in policy.labels}),
        labels=len(policy.labels),
        undecided_labels=len(policy.undecided),
        document=policy.to_json() if document else "",
    )
