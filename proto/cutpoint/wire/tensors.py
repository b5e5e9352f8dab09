"""Numpy arrays to the Open Inference Protocol's tensors and back.

Raw contents are little-endian, row-major, without padding. A BYTES element is its length as uint32 and its bytes. Reading raw
contents costs microseconds, typed contents a thousand times as much; both are accepted, only raw is written. A tensor may also
be in shared memory, laid out as raw contents are; its parameters say where.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from cutpoint.errors import BadRequest
from cutpoint.oip import inference_pb2 as oip
from cutpoint.v1 import calibration_pb2 as v1
from numpy.typing import NDArray

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
}
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip
_REGION = "shared_memory_region"


class SharedSlice(NamedTuple):
    """Where a tensor is in shared memory: `byte_size` bytes from `offset` on in the region registered as `region`."""

    region: str
    offset: int
    byte_size: int


class _Described(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def datatype(self) -> str: ...
    @property
    def shape(self) -> Any: ...


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a numpy dtype; BadRequest where it has none."""
    name = "BYTES" if dtype.kind in "SUO" else _NAMES.get(dtype.newbyteorder("<"))
    if name is None:
        raise BadRequest.of("dtype", str(dtype), "one of " + ", ".join(DATATYPES))
    return name


def encode_raw(array: NDArray[Any]) -> bytes:
    """The raw contents of an array."""
    if array.dtype.kind in "SUO":
        parts = [item.encode() if isinstance(item, str) else bytes(item) for item in array.ravel()]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def encode_input(name: str, array: NDArray[Any]) -> tuple[oip.ModelInferRequest.InferInputTensor, bytes]:
    """An input's description and its raw contents."""
    tensor = oip.ModelInferRequest.InferInputTensor(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
    return tensor, encode_raw(array)


def shared_slice(name: str, parameters: Mapping[str, oip.InferParameter]) -> SharedSlice | None:
    """Where the parameters of a tensor say that it is in shared memory; None where they do not.

    Raises:
        BadRequest: a parameter has another type than Triton's, is missing or negative; the message has `name` in it.
    """
    if _REGION not in parameters:
        return None
    region = parameters[_REGION]
    if region.WhichOneof("parameter_choice") != "string_param":
        raise BadRequest.of(f"{_REGION} of {name}", _parameter(region), "a string_param, the name of a registered region")
    offset = _size("shared_memory_offset", name, parameters, "0 or more bytes as int64_param")
    byte_size = _size("shared_memory_byte_size", name, parameters, "the bytes of the tensor as int64_param")
    if byte_size is None:
        raise BadRequest.of(f"shared_memory_byte_size of {name}", "not given", "the bytes of the tensor as int64_param")
    return SharedSlice(region.string_param, offset or 0, byte_size)


def decode_inputs(
    request: oip.ModelInferRequest, read_shared: Callable[[str, int, int], memoryview] | None = None
) -> dict[str, NDArray[Any]]:
    """A request's inputs by name, from raw or typed contents or shared memory; arrays from raw contents are read-only views.

    Args:
        request: an input in shared memory takes no entry of `raw_input_contents`: the entries belong to the others, in order.
        read_shared: region, offset, byte_size to as many bytes; without it an input in shared memory is refused.

    Raises:
        BadRequest: no inputs, one name twice, raw and typed contents mixed, an unknown datatype, a negative size, or a count of
            bytes or elements that does not fit the shape; the message names the input and the model.
    """
    model = request.model_name
    if not request.inputs:
        raise BadRequest.of(f"inputs for model '{model}'", "empty", "at least one tensor")
    raws = list(request.raw_input_contents)
    arrays: dict[str, NDArray[Any]] = {}
    taken = 0
    for tensor in request.inputs:
        key = tensor.name
        name = f"input '{key}' for model '{model}'"
        if key in arrays:
            raise BadRequest.of(name, "given twice", "each input once")
        parameters = tensor.parameters
        shared = shared_slice(name, parameters) if parameters else None
        if shared is not None:
            arrays[key] = _from_shared(name, tensor, shared, read_shared)
        elif not raws:
            arrays[key] = _from_contents(name, tensor)
        elif tensor.HasField("contents"):
            raise BadRequest(
                f"contents field must not be specified when using raw_input_contents for '{key}' for model '{model}'"
            )
        elif taken == len(raws):
            raise _wrong_count(request)
        else:
            arrays[key] = _from_raw(name, tensor, raws[taken])
            taken += 1
    if taken != len(raws):
        raise _wrong_count(request)
    return arrays


def check_counts(request: oip.ModelInferRequest) -> None:
    """Check what typed contents and shared memory hold against the shapes, without decoding them, which can take long.

    Raises:
        BadRequest: a count of elements or bytes does not fit; as `decode_inputs` says it.
    """
    for tensor in request.inputs:
        name = f"input '{tensor.name}' for model '{request.model_name}'"
        dtype, shape, count = _declared(name, tensor.datatype, tensor.shape)
        shared = shared_slice(name, tensor.parameters) if tensor.parameters else None
        if shared is not None:
            _check_shared(name, tensor, dtype, shape, count, shared)
        elif tensor.datatype in _CONTENTS:
            _check_count(name, tensor, shape, count)


def decode_outputs(response: oip.ModelInferResponse) -> dict[str, NDArray[Any]]:
    """A response's outputs by name, from raw or typed contents."""
    raws = list(response.raw_output_contents)
    return {
        tensor.name: _from_raw(f"output '{tensor.name}'", tensor, raws[i])
        if i < len(raws)
        else _from_contents(f"output '{tensor.name}'", tensor)
        for i, tensor in enumerate(response.outputs)
    }


def tensor_of(array: NDArray[Any]) -> v1.Tensor:
    """An array as the tensor message of `cutpoint.v1`."""
    return v1.Tensor(datatype=datatype_of(array.dtype), shape=array.shape, raw=encode_raw(array))


def array_of(name: str, tensor: v1.Tensor) -> NDArray[Any]:
    """The array in a tensor message of `cutpoint.v1`, a read-only view; BadRequest naming `name`."""
    return _from_raw(name, tensor, tensor.raw)


def _from_raw(name: str, tensor: "_Described | v1.Tensor", raw: bytes) -> NDArray[Any]:
    dtype, shape, count = _declared(name, tensor.datatype, tensor.shape)
    if dtype.kind == "O":
        return _split_bytes(name, raw, count).reshape(shape)
    if len(raw) != count * dtype.itemsize:
        wanted = f"{count * dtype.itemsize} bytes for {tensor.datatype} {list(shape)}"
        raise BadRequest.of(f"raw contents of {name}", f"{len(raw)} bytes", wanted)
    return np.frombuffer(raw, dtype).reshape(shape)


def _from_shared(
    name: str, tensor: Any, shared: SharedSlice, read: Callable[[str, int, int], memoryview] | None
) -> NDArray[Any]:
    if tensor.HasField("contents"):
        raise BadRequest(f"unexpected 'content' provided when using shared memory for {name}")
    if read is None:
        raise BadRequest.of(f"{_REGION} of {name}", repr(shared.region), "none: shared memory is off here; send raw contents")
    dtype, shape, count = _declared(name, tensor.datatype, tensor.shape)
    if dtype.kind == "O":
        return _split_bytes(name, bytes(read(*shared)), count).reshape(shape)
    _check_shared(name, tensor, dtype, shape, count, shared)
    return np.frombuffer(read(*shared), dtype).reshape(shape)


def _check_shared(
    name: str, tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...], count: int, shared: SharedSlice
) -> None:
    """Before it is read: what is declared is what the server lets a request have of its memory."""
    least = 4 * count if dtype.kind == "O" else count * dtype.itemsize
    if shared.byte_size < least or (dtype.kind != "O" and shared.byte_size != least):
        wanted = f"{least} bytes for {tensor.datatype} {list(shape)}"
        raise BadRequest.of(f"shared_memory_byte_size of {name}", f"{shared.byte_size} bytes", wanted)


