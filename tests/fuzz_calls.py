"""Where the fuzzer's calls go: a server's handlers in this process, or a real server; and what is wrong with the answers."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
from cutpoint.oip import inference_pb2 as oip
from cutpoint.server.app import _rpcs
from cutpoint.server.config import ServerConfig
from cutpoint.server.monitoring.metrics import Metrics
from cutpoint.server.outcomes.keeping import keeping
from cutpoint.server.policy.policies import PolicyStore
from cutpoint.server.port.health import Readiness
from cutpoint.server.port.idle import Idle
from cutpoint.server.port.rpc import Handler, handlers
from cutpoint.server.port.transport import Call
from cutpoint.server.runs.lanes import Lanes
from cutpoint.server.serving.catalogue import Catalogue
from cutpoint.server.serving.models import Models
from cutpoint.wire import REASON_KEY, decode_outputs
from fuzz_messages import CALIBRATE, STREAM, STREAMS, Case

WAIT_S = 60.0
_HANGS = "no answer"


@dataclass
class Tally:
    """How many calls were answered how, and which answers are wrong."""

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: int = 0
    messages: int = 0
    wrong: list[str] = field(default_factory=list)

    def take(self, case: Case, code: str, text: str, reason: str, responses: Sequence[bytes]) -> None:
        """Hold an answer against what is right."""
        self.calls += 1
        self.messages += len(case.messages)
        self.codes[case.method.rsplit("/", 1)[1], code] += 1
        found = _complaint(case, code, text, reason, responses)
        if found:
            shown = [message[:300].hex() for message in case.messages]
            self.wrong.append(f"{case.method}: {found}; {code} {text[:300]!r}; messages {shown}")


def _complaint(case: Case, code: str, text: str, reason: str, responses: Sequence[bytes]) -> str:
    if code not in case.codes:
        return f"not one of {sorted(case.codes)}"
    if code != "OK" and not text:
        return "no text"
    if code not in ("OK", "UNIMPLEMENTED") and not reason and "/grpc.health" not in case.method:
        return "no reason"
    if code != "OK" and case.says not in text:
        return f"{case.says!r} is not said"
    if case.answer:
        outputs = decode_outputs(oip.ModelInferResponse.FromString(responses[0]))
        for name, array in case.answer.items():
            if not np.array_equal(outputs[name], array):
                return f"{name} is {outputs[name].tolist()}, not {array.tolist()}"
    if case.method == STREAM and code == "OK" and len(responses) != len(case.messages):
        return f"{len(responses)} answers"
    return ""


class FakeCall:
    """A call whose messages are there already; tells `ended` how it was answered."""

    peer = "ipv4:127.0.0.1:1"
    metadata: tuple[tuple[str, str], ...] = ()
    deadline = None

    def __init__(self, case: Case, ended: Callable[["FakeCall"], None]) -> None:
        self.case, self.method, self.caller, self.gone = case, case.method, "", False
        self.done: Callable[[grpc.StatusCode], None] | None = None
        self.on_stop: Callable[[], None] | None = None
        self.code, self.text, self.reason = "", "", ""
        self.responses: list[bytes] = []
        self._ending: list[Callable[[], None]] = []
        self._ended, self._left, self._lock = ended, list(reversed(case.messages)), threading.Lock()

    def identities(self) -> tuple[str, ...]:
        return ()

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Nobody leaves before the answer."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when it is answered."""
        with self._lock:
            if not self.code:
                self._ending.append(callback)
                return
        callback()

    def read(self, then: Callable[[bytes | None], None]) -> None:
        self.tell(then, self._left.pop() if self._left else None)

    def send(self, message: bytes, then: Callable[[bool], None] | None = None) -> None:
        self.responses.append(message)
        if then is not None:
            self.tell(then, True)

    def finish(
        self,
        message: bytes | None = None,
        code: grpc.StatusCode = grpc.StatusCode.OK,
        details: str = "",
        trailing: Iterable[tuple[str, str]] = (),
    ) -> None:
        with self._lock:
            if self.code:
                return
            self.code, self.text, self.reason = code.name, details, dict(trailing).get(REASON_KEY, "")
        if message is not None:
            self.responses.append(message)
        if self.done is not None:
            self.done(code)
        for callback in self._ending:
            callback()
        self._ended(self)

    def tell(self, then: Callable[[Any], None], value: Any) -> None:
        """As a transport does: what a callback raises ends the call."""
        try:
            then(value)
        except Exception as error:
            self.finish(code=grpc.StatusCode.INTERNAL, details=f"a callback raised {error!r}")


