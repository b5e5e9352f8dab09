"""A queue of samples: appended at one end, read by position, forgotten at the other."""

import numpy as np
from numpy.typing import NDArray

_LEAST = 1024  # samples of room


class SampleBuffer:
    """Float32 [sample, channel] from position `start` to `stop` of a signal; what is before `start` is forgotten.

    Samples are moved only when there is no room behind them, so that appending them one by one costs no more than all at once.
    The room is at most four times what is held, or 1024 samples.
    """

    def __init__(self, channels: int, start: int = 0) -> None:
        """An empty one, whose first sample will be that of position `start`, which may be below 0."""
        self._room = np.empty((_LEAST, channels), np.float32)
        self._offset = 0  # of `start` in the room
        self.start = self.stop = start

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def nbytes(self) -> int:
        """Of the room."""
        return self._room.nbytes

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add [sample, channel] at the end."""
        held, more = len(self), len(samples)
        if self._offset + held + more > len(self._room):
            self._move(max(_LEAST, 2 * (held + more)))
        at = self._offset + held
        self._room[at : at + more] = samples
        self.stop += more

    def discard(self, before: int) -> None:
        """Forget what is before position `before`, at most `stop`."""
        ahead = max(0, min(before, self.stop) - self.start)
        self.start += ahead
        self._offset += ahead
        if len(self._room) > max(_LEAST, 4 * len(self)):
            self._move(max(_LEAST, 2 * len(self)))

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """A view of the samples from position `start` to `stop`, good until the next change."""
        if not self.start <= start <= stop <= self.stop:
            raise IndexError(f"samples {start} to {stop} of a buffer that holds {self.start} to {self.stop}")
        at = self._offset + start - self.start
        return self._room[at : at + stop - start]

    def _move(self, room: int) -> None:
        held = self.read(self.start, self.stop)
        moved = np.empty((room, self._room.shape[1]), np.float32)
        moved[: len(held)] = held
        self._room, self._offset = moved, 0