def _from_contents(name: str, tensor: Any) -> NDArray[Any]:
    dtype, shape, count = _declared(name, tensor.datatype, tensor.shape)
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise BadRequest.of(f"contents of {name}", tensor.datatype, "raw contents for this datatype")
    values = _check_count(name, tensor, shape, count)
    try:
        return np.array(values, dtype).reshape(shape)
    except OverflowError:
        raise BadRequest.of(f"{field} of {name}", "a number out of range", f"numbers that fit {tensor.datatype}") from None


def _check_count(name: str, tensor: Any, shape: tuple[int, ...], count: int) -> Sequence[Any]:
    """The typed contents of a tensor, as many as there should be."""
    field = _CONTENTS[tensor.datatype]
    values: Sequence[Any] = getattr(tensor.contents, field)
    if len(values) != count:
        wanted = f"{count} for {tensor.datatype} {list(shape)}"
        raise BadRequest.of(f"{field} of {name}", f"{len(values)} elements", wanted)
    return values


def _declared(name: str, datatype: str, shape: Any) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """The dtype, the shape and how many elements that is."""
    dtype = DATATYPES.get(datatype)
    if dtype is None:
        if datatype == "BF16":
            raise BadRequest.of(f"datatype of {name}", "BF16, which numpy has not", "FP32 or FP16")
        raise BadRequest.of(f"datatype of {name}", repr(datatype), "one of " + ", ".join(DATATYPES))
    sizes = tuple(shape)
    least = min(sizes, default=1)
    # numpy multiplies empty axes' neighbours too, and knows 64 axes.
    most = math.prod(sizes) if least > 0 else math.prod(max(size, 1) for size in sizes)
    if len(sizes) > 32 or least < 0 or most > 1 << 40:
        raise BadRequest.of(f"shape of {name}", list(sizes), "sizes from 0, within reason")
    return dtype, sizes, most if least else 0


def _wrong_count(request: oip.ModelInferRequest) -> BadRequest:
    count = sum(_REGION not in tensor.parameters for tensor in request.inputs)
    each = "one per input" if count == len(request.inputs) else "one per input that is not in shared memory"
    found = f"{len(request.raw_input_contents)} entries"
    return BadRequest.of(f"raw_input_contents for model '{request.model_name}'", found, f"{count}, {each}")


def _size(parameter: str, name: str, parameters: Mapping[str, oip.InferParameter], expected: str) -> int | None:
    if parameter not in parameters:
        return None
    value = parameters[parameter]
    size = {"int64_param": value.int64_param, "uint64_param": value.uint64_param}.get(
        value.WhichOneof("parameter_choice") or ""
    )
    if size is None or size < 0:
        raise BadRequest.of(f"{parameter} of {name}", _parameter(value), expected)
    return size


def _parameter(value: oip.InferParameter) -> str:
    choice = value.WhichOneof("parameter_choice")
    return "empty" if choice is None else f"{choice} {getattr(value, choice)!r}"


def _split_bytes(name: str, raw: bytes, count: int) -> NDArray[np.object_]:
    items: list[bytes] = []
    at = 0
    while at < len(raw) and len(items) < count:
        end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
        items.append(raw[at + 4 : end])
        at = end
    if len(items) != count or at != len(raw):
        raise BadRequest.of(f"raw contents of {name}", f"{len(raw)} bytes", f"{count} elements, each a length and its bytes")
    result = np.empty(count, np.object_)
    result[:] = items
    return result
