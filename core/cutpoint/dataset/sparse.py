"""Sparse features: rows in compressed form (CSR) that are indexed like an array and come out dense."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData


class SparseRows:
    """Rows in CSR form: row i has the values `data[a:b]` in the columns `indices[a:b]`, where a, b = `indptr[i:i+2]`.

    Indexing takes what the first axis of an array takes (a number, a slice, numbers, a mask) and gives dense float32
    [..., feature]; only what was asked for is read and made dense, so that memory stays at the batch. Entries that name a
    column twice are added, as in scipy.

    Args:
        data: [entry] real numbers; may be memory-mapped.
        indices: [entry] columns from 0; may be memory-mapped, and are checked as they are read.
        indptr: [row + 1] where each row begins in the two, from 0 up to their length.
        shape: (rows, features).
        name: for messages.

    Raises:
        BadData: they do not fit together; the message names the array. Also raised by indexing, for a column out of range.
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(
        self, data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: tuple[int, int], name: str = "x"
    ) -> None:
        self.data, self.indices, self.shape, self.name = data, indices, shape, name
        rows, features = shape
        if rows < 1 or features < 1:
            raise BadData.of(f"{name}_shape", list(shape), "at least one row and one feature")
        if data.ndim != 1 or data.dtype.kind not in "iuf":
            raise BadData.of(f"{name}_data", f"{data.dtype} {list(data.shape)}", "real numbers, [entry]")
        if indices.shape != data.shape or indices.dtype.kind not in "iu":
            raise BadData.of(
                f"{name}_indices", f"{indices.dtype} {list(indices.shape)}", f"{len(data)} integers, as many as data"
            )
        if indptr.shape != (rows + 1,) or indptr.dtype.kind not in "iu":
            raise BadData.of(
                f"{name}_indptr", f"{indptr.dtype} {list(indptr.shape)}", f"{rows + 1} integers, one more than rows"
            )
        self.indptr = np.asarray(indptr, np.int64)
        if self.indptr[0] != 0 or self.indptr[-1] != len(data):
            raise BadData.of(f"{name}_indptr", f"from {self.indptr[0]} to {self.indptr[-1]}", f"from 0 to {len(data)}")
        falls = np.flatnonzero(np.diff(self.indptr) < 0)
        if len(falls):
            at = int(falls[0])
            raise BadData.of(
                f"{name}_indptr[{at + 1}]", int(self.indptr[at + 1]), f"no less than the {self.indptr[at]} before it"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[np.float32]:
        starts, stops = self.indptr[:-1][rows], self.indptr[1:][rows]
        lengths = np.ravel(stops - starts)
        before = np.cumsum(lengths) - lengths
        entries = np.repeat(np.ravel(starts) - before, lengths) + np.arange(lengths.sum())
        columns = self.indices[entries]
        outside = (columns < 0) | (columns >= self.shape[1])
        if outside.any():
            at = int(np.argmax(outside))
            raise BadData.of(f"{self.name}_indices[{entries[at]}]", int(columns[at]), f"a column from 0 to {self.shape[1] - 1}")
        dense = np.zeros((len(lengths), self.shape[1]), np.float32)
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused as such
            np.add.at(dense, (np.repeat(np.arange(len(lengths)), lengths), columns), self.data[entries].astype(np.float32))
        return dense.reshape(*np.shape(starts), self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("sparse rows are copied to be made dense")
        return self[:].astype(dtype or np.float32, copy=False)


Rows = NDArray[Any] | SparseRows


def as_rows(x: Any) -> Rows:
    """Sparse rows as they are, anything else as an array."""
    return x if isinstance(x, SparseRows) else np.asarray(x)
