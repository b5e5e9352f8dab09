"""How fast a session is behind the server's own batcher and lanes, in process."""

import threading
import time
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from statistics import median
from typing import Any

from cutpoint.server.runs.batcher import Batcher, Batching, Outputs, Timing
from cutpoint.server.runs.lanes import Lanes
from cutpoint.server.runs.session import Abort, OnnxSession, Session
from numpy.typing import NDArray

from ..bundle import Way
from ..errors import InternalError

Request = Mapping[str, NDArray[Any]]

_QUICK_S = 60e-6  # as the server has it
_SETTLE = 0.2  # of the seconds, at the start, in which queues fill
_CLOSE_S = 60.0


class Narrow:
    """A session without its runs on all cores."""

    def __init__(self, session: OnnxSession) -> None:
        """Pass on what `session` is asked, but never wide."""
        self._session = session
        self.inputs, self.outputs = session.inputs, session.outputs

    def run(self, inputs: Request, *, wide: bool = False, abort: Abort | None = None) -> dict[str, NDArray[Any]]:
        """As `Session.run`, on one core."""
        del wide
        return self._session.run(inputs, abort=abort)


def busy_rate(
    session: Session, way: Way, requests: Sequence[Request], seconds: float, *, narrow_s: float = 1.0, batchable: bool = True
) -> tuple[float, float]:
    """Rows a second that callers get who each have the next request ready when the last is answered.

    One thread submits, as in the server; lanes run and answer. The second figure is the ms of processor time that a row took,
    which others on the machine disturb far less.

    Args:
        session: what computes.
        way: how runs share the machine.
        requests: of each caller one, that it repeats; as many as there are callers.
        seconds: how long to count; until every caller was answered twice, where that takes longer.
        narrow_s: seconds of a run of one request: what takes next to none is run where it is submitted.
        batchable: whether the graph takes any number of rows.

    Raises:
        InternalError: a request failed.
    """
    lanes = Lanes(way.lanes, time.perf_counter)
    batching = Batching(
        max_rows=way.max_batch_rows,
        delay_s=way.queue_delay_ms / 1e3,
        quick_s=_QUICK_S,
        wide=way.wide,
        max_waiting_rows=1 << 30,
    )
    batcher = Batcher(session, lanes, batching, batchable=batchable)
    sizes = [_rows(request) for request in requests]
    batcher.learn(sizes[0], narrow_s)
    ready: SimpleQueue[tuple[int, BaseException | None]] = SimpleQueue()

    def submit(caller: int) -> None:
        def answered(outputs: Outputs | None, error: BaseException | None, timing: Timing) -> None:
            del outputs, timing
            ready.put((caller, error))

        request = requests[caller]
        batcher.submit(lambda: request, sizes[caller], None, answered)

    try:
        for caller in range(len(requests)):
            submit(caller)
        counted_from = time.perf_counter() + _SETTLE * seconds
        first = last = used = 0.0
        answered = rows = 0
        while True:
            caller, error = ready.get()
            if error is not None:
                raise InternalError(f"a request failed: {error}") from error
            last = time.perf_counter()
            answered += 1
            if first:
                rows += sizes[caller]
            elif last >= counted_from and answered >= len(requests):
                first, used = last, time.process_time()
            if first and last - first >= seconds * (1 - _SETTLE) and answered >= 2 * len(requests):
                return rows / (last - first), 1e3 * (time.process_time() - used) / rows
            submit(caller)
    finally:
        lanes.close(_CLOSE_S)


def idle_p50_ms(
    session: Session, way: Way, requests: Sequence[Request], seconds: float, *, narrow_s: float = 1.0, batchable: bool = True
) -> float:
    """The median ms from submitting a request to its answer while there is one caller; other arguments as of `busy_rate`."""
    lanes = Lanes(way.lanes, time.perf_counter)
    batching = Batching(max_rows=way.max_batch_rows, delay_s=way.queue_delay_ms / 1e3, quick_s=_QUICK_S, wide=way.wide)
    batcher = Batcher(session, lanes, batching, batchable=batchable)
    batcher.learn(_rows(requests[0]), narrow_s)
    done = threading.Semaphore(0)
    failed: list[BaseException] = []

    def answered(outputs: Outputs | None, error: BaseException | None, timing: Timing) -> None:
        del outputs, timing
        if error is not None:
            failed.append(error)
        done.release()

    took: list[float] = []
    try:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends or len(took) < 5:
            request = requests[len(took) % len(requests)]
            begun = time.perf_counter()
            batcher.submit(lambda request=request: request, _rows(request), None, answered)  # type: ignore[misc]
            done.acquire()
            took.append(time.perf_counter() - begun)
            if failed:
                raise InternalError(f"a request failed: {failed[0]}") from failed[0]
            while lanes.running:  # it has answered, and is about to be free: a caller's next request comes later than that
                time.sleep(0)
        return 1e3 * median(took[1:])
    finally:
        lanes.close(_CLOSE_S)


def _rows(request: Request) -> int:
    return len(next(iter(request.values())))
