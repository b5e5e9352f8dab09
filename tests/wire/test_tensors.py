"""Arrays to messages and back; nothing but BadRequest for what does not fit."""

import numpy as np
import pytest
from cutpoint.errors import BadRequest
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import (
    DATATYPES,
    array_of,
    datatype_of,
    decode_inputs,
    decode_outputs,
    encode_input,
    encode_raw,
    tensor_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

QUICK = settings(deadline=None, max_examples=150, database=None)
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
NUMERIC = sorted(set(DATATYPES) - {"BYTES"})


def sample(datatype: str) -> np.ndarray:
    """Two rows of three with the extremes of the datatype."""
    dtype = DATATYPES[datatype]
    if datatype == "BYTES":
        return np.array([[b"", b"a", b"\x00\xff\n"], ["é".encode(), b"b" * 300, b"\x04\x00\x00\x00"]], object)
    if dtype.kind == "b":
        return np.array([[True, False, True], [False, False, True]])
    info = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return np.array([[0, 1, 2], [info.min, info.max, 3]], dtype)


def request(*tensors: oip.ModelInferRequest.InferInputTensor, raw: tuple[bytes, ...] = ()) -> oip.ModelInferRequest:
    return oip.ModelInferRequest(model_name="m", inputs=tensors, raw_input_contents=raw)


def described(datatype: str, shape: tuple[int, ...], name: str = "x") -> oip.ModelInferRequest.InferInputTensor:
    return oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)


def typed(
    datatype: str, shape: tuple[int, ...], values: list[object], name: str = "x"
) -> oip.ModelInferRequest.InferInputTensor:
    tensor = described(datatype, shape, name)
    getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    return tensor


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_raw_round_trip(datatype: str) -> None:
    array = sample(datatype)
    tensor, raw = encode_input("x", array)
    assert (tensor.datatype, list(tensor.shape)) == (datatype, [2, 3])
    sent = oip.ModelInferRequest.FromString(request(tensor, raw=(raw,)).SerializeToString())
    assert_same(decode_inputs(sent)["x"], array)
    assert_same(array_of("x", v1.Tensor.FromString(tensor_of(array).SerializeToString())), array)
    response = oip.ModelInferResponse(raw_output_contents=[raw])
    response.outputs.add(name="y", datatype=datatype, shape=array.shape)
    assert_same(decode_outputs(response)["y"], array)


@pytest.mark.parametrize("datatype", sorted(CONTENTS))
def test_typed_round_trip(datatype: str) -> None:
    array = sample(datatype)
    sent = oip.ModelInferRequest.FromString(request(typed(datatype, (2, 3), array.ravel().tolist())).SerializeToString())
    assert_same(decode_inputs(sent)["x"], array)
    response = oip.ModelInferResponse()
    output = response.outputs.add(name="y", datatype=datatype, shape=array.shape)
    getattr(output.contents, CONTENTS[datatype]).extend(array.ravel().tolist())
    assert_same(decode_outputs(response)["y"], array)


def test_raw_contents_are_little_endian_and_row_major() -> None:
    assert encode_raw(np.array([[1, 2], [3, 4]], ">i2").T) == bytes([1, 0, 3, 0, 2, 0, 4, 0])
    assert encode_raw(np.array(["é", "ab"])) == b"\x02\x00\x00\x00\xc3\xa9\x02\x00\x00\x00ab"
    assert datatype_of(np.dtype(">f8")) == "FP64"
    assert datatype_of(np.dtype("<U3")) == datatype_of(np.dtype("S3")) == datatype_of(np.dtype(object)) == "BYTES"
    for dtype in ("complex64", "datetime64[s]", "float128"):
        with pytest.raises(BadRequest, match="dtype is"):
            datatype_of(np.dtype(dtype))


@QUICK
@given(hnp.arrays(st.sampled_from([DATATYPES[name] for name in NUMERIC]), hnp.array_shapes(max_dims=4, min_side=0)))
def test_any_array_round_trips_to_the_bit(array: np.ndarray) -> None:
    tensor, raw = encode_input("x", array)
    found = decode_inputs(request(tensor, raw=(raw,)))["x"]
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


@QUICK
@given(st.lists(st.binary(max_size=20), max_size=10))
def test_any_bytes_round_trip(items: list[bytes]) -> None:
    array = np.empty(len(items), object)
    array[:] = items
    tensor, raw = encode_input("x", array)
    assert decode_inputs(request(tensor, raw=(raw,)))["x"].tolist() == items


def test_arrays_from_raw_contents_are_views() -> None:
    tensor, raw = encode_input("x", np.zeros((2, 3), np.float32))
    assert not decode_inputs(request(tensor, raw=(raw,)))["x"].flags.writeable


def test_several_inputs_keep_their_raw_contents_apart() -> None:
    one, one_raw = encode_input("one", np.arange(3, dtype=np.int32))
    two, two_raw = encode_input("two", np.arange(4, dtype=np.float64))
    found = decode_inputs(request(one, two, raw=(one_raw, two_raw)))
    assert list(found) == ["one", "two"]
    assert_same(found["two"], np.arange(4.0))


