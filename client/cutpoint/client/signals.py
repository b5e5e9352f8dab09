"""One ScoreSignal: a signal in chunks, its windows and events as they become certain."""

import asyncio
import math
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
from cutpoint.errors import BadInput, InternalError
from cutpoint.v1 import signal_pb2 as v1
from numpy.typing import ArrayLike, NDArray

from .arrays import array_of
from .connection import Channel
from .methods import Method

SCORE_SIGNAL = Method(
    "/cutpoint.v1.SignalService/ScoreSignal", v1.SignalRequest, v1.SignalResponse, "stream_stream", repeatable=False
)
MESSAGE_BYTES = 1 << 20  # of a chunk; larger ones are sent in several messages
_STATES = {
    v1.SignalEvent.STATE_OPENED: "opened", v1.SignalEvent.STATE_CLOSED: "closed", v1.SignalEvent.STATE_CUT: "cut",
}  # fmt: skip


@dataclass(frozen=True)
class Events:
    """How positive windows are joined to events.

    An event begins with a window at its threshold, and goes on while windows stay within `hysteresis` of it. Events no further
    apart than `join_gap_s` are one; those that are then shorter than `min_duration_s` are left out.

    Attributes:
        hysteresis: log-odds from 0; 0.7 halves the odds at which an event ends.
        min_duration_s: in seconds, from the begin of the first window to the end of the last.
        join_gap_s: in seconds.
    """

    hysteresis: float = 0.0
    min_duration_s: float = 0.0
    join_gap_s: float = 0.0


@dataclass(frozen=True)
class SignalOpened:
    """What is scored, and how: the first thing that is told.

    Attributes:
        model, model_version: that score, to the end of the signal.
        labels: of all results, in their order.
        window_s: seconds of a window; window i begins at `start_s + i * window_s`.
        rate_hz: that the model is given.
        context: windows either way that each window is scored with; None where `sequence_windows` are scored together.
        sequence_windows: 0 where `context` says it all.
        up, down: `rate_hz` is up / down times the rate of what is sent.
        policy_version: the policy that decides now; None while there is none, and so no event.
    """

    model: str
    model_version: int
    labels: tuple[str, ...]
    window_s: float
    rate_hz: float
    context: int | None
    sequence_windows: int
    up: int
    down: int
    policy_version: int | None


@dataclass(frozen=True)
class SignalEvent:
    """One event of one label.

    Attributes:
        number: from 1, in order of opening; the same each time that an event is told of.
        label: its name.
        state: "opened": it has lasted the least duration and goes on; `end_s` and the peak are those so far. "closed": it is
            over. "cut": it was going on when the signal ended.
        first, count: its windows, by index.
        start_s, end_s: in seconds, on the clock of the signal's `start_s`.
        peak: index of the window with the highest logit.
        peak_s: when that window begins.
        peak_logit, peak_score: its logit and its calibrated probability.
        policy_version: the policy that was deciding when this was told.
    """

    number: int
    label: str
    state: str
    first: int
    count: int
    start_s: float
    end_s: float
    peak: int
    peak_s: float
    peak_logit: float
    peak_score: float
    policy_version: int


@dataclass(frozen=True)
class SignalWindows:
    """Windows that became certain, in order, and events.

    Attributes:
        first: index of the first window.
        start_s: when it begins.
        logits: float32 [window, label]; no windows where only events are wanted.
        scores: likewise, calibrated probabilities.
        decisions: bool [window, label]; None while the model has no policy.
        policy_version: the policy that decided; None while there is none.
        events: what is known of events with these windows.
    """

    first: int
    start_s: float
    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    decisions: NDArray[np.bool_] | None
    policy_version: int | None
    events: tuple[SignalEvent, ...]

    def __len__(self) -> int:
        return len(self.logits)


@dataclass(frozen=True)
class SignalSummary:
    """The last thing that is told.

    Attributes:
        samples: that were sent, of each channel.
        windows: that were answered.
        left_over_samples: after the last window that was answered, at the model's rate: never scored.
        left_over_s: the same in seconds.
        events: how many there were.
    """

    samples: int
    windows: int
    left_over_samples: int
    left_over_s: float
    events: int


SignalPart = SignalOpened | SignalWindows | SignalSummary


