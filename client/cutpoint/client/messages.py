"""Arrays to requests and responses to results; everything that the sync and the async client share."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from cutpoint.calibration.policy import Policy
from cutpoint.dataset import target_codes
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
    array = np.asarray(x)
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


def calibrate_requests(
    header: v1.CalibrateHeader, targets: ArrayLike, inputs: ArrayLike | None, logits: ArrayLike | None
) -> Iterator[v1.CalibrateRequest]:
    """Header and chunks of a calibration from inputs or from logits; arrays are checked before anything is sent."""
    if (inputs is None) == (logits is None):
        raise BadInput(
            "calibrate takes either inputs, to be scored by the server, or logits, scored before; not both, not neither"
        )
    y = target_codes("targets", np.asarray(targets))
    if y.ndim == 1:
        y = y[:, None]  # one label
    if y.ndim == 0:
        raise BadInput.of("targets", "a single number", "[row] or [row, ..., label], the label axis last")
    data = np.asarray(inputs if inputs is not None else logits)
    if len(data) != len(y) or len(data) == 0:
        raise BadInput.of("targets and data", f"{len(y)} and {len(data)} rows", "as many of each, and at least one")
    if logits is not None and data.ndim == 1:
        data = data[:, None]
    if logits is not None and data.shape != y.shape:
        raise BadInput.of("targets", list(y.shape), f"the shape of the logits, {list(data.shape)}")
    rows = _rows_per_request(4 * math.prod(data.shape[1:]) + math.prod(y.shape[1:]))

    def send() -> Iterator[v1.CalibrateRequest]:
        yield v1.CalibrateRequest(header=header)
        for start in range(0, len(data), rows):
            part = tensor_of(np.ascontiguousarray(data[start : start + rows], np.float32))
            chunk = v1.LabelledChunk(targets=tensor_of(y[start : start + rows]))
            (chunk.inputs if inputs is not None else chunk.logits).CopyFrom(part)
            yield v1.CalibrateRequest(chunk=chunk)

    return send()


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
