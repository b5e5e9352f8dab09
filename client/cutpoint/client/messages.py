"""Arrays to requests and responses to results; everything that the sync and the async client share."""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from cutpoint.calibration.curve import check_weights
from cutpoint.calibration.notation import parse_objective
from cutpoint.calibration.plan import Plan
from cutpoint.calibration.policy import Policy
from cutpoint.dataset import as_rows, target_codes
from cutpoint.errors import BadInput, BadRequest, Conflict, InternalError
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import decode_outputs, encode_input, tensor_of
from numpy.typing import ArrayLike, NDArray

from .results import Calibration, PolicySummary, Scores

# A request is kept below this many bytes, and below this many rows because the answer may be much larger than the request:
# 4 features in, 512 labels out. Well under the server's limits, and small enough for its batches.
REQUEST_BYTES = 8 << 20
REQUEST_ROWS = 1024
_LOGITS_BYTES = 4 << 20
_OUTPUTS = ("logits", "scores", "labels")


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of an array of `total`, as a request of their own."""

    start: int
    stop: int
    total: int
    request: oip.ModelInferRequest

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have a BadRequest say which rows it speaks of, where they are not all: its indices count from `start`."""
        try:
            yield
        except BadRequest as error:
            if self.stop - self.start == self.total:
                raise
            raise BadRequest(f"rows {self.start} to {self.stop - 1} of x, counted from {self.start}: {error}") from error


def infer_parts(model: str, x: ArrayLike, version: str | int, input_name: str) -> Iterator[Part]:
    """One request, or several where `x` is large, split between rows; made, and read from `x`, as they are asked for."""
    array = as_rows(x)
    if array.ndim < 2 or len(array) == 0 or array.dtype.kind not in "biuf":
        raise BadInput.of("x", f"{array.dtype} {list(array.shape)}", "real numbers, [row, ...] with at least one row")
    rows = _rows_per_request(4 * math.prod(array.shape[1:]))

    def parts() -> Iterator[Part]:
        for start in range(0, len(array), rows):
            some = np.ascontiguousarray(array[start : start + rows], np.float32)
            tensor, raw = encode_input(input_name, some)
            request = oip.ModelInferRequest(
                model_name=model, model_version=str(version), inputs=[tensor], raw_input_contents=[raw]
            )
            yield Part(start, start + len(some), len(array), request)

    return parts()


def scores_of(responses: Sequence[oip.ModelInferResponse]) -> Scores:
    """The results of one array's requests as one.

    Raises:
        Conflict: the policy or the model changed between two requests; score again.
    """
    parts = [decode_outputs(response) for response in responses]
    first = responses[0]
    versions = {(response.model_version, _parameter(response, "policy_version")) for response in responses}
    if len(versions) > 1:
        raise Conflict(f"the policy of model '{first.model_name}' changed while these rows were scored; score them again")
    missing = [name for name in _OUTPUTS if name not in parts[0]]
    if missing:
        raise BadInput.of(
            f"model '{first.model_name}'",
            f"without outputs {missing}",
            "a model with float32 logits; use an OIP client for others",
        )
    labels = tuple(label.decode() for label in parts[0]["labels"].tolist())
    return Scores(
        logits=_joined(parts, "logits"),
        scores=_joined(parts, "scores"),
        decisions=_joined(parts, "decisions") if "decisions" in parts[0] else None,
        labels=labels,
        model=first.model_name,
        model_version=int(first.model_version),
        policy_version=_parameter(first, "policy_version"),
        undecided_labels=_parameter(first, "undecided_labels") or 0,
    )


@dataclass(frozen=True)
class Labelled:
    """What a calibration is made from: exactly one of inputs, logits and histograms, and what belongs to its rows."""

    targets: ArrayLike | None = None
    inputs: ArrayLike | None = None
    logits: ArrayLike | None = None
    histograms: Sequence[bytes] = ()
    weights: ArrayLike | None = None
    groups: ArrayLike | None = None


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
    if sum(given) != 1:
        raise BadInput(
            "calibrate takes either inputs, to be scored by the server, or logits, scored before, or histograms; "
            "one of them, not two, not none"
        )
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
    data = as_rows(labelled.inputs if labelled.inputs is not None else labelled.logits)
    y = None if labelled.targets is None else target_codes("targets", np.asarray(labelled.targets))
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
    weights = None if labelled.weights is None else np.asarray(labelled.weights)
    groups = None if labelled.groups is None else _group_names(np.asarray(labelled.groups))
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
    rows = _rows_per_request(row_bytes) if labelled.inputs is not None else max(1, _LOGITS_BYTES // row_bytes)

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
    if groups.dtype.kind in "SU":
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


def _rows_per_request(row_bytes: int) -> int:
    return min(REQUEST_ROWS, max(1, REQUEST_BYTES // max(1, row_bytes)))


def _parameter(response: oip.ModelInferResponse, name: str) -> int | None:
    return response.parameters[name].int64_param if name in response.parameters else None


def _joined(parts: Sequence[dict[str, NDArray[Any]]], name: str) -> NDArray[Any]:
    return parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])
