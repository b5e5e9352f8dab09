"""What one model adds to as it answers, whatever its versions: looked up once, shown while a version of it is served."""

from dataclasses import dataclass

from .tally import Spread, Tally


@dataclass(frozen=True)
class ModelSeries:
    """The histograms and the gauge of one model.

    The stages of a request are `decode` (a message to arrays), `queue` (until its run starts; texts and shared memory are
    decoded there, in the thread that runs them), `inference` (the run that it shares, told once a run) and `answer` (threshold,
    probabilities, and arrays to a message). `request` is all of it, from the message to the answer's message.

    Attributes:
        times: whether stages are timed at all.
    """

    decode: Spread
    queue: Spread
    inference: Spread
    answer: Spread
    request: Spread
    batch_rows: Spread
    calibration: Spread
    inflight: Tally
    times: bool = True

    def answered(self, decode_s: float, queue_s: float, run_s: float, request_s: float) -> None:
        """A request was answered after `request_s`, of which the other times are known; what is left went into its answer."""
        if self.times:
            self.decode.observe(decode_s)
            self.answer.observe(request_s - decode_s - queue_s - run_s)
            self.request.observe(request_s)

    def waited(self, queue_s: float) -> None:
        """A request, or a block of a signal, waited so long for its run."""
        if self.times:
            self.queue.observe(queue_s)

    def ran(self, rows: int, run_s: float) -> None:
        """The model ran once."""
        if self.times:
            self.batch_rows.observe(rows)
            self.inference.observe(run_s)
