"""`cutpoint.v1.CalibrationService`: new thresholds from labelled data, stored, activated, rolled back."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import Any

import numpy as np
from cutpoint.calibration import Plan, Policy, ScoreHistogram, Scores, fit_policy
from cutpoint.errors import BadBundle, BadRequest, CutpointError, PolicyNotFound
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import array_of
from numpy.typing import NDArray

from ..monitoring.event import Event
from ..monitoring.metrics import Metrics
from ..outcomes.database import said
from ..outcomes.pool import collect
from ..outcomes.store import OutcomeStore, time_range
from ..port.rpc import Rpc, client_stream, pooled
from ..port.transport import Call
from ..serving.models import Models
from ..serving.served import ServedModel
from .collection import Collection
from .policies import Active, PolicyStore

log = logging.getLogger("cutpoint.server")


SERVICE = v1.DESCRIPTOR.services_by_name["CalibrationService"].full_name


class CalibrationService:
    """One method per RPC; the maths is `cutpoint.calibration`'s, the bookkeeping the store's."""

    def __init__(
        self,
        models: Models,
        store: PolicyStore,
        metrics: Metrics,
        max_calibration_mib: int,
        outcomes: OutcomeStore | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Calibrate `models` into `store`; one call may hold `max_calibration_mib` of labelled scores, and counts beyond it.

        `outcomes` may be calibrated from, where they are kept.
        """
        self._outcomes = outcomes
        self._models, self._store, self._metrics = models, store, metrics
        self._max_bytes = max_calibration_mib << 20
        self._now_s = now_s

    def rpcs(self, pool: Executor) -> list[Rpc]:
        """The service's RPCs; all of them may read the disk, so they are answered in threads of `pool`."""
        named: dict[str, Callable[[Any, Call], Any]] = {
            "ListPolicies": self.list_policies,
            "GetPolicy": self.get_policy,
            "ActivatePolicy": self.activate_policy,
        }
        return [
            client_stream(f"/{SERVICE}/Calibrate", v1.CalibrateRequest, self.calibrate, pool),
            *(pooled(f"/{SERVICE}/{name}", getattr(v1, f"{name}Request"), answer, pool) for name, answer in named.items()),
        ]

    def calibrate(self, requests: Iterator[v1.CalibrateRequest], call: Call) -> v1.CalibrateResponse:
        """Header, then chunks. Nothing is stored unless everything succeeds; the answer comes after the commit."""
        header = _first_header(requests)
        model = self._models.get(header.model, header.model_version)
        begun = time.perf_counter()
        outcome = "failed"
        try:
            response = self._calibrate(model, header, requests, call.caller)
            outcome = "applied" if response.activated else "stored"
            made = response.policy
            log.info(
                Event(
                    "calibration", model=model.name, version=model.version, policy=made.version, outcome=outcome,
                    labels=made.labels, undecided=made.undecided_labels, objective=tuple(made.objectives), author=made.author,
                    seconds=round(time.perf_counter() - begun, 4),
                )
            )  # fmt: skip
            return response
        except CutpointError as error:
            outcome = "rejected"
            log.warning(_refused(model, header, call, outcome, " ".join(str(error).split())))
            raise
        except Exception:
            log.error(_refused(model, header, call, outcome, "nobody foresaw it; the traceback is beside this line"))
            raise
        finally:
            self._metrics.count_calibration(model.name, outcome, time.perf_counter() - begun)

    def list_policies(self, request: v1.ListPoliciesRequest, call: Call) -> v1.ListPoliciesResponse:
        """Newest first, without their documents."""
        model = self._models.get(request.model, request.model_version)
        policies = self._store.list(model.name, model.version)
        return v1.ListPoliciesResponse(policies=[_message(policy, model) for policy in policies])

    def get_policy(self, request: v1.GetPolicyRequest, call: Call) -> v1.GetPolicyResponse:
        """One policy with its document; version 0 is the active one."""
        model = self._models.get(request.model, request.model_version)
        if request.version:
            policy = self._store.get(model.name, model.version, request.version)
        elif model.active is not None:
            policy = model.active.policy
        else:
            raise PolicyNotFound(f"model {model.name}/{model.version} has no active policy")
        return v1.GetPolicyResponse(policy=_message(policy, model, self._store.document(policy)))

    def activate_policy(self, request: v1.ActivatePolicyRequest, call: Call) -> v1.ActivatePolicyResponse:
        """Compare-and-set of the active policy; the next answer is decided by it. What is answered is without its document."""
        model = self._models.get(request.model, request.model_version)
        policy = self._store.get(model.name, model.version, request.version)
        if policy.model_digest != model.bundle.digest:
            raise BadBundle(
                f"policy {policy.version} was made for another graph than {model.name}/{model.version} has; calibrate it again"
            )
        expected = request.expected_active if request.HasField("expected_active") else None
        active = self._switch(model, self._store.activate, model.name, model.version, policy.version, self._now_s(), expected)
        log.info(
            Event(
                "activation", model=model.name, version=model.version, policy=policy.version, before=active.previous,
                made_by=policy.author, by=call.caller or None,
            )
        )  # fmt: skip
        return v1.ActivatePolicyResponse(policy=_message(policy, model), previous=active.previous)

    def _calibrate(
        self, model: ServedModel, header: v1.CalibrateHeader, requests: Iterator[v1.CalibrateRequest], caller: str
    ) -> v1.CalibrateResponse:
        model.require_labels()
        plan = _plan_of(header)
        plan.for_labels(model.labels)  # refused before anything is read
        current = self._store.active(model.name, model.version)
        # The active policy may be of another graph than is served now: then its thresholds mean nothing here.
        fits = current is not None and current.policy.model_digest == model.bundle.digest
        kept = header.HasField("outcomes")
        data = self._from_outcomes(model, header.outcomes, requests) if kept else self._collect(model, requests)
        fitted = fit_policy(
            data,
            plan,
            model=model.name,
            model_version=model.version,
            model_digest=model.bundle.digest,
            created=datetime.fromtimestamp(self._now_s(), UTC).isoformat(timespec="seconds"),
            author=caller or header.author or "unknown",
            previous=current.policy if current is not None and fits else None,
        )
        changes: dict[str, Any] = {"parent": None if current is None else current.policy.version}
        if kept and fitted.data is not None:
            changes["data"] = fitted.data.model_copy(update={"source": "outcomes"})
        policy = fitted.model_copy(update=changes)
        # A label without a threshold decides nothing from now on: the caller has to say that it may.
        activated = header.activate and (header.allow_undecided or not policy.undecided)
        if activated:
            stored = (self._switch(model, self._store.add_and_activate, policy, self._now_s())).policy
        else:
            stored = self._store.add(policy)
        message = _message(stored, model, self._store.document(stored))
        return v1.CalibrateResponse(policy=message, activated=activated)

    def _collect(self, model: ServedModel, requests: Iterator[v1.CalibrateRequest]) -> Scores | ScoreHistogram:
        """Every chunk, windows taken as rows, within the memory that a call may have."""
        collection = Collection(model.labels, self._max_bytes)
        for count, request in enumerate(requests):
            if request.WhichOneof("part") != "chunk":
                raise BadRequest.of("calibrate message", request.WhichOneof("part") or "empty", "a chunk after the header")
            name, inputs = f"chunk {count}", request.chunk.WhichOneof("data") == "inputs"
            logits = _scored(model, request.chunk, name) if inputs else None
            _take(collection, name, request.chunk, logits)
        return collection.data()

    def _from_outcomes(
        self, model: ServedModel, asked: v1.KeptOutcomes, requests: Iterator[v1.CalibrateRequest]
    ) -> Scores | ScoreHistogram:
        """The labelled scores that are kept of the graph that is served."""
        if self._outcomes is None:
            raise BadRequest.of("outcomes", "asked for", "data: none are kept here")
        since_s, until_s = time_range(asked)
        for request in requests:
            found = request.WhichOneof("part") or "empty"
            raise BadRequest.of("calibrate message", found, "none after a header that asks for the outcomes kept")
        collection = Collection(model.labels, self._max_bytes)
        with said(), self._outcomes.snapshot() as kept:
            collect(kept, model.graph, collection, since_s=since_s, until_s=until_s, any_sampling=asked.any_sampling)
        return collection.data()

    def _switch(self, model: ServedModel, change: Callable[..., Active], *arguments: Any) -> Active:
        """Change the store and then the model, to the end: in a thread of its own, whoever leaves meanwhile."""
        active = change(*arguments).prepared()
        self._models.apply(model, active)
        return active


