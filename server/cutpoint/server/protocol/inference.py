"""ModelInfer and ModelStreamInfer: a message to arrays, the model, arrays to a message."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from cutpoint.errors import Aborted, BadRequest, Overloaded
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import datatype_of
from numpy.typing import NDArray

from ..policy.policies import Active
from ..port.admission import Admission
from ..port.rpc import Rpc, fail, parsed
from ..port.transport import Call
from ..serving.models import Models
from ..serving.served import Answer, Declared, ServedModel
from .delivery import Delivery, check_inputs, deliver, deliveries_of, inputs_from, shared_bytes
from .fields import refuse_many_fields
from .infer_stream import InferStream, Reply, varint
from .plans import Plans
from .shared_memory import SharedMemory

SERVICE = "inference.GRPCInferenceService"

# Triton's own names that ask for what is not done here; ignoring them would be a wrong answer.
_REFUSED = ("sequence_id", "sequence_start", "sequence_end")
# Streams of requests that are open at a time; each may hold a message, and answers that nobody reads.
_MOST_STREAMS = 512
_NO_DELIVERIES: Mapping[str, Delivery] = {}
# Asked for by clients of streams whose models may answer a request with none or several responses; here it is always one.
_WANTS_FINAL = "triton_enable_empty_final_response"
# Of requests that say none, or 0: behind those that say 1, which is Triton's first, and before those that can wait.
_USUAL_PRIORITY, _LAST_PRIORITY = 2, 1 << 31
_FINAL = oip.ModelInferResponse(parameters={"triton_final_response": oip.InferParameter(bool_param=True)}).SerializeToString()


class Inference:
    """Answers inference requests, one by one or in streams, within what admission allows."""

    def __init__(self, models: Models, admission: Admission, memory: SharedMemory | None) -> None:
        """Answer for `models`; tensors may be in `memory`, where there is one."""
        self._models, self._admission, self._memory = models, admission, memory
        self._heads = _Heads()
        self._plans = Plans()
        self._streams = 0
        self._lock = threading.Lock()

    def infer(self, call: Call) -> None:
        """Outputs in the order asked for, always raw; `policy_version` says what decided."""

        def received(data: bytes) -> None:
            call.on_end(lambda: self._admission.leave(len(data)))

            def reply(message: bytes | None, error: BaseException | None, request_id: str) -> None:
                if message is not None:
                    # Until it is sent it takes memory, and callers who do not read theirs are not to fill it.
                    size = len(message)
                    self._admission.hold(size)
                    call.on_end(lambda: self._admission.release(size))  # at once where the caller has gone
                    call.finish(message)
                else:
                    assert error is not None
                    fail(call, error)

            take_back = self._submit(data, reply)
            if take_back is not None:
                call.on_gone(take_back)

        self._admission.enter(call, received)

    def stream(self, call: Call) -> None:
        """Requests in, answers out in their order; an error is said in the stream, which goes on."""
        with self._lock:
            if self._streams >= _MOST_STREAMS:
                raise Overloaded(f"{self._streams} streams are open, as many as may be; retry later")
            self._streams += 1
        call.on_end(self._stream_ended)
        InferStream(call, self._admission, self._submit).start()

    def _stream_ended(self) -> None:
        with self._lock:
            self._streams -= 1

    def rpcs(self) -> list[Rpc]:
        """Both RPCs."""
        return [
            Rpc(f"/{SERVICE}/ModelInfer", "unary", self.infer),
            Rpc(f"/{SERVICE}/ModelStreamInfer", "bidi_stream", self.stream),
        ]

    def _submit(self, data: bytes, reply: Reply) -> Callable[[], None] | None:
        """Have one request answered through `reply`, whatever is wrong with it too; gives what takes it back, if anything."""
        request_id, begun = "", time.perf_counter()
        plan, known = self._plans.of(data), None
        try:
            if plan is not None:
                known = plan.model
                if known is None or self._models.find(plan.name, plan.version) is not known:
                    self._plans.forget(plan)
                    plan = None
            if plan is not None and known is not None:
                request_id, model, priority, expires_s = plan.request_id, known, _USUAL_PRIORITY, None
                declared, wanted, final, deliveries = plan.declared, plan.wanted, False, _NO_DELIVERIES
                arrays = plan.arrays(data)
                answer = model.at_once(arrays, declared, wanted)
                if answer is not None:
                    message = self._message(request_id, model, answer, deliveries)
                    model.statistics.record(_rows(declared), 0.0, 0.0, answer.timing.run_s, 0.0, time.perf_counter() - begun)
                    reply(message, None, request_id)
                    return None
                prepare: Callable[[], Mapping[str, NDArray[Any]]] = lambda: arrays  # noqa: E731
            else:
                refuse_many_fields(data)
                request = parsed(oip.ModelInferRequest, data)
                request_id = request.id
                model = self._models.get(request.model_name, request.model_version)
                priority, expires_s = _urgency(request) if request.parameters else (_USUAL_PRIORITY, None)
                final = _WANTS_FINAL in request.parameters
                wanted = tuple(output.name for output in request.outputs)
                special = any(output.parameters for output in request.outputs)
                deliveries = deliveries_of(request, self._memory) if special else _NO_DELIVERIES
                declared = tuple((tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in request.inputs)
                model.check_declared(declared, wanted)
                prepare = self._arrays(request)
                self._plans.learn(data, request, model, declared, wanted)

            def answered(answer: Answer | None, error: BaseException | None) -> None:
                message = None
                try:
                    if answer is not None:
                        answering = time.perf_counter()
                        message = self._message(request_id, model, answer, deliveries)
                        if final:
                            message += _FINAL
                        ended, timing = time.perf_counter(), answer.timing
                        took = (timing.queue_s, 0.0, timing.run_s, ended - answering, ended - begun)
                        model.statistics.record(_rows(declared), *took)
                except Exception as found:
                    message, error = None, found
                if message is None:
                    count = model.statistics.record_cancel if isinstance(error, Aborted) else model.statistics.record_failure
                    count(time.perf_counter() - begun)
                reply(message, error, request_id)

            ticket = model.infer(prepare, declared, wanted, answered, priority=priority, expires_s=expires_s)
        except Exception as error:
            if plan is not None and known is not None:
                known.statistics.record_failure(time.perf_counter() - begun)
            reply(None, error, request_id)
            return None
        return None if ticket.answered else lambda: model.batcher.cancel(ticket)

    def _arrays(self, request: oip.ModelInferRequest) -> Callable[[], Mapping[str, NDArray[Any]]]:
        """What gives a request's arrays, in the thread that runs the model where that takes time.

        A shape that lies is told now: rows that wait are counted by what the shapes say.
        """
        texts = any(tensor.datatype == "BYTES" for tensor in request.inputs)
        if request.raw_input_contents and not texts:
            arrays = inputs_from(request, self._memory)
            return lambda: arrays
        if not request.raw_input_contents:
            check_inputs(request, self._memory)
        elif any(tensor.datatype == "BYTES" and 4 * math.prod(tensor.shape) > self._held(request) for tensor in request.inputs):
            inputs_from(request, self._memory)  # each text has its length's bytes at least: this says what is wrong
        return lambda: inputs_from(request, self._memory)

    @staticmethod
    def _held(request: oip.ModelInferRequest) -> int:
        """Bytes of a request's inputs, in the message and in shared memory."""
        return sum(len(raw) for raw in request.raw_input_contents) + shared_bytes(request)

    def _message(self, request_id: str, model: ServedModel, answer: Answer, deliveries: Mapping[str, Delivery]) -> bytes:
        """A ModelInferResponse as bytes: joining protobuf messages is joining their bytes, so tensors are copied once."""
        arrays, raws = answer.outputs, [model.encoded(array) for array in answer.outputs.values()] if not deliveries else []
        if deliveries:
            arrays, raws = deliver(arrays, deliveries, model.labels, batched=model.batcher.batchable)
        parts = [self._heads.of(model, answer.active, arrays)]
        if request_id:
            name = request_id.encode()
            parts += (b"\x1a", varint(len(name)), name)  # field 3, id
        for raw in raws:
            parts += (b"\x32", varint(len(raw)), raw)  # field 6, raw_output_contents
        return b"".join(parts)