class SignalAsked:
    """What is asked of a signal, as messages."""

    def __init__(
        self,
        model: str,
        version: str | int = "",
        *,
        rate_hz: float | None = None,
        start_s: float = 0.0,
        labels: Sequence[str] = (),
        events: Events | None = None,
        events_only: bool = False,
        sequence_windows: int | None = None,
        scale: float | None = None,
        offset: float = 0.0,
    ) -> None:
        """As for `Client.stream_signal`.

        Raises:
            BadInput: a setting that no server takes.
        """
        for name, value in (("rate_hz", rate_hz), ("scale", scale)):
            if value is not None and not (math.isfinite(value) and value != 0 and (name == "scale" or value > 0)):
                raise BadInput.of(name, value, "a finite number that is not 0" if name == "scale" else "a rate above 0 in Hz")
        if sequence_windows is not None and not 0 < sequence_windows < 1 << 32:
            raise BadInput.of("sequence_windows", sequence_windows, "a whole number from 1")
        self._dtype = np.dtype("<f4" if scale is None else "<i2")
        self._width: int | None = None
        self._sent = 0
        self._header = v1.SignalHeader(
            model=model,
            model_version=str(version),
            rate_hz=rate_hz or 0.0,
            datatype="FP32" if scale is None else "INT16",
            scale=0.0 if scale is None else scale,
            offset=offset,
            start_s=start_s,
            sequence_windows=sequence_windows or 0,
            labels=(labels,) if isinstance(labels, str) else labels,
            events_only=events_only,
        )
        if events is not None:
            self._header.events.CopyFrom(
                v1.SignalEvents(
                    hysteresis=events.hysteresis, min_duration_s=events.min_duration_s, join_gap_s=events.join_gap_s
                )
            )

    def header(self) -> v1.SignalRequest:
        """The first message."""
        return v1.SignalRequest(header=self._header)

    def chunks(self, chunk: ArrayLike) -> Iterator[v1.SignalRequest]:
        """The messages of one chunk, none where it is empty; BadInput where it is no [sample] or [sample, channel]."""
        name = f"chunk {self._sent}"
        samples = array_of(name, chunk)
        if samples.ndim not in (1, 2) or samples.dtype.kind not in ("iu" if self._dtype.kind == "i" else "biuf"):
            wanted = "real numbers" if self._dtype.kind == "f" else "whole numbers, since there is a scale"
            raise BadInput.of(name, f"{samples.dtype} {list(samples.shape)}", f"[sample] or [sample, channel] of {wanted}")
        width = 1 if samples.ndim == 1 else samples.shape[1]
        if width == 0 or self._width not in (None, width):
            raise BadInput.of(name, f"of {width} channels", "as many in every chunk, and at least one")
        if self._width is None:  # the server compares it with the model's
            self._width = width
        if self._dtype.kind == "i" and len(samples) and (samples.min() < -(1 << 15) or samples.max() >= 1 << 15):
            raise BadInput.of(name, "with numbers of more than 16 bits", "whole numbers from -32768 to 32767")
        self._sent += 1
        step = max(1, MESSAGE_BYTES // (width * self._dtype.itemsize))
        for at in range(0, len(samples), step):
            with np.errstate(over="ignore"):  # to infinity, which the server refuses
                raw = samples[at : at + step].astype(self._dtype).tobytes()
            yield v1.SignalRequest(chunk=raw, channels=width)


class _Requests:
    """The messages of one signal; what the chunks raise ends the call, and is kept for the reader."""

    def __init__(self, asked: SignalAsked) -> None:
        self.asked = asked
        self.error: BaseException | None = None
        self.call: Any = None
        self.ended = False

    def failed(self, error: BaseException) -> None:
        """The signal is not at its end, so the server is not to answer as if it were."""
        self.error = error
        self.call.cancel()


def stream_signal(
    channel: Channel, asked: SignalAsked, chunks: Iterable[ArrayLike], timeout_s: float | None
) -> Iterator[SignalPart]:
    """Send a signal, and yield what comes back; chunks are read in a thread of gRPC's, as fast as the server takes them."""
    requests, started = _Requests(asked), threading.Event()

    def messages() -> Iterator[v1.SignalRequest]:
        started.wait()
        yield asked.header()
        try:
            for chunk in chunks:
                yield from asked.chunks(chunk)
        except Exception as error:
            requests.failed(error)

    told = _Told()
    try:
        with channel.errors(SCORE_SIGNAL):
            requests.call = channel.on(SCORE_SIGNAL)(messages(), timeout=timeout_s, metadata=channel.metadata())
            started.set()
            try:
                for message in requests.call:
                    yield told.part_of(message)
            except Exception as error:
                if requests.error is not None:
                    raise requests.error from error
                raise
        told.check()
    finally:
        started.set()
        if requests.call is not None:
            requests.call.cancel()


async def aio_stream_signal(
    channel: Channel, asked: SignalAsked, chunks: Iterable[ArrayLike] | AsyncIterable[ArrayLike], timeout_s: float | None
) -> AsyncIterator[SignalPart]:
    """As `stream_signal`, for an asynchronous channel; chunks are read in its loop."""
    requests, opened = _Requests(asked), asyncio.Event()

    async def messages() -> AsyncIterator[v1.SignalRequest]:
        yield asked.header()
        await opened.wait()  # a header that is refused is refused with nothing on its way
        if requests.ended:
            return
        try:
            if isinstance(chunks, AsyncIterable):
                async for chunk in chunks:
                    for message in asked.chunks(chunk):
                        yield message
            else:
                for chunk in chunks:
                    for message in asked.chunks(chunk):
                        yield message
        except Exception as error:
            requests.failed(error)

    told = _Told()
    try:
        with channel.errors(SCORE_SIGNAL):
            requests.call = channel.on(SCORE_SIGNAL)(messages(), timeout=timeout_s, metadata=channel.metadata())
            try:
                async for message in requests.call:
                    opened.set()
                    yield told.part_of(message)
            except BaseException as error:  # of a call that was cancelled here asyncio raises no Exception
                if requests.error is not None:
                    raise requests.error from error
                if _lost(error):
                    raise InternalError(
                        "the server ended the signal, and grpc.aio lost the reason; Client is told it"
                    ) from error
                raise
        told.check()
    finally:
        requests.ended = True
        opened.set()
        if requests.call is not None:
            requests.call.cancel()


def _lost(error: BaseException) -> bool:
    """Whether the reason is lost: grpc.aio keeps none where it could not send, since the server had ended the call."""
    return isinstance(error, grpc.aio.AioRpcError) and "execute_batch" in (error.debug_error_string() or "")


class _Told:
    """Responses as parts; windows of the labels that the first one named."""

    def __init__(self) -> None:
        self._labels = 0
        self._summed = False

    def part_of(self, message: v1.SignalResponse) -> SignalPart:
        """One response."""
        part = message.WhichOneof("part")
        if part == "opened":
            opened = message.opened
            self._labels = len(opened.labels)
            return SignalOpened(
                opened.model, int(opened.model_version), tuple(opened.labels), opened.window_s, opened.rate_hz,
                opened.context if opened.HasField("context") else None, opened.sequence_windows, opened.resampled_up,
                opened.resampled_down, opened.policy_version or None,
            )  # fmt: skip
        if part == "summary":
            self._summed = True
            found = message.summary
            return SignalSummary(found.samples, found.windows, found.left_over_samples, found.left_over_s, found.events)
        if part != "results":
            raise InternalError("the server sent a part of a signal that this client does not know")
        results = message.results
        return SignalWindows(
            first=results.first,
            start_s=results.start_s,
            logits=self._array(results.logits, "<f4"),
            scores=self._array(results.scores, "<f4"),
            decisions=self._array(results.decisions, "?") if results.policy_version else None,
            policy_version=results.policy_version or None,
            events=tuple(_event(event) for event in results.events),
        )

    def check(self) -> None:
        """At the end: InternalError where there was no summary, without which windows may be missing."""
        if not self._summed:
            raise InternalError("the server ended the signal without a summary")

    def _array(self, raw: bytes, dtype: str) -> NDArray[Any]:
        return np.frombuffer(raw, dtype).reshape(-1, max(1, self._labels))


def _event(event: v1.SignalEvent) -> SignalEvent:
    return SignalEvent(
        event.number, event.label, _STATES.get(event.state, "unknown"), event.first, event.count, event.start_s, event.end_s,
        event.peak, event.peak_s, event.peak_logit, event.peak_score, event.policy_version,
    )  # fmt: skip
