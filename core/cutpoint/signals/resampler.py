"""A signal at another rate than a model's, resampled as it comes."""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ..errors import BadConfig, BadData
from .buffer import SampleBuffer

MOST_FACTOR = 1000  # either way: the filter has 20 taps for each, at the higher rate
EXACT = 1e-9  # of the rate: a recording of 10^9 samples is then off by one sample at most
_TAPS, _BETA = 10, 5.0  # half-length in samples of the lower rate, and the Kaiser window: as in scipy


class Resampler:
    """Samples at `rate_hz` to samples at `wanted_hz`, by a polyphase filter (Kaiser window, linear phase, no delay).

    What comes out over all chunks is `first + scipy.signal.resample_poly(recording - first, up, down, padtype="edge")`,
    whatever the chunks: ceil(samples * up / down) samples, the recording being continued by its first and its last value. The
    first sample is taken off meanwhile since the filter lets 0.02 % of an offset through as a ripple. A sample comes out once
    all that it depends on is in, 10 samples of the lower rate later.

    Attributes:
        up, down: the ratio of the rates in lowest terms.
    """

    def __init__(self, rate_hz: float, wanted_hz: float, channels: int = 1) -> None:
        """Nothing came yet.

        Raises:
            BadConfig: a rate is no number above 0, or their ratio is not one of two whole numbers up to 1000.
        """
        for name, rate in (("rate_hz", rate_hz), ("wanted_hz", wanted_hz)):
            if not (math.isfinite(rate) and rate > 0):
                raise BadConfig.of(name, rate, "a rate above 0 in Hz")
        ratio = (Fraction(wanted_hz) / Fraction(rate_hz)).limit_denominator(MOST_FACTOR)
        if ratio == 0 or ratio > MOST_FACTOR or abs(ratio * Fraction(rate_hz) / Fraction(wanted_hz) - 1) > EXACT:
            raise BadConfig.of(
                "rate_hz", rate_hz, f"a rate whose ratio to {wanted_hz:g} Hz is one of whole numbers up to {MOST_FACTOR}"
            )
        self.up, self.down = ratio.numerator, ratio.denominator
        self._channels = channels
        larger = max(self.up, self.down)
        self._half = 0 if larger == 1 else _TAPS * larger  # taps either way, at the rate `up` times that of the input
        # Zeros before, so that an output falls on a multiple of `down`.
        self._zeros = -self._half % self.down
        if larger > 1:
            from scipy.signal import firwin, upfirdn  # takes half a second to import, and most signals need none of it

            self._filtered = upfirdn
            taps = firwin(2 * self._half + 1, 1 / larger, window=("kaiser", _BETA)).astype(np.float32) * np.float32(self.up)
            self._taps = np.concatenate((np.zeros(self._zeros, np.float32), taps))
        self._buffer: SampleBuffer | None = None
        self._first = self._last = np.zeros((1, channels), np.float32)
        self._taken = 0  # samples in
        self._given = 0  # samples out
        self._finished = False

    def push(self, chunk: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take float32 [sample, channel] of any length, and give the samples that are known now, likewise.

        What is held between calls is about 20 samples of the lower rate; within a call, `up` / `down` times the chunk.
        """
        if chunk.ndim != 2 or chunk.shape[1] != self._channels:
            raise BadData.of("chunk", list(chunk.shape), f"[sample, {self._channels} channels]")
        if self._finished:
            raise BadData.of("chunk", "after the end", "none")
        if self.up == self.down or not len(chunk):
            return chunk
        if self._buffer is None:
            self._buffer, self._first = self._begun(), chunk[:1].copy()
        self._buffer.append(chunk - self._first)
        self._last = chunk[-1:] - self._first
        self._taken += len(chunk)
        # Output m lies at m * down of the upsampled signal and reaches `half` further, so to input (m * down + half) // up.
        return self._outputs((self._taken * self.up - 1 - self._half) // self.down + 1)

    def finish(self) -> NDArray[np.float32]:
        """The samples that are left, [sample, channel]; nothing can be pushed afterwards."""
        self._finished = True
        if self._buffer is None:
            return np.empty((0, self._channels), np.float32)
        self._buffer.append(np.repeat(self._last, self._half // self.up + self.down + 1, axis=0))
        return self._outputs(-(-self._taken * self.up // self.down))

    def _begun(self) -> SampleBuffer:
        """A buffer that begins as far back as the first output looks, on a multiple of `down`."""
        before = -(-(self._half // self.up + 1) // self.down) * self.down
        buffer = SampleBuffer(self._channels, -before)
        buffer.append(np.zeros((before, self._channels), np.float32))  # the first sample, once it is taken off
        return buffer

    def _outputs(self, stop: int) -> NDArray[np.float32]:
        """Outputs from the last one given to `stop`."""
        assert self._buffer is not None
        first, stop = self._given, max(stop, self._given)
        if stop > first:
            held = self._buffer
            filtered = self._filtered(self._taps, held.read(held.start, held.stop), self.up, self.down, axis=0)
            at = (self._half + self._zeros - held.start * self.up) // self.down  # of output 0, `start` being a multiple
            found = np.ascontiguousarray(filtered[at + first : at + stop] + self._first)
            self._given = stop
        else:
            found = np.empty((0, self._channels), np.float32)
        oldest = -((self._half - self._given * self.down) // self.up)  # ceil of the first input that the next output needs
        self._buffer.discard(oldest // self.down * self.down)
        return found