def _rows(declared: Declared) -> int:
    return declared[0][2][0] if declared[0][2] else 1


class _Heads:
    """Responses without their id and contents, as bytes: the same for requests that are alike."""

    def __init__(self, size: int = 256) -> None:
        self._known: OrderedDict[object, bytes] = OrderedDict()
        self._size = size

    def of(self, model: ServedModel, active: Active | None, arrays: Mapping[str, NDArray[Any]]) -> bytes:
        """The head of an answer of these arrays, decided by `active`."""
        shapes = tuple((name, array.dtype.char, array.shape) for name, array in arrays.items())
        key = (model.name, model.version, shapes, None if active is None else (active.policy.version, active.generation))
        found = self._known.get(key)
        if found is None:
            found = _head(model, active, arrays)
            self._known[key] = found
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return found


def _head(model: ServedModel, active: Active | None, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    response = oip.ModelInferResponse(model_name=model.name, model_version=str(model.version))
    if active is not None:
        response.parameters["policy_version"].int64_param = active.policy.version
        if undecided := int((~active.decides).sum()):
            response.parameters["undecided_labels"].int64_param = undecided
    for name, array in arrays.items():
        response.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
    return response.SerializeToString()


def _urgency(request: oip.ModelInferRequest) -> tuple[int, float | None]:
    """Priority (smaller first) and when it is too late to start, as Triton's parameters say."""
    parameters = request.parameters
    for name in _REFUSED:
        if name in parameters and parameters[name].WhichOneof("parameter_choice") != "bool_param":
            raise BadRequest.of(f"parameter '{name}'", "given", "none: sequences of requests are not kept here")
    priority, expires_s = _USUAL_PRIORITY, None
    if "priority" in parameters:
        priority = _whole(parameters, "priority", 0, _LAST_PRIORITY) or _USUAL_PRIORITY
    if "timeout" in parameters:
        timeout_us = _whole(parameters, "timeout", 0, 1 << 53)
        expires_s = time.perf_counter() + timeout_us / 1e6 if timeout_us else None
    return priority, expires_s


def _whole(parameters: Any, name: str, least: int, most: int) -> int:
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or not least <= value <= most:
        found = "empty" if kind is None else getattr(parameter, kind)
        raise BadRequest.of(f"parameter '{name}'", found, f"a whole number from {least} to {most}")
    return int(value)
