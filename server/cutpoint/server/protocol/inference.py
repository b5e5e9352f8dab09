"""ModelInfer and ModelStreamInfer: a message to arrays, the model, arrays to a message."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cutpoint.errors import Aborted, BadRequest, Overloaded
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import datatype_of
from numpy.typing import NDArray

from ..policy.policies import Active
from ..port.admission import Admission
from ..port.idle import Idle
from ..port.rpc import Rpc, fail, parsed
from ..port.transport import Call
from ..serving.gathering import Gathering
from ..serving.models import Models
from ..serving.served import Answer, Declared, ServedModel
from .delivery import Delivery, check_inputs, deliver, deliveries_of, inputs_from, shared_bytes
from .fields import refuse_many_fields
from .infer_stream import InferStream, Reply, Submit, varint
from .plans import Plans
from .shared_memory import SharedMemory

if TYPE_CHECKING:
    from ..tracing.request import RequestTrace
    from ..tracing.tracing import Tracing

SERVICE = "inference.GRPCInferenceService"

# Triton's own names that ask for what is not done here; ignoring them would be a wrong answer.
_REFUSED = ("sequence_id", "sequence_start", "sequence_end")
# Streams of requests that are open at a time; each may hold a message, and answers that nobody reads.
_MOST_STREAMS = 512
# Asked for by clients of streams whose models may answer a request with none or several responses; here it is always one.
_WANTS_FINAL = "triton_enable_empty_final_response"
# Of requests that say none, or 0: behind those that say 1, which is Triton's first, and before those that can wait.
_USUAL_PRIORITY, _LAST_PRIORITY = 2, 1 << 31
# By which name outcomes speak of this decision, where it is not the request's id: a stream's ids only number its messages. And
# which row is the first, of what was scored under this name in several requests.
_DECISION, _FIRST_ROW = "cutpoint_decision", "cutpoint_first_row"
_FINAL = oip.ModelInferResponse(parameters={"triton_final_response": oip.InferParameter(bool_param=True)}).SerializeToString()


class Keep(Protocol):
    """Told of every answer to a request with a name, before it is sent."""

    def __call__(self, model: ServedModel, name: str, first_row: int, answer: Answer, decided: bool) -> None:
        """Called from the thread that answers; `decided`: whether decisions were asked for."""
        ...


class Inference:
    """Answers inference requests, one by one or in streams, within what admission allows."""

    def __init__(
        self,
        models: Models,
        admission: Admission,
        memory: SharedMemory | None = None,
        idle: Idle | None = None,
        keep: Keep | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        """Answer for `models`.

        Args:
            models: what is served.
            admission: what may come in.
            memory: where tensors may be beside the messages; None for nowhere.
            idle: of the transport that calls.
            keep: told of what was asked by name.
            tracing: asked for the spans of each request.
        """
        self._keep, self._tracing = keep, tracing
        self._gathering = Gathering(Idle() if idle is None else idle)
        self._models, self._admission, self._memory = models, admission, memory
        self._heads = _Heads()
        self._plans = Plans()
        self._streams = 0
        self._lock = threading.Lock()

    def infer(self, call: Call) -> None:
        """Outputs in the order asked for, always raw; `policy_version` says what decided."""
        trace = None if self._tracing is None else self._tracing.begin_call(call)

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

            take_back = self._submit(data, reply, trace)
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
        submit: Submit = self._submit
        tracing = self._tracing
        if tracing is not None:

            def submit(data: bytes, reply: Reply) -> Callable[[], None] | None:
                trace = tracing.begin(call.method, call.metadata)
                return self._submit(data, reply if trace is None else trace.ends_with(reply), trace)

        InferStream(call, self._admission, submit).start()

    def _stream_ended(self) -> None:
        with self._lock:
            self._streams -= 1

    def rpcs(self) -> list[Rpc]:
        """Both RPCs."""
        return [
            Rpc(f"/{SERVICE}/ModelInfer", "unary", self.infer),
            Rpc(f"/{SERVICE}/ModelStreamInfer", "bidi_stream", self.stream),
        ]

    def _submit(self, data: bytes, reply: Reply, trace: "RequestTrace | None" = None) -> Callable[[], None] | None:
        """Have one request answered through `reply`, whatever is wrong with it too; gives what takes it back, if anything."""
        request_id, begun = "", time.perf_counter()
        try:
            asked = self._planned(data)
            if asked is None:
                refuse_many_fields(data)
                request = parsed(oip.ModelInferRequest, data)
                request_id = request.id
                asked = self._asked(request)
                self._plans.learn(data, request, asked.model, asked.declared, asked.wanted)
        except Exception as error:
            reply(None, error, request_id)
            return None
        model, declared, wanted = asked.model, asked.declared, asked.wanted
        decode_s = time.perf_counter() - begun
        if trace is not None:
            rows = declared[0][2][0] if declared[0][2] else 1
            trace.decoded(model.name, model.version, rows, begun, begun + decode_s)

        def answered(answer: Answer | None, error: BaseException | None) -> None:
            message = None
            try:
                if answer is not None:
                    answering = time.perf_counter()
                    message = self._message(request_id, asked, answer)
                    ended, timing = time.perf_counter(), answer.timing
                    took = (decode_s, timing.queue_s, timing.run_s, ended - answering, ended - begun)
                    model.series.answered(model.statistics, declared[0][2][0] if declared[0][2] else 1, *took)
                    if asked.name and self._keep is not None:
                        self._keep(model, asked.name, asked.first_row, answer, not wanted or "decisions" in wanted)
                    if trace is not None:
                        trace.answered(timing, answer.active.policy.version if answer.active else None, ended)
                        model.series.spreads["request"].exemplify(ended - begun, trace.trace_id, time.time())
            except Exception as found:
                message, error = None, found
            if message is None:
                count = model.statistics.record_cancel if isinstance(error, Aborted) else model.statistics.record_failure
                count(time.perf_counter() - begun)
            reply(message, error, request_id)

        try:
            if asked.arrays is not None and self._gathering.take(model, asked.arrays, declared, wanted, answered):
                return None
            ticket = model.infer(asked.prepare, declared, wanted, answered, priority=asked.priority, expires_s=asked.expires_s)
        except Exception as error:
            answered(None, error)
            return None
        return None if ticket.answered else lambda: model.batcher.cancel(ticket)

    def _planned(self, data: bytes) -> "_Asked | None":
        """What a message asks for, where one like it has been read."""
        plan = self._plans.of(data)
        if plan is None:
            return None
        model = plan.model
        if model is None or self._models.find(plan.name, plan.version) is not model:
            self._plans.forget(plan)
            return None
        if plan.shared is None:
            arrays = plan.arrays(data)
            return _Asked(model, plan.declared, plan.wanted, lambda: arrays, arrays)
        memory = self._memory
        assert memory is not None
        if _is_quick(model, plan.declared):
            arrays = plan.read(memory)
            return _Asked(model, plan.declared, plan.wanted, lambda: arrays, arrays)
        memory.readable(*plan.shared)
        return _Asked(model, plan.declared, plan.wanted, lambda: plan.read(memory), None)

    def _asked(self, request: oip.ModelInferRequest) -> "_Asked":
        """What a message asks for, with all that can be checked before anything is computed."""
        model = self._models.get(request.model_name, request.model_version)
        priority, expires_s = _urgency(request)
        wanted = tuple(output.name for output in request.outputs)
        declared = tuple((tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in request.inputs)
        model.check_declared(declared, wanted)
        arrays = self._arrays(request, model, declared)
        return _Asked(
            model,
            declared,
            wanted,
            (lambda: inputs_from(request, self._memory)) if arrays is None else lambda: arrays,
            arrays,
            priority,
            expires_s,
            deliveries_of(request, self._memory),
            _WANTS_FINAL in request.parameters,
            _name(request),
            _whole(request.parameters, _FIRST_ROW, 0, 1 << 31) if _FIRST_ROW in request.parameters else 0,
        )

    def _arrays(
        self, request: oip.ModelInferRequest, model: ServedModel, declared: Declared
    ) -> Mapping[str, NDArray[Any]] | None:
        """A request's arrays; None where decoding takes time and is for the thread that runs the model.

        A shape that lies is told now: rows that wait are counted by what the shapes say.
        """
        texts = any(tensor.datatype == "BYTES" for tensor in request.inputs)
        if request.raw_input_contents and not texts:
            return inputs_from(request, self._memory)
        if not request.raw_input_contents:
            check_inputs(request, self._memory)
            shared = not any(tensor.HasField("contents") for tensor in request.inputs)
            if shared and not texts and _is_quick(model, declared):
                return inputs_from(request, self._memory)
        elif any(tensor.datatype == "BYTES" and 4 * math.prod(tensor.shape) > self._held(request) for tensor in request.inputs):
            inputs_from(request, self._memory)  # each text has its length's bytes at least: this says what is wrong
        return None

    @staticmethod
    def _held(request: oip.ModelInferRequest) -> int:
        """Bytes of a request's inputs, in the message and in shared memory."""
        return sum(len(raw) for raw in request.raw_input_contents) + shared_bytes(request)

    def _message(self, request_id: str, asked: "_Asked", answer: Answer) -> bytes:
        """A ModelInferResponse as bytes: joining protobuf messages is joining their bytes, so tensors are copied once."""
        model, arrays = asked.model, answer.outputs
        if asked.deliveries:
            arrays, raws = deliver(arrays, asked.deliveries, model.labels, batched=model.batcher.batchable)
        else:
            raws = [model.encoded(array) for array in arrays.values()]
        parts = [self._heads.of(model, answer.active, arrays)]
        if request_id:
            name = request_id.encode()
            parts += (b"\x1a", varint(len(name)), name)  # field 3, id
        for raw in raws:
            parts += (b"\x32", varint(len(raw)), raw)  # field 6, raw_output_contents
        if asked.final:
            parts.append(_FINAL)
        return b"".join(parts)


