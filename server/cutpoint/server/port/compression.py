"""Compressed messages, inflated up to a limit.

gRPC's own way inflates a message whole and compares its size with the limit after that, so that a few kilobytes take gigabytes.
The server therefore has messages given as they came (`grpc.per_message_decompression` is 0 in `limits`).
"""

import zlib
from typing import Final

from cutpoint.errors import BadRequest

_GZIP: Final = 0x1F
_DEFLATE: Final = 0x78
# Of zlib: a header of either kind must come.
_BITS: Final = {_GZIP: 31, _DEFLATE: 15}


def is_compressed(message: bytes) -> bool:
    """Whether a message is compressed, by its first byte: gRPC does not tell.

    gzip's 0x1f cannot begin a protobuf message (there is no wire type 7). zlib's 0x78 would be a field 15, a varint, which no
    message of ours has; the two bytes of zlib's header are a multiple of 31 besides.
    """
    if not message:
        return False
    first = message[0]
    return first == _GZIP or (first == _DEFLATE and len(message) > 1 and (_DEFLATE << 8 | message[1]) % 31 == 0)


def inflate(message: bytes, max_bytes: int) -> bytes:
    """What a compressed message holds. Memory: at most twice `max_bytes`, whatever the message claims.

    Raises:
        BadRequest: it holds more than `max_bytes`, ends too early, goes on after its end or is damaged.
    """
    inflater = zlib.decompressobj(_BITS[message[0]])
    try:
        found = inflater.decompress(message, max_bytes + 1)
    except zlib.error as error:
        raise _wrong(message, f"damaged ({error})") from None
    if len(found) > max_bytes:
        raise BadRequest(
            f"a message of {len(message)} bytes is larger than max when inflated ({max_bytes} bytes); send fewer rows at a "
            "time, or raise the server's --max-message-mib"
        )
    if not inflater.eof:
        raise _wrong(message, "cut short")
    if inflater.unused_data:
        raise _wrong(message, f"followed by {len(inflater.unused_data)} bytes")
    return found


def _wrong(message: bytes, what: str) -> BadRequest:
    return BadRequest.of("request", f"{len(message)} compressed bytes, {what}", "one whole message, gzip or deflate")
