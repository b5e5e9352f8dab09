"""One ModelStreamInfer: requests in, answers out in their order, as many under way as there is room for."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import grpc
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import REASON_PARAMETER

from ..port.admission import Admission
from ..port.rpc import fail, told
from ..port.transport import Call

# Requests of one stream that are under way at a time; the sender is held back at more.
_DEPTH = 64
# Of answers that wait to be sent, since the caller does not read; more requests are read when there are fewer.
_UNSENT_BYTES = 1 << 18
# A caller who wants errors as the stream's end, not in the stream, says so in the call's metadata, as to Triton.
_ERRORS_END = ("triton_grpc_error", "true")


class Reply(Protocol):
    """Told how a request ended: the response as bytes, or the error."""

    def __call__(self, message: bytes | None, error: BaseException | None, request_id: str) -> None:
        """Called once, from any thread."""
        ...


Submit = Callable[[bytes, Reply], Callable[[], None] | None]


@dataclass(eq=False)
class _Request:
    """One request of the stream: its answer, once there is one, or the error that ends the stream."""

    held: int  # bytes that admission counts for it
    message: bytes | None = None
    failure: BaseException | None = None
    take_back: Callable[[], None] | None = None


class InferStream:
    """Reads while there is room, sends in order, ends when the caller has ended and everything is answered."""

    def __init__(self, call: Call, admission: Admission, submit: Submit) -> None:
        """Serve `call`; `submit` answers one request."""
        self._call, self._admission, self._submit = call, admission, submit
        self._errors_end = _ERRORS_END in call.metadata
        self._lock = threading.Lock()
        self._under_way: deque[_Request] = deque()
        self._unsent = 0  # bytes of answers whose turn has not come
        self._reading = self._sending = self._ended = self._stopping = self._over = False

    def start(self) -> None:
        """Read the first request."""
        self._call.on_stop = self._stop
        self._call.on_gone(self._end)
        self._go_on()

    def _go_on(self) -> None:
        """Do whatever is next: send the answer that is due, read another request, or end."""
        read = finish = False
        due: _Request | None = None
        with self._lock:
            if self._over:
                return
            if not self._sending and self._under_way:
                first = self._under_way[0]
                if first.message is not None or first.failure is not None:
                    due = self._under_way.popleft()
                    self._unsent -= len(due.message or b"")
                    self._sending = True
            if not (self._reading or self._ended or self._stopping) and self._has_room():
                read = self._reading = True
            finish = (self._ended or self._stopping) and not self._under_way and not self._sending
        if read:
            self._call.read(self._received)
        if due is not None and due.message is not None:
            self._call.send(due.message, self._sent)
        elif due is not None and due.failure is not None:
            fail(self._call, due.failure)
            self._end()
        elif finish:
            if self._ended:
                self._call.finish()
            else:
                self._call.finish(code=grpc.StatusCode.UNAVAILABLE, details="the server is stopping")
            self._end()

    def _has_room(self) -> bool:
        if self._under_way:
            return len(self._under_way) < _DEPTH and self._unsent < _UNSENT_BYTES and not self._admission.full
        return not self._admission.hold_back(self, self._go_on)

    def _received(self, data: bytes | None) -> None:
        if data is None:
            with self._lock:
                self._reading, self._ended = False, True
            self._go_on()
            return
        request = _Request(len(data))
        self._admission.hold(len(data))
        with self._lock:
            over = self._over
            self._under_way.append(request)
        take_back = None if over else self._submit(data, lambda *answer: self._answered(request, *answer))
        with self._lock:
            self._reading, over = False, self._over
            answered = request.message is not None or request.failure is not None
            request.take_back = None if answered else take_back
        if over:
            self._end()
            if take_back is not None:  # it may have ended before that was known
                take_back()
        self._go_on()

    def _answered(self, request: _Request, message: bytes | None, error: BaseException | None, request_id: str) -> None:
        failure = None
        if message is not None:
            message = b"\x12" + varint(len(message)) + message  # field 2, infer_response
        elif error is not None and self._errors_end:
            failure = error
        elif error is not None and not self._over:
            _, text, reason = told(error, self._call.method)
            response = oip.ModelInferResponse(id=request_id)
            response.parameters[REASON_PARAMETER].string_param = reason
            message = oip.ModelStreamInferResponse(error_message=text, infer_response=response).SerializeToString()
        with self._lock:
            request.message, request.failure, request.take_back = message, failure, None
            self._unsent += len(message or b"")
        self._release(request)  # what is answered counts no more: a caller who does not read is not to hold up others
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

    def _end(self) -> None:
        """Nothing more is sent: what is under way is taken back."""
        with self._lock:
            self._over = True
            left, self._under_way = list(self._under_way), deque()
        for request in left:
            take_back = request.take_back
            if take_back is not None:
                take_back()
            self._release(request)

    def _release(self, request: _Request) -> None:
        with self._lock:
            size, request.held = request.held, 0
        if size:
            self._admission.release(size)


def varint(value: int) -> bytes:
    """A whole number as protobuf writes it."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
