"""How many fields a message has, counted before it is parsed.

To parse a field costs a microsecond, to look into it several; a message of 8 MiB can hold four million that say nothing. The
serving thread would be busy for seconds with one, and health would wait.
"""

from collections.abc import Iterator

from cutpoint.errors import BadRequest

# What no request needs: inputs, outputs and parameters together.
MOST_FIELDS = 1024
# A message this short cannot hold enough fields to matter.
_SHORT = 4096


def refuse_many_fields(data: bytes) -> None:
    """Raise BadRequest for a message with more than `MOST_FIELDS` fields; bytes that are no message are left to the parser."""
    if len(data) <= _SHORT:
        return
    for count, _ in enumerate(fields(data, 0, len(data))):
        if count == MOST_FIELDS:
            raise BadRequest.of("request", f"a message of more than {MOST_FIELDS} fields", f"{MOST_FIELDS} at most")


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of the message in `data[at:end]`: number, and where the value begins and ends; up to what is no field."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        start = at
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            length, start = _varint(data, at)
            at = start + length
        elif kind == 5:
            at += 4
        else:
            return
        yield tag >> 3, start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at
