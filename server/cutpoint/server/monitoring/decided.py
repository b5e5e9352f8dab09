"""How many decisions were made and how many were positive, by label: exact, and for next to nothing.

Beside a request of a hundred microseconds a call of numpy is not the one that a loop measures: its code and its memory have
left the caches since the request before, and it takes several times as long. So a few rows are held as they are, and
counted when there are many. Many rows are counted while they are near, since fetching them again takes longer than counting.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..policy.policies import Active

# Counters: those of `Active.per_decision`, and which of them is which.
_COUNTERS = 8
POSITIVES, EXPECTED, ERROR, RECALL, FALSE_POSITIVES = 1, 2, 4, 5, 6

# Decisions that are many: summed at once. What fits in a byte, and the rows that are added up side by side.
MANY = 1 << 14
BYTE, _SIDE = 255, 8

# Who decided; and decisions, [..., label], and 0; or how many rows there were, and the sums of some at a time, in bytes.
Held = tuple[Active, int, NDArray[Any]]


class Decided:
    """Counters of decisions, [counter, label], each decision counted by the policy that made it. Not locked.

    Attributes:
        word: as which bytes are summed: no sum is more than a byte holds.
    """

    def __init__(self, labels: int) -> None:
        """Nothing has been decided of these labels."""
        self._labels = labels
        self.word: type[np.uint64] | type[np.uint8] = np.uint8 if labels % 8 else np.uint64
        self._values = np.zeros((_COUNTERS, labels))
        # Of the policy that decided last, and not yet in `_values`.
        self._active: Active | None = None
        self._decisions, self._positives = 0, np.zeros(labels, np.int64)

    def summed(self, decisions: NDArray[np.bool_], rows: int) -> NDArray[Any]:
        """Sums over many decisions, bool [..., label], C-contiguous, of so many rows: [part, label], labels as bytes of words.

        Every part is of 255 rows at most; they are held so until they are counted.
        """
        words = decisions.view(self.word).reshape(rows, -1)
        return np.stack([np.add.reduce(words[at : at + BYTE], 0, self.word) for at in range(0, rows, BYTE)])

    def count(self, held: Sequence[Held]) -> None:
        """Count what was held."""
        for _, group in itertools.groupby(held, key=lambda each: id(each[0])):
            same = list(group)
            if same[0][0] is not self._active:
                self._settle()
                self._active = same[0][0]
            few = b"".join([np.ascontiguousarray(each).data for _, rows, each in same if not rows])
            many = b"".join([each.data for _, rows, each in same if rows])
            self._decisions += len(few) // self._labels + sum(rows for _, rows, _ in same)
            self._sum(few, 1)
            self._sum(many, BYTE)

    def read(self) -> NDArray[np.float64]:
        """Counters up to now, [counter, label]."""
        self._settle()
        return self._values.copy()

    def _settle(self) -> None:
        """Have all that was counted in the counters."""
        if self._active is not None:
            self._values += self._active.per_decision * self._decisions
            self._values[POSITIVES] += self._positives
        self._decisions, self._positives = 0, np.zeros(self._labels, np.int64)

    def _sum(self, data: bytes, most: int) -> None:
        """Count positives in rows one after the other: numbers up to `most`."""
        rows = np.frombuffer(data, np.uint8).reshape(-1, self._labels)
        step = _SIDE * (BYTE // most)
        for at in range(0, len(rows), step):
            some = rows[at : at + step]
            # A few long sums in bytes, and then eight rows: numpy's time is in how many sums there are.
            side = some[: len(some) // _SIDE * _SIDE].reshape(-1, _SIDE * self._labels)
            if len(side) > 1:
                added = np.add.reduce(side, axis=0, dtype=np.uint8).reshape(_SIDE, self._labels)
                self._positives += np.add.reduce(added, axis=0, dtype=np.uint32)
                some = some[_SIDE * len(side) :]
            if len(some):
                self._positives += np.add.reduce(some, axis=0, dtype=np.uint32)
