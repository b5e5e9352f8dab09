"""What one model adds to as it answers, whatever its versions: looked up once, shown while a version of it is served."""

from collections.abc import Callable

from .tally import Spread, Tally

# Requests and runs that are held before they are told to the histograms.
_MOST_HELD = 256


class ModelSeries:
    """The histograms and the gauge of one model.

    The stages of a request are `decode` (a message to arrays), `queue` (until its run starts; texts and shared memory are
    decoded there, in the thread that runs them), `inference` (the run that it shares, told once a run) and `answer` (threshold,
    probabilities, and arrays to a message). `request` is all of it, from the message to the answer's message.

    What a request and a run took is one entry in a list, told to the histograms when there are many or somebody looks.

    Attributes:
        spreads: by what they are of: the stages, `request`, `batch_rows`, and `calibration`.
        inflight: requests that are being answered.
    """

    def __init__(self, make: Callable[[str], Spread], names: tuple[str, ...], inflight: Tally, times: bool) -> None:
        """Nothing yet; `make` gives a histogram by name, `times` says whether stages are timed at all."""
        self.spreads = {name: make(name) for name in names}
        self.inflight, self._times = inflight, times
        self._requests: list[tuple[float, float, float, float]] = []
        self._runs: list[tuple[int, float]] = []
        for spread in self.spreads.values():
            spread.before = self._settle

    def answered(self, decode_s: float, queue_s: float, run_s: float, request_s: float) -> None:
        """A request was answered after `request_s`, of which the other times are known; what is left went into its answer."""
        if self._times:
            requests = self._requests
            requests.append((decode_s, queue_s, request_s - decode_s - queue_s - run_s, request_s))
            if len(requests) >= _MOST_HELD:
                self._settle()

    def waited(self, queue_s: float) -> None:
        """A block of a signal waited so long for its run."""
        if self._times:
            self.spreads["queue"].observe(queue_s)

    def ran(self, rows: int, run_s: float) -> None:
        """The model ran once."""
        if self._times:
            runs = self._runs
            runs.append((rows, run_s))
            if len(runs) >= _MOST_HELD:
                self._settle()

    def _settle(self) -> None:
        # Whoever appends does so without a lock, so the lists stay the same ones; `pop` gives each entry to one thread only.
        for held, names in (
            (self._requests, ("decode", "queue", "answer", "request")),
            (self._runs, ("batch_rows", "inference")),
        ):
            taken = []
            for _ in range(len(held)):
                try:
                    taken.append(held.pop())
                except IndexError:  # another thread was here too
                    break
            for name, values in zip(names, zip(*taken, strict=True), strict=False):
                self.spreads[name].observe_all(values)
