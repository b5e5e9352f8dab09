"""Positives by label: each request's are summed while its decisions are near, and these sums, a byte each, many at a time.

What takes time is memory that is not near. Decisions of 64 rows and 512 labels are 32 KiB, and kept until many can be summed they
would be fetched twice; their sums are 512 bytes.
"""

import numpy as np
from numpy.typing import NDArray

# Rows that can be counted in a byte, and bytes of such sums that are added up together.
_BYTE, _BLOCK = 128, 1 << 16

# Sums in bytes, of up to so many rows each; or one sum of any number of rows.
Found = NDArray[np.uint8] | NDArray[np.uint32]


class Positives:
    """Positives of decisions, kept until somebody sums them. Not locked, but for `of`.

    Attributes:
        much: how many pieces of them there are to be summed, each as large as it gets.
    """

    def __init__(self, labels: int) -> None:
        """No decisions yet, of so many labels."""
        self._labels = max(1, labels)
        self._block = memoryview(bytearray(self._labels * max(1, _BLOCK // self._labels)))
        self._used = 0
        self._pieces: list[Found] = []

    @property
    def much(self) -> int:
        """How many pieces of them there are to be summed, each as large as it gets."""
        return len(self._pieces)

    def of(self, decisions: NDArray[np.bool_]) -> Found:
        """Positives among these, [..., label], by label: [label], in bytes where they fit; from any thread."""
        rows = decisions.view(np.uint8).reshape(-1, self._labels)
        count = len(rows)
        if count == 1:
            return rows[0]
        if count <= _BYTE:
            return np.add.reduce(rows, axis=0, dtype=np.uint8)
        whole = count // _BYTE * _BYTE
        parts = np.add.reduce(rows[:whole].reshape(-1, _BYTE, self._labels), axis=1, dtype=np.uint8)  # ten times as fast
        found: NDArray[np.uint32] = np.add.reduce(parts, axis=0, dtype=np.uint32)
        return found + np.add.reduce(rows[whole:], axis=0, dtype=np.uint8)

    def add(self, found: Found) -> None:
        """Keep what `of` found; bytes are copied."""
        if found.itemsize > 1:
            self._pieces.append(found[None])
            return
        end = self._used + self._labels
        self._block[self._used : end] = found.data
        self._used = end
        if end == len(self._block):
            self._put_away()

    def take(self, *, whole: bool) -> list[Found]:
        """What is to be given to `summed`: pieces, or all there is."""
        if whole and self._used:
            self._put_away()
        taken, self._pieces = self._pieces, []
        return taken

    def summed(self, pieces: list[Found]) -> NDArray[np.uint32]:
        """Positives in these pieces, [label]; from any thread."""
        found = np.zeros(self._labels, np.uint32)
        for piece in pieces:
            found += np.add.reduce(piece, axis=0, dtype=np.uint32)
        return found

    def _put_away(self) -> None:
        self._pieces.append(np.frombuffer(bytes(self._block[: self._used]), np.uint8).reshape(-1, self._labels))
        self._used = 0
