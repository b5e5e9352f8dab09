"""Arrays to messages and back; nothing but BadRequest for what does not fit."""

import numpy as np
import pytest
from cutpoint.errors import BadRequest
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from cutpoint.wire import (
    DATATYPES,
    SharedSlice,
    array_of,
    datatype_of,
    decode_inputs,
    decode_outputs,
    encode_input,
    encode_raw,
    shared_slice,
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


def shared(datatype: str, shape: tuple[int, ...], byte_size: int, name: str) -> oip.ModelInferRequest.InferInputTensor:
    """An input at byte 8 of the region "r"."""
    tensor = described(datatype, shape, name)
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_byte_size"].int64_param = byte_size
    tensor.parameters["shared_memory_offset"].int64_param = 8
    return tensor


class Region:
    """Shared memory with one region, which keeps what it was asked."""

    def __init__(self, content: bytes) -> None:
        self.content, self.asked = content, [("", 0, 0)][:0]

    def read(self, region: str, offset: int, byte_size: int) -> memoryview:
        self.asked.append((region, offset, byte_size))
        return memoryview(self.content)[offset : offset + byte_size]


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_inputs_in_shared_memory_are_laid_out_as_raw_contents(datatype: str) -> None:
    array = sample(datatype)
    raw = encode_raw(array)
    region = Region(b"8 before" + raw + b"after")
    found = decode_inputs(request(shared(datatype, (2, 3), len(raw), "x")), region.read)["x"]
    assert_same(found, array)
    assert region.asked == [("r", 8, len(raw))]


def test_raw_contents_belong_to_the_inputs_that_are_not_shared() -> None:
    one, one_raw = encode_input("one", np.arange(3, dtype=np.int32))
    two, two_raw = encode_input("two", np.arange(4, dtype=np.float64))
    region = Region(bytes(8) + np.float32([1, 2]).tobytes())
    message = request(shared("FP32", (2,), 8, "a"), one, shared("FP32", (1,), 4, "b"), two, raw=(one_raw, two_raw))
    found = decode_inputs(message, region.read)
    assert {name: array.tolist() for name, array in found.items()} == {
        "a": [1, 2], "one": [0, 1, 2], "b": [1], "two": [0, 1, 2, 3],
    }  # fmt: skip
    with_typed = request(typed("INT32", (1,), [7], "c"), shared("FP32", (1,), 4, "b"))
    assert decode_inputs(with_typed, region.read)["c"].tolist() == [7]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            request(shared("FP32", (1,), 4, "x"), raw=(b"0000",)),
            "raw_input_contents for model 'm' is 1 entries; expected 0, one per input that is not in shared memory",
        ),
        (request(shared("FP32", (1,), 4, "x"), described("FP32", (1,), "y")), "fp32_contents of input 'y' for model 'm' is 0"),
        (
            request(shared("FP32", (2, 3), 23, "x")),
            r"byte_size of input 'x' for model 'm' is 23 bytes; expected 24 bytes for FP32 \[2, 3\]",
        ),
        (request(shared("BYTES", (2,), 4, "x")), "raw contents of input 'x' for model 'm' is 4 bytes; expected 2 elements"),
        (request(shared("FP31", (1,), 4, "x")), "datatype of input 'x'"),
        (request(shared("FP32", (-1,), 4, "x")), "shape of input 'x'"),
        (request(shared("FP32", (1,), 4, "x"), shared("FP32", (1,), 4, "x")), "input 'x' for model 'm' is given twice"),
    ],
)
def test_what_does_not_fit_in_shared_memory_is_named(message: oip.ModelInferRequest, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        decode_inputs(message, Region(bytes(64)).read)


def test_an_input_is_in_one_place() -> None:
    tensor = shared("FP32", (1,), 4, "x")
    tensor.contents.fp32_contents.append(1.0)
    with pytest.raises(BadRequest, match="unexpected 'content' provided when using shared memory for input 'x' for model 'm'"):
        decode_inputs(request(tensor), Region(bytes(64)).read)


def test_shared_memory_that_is_off_is_never_read_as_something_else() -> None:
    with pytest.raises(BadRequest, match="region of input 'x' for model 'm' is 'r'; expected none: shared memory is off here"):
        decode_inputs(request(shared("FP32", (1,), 4, "x")))


def test_where_a_tensor_is_said_to_be() -> None:
    tensor = shared("FP32", (1,), 4, "x")
    assert shared_slice("x", tensor.parameters) == SharedSlice("r", 8, 4)
    del tensor.parameters["shared_memory_offset"]
    tensor.parameters["shared_memory_byte_size"].uint64_param = 5
    assert shared_slice("x", tensor.parameters) == SharedSlice("r", 0, 5)
    assert shared_slice("x", described("FP32", (1,)).parameters) is None
    before = tensor.SerializeToString(deterministic=True)
    shared_slice("x", tensor.parameters)
    assert tensor.SerializeToString(deterministic=True) == before, "looking a parameter up must not make it"


def test_bf16_is_refused_by_its_name() -> None:
    with pytest.raises(
        BadRequest, match="datatype of input 'x' for model 'm' is BF16, which numpy has not; expected FP32 or FP16"
    ):
        decode_inputs(request(described("BF16", (1,)), raw=(b"00",)))


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
        for parameter in draw(st.sets(st.sampled_from(["region", "byte_size", "offset"]))):
            value = tensor.parameters[f"shared_memory_{parameter}"]
            value.SetInParent()
            field = draw(st.sampled_from(["string_param", "int64_param", "uint64_param", "double_param", None]))
            if field is not None:
                setattr(value, field, "r" if field == "string_param" else draw(st.integers(0, 40)))
    message.raw_input_contents.extend(draw(st.lists(st.binary(max_size=40), max_size=4)))
    return message


@settings(QUICK, max_examples=400)
@given(messages())
def test_an_arbitrary_message_is_read_or_a_bad_request(message: oip.ModelInferRequest) -> None:
    try:
        arrays = decode_inputs(message, lambda region, offset, byte_size: memoryview(bytes(byte_size)))
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
