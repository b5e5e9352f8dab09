"""Compressed messages: what zlib's own way gives, and never more than the limit."""

import gzip
import importlib
import pkgutil
import zlib
from typing import Any

import cutpoint.oip
import cutpoint.v1
import numpy as np
import pytest
from cutpoint.errors import BadRequest
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.port.compression import inflate, is_compressed
from hypothesis import given
from hypothesis import strategies as st

LIMIT = 1 << 20
PACK = {"gzip": gzip.compress, "deflate": zlib.compress}
algorithms = pytest.mark.parametrize("algorithm", sorted(PACK))


@algorithms
@given(data=st.binary(), level=st.integers(0, 9))
def test_what_was_packed_comes_out(algorithm: str, data: bytes, level: int) -> None:
    packed = PACK[algorithm](data, level)
    assert is_compressed(packed)
    assert inflate(packed, LIMIT) == data


@algorithms
@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT])
def test_the_limit_itself_is_allowed(algorithm: str, size: int) -> None:
    data = np.random.default_rng(0).integers(0, 4, size, np.uint8).tobytes()
    assert inflate(PACK[algorithm](data), LIMIT) == data


@algorithms
@pytest.mark.parametrize("size", [LIMIT + 1, 300 * LIMIT])
def test_more_is_refused(algorithm: str, size: int) -> None:
    with pytest.raises(BadRequest, match=r"larger than max when inflated \(1048576 bytes\).*--max-message-mib"):
        inflate(PACK[algorithm](bytes(size)), LIMIT)


@algorithms
def test_what_is_cut_or_goes_on_or_is_damaged_is_refused(algorithm: str) -> None:
    packed = PACK[algorithm](b"abc" * 100)
    for size in range(1, len(packed)):
        with pytest.raises(BadRequest, match="cut short"):
            inflate(packed[:size], LIMIT)
    with pytest.raises(BadRequest, match="followed by 1 bytes"):
        inflate(packed + b"x", LIMIT)
    with pytest.raises(BadRequest, match="followed by"):
        inflate(packed + packed, LIMIT)
    for place in (len(packed) // 2, len(packed) - 1):
        damaged = bytearray(packed)
        damaged[place] ^= 0x55
        with pytest.raises(BadRequest):
            inflate(bytes(damaged), LIMIT)


@given(st.sampled_from([b"\x1f", b"\x1f\x8b", b"\x1f\x8b\x08\x00", b"\x78\x9c", b"\x78\x01", b"\x78\xda"]), st.binary())
def test_garbage_gives_bad_request_and_nothing_else(start: bytes, rest: bytes) -> None:
    data = start + rest
    assert is_compressed(data)
    try:
        inflate(data, LIMIT)
    except BadRequest as error:
        assert str(error).startswith("request is ")


def messages() -> list[Any]:
    found = []
    for package in (cutpoint.oip, cutpoint.v1):
        for each in pkgutil.iter_modules(package.__path__):
            if each.name.endswith("_pb2"):
                module = importlib.import_module(f"{package.__name__}.{each.name}")
                found += list(module.DESCRIPTOR.message_types_by_name.values())
    return found


def test_no_message_of_ours_looks_compressed() -> None:
    """By the first byte: gzip's has wire type 7, which there is none of; zlib's is field 15 as a varint."""
    assert 0x1F & 7 == 7
    assert (0x78 >> 3, 0x78 & 7) == (15, 0)
    checked = [field for message in messages() for field in message.fields]
    assert len(checked) > 50
    assert [field.full_name for field in checked if field.number == 15] == []


@given(st.text(max_size=300), st.text(max_size=20), st.binary(max_size=100))
def test_a_request_is_taken_for_what_it_is(name: str, request_id: str, raw: bytes) -> None:
    try:
        data = oip.ModelInferRequest(model_name=name, id=request_id, raw_input_contents=[raw]).SerializeToString()
    except (UnicodeEncodeError, ValueError):
        return
    assert not is_compressed(data)
    assert not is_compressed(b"")
