"""Positives by label: decisions are put one after the other into a block of memory, which is summed when it is full.

So a request costs a copy of its decisions, a byte each, into memory that is used again and again; and the sums, which let go of
the interpreter and wait to have it back at each call of numpy, are made of some thousand rows.
"""

import numpy as np
from numpy.typing import NDArray

# Bytes of a block, rows that can be counted in a byte, and numbers of a row from which on adding row to row is quick.
_BLOCK, _BYTE, _WIDE = 1 << 20, 128, 512


class Positives:
    """Decisions that are not summed yet. Not locked: see each method for what may happen at once.

    Attributes:
        full: how many blocks are full.
    """

    def __init__(self, labels: int) -> None:
        """No decisions yet, of so many labels."""
        self._labels = labels = max(1, labels)
        self._side_by_side = max(1, _WIDE // labels)  # rows of few labels are summed many at once
        self._width = labels * self._side_by_side
        self._byte = max(1, min(_BYTE, _BLOCK // self._width))
        self._size = self._byte * self._width * max(1, _BLOCK // (self._byte * self._width))
        self._blocks: list[tuple[bytearray, int]] = []  # full ones, and how much of them is used
        self._spare: bytearray | None = None
        self._begin()

    @property
    def full(self) -> int:
        """How many blocks are full."""
        return len(self._blocks)

    def add(self, decisions: NDArray[np.bool_]) -> None:
        """Have these, [..., label], summed; they are copied. One thread at a time, and none in `take`."""
        data = decisions.data.cast("B") if decisions.flags.c_contiguous else memoryview(decisions.tobytes())
        end = self._used + len(data)
        while end > self._size:
            room = self._size - self._used
            self._view[self._used :] = data[:room]
            self._put_away(self._size)
            data, end = data[room:], len(data) - room
        self._view[self._used : end] = data
        self._used = end

    def take(self, *, whole: bool) -> list[tuple[bytearray, int]]:
        """Blocks to be given to `sum`: the full ones, or all there is. One thread at a time, and none in `add`."""
        if whole and self._used:
            self._put_away(self._used)
        taken, self._blocks = self._blocks, []
        return taken

    def sum(self, blocks: list[tuple[bytearray, int]]) -> NDArray[np.uint32]:
        """Positives in these blocks, [label]; one thread at a time, beside others in `add`."""
        found = np.zeros(self._width, np.uint32)
        for block, used in blocks:
            part = self._byte * self._width
            end = -(-used // part) * part
            block[used:end] = bytes(end - used)  # of another time
            rows = np.frombuffer(block, np.uint8, end).reshape(-1, self._byte, self._width)
            parts = np.add.reduce(rows, axis=1, dtype=np.uint8)  # in bytes it is ten times as fast
            found += np.add.reduce(parts, axis=0, dtype=np.uint32)
            self._spare = block
        return np.add.reduce(found.reshape(self._side_by_side, self._labels), axis=0, dtype=np.uint32)

    def _put_away(self, used: int) -> None:
        self._blocks.append((self._block, used))
        self._begin()

    def _begin(self) -> None:
        spare, self._spare = self._spare, None
        self._block = bytearray(self._size) if spare is None else spare
        self._view, self._used = memoryview(self._block), 0
