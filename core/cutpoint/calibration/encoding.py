"""A histogram as bytes: a line that says what it is, a header, compressed counts, and a SHA-256 of all that.

Whoever sends them may send anything. So the header is checked first, against what is expected, and no more is unpacked than it
declares.
"""

import hashlib
import math
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StrictBool, StrictInt, ValidationError

from ..errors import BadData
from ..validation import Record, first_problem

# Raised when the meaning of the bytes changes; a reader of an older number is then kept here.
FORMAT: Final = 1
_MAGIC: Final = b"cutpoint-histogram\n"
_LENGTH, _DIGEST = 4, 32
_MOST_COUNTED: Final = float(1 << 62)  # rows, of which sums still are whole

Square = Annotated[float, Field(ge=0, le=1e300)]


class Header(Record):
    """What the counts [label, class, bin] are of; see `ScoreHistogram`.

    Attributes:
        first: index of the first bin that is stored; bin i begins at i 2**-bits.
        width: bins that are stored.
        dtype: of the counts.
        squares: of weighted rows, the sums of squared weights of negatives and positives, by label.
        units_bytes: length of a histogram of groups, as bytes, that follows the counts; 0 for none.
    """

    format: StrictInt
    labels: tuple[str, ...]
    limit: Annotated[StrictInt, Field(ge=1, le=1 << 22)]
    bits: Annotated[StrictInt, Field(ge=0, le=16)]
    weighted: StrictBool
    labelled: StrictBool
    first: StrictInt
    width: Annotated[StrictInt, Field(ge=0)]
    dtype: Literal["|u1", "<u2", "<u4", "<i8", "<f8"]
    squares: tuple[tuple[Square, Square], ...] | None = None
    units_bytes: Annotated[StrictInt, Field(ge=0)] = 0


def encode(header: Header, counts: NDArray[Any], units: bytes = b"") -> bytes:
    """The bytes of a header, of its counts, which are stored as the header's dtype, and of a histogram of groups."""
    text = header.model_dump_json(exclude_none=True).encode()
    packed = zlib.compress(counts.astype(header.dtype).tobytes(), 1)
    body = b"".join((_MAGIC, len(text).to_bytes(_LENGTH, "little"), text, packed, units))
    return body + hashlib.sha256(body).digest()


def smallest_dtype(counts: NDArray[Any], weighted: bool) -> str:
    """The smallest dtype of a header that holds the counts."""
    if weighted:
        return "<f8"
    most = counts.max(initial=0)
    return next((np.dtype(f"<{name}").str for name in ("u1", "u2", "u4") if most <= np.iinfo(name).max), "<i8")


def decode_header(data: bytes, labels: Sequence[str] | None, most_bytes: int | None) -> tuple[Header, int]:
    """The header, and where the counts begin; nothing is unpacked.

    Args:
        data: all bytes.
        labels: that they must be of, in this order; None for any.
        most_bytes: what the whole grid may take in memory; None for any.

    Raises:
        BadData: no histogram, of another format, damaged, of other labels, or too large.
    """
    if not data.startswith(_MAGIC):
        raise BadData.of("histogram", f"{len(data)} bytes that begin otherwise", "bytes that Cutpoint wrote")
    if len(data) < len(_MAGIC) + _LENGTH + _DIGEST or hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise BadData("histogram is damaged: its SHA-256 does not fit; expected the bytes as they were written")
    begin = len(_MAGIC) + _LENGTH
    length = int.from_bytes(data[len(_MAGIC) : begin], "little")
    if labels is not None and length > (longest := 4096 + sum(128 + 12 * len(label) for label in labels)):
        raise BadData.of("histogram header", f"{length} bytes", f"at most {longest}, for {len(labels)} labels")
    try:
        header = Header.model_validate_json(data[begin : begin + length])
    except ValidationError as error:
        raise BadData(f"histogram header: {first_problem(error)}") from None
    if header.format != FORMAT:
        raise BadData.of("histogram format", header.format, f"{FORMAT}, the one this version reads")
    if labels is not None and header.labels != tuple(labels):
        found = f"{str(list(header.labels[:5]))[:150]}, {len(header.labels)} in all"
        raise BadData.of("histogram labels", found, f"{list(labels[:5])}, {len(labels)} in all, in that order")
    size = 2 * len(header.labels) * (2 * header.limit << header.bits)
    size *= 8 if header.weighted else 4
    if most_bytes is not None and size > most_bytes:
        raise BadData.of(
            "histogram grid",
            f"limit {header.limit}, bits {header.bits}: {size / 2**20:.4g} MiB for {len(header.labels)} labels",
            f"at most {most_bytes / 2**20:g} MiB",
        )
    return header, begin + length


def units_of(header: Header, data: bytes) -> bytes:
    """The bytes of the histogram of groups; empty for none."""
    return data[_units_begin(header, data) : -_DIGEST] if header.units_bytes else b""


def _units_begin(header: Header, data: bytes) -> int:
    return max(0, len(data) - _DIGEST - header.units_bytes)


def decode_counts(header: Header, data: bytes, begin: int) -> NDArray[Any]:
    """The counts [label, class, bin] that begin at `begin`; BadData where they are not as the header says."""
    shape = (len(header.labels), 2, header.width)
    if (header.dtype == "<f8") != header.weighted or (header.squares is not None) != header.weighted:
        raise BadData.of("histogram dtype and squares", f"of {header.dtype}", f"those of {header.weighted=}")
    if header.squares is not None and len(header.squares) != len(header.labels):
        raise BadData.of("histogram squares", f"{len(header.squares)} pairs", f"one for each of {len(header.labels)} labels")
    size = 2 * len(header.labels) * header.width * np.dtype(header.dtype).itemsize
    try:
        raw = zlib.decompressobj().decompress(data[begin : _units_begin(header, data)], size + 1)
    except (zlib.error, OverflowError) as error:
        raise BadData(f"histogram counts cannot be unpacked ({error}); expected the bytes as they were written") from None
    if len(raw) != size:
        raise BadData.of("histogram counts", f"more or fewer counts, {len(raw)} bytes", f"{size} bytes, as the header declares")
    counts = np.frombuffer(raw, header.dtype).reshape(shape)
    if not header.labelled and counts[:, 1].any():
        raise BadData.of("histogram counts", "positives", "none, where no classes are known")
    most = math.inf if header.weighted else _MOST_COUNTED
    if counts.size and not (counts.min() >= 0 and counts.sum(dtype=np.float64) < most):
        raise BadData.of("histogram counts", "a negative count, or too many", "counts or sums of weights from 0")
    return counts
