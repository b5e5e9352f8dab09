"""What a model version has done since it was loaded, as Triton's ModelStatistics: counts, and where the time went."""

import itertools
import time
from collections.abc import Callable
from threading import Lock

from cutpoint.oip import inference_pb2 as oip

# Past so many sizes of a run, further ones are counted at the next power of two: callers choose the sizes, we keep the table.
_SIZES = 256


_numbers = itertools.count()


class Statistics:
    """Counters of one model version; safe from any thread.

    Attributes:
        number: of this object, and of no other in this process.
        before: called before anybody looks, for who holds what is to be counted.
    """

    def __init__(self, name: str, version: int, clock: Callable[[], float] = time.time) -> None:
        """Nothing has happened yet. `clock` gives seconds since the epoch."""
        self.number = next(_numbers)
        self.before: Callable[[], None] | None = None
        self._name, self._version, self._clock = name, str(version), clock
        self._lock = Lock()
        self._rows = self._runs = self._successes = self._failures = self._cancels = 0
        self._queue_s = self._input_s = self._infer_s = self._output_s = 0.0
        self._success_s = self._failure_s = self._cancel_s = 0.0
        self._last_s = 0.0
        self._by_size: dict[int, tuple[int, float]] = {}

    def record(
        self,
        rows: int,
        queue_s: float,
        input_s: float,
        infer_s: float,
        output_s: float,
        total_s: float,
        *,
        requests: int = 1,
        at_s: float | None = None,
    ) -> None:
        """Count requests that were answered; numbers and times are sums over them.

        Args:
            rows: of the requests.
            queue_s: from arrival to the start of its run, in seconds.
            input_s: making arrays of the message, and a batch of the arrays.
            infer_s: the run.
            output_s: making the answer.
            total_s: from arrival to the answer.
            requests: how many.
            at_s: when the last one was answered, in seconds since the epoch; now, where that is not said.
        """
        last_s = self._clock() if at_s is None else at_s
        with self._lock:
            self._rows += rows
            self._successes += requests
            self._queue_s += queue_s
            self._input_s += input_s
            self._infer_s += infer_s
            self._output_s += output_s
            self._success_s += total_s
            self._last_s = last_s

    def record_failure(self, seconds: float) -> None:
        """Count one request that was answered with an error, `seconds` after it came."""
        with self._lock:
            self._failures += 1
            self._failure_s += seconds

    def record_cancel(self, seconds: float) -> None:
        """Count one request whose caller was gone, `seconds` after it came; it is no failure."""
        with self._lock:
            self._cancels += 1
            self._cancel_s += seconds

    def record_run(self, rows: int, seconds: float) -> None:
        """Count one run of the model: the rows in it and how long it took."""
        with self._lock:
            self._runs += 1
            count, before = self._by_size.get(rows, (0, 0.0))
            if not count and len(self._by_size) >= _SIZES:
                rows = 1 << (rows - 1).bit_length()
                count, before = self._by_size.get(rows, (0, 0.0))
            self._by_size[rows] = count + 1, before + seconds

    def message(self) -> oip.ModelStatistics:
        """The counters as they are at one moment.

        `response_stats` has one key, "0": a request has one response. It is where Triton's message has room for cancelled
        requests. A batch size has the times of its runs in `compute_infer`; its input and output are not timed apart.
        """
        if self.before is not None:
            self.before()
        with self._lock:
            by_size = sorted(self._by_size.items())
            success = _duration(self._successes, self._success_s)
            fail = _duration(self._failures, self._failure_s)
            infer = _duration(self._successes, self._infer_s)
            output = _duration(self._successes, self._output_s)
            cancel = _duration(self._cancels, self._cancel_s)
            message = oip.ModelStatistics(
                name=self._name,
                version=self._version,
                last_inference=int(self._last_s * 1e3),
                inference_count=self._rows,
                execution_count=self._runs,
                inference_stats=oip.InferStatistics(
                    success=success,
                    fail=fail,
                    queue=_duration(self._successes, self._queue_s),
                    compute_input=_duration(self._successes, self._input_s),
                    compute_infer=infer,
                    compute_output=output,
                ),
            )
        for rows, (count, seconds) in by_size:
            message.batch_stats.add(batch_size=rows, compute_infer=_duration(count, seconds))
        message.response_stats["0"].CopyFrom(
            oip.InferResponseStatistics(compute_infer=infer, compute_output=output, success=success, fail=fail, cancel=cancel)
        )
        return message


def _duration(count: int, seconds: float) -> oip.StatisticDuration:
    # Clocks that go back make a sum negative at most once, at the start; the field has no sign.
    return oip.StatisticDuration(count=count, ns=max(round(seconds * 1e9), 0))
