"""Requests that are alike but for the numbers in them: what was found out about one is known of the next.

Most callers send the same message over and over, with other contents, which protobuf writes last. All before them, the head,
says what the message means: so a message of a known length with a known head is read by taking the rest of it as the tensor.
That saves parsing, which copies the contents twice, and every check but those of the numbers. A message whose tensor is in
shared memory is all head.
"""

import math
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import DATATYPES, SharedSlice, shared_slice
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ..serving.served import Declared, ServedModel
from .shared_memory import SharedMemory

# Messages that are remembered, and the longest head of one: names, shape, an id.
_MOST = 256
_LONGEST_HEAD = 1 << 10
# Bytes of contents that are changed to see whether they are contents.
_TRIED = 64


@dataclass(frozen=True)
class Plan:
    """What a message with this head and length asks for: one input, of numbers, and outputs that are answered raw.

    Attributes:
        served: which model was asked; a plan keeps none in memory that is served no more.
        name, version: as the caller wrote them.
        declared: the input, checked.
        wanted: output names, checked.
        shared: where the contents are, if not behind the head.
    """

    head: bytes
    served: "weakref.ref[ServedModel]"
    name: str
    version: str
    declared: Declared
    wanted: tuple[str, ...]
    dtype: np.dtype[Any]
    shared: SharedSlice | None = None

    @property
    def size(self) -> int:
        """Bytes of the contents in the message."""
        return 0 if self.shared is not None else math.prod(self.declared[0][2]) * self.dtype.itemsize

    @property
    def model(self) -> ServedModel | None:
        """The model that was asked; None where it is gone."""
        return self.served()

    def arrays(self, data: bytes, memory: SharedMemory | None) -> dict[str, NDArray[Any]]:
        """The input of a message that fits, read-only; BadRequest where it is in a region that is gone."""
        name, _, shape = self.declared[0]
        if self.shared is not None and memory is not None:
            return {name: np.frombuffer(memory.read(*self.shared), self.dtype).reshape(shape)}
        return {name: np.frombuffer(data, self.dtype, math.prod(shape), len(self.head)).reshape(shape)}


class Plans:
    """The plans of messages seen of late. Thread-safe."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._known: OrderedDict[tuple[int, bytes], Plan] = OrderedDict()
        self._heads: dict[int, int] = {}  # how long the head of a message of a length was
        self._lock = threading.Lock()

    def of(self, data: bytes) -> Plan | None:
        """The plan of a message, if one like it has been seen."""
        size = len(data)
        head = self._heads.get(size)
        return None if head is None else self._known.get((size, data[:head]))

    def learn(
        self,
        data: bytes,
        request: oip.ModelInferRequest,
        model: ServedModel,
        declared: Declared,
        wanted: tuple[str, ...],
    ) -> None:
        """Remember a message that was read and found right, if the next one like it can be read by its head."""
        raws = request.raw_input_contents
        if request.id:  # mostly another one each time
            return
        if len(declared) != 1 or request.parameters:
            return
        if declared[0][1] == "BYTES" or any(output.parameters for output in request.outputs):
            return
        parameters = request.inputs[0].parameters
        shared = shared_slice(declared[0][0], parameters) if parameters else None
        if len(raws) != (shared is None) or (parameters and shared is None):
            return
        start = len(data) - (len(raws[0]) if raws else 0)
        if start > _LONGEST_HEAD or (raws and not self._ends_in_contents(data, start)):
            return
        plan = Plan(
            data[:start], weakref.ref(model), request.model_name, request.model_version, declared, wanted,
            DATATYPES[declared[0][1]], shared,
        )  # fmt: skip
        with self._lock:
            self._known[len(data), plan.head] = plan
            self._heads[len(data)] = start
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
            if len(self._heads) > 2 * _MOST:
                self._heads.clear()
                self._known.clear()

    def forget(self, plan: Plan) -> None:
        """Its model is another now, or none."""
        with self._lock:
            self._known.pop((len(plan.head) + plan.size, plan.head), None)

    @staticmethod
    def _ends_in_contents(data: bytes, start: int) -> bool:
        """Whether what follows `start` is the contents, whatever it is: other bytes there are read as other contents."""
        other = bytes(each ^ 0xFF for each in data[start : start + _TRIED])
        tried = data[:start] + other + data[start + len(other) :]
        try:
            found = oip.ModelInferRequest.FromString(tried).raw_input_contents
        except DecodeError:  # of bytes that were text
            return False
        return len(found) == 1 and len(found[0]) == len(data) - start and found[0][: len(other)] == other
