"""Rows to the requests of ModelInfer, and its responses to scores; what the sync and the async client share."""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cutpoint.dataset import SparseRows
from cutpoint.errors import BadInput, BadRequest, Conflict
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import decode_outputs
from numpy.typing import NDArray

from .arrays import rows_of
from .results import OUTPUTS, Scores

# A request is kept below this many bytes, and below this many rows because the answer may be much larger than the request:
# 4 features in, 512 labels out. Well under the server's limits, and small enough for its batches.
REQUEST_BYTES = 8 << 20
REQUEST_ROWS = 1024
# How protobuf writes that a field of so many bytes follows.
_ID_TAG, _RAW_TAG = (
    bytes((number << 3 | 2,))
    for number in (oip.ModelInferRequest.ID_FIELD_NUMBER, oip.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER)
)


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of an array of `total`, for a request of their own; `rows` are float32, contiguous."""

    asked: "Asked"
    start: int
    stop: int
    total: int
    rows: NDArray[Any] = field(repr=False)

    def message(self, region: str = "") -> bytes:
        """The request, with the rows in it, or at the start of a region of shared memory that the server knows."""
        return self.asked.message(self.rows, self.asked.request_id, None, self.start, region)

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have a BadRequest say which rows it speaks of, where they are not all: its indices count from `start`."""
        try:
            yield
        except BadRequest as error:
            if self.stop - self.start == self.total:
                raise
            raise BadRequest(f"rows {self.start} to {self.stop - 1} of x, counted from {self.start}: {error}") from error


@dataclass(frozen=True)
class Asked:
    """What is asked of a model, whatever the rows.

    Attributes:
        model: name.
        version: empty for the server's default.
        input_name: the graph's input.
        outputs: which of logits, scores, decisions and labels; empty for all that there are.
        priority: 0 for the server's default.
        request_id: by which outcomes of the decisions are reported later.
    """

    model: str
    version: str | int = ""
    input_name: str = "x"
    outputs: Sequence[str] = ()
    priority: int = 0
    request_id: str = ""

    def __post_init__(self) -> None:
        unknown = [name for name in self.outputs if name not in OUTPUTS]
        if unknown or isinstance(self.outputs, str):
            raise BadInput.of("outputs", repr(self.outputs), "some of " + ", ".join(OUTPUTS))
        if not 0 <= self.priority < 1 << 32:
            raise BadInput.of("priority", self.priority, "a whole number from 0")

    def parts(self, x: Any) -> Iterator[Part]:
        """One request, or several where `x` is large, split between rows; made, and read from `x`, as they are asked for."""
        array = self._rows(x)
        rows = rows_per_request(4 * math.prod(array.shape[1:]))

        def parts() -> Iterator[Part]:
            for start in range(0, len(array), rows):
                some = array[start : start + rows]
                yield Part(self, start, start + len(some), len(array), np.ascontiguousarray(some, "<f4"))

        return parts()

    def whole(self, x: Any, number: int, first_row: int) -> tuple[bytes, int]:
        """One request of a stream with all of `x`, and how many rows that is; the first of them is `first_row` of the stream.

        Its id is its number in the stream; what was decided is kept under the stream's own name, where it has one.
        """
        rows = np.ascontiguousarray(self._rows(x)[:], "<f4")
        return self.message(rows, str(number), self.request_id, first_row), len(rows)

    def scores_of(self, responses: Sequence[oip.ModelInferResponse]) -> Scores:
        """The results of one array's requests as one.

        Raises:
            Conflict: the policy or the model changed between two requests; score again.
        """
        parts = [decode_outputs(response) for response in responses]
        first = responses[0]
        versions = {(response.model_version, _parameter(response, "policy_version")) for response in responses}
        if len(versions) > 1:
            raise Conflict(f"the policy of model '{first.model_name}' changed while these rows were scored; score them again")
        wanted = self.outputs or [name for name in OUTPUTS if name != "decisions" or name in parts[0]]
        missing = [name for name in wanted if name not in parts[0]]
        if missing:
            raise BadInput.of(
                f"model '{first.model_name}'",
                f"without outputs {missing}",
                "a model with float32 logits; use an OIP client for others",
            )
        joined = {name: _joined(parts, name) for name in wanted if name != "labels"}
        if "labels" in wanted:
            joined["labels"] = tuple(label.decode() for label in parts[0]["labels"].tolist())
        return Scores(
            **joined,
            model=first.model_name,
            model_version=int(first.model_version),
            policy_version=_parameter(first, "policy_version"),
            undecided_labels=_parameter(first, "undecided_labels") or 0,
        )

    def _rows(self, x: Any) -> SparseRows | NDArray[Any]:
        array = rows_of("x", x)
        if array.ndim < 2 or len(array) == 0 or array.dtype.kind not in "biuf":
            raise BadInput.of("x", f"{array.dtype} {list(array.shape)}", "real numbers, [row, ...] with at least one row")
        return array

    def message(self, rows: NDArray[Any], request_id: str, decision: str | None, first_row: int, region: str = "") -> bytes:
        """A ModelInferRequest with these rows, float32 and contiguous.

        The server keeps its answer as `decision`, None for under its id.
        Protobuf would copy the rows twice, into the message and out of it; here they are written once, behind the rest, or not
        at all where they are in a region of shared memory.
        """
        of_region = (region, rows.nbytes) if region else None
        asked = (self.model, str(self.version), self.input_name, rows.shape, tuple(self.outputs), self.priority)
        parts: list[bytes | memoryview] = [_head(*asked, of_region)]
        if request_id:
            name = request_id.encode()
            parts += (_ID_TAG, _varint(len(name)), name)
            if decision is not None or first_row:
                parts.append(_kept(decision, first_row if decision != "" else 0))
        if not region:
            parts += (_RAW_TAG, _varint(rows.nbytes), rows.data)
        return b"".join(parts)


@functools.lru_cache(256)
def _head(
    model: str, version: str, input_name: str, shape: tuple[int, ...], outputs: tuple[str, ...], priority: int,
    region: tuple[str, int] | None,
) -> bytes:  # fmt: skip
    """A request without its id and its rows: the same for requests that are alike."""
    head = oip.ModelInferRequest(model_name=model, model_version=version)
    tensor = head.inputs.add(name=input_name, datatype="FP32", shape=shape)
    if region is not None:
        tensor.parameters["shared_memory_region"].string_param, byte_size = region
        tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    for name in outputs:
        head.outputs.add(name=name)
    if priority:
        head.parameters["priority"].uint64_param = priority
    return head.SerializeToString()


@functools.lru_cache(256)
def _kept(decision: str | None, first_row: int) -> bytes:
    """The part of a request that says under which name and from which row on its decisions are kept."""
    part = oip.ModelInferRequest()
    if decision is not None:
        part.parameters["cutpoint_decision"].string_param = decision
    if first_row:
        part.parameters["cutpoint_first_row"].int64_param = first_row
    return part.SerializeToString()


def rows_per_request(row_bytes: int) -> int:
    """How many rows of this size go into one request."""
    return min(REQUEST_ROWS, max(1, REQUEST_BYTES // max(1, row_bytes)))


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _parameter(response: oip.ModelInferResponse, name: str) -> int | None:
    return response.parameters[name].int64_param if name in response.parameters else None


def _joined(parts: Sequence[dict[str, NDArray[Any]]], name: str) -> Any:
    return parts[0][name] if len(parts) == 1 else np.concatenate([part[name] for part in parts])