def test_mixing_raw_and_typed_contents_is_refused_in_tritons_words() -> None:
    tensor = typed("FP32", (1,), [1.0], name="INPUT0")
    with pytest.raises(BadRequest) as refused:
        decode_inputs(request(described("FP32", (1,)), tensor, raw=(b"0000", b"0000")))
    assert str(refused.value) == (
        "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'm'"
    )


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (request(), "inputs for model 'm' is empty"),
        (request(described("FP32", (1,)), raw=(b"0000", b"0000")), "raw_input_contents for model 'm' is 2 entries; expected 1"),
        (
            request(described("FP32", (1,)), described("FP32", (1,), "z"), raw=(b"0000",)),
            "is 1 entries; expected 2, one per input",
        ),
        (request(typed("FP32", (1,), [1]), typed("FP32", (1,), [1])), "input 'x' for model 'm' is given twice"),
        (request(described("FP32", (2, 3)), raw=(b"0" * 23,)), "23 bytes; expected 24 bytes for FP32"),
        (request(described("FP32", (2, 3)), raw=(b"0" * 25,)), "25 bytes; expected 24"),
        (request(described("FP32", (2, 3)), raw=(b"",)), "0 bytes; expected 24"),
        (request(typed("FP32", (2, 3), [1.0] * 5)), "fp32_contents of input 'x' for model 'm' is 5 elements; expected 6"),
        (request(described("FP32", (2, 3))), "is 0 elements; expected 6"),
        (
            request(described("FP31", (1,)), raw=(b"0000",)),
            "datatype of input 'x' for model 'm' is 'FP31'; expected one of BOOL",
        ),
        (request(described("", (1,))), "datatype of input 'x'"),
        (request(described("FP16", (1,))), "contents of input 'x' for model 'm' is FP16; expected raw contents"),
        (request(described("FP32", (-1, 2)), raw=(b"0" * 8,)), r"shape of input 'x' for model 'm' is \[-1, 2\]"),
        (request(described("FP32", (-1, -1)), raw=(b"0000",)), "shape of input"),
        (request(described("FP32", (1 << 40, 1 << 40)), raw=(b"",)), "shape of input"),
        (request(described("FP32", (0, 1 << 62, 1 << 62)), raw=(b"",)), "shape of input"),
        (request(described("FP32", (0, 1 << 62, 1 << 62))), "shape of input"),
        (request(described("FP32", (1,) * 65), raw=(b"0000",)), "shape of input"),
        (request(typed("FP32", (1,) * 65, [1.0])), "shape of input"),
        (request(typed("INT8", (1,), [128])), "int_contents of input 'x' for model 'm' is a number out of range; .* fit INT8"),
        (request(typed("UINT16", (1,), [1 << 16])), "numbers that fit UINT16"),
        (request(described("BYTES", (1,)), raw=(b"\x05\x00\x00\x00abc",)), "expected 1 elements, each a length and its bytes"),
        (request(described("BYTES", (1,)), raw=(b"\xff\xff\xff\xffabc",)), "expected 1 elements"),
        (request(described("BYTES", (1,)), raw=(b"\x01\x00",)), "expected 1 elements"),
        (request(described("BYTES", (2,)), raw=(b"\x01\x00\x00\x00a",)), "expected 2 elements"),
        (request(described("BYTES", (1,)), raw=(b"\x00\x00\x00\x00\x00\x00\x00\x00",)), "expected 1 elements"),
        (request(described("BYTES", (1 << 39,)), raw=(b"\x00\x00\x00\x00",)), "elements, each a length"),
    ],
)
def test_what_does_not_fit_is_named(message: oip.ModelInferRequest, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        decode_inputs(message)


SIZES = st.one_of(st.integers(-2, 5), st.sampled_from([1 << 20, 1 << 40, (1 << 63) - 1, -(1 << 63)]))


@st.composite
def messages(draw: st.DrawFn) -> oip.ModelInferRequest:
    message = oip.ModelInferRequest(model_name="m")
    for _ in range(draw(st.integers(0, 3))):
        tensor = message.inputs.add(
            name=draw(st.sampled_from(["x", "y", ""])),
            datatype=draw(st.sampled_from([*DATATYPES, "", "FP31", "BF16"])),
            shape=draw(st.one_of(st.lists(SIZES, max_size=4), st.lists(st.sampled_from([0, 1]), max_size=80))),
        )
        if draw(st.booleans()):
            tensor.contents.int_contents.extend(draw(st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=4)))
            tensor.contents.uint_contents.extend(draw(st.lists(st.integers(0, (1 << 32) - 1), max_size=4)))
            tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=4)))
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=5), max_size=4)))
            tensor.contents.bool_contents.extend(draw(st.lists(st.booleans(), max_size=4)))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=40), max_size=4)))
    return message


@settings(QUICK, max_examples=400)
@given(messages())
def test_an_arbitrary_message_is_read_or_a_bad_request(message: oip.ModelInferRequest) -> None:
    try:
        arrays = decode_inputs(message)
    except BadRequest:
        return
    for tensor in message.inputs:
        assert arrays[tensor.name].shape == tuple(tensor.shape)
        assert datatype_of(arrays[tensor.name].dtype) == tensor.datatype


@settings(QUICK, max_examples=200)
@given(st.sampled_from(sorted(DATATYPES)), st.lists(SIZES, max_size=4), st.binary(max_size=60))
def test_an_arbitrary_tensor_is_read_or_a_bad_request(datatype: str, shape: list[int], raw: bytes) -> None:
    try:
        assert array_of("t", v1.Tensor(datatype=datatype, shape=shape, raw=raw)).shape == tuple(shape)
    except BadRequest as error:
        assert " t " in str(error)
