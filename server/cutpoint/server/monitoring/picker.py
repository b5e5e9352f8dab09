"""Which rows of a stream are looked at: each with the same chance, whatever the others; the rest cost next to nothing."""

import math
import random
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .allowance import Allowance

Which = slice | NDArray[np.intp]
_ALL = slice(None)


class Picker:
    """Draws rows with a chance of one in k, k following what an allowance gives: all of them while that is enough.

    The gap to the next row that is drawn is known (it is geometric), so that rows before it cost a subtraction. Not every k-th
    row, or a number that rows share: callers with so many sensors have rows that come again and again at the same distance.

    Attributes:
        gap: rows before the next one that is drawn.
    """

    def __init__(
        self, per_s: float, saved: float, clock: Callable[[], float] = time.monotonic, seed: int | None = None
    ) -> None:
        """Numbers that may be looked at in a second of `clock`, and at once; `seed` of the draws."""
        self.allowance = Allowance(per_s, saved, clock)
        self._random, self._numpy_random = random.Random(seed), np.random.default_rng(seed)
        self._lock = threading.Lock()
        self._stride, self.gap = 1, 0

    def pick(self, rows: int, numbers: float) -> tuple[Which, int] | None:
        """Which of the next rows to look at, and for how many rows each of them stands; None for none.

        Args:
            rows: how many there are.
            numbers: of a row, times what each costs.
        """
        with self._lock:
            if self.gap >= rows:
                self.gap -= rows
                return None
            stride = self._stride
            # Of very many rows it is more than it was; of few it would be none of them.
            most = self.allowance.stride(rows * numbers) if rows > stride else stride
            if most > stride and rows > most:
                # The row that was drawn already stays with a chance that makes its own the same as that of those after it.
                stays = self._random.random() * most < stride
                after = self.gap + 1 + np.flatnonzero(self._numpy_random.random(rows - self.gap - 1) * most < 1)
                drawn, stride = np.append(self.gap, after) if stays else after, most
            elif stride == 1:
                self.allowance.take(rows * numbers)
                self._next(numbers)
                return _ALL, 1
            elif rows - self.gap > 8 * stride:
                after = self.gap + 1 + np.flatnonzero(self._numpy_random.random(rows - self.gap - 1) * stride < 1)
                drawn = np.append(self.gap, after)
            else:
                places = []
                while self.gap < rows:
                    places.append(self.gap)
                    self.gap += 1 + self._drawn_gap(stride)
                drawn = np.array(places, np.intp)
            self.allowance.take(len(drawn) * numbers)
            self._next(numbers)
            if len(drawn) == 1:
                return slice(int(drawn[0]), int(drawn[0]) + 1), stride
            return (drawn, stride) if len(drawn) else None

    def _next(self, numbers: float) -> None:
        """The gap from here on, which those that were drawn before do not bear on."""
        self._stride = self.allowance.stride(numbers)
        self.gap = self._drawn_gap(self._stride)

    def _drawn_gap(self, stride: int) -> int:
        """How many rows there are before the next one: each of them is drawn with a chance of one in `stride`."""
        if stride == 1:
            return 0
        return int(math.log(1.0 - self._random.random()) / math.log1p(-1.0 / stride))
