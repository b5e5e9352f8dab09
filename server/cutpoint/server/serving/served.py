"""A model in service: a session behind a batcher, its labels and its active policy."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from cutpoint.bundle import Bundle
from cutpoint.calibration import probabilities
from cutpoint.errors import BadBundle, BadRequest, BadScores, NotCalibrated
from cutpoint.wire import datatype_of, encode_raw
from numpy.typing import NDArray

from ..monitoring.metrics import Metrics
from ..outcomes.database import Graph
from ..policy.policies import Active
from ..protocol.statistics import Statistics
from ..runs.batcher import Batcher, Outputs, Ticket, Timing
from ..runs.session import Session, TensorSpec, placed
from .shadow import Shadow

LOGITS = "logits"
DERIVED = ("scores", "decisions", "labels")
# Descriptions of inputs that were found right and need not be looked at again.
_REMEMBERED = 256
_LARGE = 1 << 12  # numbers, from which on it pays to look at the largest and the smallest first

Declared = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(eq=False, slots=True)
class Answer:
    """One request's outputs, and the policy they were decided by (None where none was).

    Attributes:
        logits: of a model that is decided on, whether they are among the outputs or not.
    """

    outputs: dict[str, NDArray[Any]]
    active: Active | None
    timing: Timing
    logits: NDArray[np.float32] | None = None


class Reply(Protocol):
    """Told how a request ended: its answer, or why there is none."""

    def __call__(self, answer: Answer | None, error: BaseException | None) -> None:
        """Called once, in the thread that ran the model."""
        ...


class ServedModel:
    """One version of one model, in service.

    A model whose graph gives float32 `logits` [..., label] has decisions: `scores`, `decisions` and `labels` are derived from
    them. Any other graph is answered as it is.

    It is in service from `enter` on, until it is retired. Who found it before that may still ask it: it answers.

    Attributes:
        requests: how many are being answered.
        graph: whose logits it answers.
        shadow: what is scored beside it, and counted but not answered.
        series: what it adds to as it answers, together with the other versions of the model.
        statistics: what Triton's clients ask for.
    """

    def __init__(
        self, bundle: Bundle, session: Session, batcher: Batcher, metrics: Metrics, provider: str, statistics: Statistics
    ) -> None:
        """Serve `bundle` by `session` behind `batcher`, whose runs `statistics` is told of."""
        self.bundle, self.name, self.version = bundle, bundle.name, bundle.version
        self.session, self.batcher = session, batcher
        self.inputs = {spec.name: spec for spec in session.inputs}
        self.labels = _labels(bundle, session.outputs)
        self.graph = Graph(bundle.name, bundle.version, bundle.digest, self.labels)
        self._checks_finite = bundle.manifest is not None
        self._metrics = metrics
        self.series = metrics.series(self.name)
        self.provider = provider
        self.counters = metrics.counters(self.name, self.version, self.labels)
        self.counters.queue_rows = lambda: batcher.waiting_rows
        self._label_array = np.array([label.encode() for label in self.labels], np.object_)
        self._label_bytes = encode_raw(self._label_array)  # the same for every answer, and slow to make
        self.outputs = {spec.name: spec for spec in session.outputs}
        if self.labels:
            shape = self.outputs[LOGITS].shape
            self.outputs["scores"] = TensorSpec("scores", "FP32", shape)
            self.outputs["decisions"] = TensorSpec("decisions", "BOOL", shape)
            self.outputs["labels"] = TensorSpec("labels", "BYTES", (len(self.labels),))
        self._known: set[tuple[Declared, tuple[str, ...]]] = set()
        self._kinds: dict[Declared, tuple[int, object]] = {}
        self.statistics = statistics
        self.requests = 0
        self.shadow: Shadow | None = None
        self._lock = threading.Lock()
        self._drained: threading.Event | None = None  # once it is retired: set while nobody is being answered

    @property
    def active(self) -> Active | None:
        """The policy that decides now."""
        return self.counters.active

    def apply(self, active: Active | None) -> None:
        """Decide by this policy from the next answer on."""
        self.counters.apply(active)

    def enter(self) -> None:
        """Have series in the metrics from now on, which go on where those of the one that it replaces are."""
        digest = self.bundle.digest
        self._metrics.add_model(self.name, self.version, self.labels, digest, self.provider, self.counters)

    def retire(self) -> threading.Event:
        """Leave the lanes as soon as nobody is being answered any more; the event is set then.

        A request of somebody who found this model before it was retired puts it back until that is answered.
        """
        with self._lock:
            if self._drained is None:
                self._drained = threading.Event()
                if not self.requests:
                    self.batcher.close()
                    self._drained.set()
            return self._drained

    def infer(
        self,
        prepare: Callable[[], Mapping[str, NDArray[Any]]],
        declared: Declared,
        wanted: tuple[str, ...],
        reply: Reply,
        *,
        priority: int = 0,
        expires_s: float | None = None,
    ) -> Ticket:
        """Score one request and decide on it.

        Args:
            prepare: gives all inputs by name, the row first, as declared; called in the thread that runs the model.
            declared: (name, datatype, shape) of every input, of which `check_declared` has nothing to say.
            wanted: output names in the order of the answer, likewise; empty for all there are.
            reply: told the answer, or one of
                BadRequest: an input holds NaN or infinity, where the model has a manifest.
                NotCalibrated: decisions were asked for by name and there is no policy.
                BadScores: the model answered NaN.
            priority: smaller ones go first.
            expires_s: when it is too late to start, in `time.perf_counter()` seconds; None for never.

        Raises:
            Overloaded: too much is waiting; nothing was done, and `reply` is not called.
        """
        rows, kind = self.rows_and_kind(declared)
        shadow = self.shadow if not wanted or "decisions" in wanted else None
        kept: Mapping[str, NDArray[Any]] | None = None

        def prepared() -> Mapping[str, NDArray[Any]]:
            nonlocal kept
            arrays = placed(prepare())
            self._check_finite(arrays)
            if shadow is not None:
                kept = shadow.keep(arrays, rows)
            return arrays

        def answered(outputs: Outputs | None, error: BaseException | None, timing: Timing) -> None:
            answer = None
            try:
                if outputs is not None:
                    answer = self._decide(outputs, wanted, timing)
            except Exception as found:
                error = found
            finally:
                self._count(-1)
            reply(answer, error)
            if shadow is not None and kept is not None and answer is not None and outputs is not None:
                shadow.score(kept, outputs[LOGITS], answer.outputs.get("decisions"), answer.active)

        self._count(1)
        try:
            return self.batcher.submit(prepared, rows, kind, answered, priority=priority, expires_s=expires_s)
        except BaseException:
            self._count(-1)
            raise

    def is_quick(self, rows: int, kind: object) -> bool:
        """Whether a request is best run by the thread that read it; not where something is in the shadow, which lanes score."""
        return self.shadow is None and self.batcher.is_quick(rows, kind)

    def at_once(
        self, requests: Sequence[tuple[Mapping[str, NDArray[Any]], int, float]], kind: object, wanted: tuple[str, ...]
    ) -> list[Answer]:
        """Answer requests of one kind by one run in this thread; errors are those of `infer`, and no request's in particular.

        Several requests that fail have been counted nowhere, but their run: they are to be asked again one by one.

        Args:
            requests: arrays, their rows, and how long they have waited, in seconds.
            kind: of `rows_and_kind`, the same for all.
            wanted: as `infer` takes it.
        """
        arrays, rows, _ = requests[0]
        if len(requests) > 1:
            arrays = {name: np.concatenate([each[name] for each, _, _ in requests]) for name in arrays}
            rows = sum(count for _, count, _ in requests)
        arrays = placed(arrays)
        self._check_finite(arrays)
        outputs, timing = self.batcher.run_at_once(arrays, rows, kind)
        alone = len(requests) == 1
        decided, active = self._decided(outputs, wanted, alone=alone)
        logits = outputs[LOGITS] if self.labels else None
        if alone:
            return [Answer(decided, active, Timing(requests[0][2], timing.run_s), logits)]
        answers, at = [], 0
        for _, count, waited_s in requests:
            part = {name: array if array is self._label_array else array[at : at + count] for name, array in decided.items()}
            own = None if logits is None else logits[at : at + count]
            answers.append(Answer(part, active, Timing(waited_s, timing.run_s), own))
            at += count
        return answers

    def rows_and_kind(self, declared: Declared) -> tuple[int, object]:
        """How many rows inputs have, and what those of other requests must be like to share a run with them."""
        found = self._kinds.get(declared)
        if found is None:
            found = _rows_and_kind(declared)
            if len(self._kinds) < _REMEMBERED:
                self._kinds[declared] = found
        return found

    def encoded(self, array: NDArray[Any]) -> bytes:
        """An output as the bytes of an answer."""
        return self._label_bytes if array is self._label_array else encode_raw(array)

    def logits(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Logits [..., label] for a calibration or a signal: scored as live traffic is, counted nowhere; waits for them."""
        self.require_labels()
        declared = tuple((name, datatype_of(array.dtype), array.shape) for name, array in arrays.items())
        self.check_declared(declared)
        self._check_finite(arrays)
        rows, kind = _rows_and_kind(declared)
        found: Future[Outputs] = Future()

        def answered(outputs: Outputs | None, error: BaseException | None, timing: Timing) -> None:
            self._count(-1)
            if outputs is not None:
                found.set_result(outputs)
            else:
                found.set_exception(error)

        self._count(1)
        try:
            self.batcher.submit(lambda: arrays, rows, kind, answered)
        except BaseException:
            self._count(-1)
            raise
        logits: NDArray[np.float32] = found.result()[LOGITS]
        return logits

    def require_labels(self) -> None:
        """Raise BadRequest unless the graph gives logits that can be decided on."""
        if not self.labels:
            raise BadRequest.of(
                f"model '{self.name}'", f"without an output '{LOGITS}' of FP32 [..., labels]", "one, to be calibrated"
            )

    def check_declared(self, declared: Declared, wanted: tuple[str, ...] = ()) -> None:
        """Check names, datatypes and shapes of inputs, and names of outputs: what can be said before anything is decoded.

        Args:
            declared: (name, datatype, shape) of each input.
            wanted: output names.

        Raises:
            BadRequest: one does not fit; the message names it, what it is and what was expected.
        """
        if (declared, wanted) in self._known:
            return
        of = f"for model '{self.name}'"
        names = [name for name, _, _ in declared]
        if sorted(names) != sorted(self.inputs):
            raise BadRequest.of(f"inputs {of}", sorted(names), f"{sorted(self.inputs)}")
        for name, datatype, shape in declared:
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
        rows = {name: list(shape[:1]) for name, _, shape in declared}
        if len({tuple(each) for each in rows.values()}) > 1:
            raise BadRequest.of(f"rows of the inputs {of}", rows, "as many rows in each")
        for name in wanted:
            if name not in self.outputs:
                raise BadRequest.of(f"output {of}", f"'{name}'", f"among {list(self.outputs)}")
        if len(self._known) < _REMEMBERED:
            self._known.add((declared, wanted))

    def _decide(self, outputs: Outputs, wanted: tuple[str, ...], timing: Timing) -> Answer:
        decided, active = self._decided(outputs, wanted)
        return Answer(decided, active, timing, outputs[LOGITS] if self.labels else None)

    def _decided(self, outputs: Outputs, wanted: tuple[str, ...], *, alone: bool = True) -> tuple[Outputs, Active | None]:
        """The outputs that are wanted, counted, and the policy that decided; what fails is counted where it is `alone`."""
        if not self.labels:
            return {name: outputs[name] for name in wanted or self.outputs}, None
        outputs = dict(outputs)
        active = self.active
        logits = outputs[LOGITS]
        finite = bool(np.isfinite(logits).all())
        if not finite:
            if alone:
                self._count_invalid(logits)
            if np.isnan(logits).any():
                raise BadScores(f"model '{self.name}' answered NaN for an input without NaN")
        if active is not None and (not wanted or "decisions" in wanted):
            outputs["decisions"] = logits >= active.thresholds
            self.counters.add(logits, outputs["decisions"], active)
        elif "decisions" in wanted:
            raise NotCalibrated(
                f"model '{self.name}' version {self.version} has no active policy; calibrate it to get decisions"
            )
        if not wanted or "scores" in wanted:
            outputs["scores"] = (probabilities if active is None else active.probabilities)(logits)
        outputs["labels"] = self._label_array
        if not (finite or alone):
            self._count_invalid(logits)
        return {name: outputs[name] for name in wanted or self.outputs if name in outputs}, active

    def _count_invalid(self, logits: NDArray[np.float32]) -> None:
        """Count logits that are no finite numbers."""
        for reason, found in (("infinite", np.isinf(logits)), ("nan", np.isnan(logits))):
            if count := int(np.count_nonzero(found)):
                self._metrics.count_invalid(self.name, self.version, reason, count)

    def _count(self, change: int) -> None:
        self.series.inflight.add(change)
        with self._lock:
            self.requests += change
            if self._drained is not None:
                if not self.requests:
                    self.batcher.close()
                    self._drained.set()
                elif change > 0 and self.requests == 1:
                    self._drained.clear()
                    self.batcher.reopen()

    def _check_finite(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        if self._checks_finite:
            for name, array in arrays.items():
                # Both are NaN where anything is. Of many numbers they take less than half of what follows, and no memory.
                if array.size > _LARGE and math.isfinite(array.max()) and math.isfinite(array.min()):
                    continue
                finite = np.isfinite(array)
                if not finite.all():
                    where = [int(i) for i in np.unravel_index(np.argmin(finite), array.shape)]
                    found = float(array[tuple(where)])
                    raise BadRequest.of(f"input '{name}'{where} for model '{self.name}'", found, "a finite number")


def _rows_and_kind(declared: Declared) -> tuple[int, object]:
    """How many rows inputs have, and what those of other requests must be like to share a run with them."""
    first = declared[0][2]
    return (first[0] if first else 1), tuple(sorted((name, datatype, shape[1:]) for name, datatype, shape in declared))


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
