"""A signal cut into windows, and the blocks of windows to score."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..bundle import Manifest
from ..errors import BadConfig, BadData
from .buffer import SampleBuffer

BLOCK_SAMPLES = 1 << 17  # of all channels: half a MiB, as a sequence of 140 windows of 1000 samples
MOST_SAMPLES = 1 << 26  # of all channels, of one block: 256 MiB


@dataclass(frozen=True)
class Block:
    """Windows to score at once, and which of the answers count.

    Attributes:
        x: float32 [1, window, sample], or [1, window, channel, sample].
        first: index of the first window that is answered, counted from the begin of the signal.
        skip: how many windows of `x` come before it, for context.
        count: how many windows are answered; what comes after them is context too.
    """

    x: NDArray[np.float32]
    first: int
    skip: int
    count: int

    def answered(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Of the logits [1, window, label] of `x` those that are final, [window, label]."""
        if logits.ndim != 3 or logits.shape[:2] != self.x.shape[:2]:
            raise BadData.of("logits", list(logits.shape), f"[1, {self.x.shape[1]} windows, label]")
        return logits[0, self.skip : self.skip + self.count]


class Windower:
    """Chunks of a signal, of any length, to blocks of windows; each window is answered once, in order.

    The signal is cut into windows of `samples`, one after the other without overlap, from its first sample. What "scoring the
    whole recording at once" means, and what the answers equal whatever the chunks:

    With a known `context` of c windows: the graph on all W whole windows of the recording as one sequence, [1, W, ...]. A block
    has c windows more on either side than it answers, for the model to see; only the first and the last windows of the
    recording have less, and there the model sees the true edge. A window is answered once the c windows after it are in.

    With a `sequence` of n windows instead, for a model that looks at its whole sequence: windows 0 to n - 1 as one sequence,
    n to 2n - 1 as the next, as it was trained. What is left at the end, r < n windows, is scored as a shorter sequence. Where
    the graph takes n windows and no other number (`fixed`), the last sequence is instead the last n windows of the recording,
    of which only the last r, not answered before, are answered; a recording of fewer than n windows is then not scored at all.

    Samples after the last whole window are not scored: `left_over` says how many, together with those of windows that could not
    be. Memory is bounded by one block and what was pushed since `take` last returned None.

    Attributes:
        samples, channels, context, sequence: as given.
        largest: samples that a block has at most, of all channels.
    """

    def __init__(
        self,
        samples: int,
        channels: int = 1,
        *,
        context: int | None = None,
        sequence: int | None = None,
        fixed: bool = False,
        channel_axis: bool = False,
        most: int | None = None,
    ) -> None:
        """Nothing came yet.

        Args:
            samples: of a window.
            channels: of the signal.
            context: windows either way that can change a window's answer; or
            sequence: windows of a sequence; exactly one of the two.
            fixed: the graph takes `sequence` windows only.
            channel_axis: the model takes [1, window, channel, sample], not [1, window, sample].
            most: windows that a block answers at most, with a known context; by default about 2^17 samples, and at least four
                times the context, lest most of the work be repeated.

        Raises:
            BadConfig: a number is outside its range, or a block would be larger than 2^26 samples.
        """
        known = context is not None
        for name, value, least in (
            ("samples", samples, 1), ("channels", channels, 1), ("context", context if known else 0, 0),
            ("sequence", 1 if known else sequence, 1), ("most", 1 if most is None else most, 1),
        ):  # fmt: skip
            if value is None or value < least:
                raise BadConfig.of(name, value, f"a whole number from {least}")
        if known and sequence is not None:
            raise BadConfig.of("context and sequence", f"{context} and {sequence}", "one of them")
        if channels > 1 and not channel_axis:
            raise BadConfig.of("channels", channels, "1 for a model without an axis of channels")
        self.samples, self.channels, self.context, self.sequence = samples, channels, context, sequence
        self._fixed, self._channel_axis = fixed, channel_axis
        self._most = max(BLOCK_SAMPLES // (samples * channels), 4 * (context or 0), 1) if most is None else most
        self.largest = (self._most + 2 * context if context is not None else sequence or 0) * samples * channels
        if self.largest > MOST_SAMPLES:
            raise BadConfig.of("samples of a block of windows", self.largest, f"at most {MOST_SAMPLES}")
        self._buffer = SampleBuffer(channels)
        self._next = 0  # window to be answered
        self._finished = False

    @classmethod
    def of(cls, manifest: Manifest, sequence: int | None = None) -> Self:
        """One for a model, as its manifest says.

        Args:
            manifest: of a model of windows.
            sequence: score sequences of this many windows, each for itself, whatever the model looks at; None: the model's
                context where it is known, else sequences as long as it takes or was trained on.

        Raises:
            BadConfig: the model is none of windows, takes another number, or nobody knows how long its sequences are.
        """
        windows, shape = manifest.windows, manifest.input.shape
        if windows is None or len(shape) not in (3, 4):
            raise BadConfig.of(f"model {manifest.name!r}", f"of task {manifest.task}", "one of windows, to score a signal")
        fixed = windows.count is not None
        if fixed and sequence not in (None, windows.count):
            raise BadConfig.of("sequence_windows", sequence, f"{windows.count}, the only number that {manifest.name!r} takes")
        context = windows.context if sequence is None and not fixed else None
        if context is None:
            sequence = sequence or windows.count or windows.trained_count
            if sequence is None:
                raise BadConfig.of(
                    "sequence_windows", "not given", f"how many windows to score at once: the manifest of {manifest.name!r} "
                    "knows neither how far a window looks nor how long the sequences were that it was trained on",
                )  # fmt: skip
        return cls(
            windows.samples, windows.channels, context=context, sequence=sequence if context is None else None, fixed=fixed,
            channel_axis=len(shape) == 4,
        )  # fmt: skip

    @property
    def windows(self) -> int:
        """Whole windows that came so far."""
        return self._buffer.stop // self.samples

    @property
    def answered(self) -> int:
        """Windows that blocks were given for."""
        return self._next

    @property
    def left_over(self) -> int:
        """Samples (of each channel) that no block answers for; once all blocks are taken after `finish`, those never scored."""
        return self._buffer.stop - self._next * self.samples

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._buffer.nbytes

    def push(self, chunk: NDArray[np.float32]) -> None:
        """Take float32 [sample] or [sample, channel] of any length; have all blocks taken before the next.

        Raises:
            BadData: another shape, or after `finish`.
        """
        wide = chunk[:, None] if chunk.ndim == 1 else chunk
        if wide.ndim != 2 or wide.shape[1] != self.channels:
            raise BadData.of("chunk", list(chunk.shape), f"[sample, {self.channels} channels]")
        if self._finished:
            raise BadData.of("chunk", "after the end", "none")
        self._buffer.append(wide)

    def finish(self) -> None:
        """The signal is at its end: `take` gives the rest."""
        self._finished = True

    def take(self) -> Block | None:
        """The next block that can be answered now; None when that needs more of the signal."""
        return self._sequence() if self.context is None else self._central(self.context)

    def _central(self, context: int) -> Block | None:
        whole = self.windows
        first = self._next
        count = min(self._most, (whole if self._finished else whole - context) - first)
        if count <= 0:
            return None
        start = max(0, first - context)
        block = Block(self._x(start, min(whole, first + count + context)), first, first - start, count)
        self._answer(count, context)
        return block

    def _sequence(self) -> Block | None:
        assert self.sequence is not None
        first, length = self._next, self.sequence
        count = min(length, self.windows - first)
        if count == 0 or (count < length and not self._finished):
            return None
        start = max(0, first + count - length) if self._fixed else first
        if self._fixed and start + length > self.windows:
            return None  # the recording is shorter than the graph takes
        block = Block(self._x(start, first + count), first, first - start, count)
        self._answer(count, length if self._fixed else 0)
        return block

    def _x(self, start: int, stop: int) -> NDArray[np.float32]:
        cut: NDArray[Any] = self._buffer.read(start * self.samples, stop * self.samples).reshape(
            stop - start, self.samples, self.channels
        )
        cut = cut.transpose(0, 2, 1) if self._channel_axis else cut[..., 0]
        return np.array(cut[None], np.float32, order="C")  # a copy: the buffer goes on

    def _answer(self, count: int, keep: int) -> None:
        """Go on to the next window, `keep` windows before it still being needed."""
        self._next += count
        self._buffer.discard((self._next - keep) * self.samples)