def _first_header(requests: Iterator[v1.CalibrateRequest]) -> v1.CalibrateHeader:
    for request in requests:
        if request.WhichOneof("part") == "header":
            return request.header
        break
    raise BadRequest.of("first calibrate message", "not a header", "a header with model and objective")


def _refused(model: ServedModel, header: v1.CalibrateHeader, call: Call, outcome: str, reason: str) -> Event:
    """What to log of a calibration that made no policy."""
    asked = tuple(
        [header.objective] * bool(header.objective) + [f"{k}:{v}" for k, v in sorted(header.label_objectives.items())]
    )
    return Event(
        "calibration", model=model.name, version=model.version, outcome=outcome, objective=asked,
        author=call.caller or header.author or "unknown", reason=reason,
    )  # fmt: skip


def _plan_of(header: v1.CalibrateHeader) -> Plan:
    guarantee = header.guarantee if header.HasField("guarantee") else None
    return Plan.of(
        header.objective,
        objectives=dict(header.label_objectives),
        delta=None if guarantee is None else guarantee.delta,
        simultaneous=guarantee is not None and guarantee.simultaneous,
        by_group=guarantee is not None and guarantee.by_group,
        calibrator=header.calibrator or None,
        min_positives=header.min_positives,
        shrink=header.shrink,
        fallback=header.fallback or None,
    )


