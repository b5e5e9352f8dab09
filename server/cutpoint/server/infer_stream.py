"""One ModelStreamInfer: requests in, answers out in their order, as many under way as there is room for."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
from cutpoint.oip import inference_pb2 as oip

from .admission import Admission
from .rpc import fail, told
from .transport import Call

# Requests of one stream that are under way at a time; the sender is held back at more.
_DEPTH = 64
# A caller who wants errors as the stream's end, not in the stream, says so in the call's metadata, as to Triton.
_ERRORS_END = ("triton_grpc_error", "true")
REASON_PARAMETER = "cutpoint_reason"


class Reply(Protocol):
    """Told how a request ended: the response as bytes, or the error."""

    def __call__(self, message: bytes | None, error: BaseException | None, request_id: str) -> None:
        """Called once, from any thread."""
        ...


Submit = Callable[[bytes, Reply], Callable[[], None] | None]


@dataclass(eq=False)
class _Request:
    """One request of the stream: its answer, once there is one."""

    size: int
    message: bytes | None = None
    take_back: Callable[[], None] | None = None


class InferStream:
    """Reads while there is room, sends in order, ends when the caller has ended and everything is answered."""

    def __init__(self, call: Call, admission: Admission, submit: Submit) -> None:
        """Serve `call`; `submit` answers one request."""
        self._call, self._admission, self._submit = call, admission, submit
        self._errors_end = _ERRORS_END in call.metadata
        self._lock = threading.Lock()
        self._under_way: deque[_Request] = deque()
        self._reading = self._sending = self._ended = self._stopping = False

    def start(self) -> None:
        """Read the first request."""
        self._call.on_stop = self._stop
        self._call.on_gone(self._gone)
        self._go_on()

    def _go_on(self) -> None:
        """Do whatever is next: send the answer that is due, read another request, or end."""
        send: bytes | None = None
        read = finish = False
        with self._lock:
            if not self._sending and self._under_way and self._under_way[0].message is not None:
                request = self._under_way.popleft()
                send, self._sending = request.message, True
                self._admission.release(request.size)
            room = not self._under_way or (len(self._under_way) < _DEPTH and not self._admission.full)
            if room and not (self._reading or self._ended or self._stopping):
                read = self._reading = True
            finish = (self._ended or self._stopping) and not self._under_way and not self._sending
        if read:
            self._call.read(self._received)
        if send is not None:
            self._call.send(send, self._sent)
        elif finish and self._stopping and not self._ended:
            self._call.finish(code=grpc.StatusCode.UNAVAILABLE, details="the server is stopping")
        elif finish:
            self._call.finish()

    def _received(self, data: bytes | None) -> None:
        if data is None:
            with self._lock:
                self._reading, self._ended = False, True
            self._go_on()
            return
        request = _Request(len(data))
        self._admission.hold(len(data))
        with self._lock:
            self._under_way.append(request)
        take_back = self._submit(data, lambda *answer: self._answered(request, *answer))
        with self._lock:
            self._reading = False
            request.take_back = take_back
        self._go_on()

    def _answered(self, request: _Request, message: bytes | None, error: BaseException | None, request_id: str) -> None:
        if message is not None:
            request.message = b"\x12" + varint(len(message)) + message  # field 2, infer_response
        else:
            assert error is not None
            if self._errors_end:
                fail(self._call, error)
                return
            _, text, reason = told(error, self._call.method)
            response = oip.ModelInferResponse(id=request_id)
            response.parameters[REASON_PARAMETER].string_param = reason
            request.message = oip.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()
        self._go_on()

    def _sent(self, ok: bool) -> None:
        with self._lock:
            self._sending = False
        if ok:
            self._go_on()

    def _stop(self) -> None:
        """Answer what was read, and read no more."""
        with self._lock:
            self._stopping = True
        self._go_on()

    def _gone(self) -> None:
        with self._lock:
            left, self._under_way = list(self._under_way), deque()
            self._ended = True
        for request in left:
            self._admission.release(request.size)
            if request.take_back is not None:
                request.take_back()


def varint(value: int) -> bytes:
    """A whole number as protobuf writes it."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
