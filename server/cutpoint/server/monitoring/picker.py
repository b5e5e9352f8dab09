"""Which rows of a stream are looked at: each with the same chance; the rest cost next to nothing."""

import random
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .allowance import Allowance

Which = slice | NDArray[np.intp]


class Picker:
    """Draws rows with a chance of one in k, k following what an allowance gives: all of them while that is enough.

    Of rows that come together one in each k is drawn: those beside each other are often alike, and say less together. Not
    every k-th: callers with so many sensors have rows that come again and again at the same distance.
    """

    def __init__(
        self, per_s: float, saved: float, clock: Callable[[], float] = time.monotonic, seed: int | None = None
    ) -> None:
        """Numbers that may be looked at in a second of `clock`, and at once; `seed` of the draws."""
        self.allowance = Allowance(per_s, saved, clock)
        self._random, self._many = random.Random(seed).random, np.random.default_rng(seed).random
        self._lock = threading.Lock()
        self._stride = 1

    def pick(self, rows: int, numbers: float) -> tuple[Which, int] | None:
        """Which of the next rows to look at, and for how many rows each of them stands; None for none.

        Args:
            rows: how many there are, 1 or more.
            numbers: of a row, times what each costs.
        """
        stride = self._stride
        if rows <= stride:
            first = int(self._random() * stride)
            if first >= rows:
                return None
            which: Which = slice(first, first + 1)
            count = 1
        with self._lock:
            if rows > stride:  # of very many it is more than it was
                stride = max(stride, self.allowance.stride(rows * numbers))
                which, count = self._one_in_each(stride, rows)
                if not count:
                    return None
            self.allowance.take(count * numbers)
            self._stride = self.allowance.stride(numbers)
        return which, stride

    def _one_in_each(self, stride: int, rows: int) -> tuple[Which, int]:
        """One row of each `stride`, and how many they are; of the last ones, which are fewer, one or none."""
        if stride == 1:
            return slice(None), rows
        begins = np.arange(0, rows, stride)
        drawn = begins + (self._many(len(begins)) * stride).astype(np.intp)
        if drawn[-1] >= rows:
            drawn = drawn[:-1]
        return drawn, len(drawn)
