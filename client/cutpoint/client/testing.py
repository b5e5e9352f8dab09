"""A server for the tests of programs that use a client: real gRPC on a real port, and a function in place of a model.

It needs neither a model nor onnxruntime, and answers any client of the Open Inference Protocol.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import grpc
import numpy as np
from cutpoint.errors import BadRequest, CutpointError, InternalError, ModelNotFound, NotCalibrated, Unavailable
from cutpoint.oip import inference_pb2 as oip
from cutpoint.wire import REASON_KEY, REASON_PARAMETER, datatype_of, decode_inputs, encode_raw, status_of
from numpy.typing import ArrayLike, NDArray

from .results import OUTPUTS

_SERVICE = "inference.GRPCInferenceService"
_THREADS = 64  # calls at a time; a call that is held has one


@dataclass(frozen=True)
class Received:
    """One request as the fake server got it.

    Attributes:
        model: name.
        version: as it was asked for, "" for the server's default.
        request_id: "" where there was none.
        x: the rows.
        outputs: those asked for; empty for all.
        priority: 0 where there was none.
        metadata: by lower-case name, "authorization" among them.
        timeout_s: what was left of the caller's time; None without a deadline.
        streamed: whether it came in a stream.
    """

    model: str
    version: str
    request_id: str
    x: NDArray[Any]
    outputs: tuple[str, ...]
    priority: int
    metadata: dict[str, str | bytes]
    timeout_s: float | None
    streamed: bool


class FakeServer:
    """Serves one model whose logits are `logits(x)`. Use it as a context manager; a client connects to `target`.

    Attributes:
        target: "127.0.0.1:port".
        requests: what was received, oldest first, failed requests too.
    """

    def __init__(
        self,
        logits: Callable[[NDArray[Any]], ArrayLike],
        *,
        model: str = "model",
        labels: Sequence[str] = ("label",),
        thresholds: float | Sequence[float | None] | None = None,
        model_version: int = 1,
        policy_version: int = 1,
        input_name: str = "x",
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        """Nothing listens before the context is entered.

        Args:
            logits: from [row, ...] as it was sent to [row, ..., label]; called in several threads.
            model: its name.
            labels: names, in the order of the last axis.
            thresholds: cuts on the logits: a row is decided where its logit is at or above. One for all labels, or one for each
                (None: the label decides nothing). None for a model without a policy.
            model_version: the one version there is.
            policy_version: the policy that the thresholds are of.
            input_name: the name of the input.
            credentials: for TLS.
        """
        self.target = ""
        self.requests: list[Received] = []
        self._logits = logits
        self._model, self._model_version, self._input_name = model, model_version, input_name
        self._labels = tuple(labels)
        self._changed = threading.Condition()
        self._held = 0
        self._failures: list[CutpointError | grpc.StatusCode | None] = []
        self._credentials = credentials
        self._server: grpc.Server | None = None
        self.decide_by(thresholds, policy_version)

    def __enter__(self) -> Self:
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, "fake-server"),
            options=(("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)),
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, self._handlers()),))
        address = "127.0.0.1:0"
        port = (
            self._server.add_insecure_port(address)
            if self._credentials is None
            else self._server.add_secure_port(address, self._credentials)
        )
        self.target = f"127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Vanish: calls under way fail with Unavailable, and nobody listens any more."""
        if self._server is not None:
            self._server.stop(None).wait()

    def decide_by(self, thresholds: float | Sequence[float | None] | None, policy_version: int) -> None:
        """Have another policy decide from now on; None for none."""
        with self._changed:
            self._policy_version = None if thresholds is None else policy_version
            given = [thresholds] * len(self._labels) if thresholds is None or np.isscalar(thresholds) else [*thresholds]  # type: ignore[misc]
            if len(given) != len(self._labels):
                raise BadRequest.of("thresholds", f"{len(given)} of them", f"one for each of {len(self._labels)} labels")
            self._cuts = np.array([np.inf if cut is None else cut for cut in given], np.float32)
            self._undecided = sum(cut is None for cut in given)

    def fail(self, error: CutpointError | grpc.StatusCode, *, times: int = 1, after: int = 0) -> None:
        """Have requests for scores fail: after the next `after` of them, `times` in a row.

        In a stream an error is of its one request; `Unavailable` ends the stream, as a server that goes away does.

        Args:
            error: what a client raises, such as `cutpoint.errors.Overloaded("too many")`; or a status as of another server.
            times: how many fail.
            after: how many are answered first.
        """
        with self._changed:
            self._failures += [None] * after + [error] * times

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep requests for scores waiting while in the context, to test what a program does meanwhile."""
        with self._changed:
            self._held += 1
        try:
            yield
        finally:
            with self._changed:
                self._held -= 1
                self._changed.notify_all()

    def wait_for(self, requests: int, timeout_s: float = 30.0) -> None:
        """Return once this many requests have been received in all; TimeoutError where they are not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= requests, timeout_s):
                raise TimeoutError(f"{len(self.requests)} of {requests} requests after {timeout_s:g} s")

    def _handlers(self) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
        plain: dict[str, Callable[[Any, grpc.ServicerContext], Any]] = {
            "ServerLive": lambda request, context: oip.ServerLiveResponse(live=True),
            "ServerReady": lambda request, context: oip.ServerReadyResponse(ready=True),
            "ModelReady": lambda request, context: oip.ModelReadyResponse(ready=self._is(request.name, request.version)),
            "ServerMetadata": lambda request, context: oip.ServerMetadataResponse(name="fake", version="1"),
            "ModelMetadata": self._metadata,
            "ModelInfer": self._infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                call, getattr(oip, f"{name}Request").FromString, getattr(oip, f"{name}Response").SerializeToString
            )
            for name, call in plain.items()
        }
        stream = grpc.stream_stream_rpc_method_handler(
            self._stream, oip.ModelInferRequest.FromString, oip.ModelStreamInferResponse.SerializeToString
        )
        return {**handlers, "ModelStreamInfer": stream}

    def _metadata(self, request: oip.ModelMetadataRequest, context: grpc.ServicerContext) -> oip.ModelMetadataResponse:
        if not self._is(request.name, request.version):
            _refuse(context, _unknown(request.name))
        response = oip.ModelMetadataResponse(name=self._model, versions=[str(self._model_version)], platform="fake")
        response.inputs.add(name=self._input_name, datatype="FP32", shape=[-1, -1])
        for name, datatype in zip(OUTPUTS, ("FP32", "FP32", "BOOL", "BYTES"), strict=True):
            response.outputs.add(name=name, datatype=datatype, shape=[-1] if name == "labels" else [-1, len(self._labels)])
        return response

    def _infer(self, request: oip.ModelInferRequest, context: grpc.ServicerContext) -> oip.ModelInferResponse:
        try:
            return self._answer(request, context, streamed=False)
        except CutpointError as error:
            _refuse(context, error)

    def _stream(
        self, requests: Iterator[oip.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[oip.ModelStreamInferResponse]:
        for request in requests:
            response = oip.ModelStreamInferResponse()
            try:
                response.infer_response.CopyFrom(self._answer(request, context, streamed=True))
            except CutpointError as error:
                if isinstance(error, Unavailable):
                    _refuse(context, error)
                response.error_message = str(error)
                response.infer_response.id = request.id
                response.infer_response.parameters[REASON_PARAMETER].string_param = error.reason
            yield response

    def _answer(self, request: oip.ModelInferRequest, context: grpc.ServicerContext, streamed: bool) -> oip.ModelInferResponse:
        arrays = decode_inputs(request)
        failure = self._receive(request, arrays, context, streamed)
        if isinstance(failure, CutpointError):
            raise failure
        if failure is not None:
            context.abort(failure, "as the test asked for")
        if not self._is(request.model_name, request.model_version):
            raise _unknown(request.model_name)
        if list(arrays) != [self._input_name]:
            raise BadRequest.of(f"inputs for model '{self._model}'", ", ".join(arrays), self._input_name)
        x = arrays[self._input_name]
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise BadRequest.of(f"input '{self._input_name}' for model '{self._model}'", "NaN or infinite", "finite numbers")
        return self._scored(request, x)

    def _receive(
        self, request: oip.ModelInferRequest, arrays: dict[str, NDArray[Any]], context: grpc.ServicerContext, streamed: bool
    ) -> CutpointError | grpc.StatusCode | None:
        """Record a request, wait while requests are held, and give the failure that it is to come to."""
        metadata = {str(key): value for key, value in context.invocation_metadata()}
        priority = request.parameters["priority"].uint64_param if "priority" in request.parameters else 0
        received = Received(
            request.model_name, request.model_version, request.id, arrays.get(self._input_name, np.empty(0)),
            tuple(output.name for output in request.outputs), priority, metadata, context.time_remaining(), streamed,
        )  # fmt: skip
        context.add_callback(self._wake)
        with self._changed:
            failure = self._failures.pop(0) if self._failures else None
            self.requests.append(received)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._held or not context.is_active())
        return failure

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _scored(self, request: oip.ModelInferRequest, x: NDArray[Any]) -> oip.ModelInferResponse:
        try:
            logits = np.asarray(self._logits(x), np.float32)
        except Exception as error:
            raise InternalError(f"the function of the fake server raised {type(error).__name__}: {error}") from error
        if logits.ndim < 2 or len(logits) != len(x) or logits.shape[-1] != len(self._labels):
            wanted = f"[{len(x)}, ..., {len(self._labels)}]: a logit for each row and label"
            raise InternalError(f"the function of the fake server gave {list(logits.shape)}; expected {wanted}")
        with self._changed:
            cuts, version, undecided = self._cuts, self._policy_version, self._undecided
        found: dict[str, NDArray[Any]] = {
            "logits": logits,
            "scores": (0.5 * (1 + np.tanh(logits / 2))).astype(np.float32),  # the sigmoid, without overflow
            "labels": np.array([label.encode() for label in self._labels], object),
        }
        response = oip.ModelInferResponse(model_name=self._model, model_version=str(self._model_version), id=request.id)
        if version is not None:
            found["decisions"] = logits >= cuts
            response.parameters["policy_version"].int64_param = version
            if undecided:
                response.parameters["undecided_labels"].int64_param = undecided
        for name in [output.name for output in request.outputs] or [name for name in OUTPUTS if name in found]:
            if name not in found:
                raise _no_output(self._model, name)
            response.outputs.add(name=name, datatype=datatype_of(found[name].dtype), shape=found[name].shape)
            response.raw_output_contents.append(encode_raw(found[name]))
        return response

    def _is(self, model: str, version: str) -> bool:
        return model == self._model and version in ("", str(self._model_version))


def _unknown(model: str) -> ModelNotFound:
    return ModelNotFound(f"Request for unknown model: '{model}' is not found")


def _no_output(model: str, name: str) -> CutpointError:
    if name == "decisions":
        return NotCalibrated(f"model '{model}' has no policy, so it decides nothing")
    return BadRequest.of(f"output '{name}' for model '{model}'", "not there", "one of " + ", ".join(OUTPUTS))


def _refuse(context: grpc.ServicerContext, error: CutpointError) -> NoReturn:
    context.set_trailing_metadata(((REASON_KEY, error.reason),))
    context.abort(status_of(error), str(error))
    raise AssertionError("abort raises")
