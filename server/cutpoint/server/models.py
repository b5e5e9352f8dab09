"""Models in service: each one a session behind a batcher, its labels and its active policy."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from cutpoint.bundle import POLICY_FILE, Bundle, list_versions, read_bundle
from cutpoint.calibration import probabilities
from cutpoint.errors import BadBundle, BadRequest, BadScores, ModelNotFound, NotCalibrated
from cutpoint.wire import datatype_of
from numpy.typing import NDArray

from .batcher import Batcher, Timing
from .config import ServerConfig
from .metrics import Metrics, ModelCounters, observer
from .policies import Active, PolicyStore
from .session import OnnxSession, Session, TensorSpec

log = logging.getLogger("cutpoint.server")
T = TypeVar("T")

LOGITS = "logits"
LARGE_BYTES = 1 << 20  # of what may be read on the event loop; a sequence of 140000 points is half of it
DERIVED = ("scores", "decisions", "labels")


@dataclass(frozen=True)
class Answer:
    """One request's outputs, and the policy they were decided by (None where none was)."""

    outputs: dict[str, NDArray[Any]]
    active: Active | None
    timing: Timing


class ServedModel:
    """One version of one model, in service.

    A model whose graph gives float32 `logits` [..., label] has decisions: `scores`, `decisions` and `labels` are derived from
    them. Any other graph is answered as it is.
    """

    def __init__(self, bundle: Bundle, session: Session, batcher: Batcher, metrics: Metrics, provider: str) -> None:
        """Serve `bundle` by `session` behind `batcher`."""
        self.bundle, self.name, self.version = bundle, bundle.name, bundle.version
        self.inputs = {spec.name: spec for spec in session.inputs}
        self.labels = _labels(bundle, session.outputs)
        self._checks_finite = bundle.manifest is not None
        self._batcher = batcher
        self._metrics = metrics
        self._queue = metrics.queue.labels(self.name)
        self._inflight = metrics.inflight.labels(self.name)
        self.counters: ModelCounters = metrics.add_model(self.name, self.version, self.labels, bundle.digest, provider)
        self.counters.queue_rows = lambda: batcher.waiting_rows
        self._label_array = np.array([label.encode() for label in self.labels], np.object_)
        self.outputs = {spec.name: spec for spec in session.outputs}
        if self.labels:
            shape = self.outputs[LOGITS].shape
            self.outputs["scores"] = TensorSpec("scores", "FP32", shape)
            self.outputs["decisions"] = TensorSpec("decisions", "BOOL", shape)
            self.outputs["labels"] = TensorSpec("labels", "BYTES", (len(self.labels),))

    @property
    def active(self) -> Active | None:
        """The policy that decides now."""
        return self.counters.active

    def apply(self, active: Active | None) -> None:
        """Decide by this policy from the next answer on."""
        self.counters.apply(active)

    async def infer(self, arrays: Mapping[str, NDArray[Any]], wanted: Sequence[str]) -> Answer:
        """Score one request and decide on it.

        Args:
            arrays: all inputs by name, the row first, of which `check_declared` has nothing to say.
            wanted: output names in the order of the answer, likewise; empty for all there are.

        Raises:
            BadRequest: an input holds NaN or infinity, where the model has a manifest.
            NotCalibrated: decisions were asked for by name and there is no policy.
            BadScores: the model answered NaN.
            Overloaded: too much is waiting.
        """
        await self._check_finite(arrays)
        with self._inflight.track_inprogress():
            outputs, timing = await self._batcher.run(arrays)
        self._queue.observe(timing.queue_s)
        if not self.labels:
            return Answer({name: outputs[name] for name in wanted or self.outputs}, None, timing)
        active = self.active
        logits = outputs[LOGITS]
        if np.isnan(logits).any():
            self._metrics.invalid.labels(self.name, self.version, "nan").inc(int(np.isnan(logits).sum()))
            raise BadScores(f"model '{self.name}' answered NaN for an input without NaN")
        if active is not None and (not wanted or "decisions" in wanted):
            outputs["decisions"] = logits >= active.thresholds
            self.counters.add(outputs["decisions"], active)
        elif "decisions" in wanted:
            raise NotCalibrated(
                f"model '{self.name}' version {self.version} has no active policy; calibrate it to get decisions"
            )
        if not wanted or "scores" in wanted:
            # A calibrator's map takes some twenty times as long as reading the logits does.
            size, to_scores = (logits.nbytes, probabilities) if active is None else (16 * logits.nbytes, active.probabilities)
            outputs["scores"] = await off_loop(size, to_scores, logits)
        outputs["labels"] = self._label_array
        return Answer({name: outputs[name] for name in wanted or self.outputs if name in outputs}, active, timing)

    async def logits(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Logits [..., label] for a calibration: scored as live traffic is, counted nowhere."""
        self.require_labels()
        self.check_declared({name: (datatype_of(array.dtype), array.shape) for name, array in arrays.items()})
        await self._check_finite(arrays)
        outputs, _ = await self._batcher.run(arrays)
        return outputs[LOGITS]

    def require_labels(self) -> None:
        """Raise BadRequest unless the graph gives logits that can be decided on."""
        if not self.labels:
            raise BadRequest.of(
                f"model '{self.name}'", f"without an output '{LOGITS}' of FP32 [..., labels]", "one, to be calibrated"
            )

    def check_declared(self, tensors: Mapping[str, tuple[str, tuple[int, ...]]], wanted: Sequence[str] = ()) -> None:
        """Check names, datatypes and shapes of inputs, and names of outputs: what can be said before anything is decoded.

        Args:
            tensors: (datatype, shape) of each input by name.
            wanted: output names.

        Raises:
            BadRequest: one does not fit; the message names it, what it is and what was expected.
        """
        of = f"for model '{self.name}'"
        if set(tensors) != set(self.inputs):
            raise BadRequest.of(f"inputs {of}", sorted(tensors), f"{sorted(self.inputs)}")
        for name, (datatype, shape) in tensors.items():
            spec = self.inputs[name]
            if datatype != spec.datatype:
                raise BadRequest.of(f"datatype of input '{name}' {of}", datatype, f"{spec.datatype} ({spec.dtype})")
            fits = len(shape) == len(spec.shape) and all(
                want in (-1, have) for want, have in zip(spec.shape, shape, strict=True)
            )
            if not fits or 0 in shape:
                raise BadRequest.of(
                    f"shape of input '{name}' {of}", list(shape), f"{list(spec.shape)}, -1 being any size from 1"
                )
        rows = {name: list(shape[:1]) for name, (_, shape) in tensors.items()}
        if len({tuple(each) for each in rows.values()}) > 1:
            raise BadRequest.of(f"rows of the inputs {of}", rows, "as many rows in each")
        for name in wanted:
            if name not in self.outputs:
                raise BadRequest.of(f"output {of}", f"'{name}'", f"among {list(self.outputs)}")

    async def _check_finite(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if self._checks_finite:
            for name, array in arrays.items():
                await off_loop(array.nbytes, self._refuse_nonfinite, name, array)

    def _refuse_nonfinite(self, name: str, array: NDArray[Any]) -> None:
        finite = np.isfinite(array)
        if not finite.all():
            where = [int(i) for i in np.unravel_index(np.argmin(finite), array.shape)]
            raise BadRequest.of(f"input '{name}'{where} for model '{self.name}'", float(array[tuple(where)]), "a finite number")


async def off_loop(size: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do `work` on `size` bytes: here where that takes microseconds, in a thread where everybody else would wait for it."""
    return work(*arguments) if size < LARGE_BYTES else await asyncio.to_thread(work, *arguments)


class Models:
    """The models of one server, by name and version."""

    def __init__(self, config: ServerConfig, store: PolicyStore, metrics: Metrics) -> None:
        """Nothing is loaded yet."""
        self._config, self._store, self._metrics = config, store, metrics
        self._executor = ThreadPoolExecutor(config.lane_count, thread_name_prefix="lane")
        self._served: dict[str, dict[int, ServedModel]] = {}

    def load_all(self, now_s: float) -> list[ServedModel]:
        """Load every version in the repository.

        Raises:
            BadBundle: the folder holds no model, or one of them cannot be served; the message names the file.
        """
        for name, versions in list_versions(self._config.models).items():
            for version in versions:
                self._load(self._config.models / name / str(version), now_s)
        if not self._served:
            raise BadBundle.of("models folder", f"{self._config.models} (no models)", "<name>/<version>/model.onnx in it")
        return [model for versions in self._served.values() for model in versions.values()]

    def get(self, name: str, version: str = "") -> ServedModel:
        """A model by name and version, the highest where `version` is empty; ModelNotFound otherwise."""
        versions = self._served.get(name)
        if versions is None:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found")
        if not version:
            return versions[max(versions)]
        found = next((model for number, model in versions.items() if str(number) == version), None)
        if found is None:
            raise ModelNotFound(
                f"Request for unknown model: '{name}' version {version} is not found; served: {sorted(versions)}"
            )
        return found

    def versions(self, name: str) -> list[str]:
        """The served versions of a model."""
        return [str(version) for version in sorted(self._served[name])]

    def close(self) -> None:
        """Take no more work; what still runs is past the grace, and nobody waits for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _load(self, path: Path, now_s: float) -> None:
        config = self._config
        bundle = read_bundle(path)
        session = OnnxSession(bundle.model_path, config.provider)
        tensors = (*session.inputs, *session.outputs)
        batcher = Batcher(
            session,
            self._executor,
            lanes=config.lane_count,
            max_batch_rows=config.max_batch_rows,
            max_waiting_rows=config.max_waiting_rows,
            batchable=all(spec.shape and spec.shape[0] == -1 for spec in tensors),
            observe_run=observer(self._metrics, bundle.name),
        )
        model = ServedModel(bundle, session, batcher, self._metrics, config.provider)
        if bundle.policy is not None and len(bundle.policy.labels) != len(model.labels):
            wanted = f"{len(model.labels)}, as the graph's '{LOGITS}' has"
            raise BadBundle.of(f"{path / POLICY_FILE}: number of labels", len(bundle.policy.labels), wanted)
        starting = starting_policy(self._store, bundle, now_s)
        model.apply(None if starting is None else starting.prepared())
        self._served.setdefault(model.name, {})[model.version] = model
        active = f"policy {model.active.policy.version}" if model.active else "no policy: no decisions until it is calibrated"
        log.info("loaded %s/%d, %s", model.name, model.version, active)


def starting_policy(store: PolicyStore, bundle: Bundle, now_s: float) -> Active | None:
    """The policy that a model starts with: the stored active one, or the one shipped with the bundle.

    A stored policy holds only for the graph it was made on. A newly shipped one replaces another shipped one, but never one
    that somebody made while serving, and only once: after that, what somebody activates (a roll back too) stays.
    """
    stored, shipped = store.active(bundle.name, bundle.version), bundle.policy
    fits = stored is not None and stored.policy.model_digest == bundle.digest
    if stored is not None and not fits:
        log.warning("policy %d of %s/%d is of another graph: not used", stored.policy.version, bundle.name, bundle.version)
    if shipped is None:
        return stored if fits else None
    if stored is not None and fits:
        known = any(
            policy.model_copy(update={"version": shipped.version, "parent": shipped.parent}) == shipped
            for policy in store.list(bundle.name, bundle.version)
        )
        if not known and not store.is_shipped(stored.policy):
            added = store.add(shipped, shipped=True)  # to be seen in lists; at the next start it is known
            log.warning(
                "the new policy.json of %s/%d is stored as policy %d and not active: policy %d was made while serving; "
                "cutpoint policy activate %s %d",
                bundle.name, bundle.version, added.version, stored.policy.version, bundle.name, added.version,
            )  # fmt: skip
            return stored
        if known:
            return stored
    parent = stored.policy.version if stored is not None else None
    return store.add_and_activate(shipped.model_copy(update={"parent": parent}), now_s, shipped=True)


def _labels(bundle: Bundle, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """The labels that can be decided on: the manifest's, or one per logit; none where the graph has no such logits."""
    logits = next((spec for spec in outputs if spec.name == LOGITS), None)
    count = logits.shape[-1] if logits is not None and logits.datatype == "FP32" and len(logits.shape) >= 2 else 0
    labels = bundle.manifest.labels if bundle.manifest is not None else tuple(str(i) for i in range(max(count, 0)))
    if bundle.manifest is not None and count not in (-1, len(labels)):
        shape = list(logits.shape) if logits is not None else "missing"
        raise BadBundle.of(
            f"{bundle.model_path}: output '{LOGITS}'", shape, f"FP32 [..., {len(labels)}], the manifest's labels"
        )
    taken = [spec.name for spec in outputs if spec.name in DERIVED]
    if labels and taken:
        raise BadBundle.of(
            f"{bundle.model_path}: outputs beside '{LOGITS}'", taken, f"other names: {list(DERIVED)} are derived"
        )
    return labels
