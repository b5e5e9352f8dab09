"""Labelled data to the messages of Calibrate, and policies back from theirs; what the sync and the async client share."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cutpoint.calibration.curve import check_weights
from cutpoint.calibration.notation import parse_objective
from cutpoint.calibration.plan import Plan
from cutpoint.calibration.policy import Policy
from cutpoint.dataset import target_codes
from cutpoint.errors import BadInput, InternalError
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import tensor_of
from numpy.typing import ArrayLike, NDArray

from .arrays import array_of, rows_of
from .inference import rows_per_request
from .outcomes import FromOutcomes
from .results import Calibration, PolicySummary

_LOGITS_BYTES = 4 << 20


@dataclass(frozen=True)
class Labelled:
    """What a calibration is made from: exactly one of inputs, logits, histograms and outcomes, and what belongs to its rows."""

    targets: ArrayLike | None = None
    inputs: ArrayLike | None = None
    logits: ArrayLike | None = None
    histograms: Sequence[bytes] = ()
    weights: ArrayLike | None = None
    groups: ArrayLike | None = None
    outcomes: FromOutcomes | None = None


def calibrate_header(
    model: str,
    version: str | int,
    objective: str | Sequence[str],
    *,
    delta: float | None,
    simultaneous: bool,
    by_group: bool,
    calibrator: str,
    min_positives: int,
    shrink: float,
    fallback: str,
    author: str,
    activate: bool,
    allow_undecided: bool,
) -> v1.CalibrateHeader:
    """The header of a calibration, checked as the server will check it: nothing is sent that is refused."""
    plan = Plan.of(
        objective, delta=delta, simultaneous=simultaneous, by_group=by_group, calibrator=calibrator,
        min_positives=whole_number("min_positives", min_positives, 0), shrink=shrink, fallback=fallback,
    )  # fmt: skip
    header = v1.CalibrateHeader(
        model=model,
        model_version=str(version),
        objective=plan.objective,
        label_objectives=plan.objectives,
        calibrator=plan.calibrator,
        min_positives=plan.min_positives,
        shrink=plan.shrink,
        fallback=plan.fallback,
        author=author,
        activate=activate,
        allow_undecided=allow_undecided,
    )
    if delta is not None:
        header.guarantee.CopyFrom(v1.Guarantee(delta=delta, simultaneous=simultaneous, by_group=by_group))
    return header


def calibrate_requests(header: v1.CalibrateHeader, labelled: Labelled) -> Iterator[v1.CalibrateRequest]:
    """Header and chunks of a calibration; arrays are checked before anything is sent."""
    given = [labelled.inputs is not None, labelled.logits is not None, len(labelled.histograms) > 0]
    if sum(given) + (labelled.outcomes is not None) != 1:
        raise BadInput(
            "calibrate takes either inputs, to be scored by the server, or logits, scored before, or histograms, or outcomes "
            "that the server keeps (from_outcomes); one of them, not two, not none"
        )
    if labelled.outcomes is not None:
        if any(part is not None for part in (labelled.targets, labelled.weights, labelled.groups)):
            raise BadInput("calibrate takes no targets, weights or groups beside outcomes: they are kept with them")
        header.outcomes.CopyFrom(labelled.outcomes.message())
        return iter((v1.CalibrateRequest(header=header),))
    if len(labelled.histograms):
        return itertools.chain((v1.CalibrateRequest(header=header),), _histograms(labelled))
    if header.HasField("guarantee") and labelled.weights is not None:
        raise BadInput.of("weights", "given", "none with a guarantee: no exact bound is known for weighted rows")
    if header.guarantee.by_group and labelled.groups is None:
        raise BadInput.of("groups", "not given", "one for each row, for a guarantee by group")
    objectives = [header.objective, *header.label_objectives.values()]
    if labelled.targets is None and all(parse_objective(each).needs for each in objectives):
        raise BadInput.of("targets", "not given", f"0, 1 and -1 for {', '.join(sorted(set(objectives)))}: it needs the classes")
    return itertools.chain((v1.CalibrateRequest(header=header),), _chunks(labelled))


def _histograms(labelled: Labelled) -> Iterator[v1.CalibrateRequest]:
    if any(part is not None for part in (labelled.targets, labelled.weights, labelled.groups)):
        raise BadInput("calibrate takes no targets, weights or groups beside histograms: they are counted in them")
    given: Sequence[object] = (labelled.histograms,) if isinstance(labelled.histograms, bytes) else labelled.histograms
    for data in given:
        if not isinstance(data, bytes) or given is not labelled.histograms:
            raise BadInput.of("histograms", type(data).__name__, "a list of bytes, each of ScoreHistogram.to_bytes()")
    return (v1.CalibrateRequest(chunk=v1.LabelledChunk(histogram=data)) for data in labelled.histograms)


def _chunks(labelled: Labelled) -> Iterator[v1.CalibrateRequest]:
    name, given = ("inputs", labelled.inputs) if labelled.inputs is not None else ("logits", labelled.logits)
    data = rows_of(name, given)
    y = None if labelled.targets is None else target_codes("targets", array_of("targets", labelled.targets))
    if data.dtype.kind not in "biuf":
        raise BadInput.of("dtype of the data", str(data.dtype), "real numbers")
    if labelled.logits is not None and data.ndim == 1:
        data = data[:, None]
    if y is not None and y.ndim == 1:
        y = y[:, None]  # one label
    if data.ndim < 2 or (y is not None and y.ndim == 0):
        found = f"{'none' if y is None else list(y.shape)} and {list(data.shape)}"
        raise BadInput.of("shapes of targets and data", found, "[row] or [row, ..., label], the label axis last")
    if len(data) == 0 or (y is not None and len(data) != len(y)):
        found = f"{'no' if y is None else len(y)} and {len(data)} rows"
        raise BadInput.of("targets and data", found, "as many of each, and at least one")
    if labelled.logits is not None and y is not None and data.shape != y.shape:
        raise BadInput.of("targets", list(y.shape), f"the shape of the logits, {list(data.shape)}")
    weights = None if labelled.weights is None else array_of("weights", labelled.weights)
    groups = None if labelled.groups is None else _group_names(array_of("groups", labelled.groups))
    leading = data.shape[:-1] if labelled.logits is not None else data.shape[:1] if y is None else y.shape[:-1]
    for name, part in (("weights", weights), ("groups", groups)):
        if part is not None and part.shape not in (leading, leading[:1]):
            expected = f"{list(leading[:1])}, one for each row" + (f", or {list(leading)}" if len(leading) > 1 else "")
            raise BadInput.of(f"shape of {name}", list(part.shape), expected)
    if weights is not None:
        weights = check_weights(weights, weights.shape)
    fields = [part for part in (y, weights, groups) if part is not None]
    row_bytes = 4 * math.prod(data.shape[1:]) + sum(part.itemsize * math.prod(part.shape[1:]) for part in fields)
    # Logits are answered by nothing, and may come in many rows at a time.
    rows = rows_per_request(row_bytes) if labelled.inputs is not None else max(1, _LOGITS_BYTES // row_bytes)

    def send() -> Iterator[v1.CalibrateRequest]:
        for start in range(0, len(data), rows):
            some = slice(start, start + rows)
            part = tensor_of(np.ascontiguousarray(data[some], np.float32))
            chunk = v1.LabelledChunk()
            (chunk.inputs if labelled.inputs is not None else chunk.logits).CopyFrom(part)
            for field, values in ((chunk.targets, y), (chunk.weights, weights), (chunk.groups, groups)):
                if values is not None:
                    field.CopyFrom(tensor_of(values[some]))
            yield v1.CalibrateRequest(chunk=chunk)

    return send()


def _group_names(groups: NDArray[Any]) -> NDArray[Any]:
    if groups.dtype.kind in "SU" or (groups.dtype.kind == "O" and all(isinstance(name, str | bytes) for name in groups.flat)):
        return groups
    if groups.dtype.kind not in "iub":
        raise BadInput.of("dtype of groups", str(groups.dtype), "integers or text")
    if groups.dtype == np.uint64 and groups.max(initial=0) > np.iinfo(np.int64).max:
        raise BadInput.of("groups", int(groups.max()), "integers of 64 bits with a sign, or text")
    return groups.astype(np.int64)


def whole_number(name: str, value: int, least: int) -> int:
    """Check a number that the wire holds as unsigned; BadInput where it is less than `least`."""
    if not least <= value < 1 << 32:
        raise BadInput.of(name, value, f"a whole number from {least}")
    return value


def calibration_of(response: v1.CalibrateResponse) -> Calibration:
    """A calibration's answer."""
    return Calibration(policy_of(response.policy), response.activated)


def policy_of(message: v1.Policy) -> Policy:
    """The whole policy in a message."""
    try:
        return Policy.from_json(message.document)
    except ValueError as error:
        raise InternalError(f"the server sent a policy that this client cannot read: {error}") from error


def summary_of(message: v1.Policy) -> PolicySummary:
    """One line of a list of policies."""
    return PolicySummary(
        message.version,
        message.active,
        message.created,
        message.author,
        tuple(message.objectives),
        message.labels,
        message.undecided_labels,
    )