def _scored(model: ServedModel, chunk: v1.LabelledChunk, name: str) -> NDArray[np.float32]:
    """Logits [..., label] of a chunk's inputs."""
    if len(model.inputs) != 1:
        raise BadRequest.of(f"{name}: inputs", f"one tensor for {len(model.inputs)} inputs", "logits for such a model")
    try:
        return model.logits({next(iter(model.inputs)): array_of(f"{name}: inputs", chunk.inputs)})
    except BadRequest as error:
        raise BadRequest(f"{name}: {error}") from error


def _take(collection: Collection, name: str, chunk: v1.LabelledChunk, logits: NDArray[np.float32] | None) -> None:
    """Have a chunk taken, windows as rows; `logits` are of its inputs, where it has them."""
    data, labels = chunk.WhichOneof("data"), len(collection.labels)
    if data == "histogram":
        beside = [field for field in ("targets", "weights", "groups") if chunk.HasField(field)]
        if beside:
            raise BadRequest.of(f"{name}: {', '.join(beside)}", "given", "none beside a histogram: they are counted in it")
        collection.add_histogram(name, chunk.histogram)
        return
    if data is None:
        raise BadRequest.of(name, "without data", "inputs, logits or a histogram")
    if logits is None:
        logits = _typed(f"{name}: logits", chunk.logits, {"FP32"})
    if logits.ndim < 2 or logits.shape[-1] != labels:
        raise BadRequest.of(f"shape of {name}: logits", list(logits.shape), f"[..., {labels} labels], two axes at least")
    targets = _typed(f"{name}: targets", chunk.targets, {"UINT8"}) if chunk.HasField("targets") else None
    if targets is not None and targets.shape != logits.shape:
        raise BadRequest.of(f"shape of {name}: targets", list(targets.shape), f"that of the logits, {list(logits.shape)}")
    leading = logits.shape[:-1]
    weights = _per_row(f"{name}: weights", chunk.weights, {"FP64"}, leading) if chunk.HasField("weights") else None
    groups = _per_row(f"{name}: groups", chunk.groups, {"INT64", "BYTES"}, leading) if chunk.HasField("groups") else None
    collection.add(name, logits.reshape(-1, labels), None if targets is None else targets.reshape(-1, labels), weights, groups)


def _typed(name: str, tensor: v1.Tensor, datatypes: set[str]) -> NDArray[Any]:
    if tensor.datatype not in datatypes:
        raise BadRequest.of(f"datatype of {name}", tensor.datatype or "empty", " or ".join(sorted(datatypes)))
    return array_of(name, tensor)


def _per_row(name: str, tensor: v1.Tensor, datatypes: set[str], leading: tuple[int, ...]) -> NDArray[Any]:
    """A tensor with one entry a row, or one for each of the first axis, as [row]."""
    found = _typed(name, tensor, datatypes)
    if found.shape == leading:
        return found.reshape(-1)
    if found.shape == leading[:1]:
        return np.repeat(found, int(np.prod(leading[1:])))
    raise BadRequest.of(f"shape of {name}", list(found.shape), f"{list(leading)} or {list(leading[:1])}, as the logits' rows")


def _message(policy: Policy, model: ServedModel, document: str = "") -> v1.Policy:
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
        document=document,
    )
