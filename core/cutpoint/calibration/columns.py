"""Columns of arrays [row, label] as rows of their own."""

from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ROWS: Final = 2048  # at a time: with some dozens of labels they fit a core's cache


def turned(array: NDArray[Any], labels: slice, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """A copy [label, row] of some columns of an array [row, label].

    Some rows at a time, and through a contiguous copy: the rows of a wide array are a power of two apart, or nearly, so that
    columns read as they lie fall on the same few sets of the cache again and again, at four times the cost.
    """
    columns = np.empty((len(range(array.shape[1])[labels]), len(array)), dtype or array.dtype)
    for start in range(0, len(array), _ROWS):
        columns[:, start : start + _ROWS] = np.ascontiguousarray(array[start : start + _ROWS, labels]).T
    return columns