@dataclass(eq=False, slots=True)
class _Asked:
    """What one message asks for, found right.

    Attributes:
        prepare: gives the arrays, in the thread that runs the model.
        arrays: the same, where they are there already.
        name: by which outcomes may speak of it; "" where none will.
        first_row: the number of its first row under this name.
    """

    model: ServedModel
    declared: Declared
    wanted: tuple[str, ...]
    prepare: Callable[[], Mapping[str, NDArray[Any]]]
    arrays: Mapping[str, NDArray[Any]] | None
    priority: int = _USUAL_PRIORITY
    expires_s: float | None = None
    deliveries: Mapping[str, Delivery] = field(default_factory=dict)
    final: bool = False
    name: str = ""
    first_row: int = 0


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


def _is_quick(model: ServedModel, declared: Declared) -> bool:
    return model.is_quick(*model.rows_and_kind(declared))


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


def _name(request: oip.ModelInferRequest) -> str:
    if _DECISION not in request.parameters:
        return request.id
    parameter = request.parameters[_DECISION]
    kind = parameter.WhichOneof("parameter_choice")
    if kind != "string_param":
        found = "empty" if kind is None else getattr(parameter, kind)
        raise BadRequest.of(f"parameter '{_DECISION}'", found, "text, or an empty one for a decision that is not kept")
    return parameter.string_param


def _whole(parameters: Any, name: str, least: int, most: int) -> int:
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if value is None or not least <= value <= most:
        found = "empty" if kind is None else getattr(parameter, kind)
        raise BadRequest.of(f"parameter '{name}'", found, f"a whole number from {least} to {most}")
    return int(value)
