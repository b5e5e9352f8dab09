"""Where a request's inputs come from and its outputs go to: the message or shared memory, as they are or as best classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cutpoint.errors import BadRequest
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import check_counts, decode_inputs, encode_raw, shared_slice
from numpy.typing import NDArray

from .classification import classify
from .shared_memory import SharedMemory, Slot

_CLASSIFICATION = "classification"


@dataclass(frozen=True)
class Delivery:
    """How one output is wanted: as its `classes` best ones where that is not 0, else in a slot of shared memory."""

    classes: int = 0
    slot: Slot | None = None


_RAW = Delivery()


def inputs_from(request: oip.ModelInferRequest, memory: SharedMemory | None) -> dict[str, NDArray[Any]]:
    """A request's inputs by name, read-only, as `decode_inputs` reads them; those in shared memory are copied out of it.

    Args:
        request: whose declared names, datatypes and shapes are the model's.
        memory: None: shared memory is off, and an input in it is refused.

    Raises:
        BadRequest: something does not fit; the message names the input or the region.
    """
    return decode_inputs(request, None if memory is None else memory.read)


def shared_bytes(request: oip.ModelInferRequest) -> int:
    """Bytes of a request's inputs that are not in the message but in shared memory, for whoever admits by bytes."""
    slices = (shared_slice(f"input '{tensor.name}'", tensor.parameters) for tensor in request.inputs if tensor.parameters)
    return sum(each.byte_size for each in slices if each is not None)


def check_inputs(request: oip.ModelInferRequest, memory: SharedMemory | None) -> None:
    """Check that what a request without raw contents says of its inputs is there, before any of it is read or decoded.

    Raises:
        BadRequest: as `inputs_from` raises it.
    """
    check_counts(request)
    for tensor in request.inputs:
        shared = shared_slice(f"input '{tensor.name}'", tensor.parameters) if tensor.parameters else None
        if shared is not None and memory is not None:
            memory.readable(*shared)
        elif shared is not None:
            inputs_from(request, None)  # says that there is no shared memory here


def deliveries_of(request: oip.ModelInferRequest, memory: SharedMemory | None) -> dict[str, Delivery]:
    """Which outputs of a request are wanted otherwise than raw, and how; checked before anything is computed.

    Raises:
        BadRequest: a parameter has the wrong type or value, both are given, or the region is not registered or too small.
    """
    found: dict[str, Delivery] = {}
    for output in request.outputs:
        if not output.parameters:
            continue
        name = f"output '{output.name}' for model '{request.model_name}'"
        shared = shared_slice(name, output.parameters)
        classes = _classes(name, output.parameters)
        if shared is not None:
            if classes:
                raise BadRequest.of(name, "wanted in shared memory and as classification", "one of the two")
            if memory is None:
                raise BadRequest.of(f"shared_memory_region of {name}", repr(shared.region), "none: shared memory is off here")
            found[output.name] = Delivery(slot=memory.slot(*shared))
        elif classes:
            found[output.name] = Delivery(classes)
    return found


def deliver(
    outputs: Mapping[str, NDArray[Any]],
    deliveries: Mapping[str, Delivery],
    labels: Sequence[str] = (),
    *,
    batched: bool = True,
) -> tuple[dict[str, NDArray[Any]], list[bytes]]:
    """Put outputs where they are wanted, and say what the response has of them.

    An output in shared memory has its datatype and shape in the response and an empty raw entry, as Triton answers.

    Args:
        outputs: arrays by name, in the order of the response.
        deliveries: of `deliveries_of`; outputs that are not in it are answered raw.
        labels: names along the last axis, for outputs wanted as classes.
        batched: the first axis of an output is the batch.

    Returns:
        The arrays whose datatypes and shapes the response states, and its raw entries; both in the order of `outputs`.

    Raises:
        BadRequest: an output does not fit where it is wanted, or cannot be classified.
    """
    arrays: dict[str, NDArray[Any]] = {}
    raws: list[bytes] = []
    for name, array in outputs.items():
        delivery = deliveries.get(name, _RAW)
        arrays[name] = classify(array, delivery.classes, labels, batched=batched) if delivery.classes else array
        if delivery.slot is None:
            raws.append(encode_raw(arrays[name]))
        else:
            _put(name, array, delivery.slot)
            raws.append(b"")
    return arrays, raws


def _put(name: str, array: NDArray[Any], slot: Slot) -> None:
    plain = array.dtype.kind in "biuf" and array.dtype.isnative
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if plain else encode_raw(array)
    if len(data) > slot.byte_size:
        of = f"shared_memory_byte_size of output '{name}'"
        raise BadRequest.of(of, f"{slot.byte_size} bytes", f"at least the {len(data)} of the output")
    slot.write(data)


def _classes(name: str, parameters: Mapping[str, oip.InferParameter]) -> int:
    if _CLASSIFICATION not in parameters:
        return 0
    value = parameters[_CLASSIFICATION]
    if value.WhichOneof("parameter_choice") != "int64_param" or value.int64_param < 1:
        shown = str(value).strip() or "empty"
        raise BadRequest.of(f"{_CLASSIFICATION} of {name}", shown, "1 or more classes as int64_param")
    return value.int64_param
