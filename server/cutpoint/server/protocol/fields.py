"""How many fields a message has, counted before it is parsed.

To parse a field costs a microsecond, to look into it several; a message of 8 MiB can hold four million that say nothing. The
serving thread would be busy for seconds with one, and health would wait.
"""

from cutpoint.errors import BadRequest

# What no request needs: inputs, outputs and parameters together.
MOST_FIELDS = 1024
# A message this short cannot hold enough fields to matter.
_SHORT = 4096


def refuse_many_fields(data: bytes) -> None:
    """Raise BadRequest for a message with more than `MOST_FIELDS` fields; bytes that are no message are left to the parser."""
    at, size, count = 0, len(data), 0
    if size <= _SHORT:
        return
    while at < size:
        count += 1
        if count > MOST_FIELDS:
            raise BadRequest.of("request", f"a message of more than {MOST_FIELDS} fields", f"{MOST_FIELDS} at most")
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind == 1:
            at += 8
        elif kind == 2:
            length, at = _varint(data, at)
            at += length
        elif kind == 5:
            at += 4
        else:
            return


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
