"""What one model adds to as it answers, whatever its versions: looked up once, shown while a version of it is served."""

import threading
import time
from collections.abc import Callable
from struct import Struct
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ..protocol.statistics import Statistics
from .tally import Spread, Tally

# What is held of a request and of a run: numbers next to each other, so that the memory is the same from one to the next.
_REQUEST, _RUN = Struct("8d"), Struct("3d")
# Bytes of them that are held before they are told: of some 500 requests.
_MOST_BYTES = 1 << 15


class ModelSeries:
    """The histograms and the gauge of one model, and how its versions' statistics hear of requests and runs.

    The stages of a request are `decode` (a message to arrays), `queue` (until its run starts; texts and shared memory are
    decoded there, in the thread that runs them), `inference` (the run that it shares, told once a run) and `answer` (threshold,
    probabilities, and arrays to a message). `request` is all of it, from the message to the answer's message.

    What a request and a run took is one entry, told to histograms and statistics when there are many or somebody looks.

    Attributes:
        spreads: by what they are of: the stages, `request`, `batch_rows`, and `calibration`.
        inflight: requests that are being answered.
    """

    def __init__(
        self,
        make: Callable[[str], Spread],
        names: tuple[str, ...],
        inflight: Tally,
        times: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing yet.

        Args:
            make: gives a histogram by name.
            names: of them.
            inflight: the gauge.
            times: whether histograms are told of stages at all.
            clock: seconds since the epoch.
        """
        self.spreads = {name: make(name) for name in names}
        self.inflight, self._times, self._clock = inflight, times, clock
        self._requests, self._runs = bytearray(), bytearray()
        self._statistics: WeakValueDictionary[int, Statistics] = WeakValueDictionary()  # of versions, which come and go
        self._lock = threading.Lock()
        for spread in self.spreads.values():
            spread.before = self._settle

    def follow(self, statistics: Statistics) -> None:
        """Have a version's statistics told of its requests and runs."""
        self._statistics[statistics.number] = statistics
        statistics.before = self._settle

    def answered(
        self, of: Statistics, rows: int, decode_s: float, queue_s: float, run_s: float, output_s: float, request_s: float
    ) -> None:
        """A request was answered.

        Args:
            of: the version that answered.
            rows: of the request.
            decode_s: making arrays of its message, in seconds.
            queue_s: from then to the start of its run.
            run_s: the run.
            output_s: making its answer's message, once it was known what is in it.
            request_s: all of it; what is neither decoding nor queue nor run went into the answer.
        """
        held = self._requests
        held += _REQUEST.pack(of.number, self._clock(), rows, decode_s, queue_s, run_s, output_s, request_s)
        if len(held) >= _MOST_BYTES:
            self._settle()

    def ran(self, of: Statistics, rows: int, run_s: float) -> None:
        """The model ran once, for so many rows."""
        held = self._runs
        held += _RUN.pack(of.number, rows, run_s)
        if len(held) >= _MOST_BYTES:
            self._settle()

    def waited(self, queue_s: float) -> None:
        """A block of a signal waited so long for its run."""
        if self._times:
            self.spreads["queue"].observe(queue_s)

    def _settle(self) -> None:
        with self._lock:
            requests, runs = _taken(self._requests, 8), _taken(self._runs, 3)
            for statistics, some in self._by_version(requests):
                rows, _, queue_s, run_s, output_s, request_s = some[:, 2:].sum(axis=0).tolist()
                at_s = float(some[:, 1].max())
                statistics.record(int(rows), queue_s, 0.0, run_s, output_s, request_s, requests=len(some), at_s=at_s)
            for statistics, some in self._by_version(runs):
                for count, seconds in some[:, 1:].tolist():
                    statistics.record_run(int(count), seconds)
            if self._times:
                _, _, _, decode, queue, run, _, request = requests.T
                _, rows_run, run_s_all = runs.T
                for name, values in (
                    ("decode", decode), ("queue", queue), ("answer", request - decode - queue - run), ("request", request),
                    ("batch_rows", rows_run), ("inference", run_s_all),
                ):  # fmt: skip
                    self.spreads[name].observe_all(values)

    def _by_version(self, entries: NDArray[np.float64]) -> list[tuple[Statistics, NDArray[np.float64]]]:
        """Entries by the statistics that they are of, where these are still there."""
        numbers = entries[:, 0]
        found = [(self._statistics.get(int(number)), entries[numbers == number]) for number in set(numbers.tolist())]
        return [(statistics, some) for statistics, some in found if statistics is not None]


def _taken(held: bytearray, width: int) -> NDArray[np.float64]:
    """What is held, [entry, width], which is held no more.

    Whoever adds does so without a lock, in one step that nothing comes between: what comes meanwhile stays for the next time.
    """
    count = len(held)
    taken = held[:count]
    del held[:count]
    return np.frombuffer(taken, np.float64).reshape(-1, width)
