"""Labelled data on disk: one .npz, or a folder of .npy that is memory-mapped.

Keys (file names without `.npy` in a folder); `x` and `y` are required for training, `x` alone for scoring:

    x            [row, feature]  or  [sequence, window, sample]  or  [sequence, window, channel, sample]; any real dtype
    x_data, x_indices, x_indptr, x_shape    in place of x: sparse [row, feature] in CSR form, made dense a batch at a time
    y            [row] or [row, label]  or  [sequence, window] or [sequence, window, label]; 0 or 1, and -1, 255 or NaN
                 for "not labelled": such an entry takes part in no loss, no rate and no threshold
    label_names  [label] text; default "0", "1", ...
    group        [row] integers or text; rows of one group never fall on both sides of a split
    time         [row] numbers; what a split by time orders by
    train, valid, test   row indices; what a split by given indices uses

A row is what is split and sampled: one example, or one whole sequence. Pickled arrays are refused (`allow_pickle=False`).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadData
from .arrays import load_array, read_arrays
from .sparse import Rows, SparseRows

UNLABELLED = 255
SPLITS = ("train", "valid", "test")
SPARSE_KEYS = ("x_data", "x_indices", "x_indptr", "x_shape")
KEYS = ("x", "y", "label_names", "group", "time", *SPLITS, *SPARSE_KEYS)


@dataclass(frozen=True)
class Dataset:
    """Rows with their labels.

    Attributes:
        path: where it was read from.
        x: features, [row, ...]; memory-mapped when read from a folder. Read by rows: it may be sparse, or larger than memory.
        y: uint8 [row, label] or [sequence, window, label]: 0, 1 or `UNLABELLED`; None where the file has no `y`.
        label_names: one name per label; empty where there is no `y`.
        group: [row] or None.
        time: float64 [row] or None.
        splits: int64 row indices by name, those of "train", "valid", "test" that the file gives.
    """

    path: Path
    x: Rows
    y: NDArray[np.uint8] | None = None
    label_names: tuple[str, ...] = ()
    group: NDArray[Any] | None = None
    time: NDArray[np.float64] | None = None
    splits: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    def rows_in(self, size_bytes: int) -> int:
        """How many rows of x fit into so many bytes as float32, at least 1."""
        return max(1, size_bytes // max(1, 4 * math.prod(self.x.shape[1:])))

    def batches(self, rows: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield (row indices, float32 x of those rows) in order, `size` rows at a time, read as they are needed."""
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            yield chosen, np.ascontiguousarray(self.x[chosen], dtype=np.float32)

    def check_finite(self, chunk_bytes: int = 64 << 20) -> None:
        """Raise BadData naming the first entry of `x` that is not finite in float32; reads `x` once, in chunks."""
        rows = max(1, chunk_bytes // max(1, self.x[:1].nbytes))
        for start in range(0, len(self), rows):
            chunk = np.asarray(self.x[start : start + rows])
            with np.errstate(over="ignore"):
                finite = np.isfinite(chunk.astype(np.float32, copy=False))
            if not finite.all():
                bad = np.unravel_index(np.argmin(finite), chunk.shape)
                where = (start + int(bad[0]), *(int(i) for i in bad[1:]))
                raise BadData.of(f"{self.path}: x{list(where)}", chunk[bad].item(), "a finite number, as float32")

    def digest(self) -> str:
        """SHA-256 of shapes, dtypes and bytes of `x` and `y`, in hex: the same data give the same digest anywhere."""
        total = hashlib.sha256()
        x = (
            (self.x.data, self.x.indices, self.x.indptr, np.array(self.x.shape))
            if isinstance(self.x, SparseRows)
            else (self.x,)
        )
        for array in (*x, self.y):
            if array is not None:
                total.update(f"{array.dtype.str}{array.shape}".encode())
                step = max(1, (1 << 20) // max(1, array[:1].nbytes))
                for start in range(0, len(array), step):
                    total.update(np.ascontiguousarray(array[start : start + step]).tobytes())
        return total.hexdigest()


def read_dataset(path: str | Path) -> Dataset:
    """Read a .npz file or a folder of .npy files.

    Raises:
        BadData: no such file, not an .npz, a pickled array, an unknown key, mismatched lengths, labels other than 0, 1
            and the marks for "not labelled"; the message names the file, the key and what was expected.
    """
    path = Path(path)
    arrays = read_arrays(path)
    x = _sparse(path, arrays) if set(arrays) & set(SPARSE_KEYS) else _dense(path, arrays)
    unknown = sorted(set(arrays) - set(KEYS))
    if unknown:
        raise BadData.of(f"{path}: keys", unknown, f"only {list(KEYS)}")
    y = _labels(path, x, arrays["y"]) if "y" in arrays else None
    names = tuple(str(name) for name in np.atleast_1d(arrays["label_names"])) if "label_names" in arrays else ()
    if y is not None:
        names = names or tuple(str(i) for i in range(y.shape[-1]))
        if len(names) != y.shape[-1] or len(set(names)) != len(names):
            raise BadData.of(f"{path}: label_names", list(names), f"{y.shape[-1]} different names, one per label")
    for key in ("group", "time"):
        if key in arrays and arrays[key].shape != (len(x),):
            raise BadData.of(f"{path}: {key}", list(arrays[key].shape), f"shape [{len(x)}], one entry per row of x")
    if "time" in arrays and arrays["time"].dtype.kind not in "iufM":
        raise BadData.of(f"{path}: time", str(arrays["time"].dtype), "numbers")
    time = arrays["time"].astype(np.float64) if "time" in arrays else None
    if time is not None and not np.isfinite(time).all():
        raise BadData.of(f"{path}: time", "NaN or infinite somewhere", "finite numbers")
    splits = {key: row_indices(f"{path}: {key}", arrays[key], len(x)) for key in SPLITS if key in arrays}
    return Dataset(path, x, y, names, arrays.get("group"), time, splits)


def row_indices(name: str, rows: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Check that `rows` are different indices of `count` rows and return them as int64 [n]; BadData otherwise."""
    rows = np.asarray(rows)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise BadData.of(name, f"{rows.dtype} {list(rows.shape)}", "a list of row indices")
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise BadData.of(name, f"indices {rows.min()} to {rows.max()}", f"indices from 0 to {count - 1}")
    if len(np.unique(rows)) != len(rows):
        raise BadData.of(name, "the same row twice", "each row at most once")
    return rows.astype(np.int64)


def _dense(path: Path, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if "x" not in arrays:
        raise BadData.of(f"{path}: keys", sorted(arrays), f"at least 'x', among {list(KEYS)}")
    x = arrays["x"]
    if x.ndim < 2 or not np.issubdtype(x.dtype, np.number) or np.issubdtype(x.dtype, np.complexfloating):
        raise BadData.of(f"{path}: x", f"{x.dtype} {list(x.shape)}", "real numbers of 2 or more dimensions, rows first")
    if len(x) == 0:
        raise BadData.of(f"{path}: x", list(x.shape), "at least one row")
    return x


def _sparse(path: Path, arrays: Mapping[str, NDArray[Any]]) -> SparseRows:
    given = [key for key in ("x", *SPARSE_KEYS) if key in arrays]
    if given != list(SPARSE_KEYS):
        raise BadData.of(f"{path}: keys", given, f"either 'x' or all of {list(SPARSE_KEYS)}")
    data, indices, indptr, shape = (arrays[key] for key in SPARSE_KEYS)
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise BadData.of(f"{path}: x_shape", f"{shape.dtype} {list(shape.shape)}", "two integers: rows and features")
    return SparseRows(data, indices, indptr, (int(shape[0]), int(shape[1])), f"{path}: x")


def _labels(path: Path, x: Rows, y: NDArray[Any]) -> NDArray[np.uint8]:
    # [sequence, window] and [row, label] look alike: two dimensions are windows only where x has as many windows.
    if y.ndim == 1 or (y.ndim == 2 and x.ndim >= 3 and y.shape == x.shape[:2]):
        y = y[..., None]
    if not 2 <= y.ndim <= (2 if x.ndim == 2 else 3) or y.shape[:-1] != x.shape[: y.ndim - 1] or y.shape[-1] == 0:
        wanted = f"[{len(x)}, label]" if x.ndim < 3 else f"[{len(x)}, label] or [{len(x)}, {x.shape[1]}, label]"
        raise BadData.of(f"{path}: y", list(y.shape), f"shape {wanted} to fit x {list(x.shape)}")
    return target_codes(f"{path}: y", y)


def target_codes(name: str, y: NDArray[Any]) -> NDArray[np.uint8]:
    """Labels as they are given to labels as they are used, uint8 of the same shape: 0, 1 and `UNLABELLED`.

    Raises:
        BadData: an entry is none of 0, 1, -1, 255 and NaN; the message names `name` and the entry.
    """
    if y.dtype.kind not in "biuf":
        raise BadData.of(name, str(y.dtype), "numbers 0 and 1, and -1, 255 or NaN for not labelled")
    codes = np.full(y.shape, UNLABELLED, np.uint8)
    codes[y == 0] = 0
    codes[y == 1] = 1
    known = (codes != UNLABELLED) | (y == -1) | (y == UNLABELLED) | np.isnan(y.astype(np.float64))
    if not known.all():
        where = tuple(int(i) for i in np.unravel_index(np.argmin(known), known.shape))
        raise BadData.of(f"{name}{list(where)}", y[where].item(), "0, 1, or -1, 255 or NaN for not labelled")
    return codes


def read_row_indices(path: Path, count: int) -> NDArray[np.int64]:
    """Row indices of `count` rows from a .npy file; BadData where it holds none."""
    return row_indices(str(path), load_array(path), count)