class InProcess:
    """A server's handlers, called by this process as its transport would."""

    def __init__(self, found: dict[str, Handler]) -> None:
        self._handlers = found

    def answer(self, cases: Sequence[Case], tally: Tally) -> None:
        """Have all of them answered at the same time."""
        left = threading.Semaphore(0)
        calls = [FakeCall(case, lambda _: left.release()) for case in cases]
        for call in calls:
            handler = self._handlers.get(call.method)
            if handler is None:
                call.finish(code=grpc.StatusCode.UNIMPLEMENTED, details="Method not found!")
            else:
                call.tell(handler, cast(Call, call))
        for _ in calls:
            if not left.acquire(timeout=WAIT_S):
                break
        for call in calls:
            tally.take(call.case, call.code or _HANGS, call.text, call.reason, call.responses)


@contextmanager
def in_process(models: Path, **settings: Any) -> Iterator[InProcess]:
    """Everything of a server but its port, for the models in a folder."""
    config = ServerConfig(
        models=models, model_control="explicit", load=tuple(sorted(path.name for path in models.iterdir())), **settings
    )
    metrics = Metrics()
    with ExitStack() as stack:
        store = PolicyStore(config.state_folder)
        stack.callback(store.close)
        lanes = Lanes(config.lane_count, time.perf_counter)
        stack.callback(lanes.close)
        served = Models(metrics, lanes.count)
        catalogue = Catalogue(config, store, metrics, served, lanes)
        catalogue.start()
        stack.callback(catalogue.close)
        pool = ThreadPoolExecutor(64)
        stack.callback(pool.shutdown)
        readiness = Readiness(("inference.GRPCInferenceService",))
        readiness.set(True)
        kept = stack.enter_context(keeping(config, served, store, metrics.outcomes, several=False))
        rpcs = _rpcs(config, served, catalogue, store, metrics, readiness, pool, Idle(), kept, None)
        yield InProcess(handlers(rpcs, metrics, lambda call: None))


class OverGrpc:
    """A real server, called by grpc's own client with messages as bytes."""

    def __init__(self, target: str) -> None:
        options = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
        self._channel = grpc.insecure_channel(target, options)

    def close(self) -> None:
        self._channel.close()

    def answer(
        self, cases: Sequence[Case], tally: Tally, compression: grpc.Compression | None = None, left: Container[int] = ()
    ) -> None:
        """Have all of them answered at the same time; the callers of those `left` go away at once, and are not counted."""
        begun = [(case, self._begin(case, compression)) for case in cases]
        for i in range(len(begun)):
            if i in left:
                begun[i][1].cancel()
        for i, (case, call) in enumerate(begun):
            if i in left:
                continue
            responses: list[bytes] = []
            try:
                if case.method in STREAMS and case.method != CALIBRATE:
                    responses.extend(call)
                else:
                    responses.append(call.result())
            except grpc.RpcError as found:
                error: Any = found
                late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                code = _HANGS if late else error.code().name
                reason = dict(error.trailing_metadata() or ()).get(REASON_KEY, "")
                tally.take(case, code, error.details() or "", reason, responses)
            else:
                tally.take(case, "OK", "", "", responses)

    def _begin(self, case: Case, compression: grpc.Compression | None) -> Any:
        if case.method == CALIBRATE:
            return self._channel.stream_unary(case.method).future(iter(case.messages), timeout=WAIT_S, compression=compression)
        if case.method in STREAMS:
            return self._channel.stream_stream(case.method)(iter(case.messages), timeout=WAIT_S, compression=compression)
        call = self._channel.unary_unary(case.method)
        return call.future(case.messages[0] if case.messages else b"", timeout=WAIT_S, compression=compression)


def resources(process: int | str = "self") -> tuple[float, int, int]:
    """MiB held, threads, and open files of a process."""
    folder = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(list((folder / "fd").iterdir()))
