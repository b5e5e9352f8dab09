"""Numbers of a caller, from whatever holds them: numpy, sparse rows, torch, pandas, or anything that numpy reads.

Nothing of torch or pandas is imported: what an object is, its own methods say. A tensor in memory that the processor sees is
viewed, and so is a frame whose columns are one block; neither is copied here.
"""

from typing import Any

import numpy as np
from cutpoint.dataset import SparseRows
from cutpoint.errors import BadInput
from numpy.typing import NDArray

_CPU = 1  # of DLPack's device types


def rows_of(name: str, x: Any) -> SparseRows | NDArray[Any]:
    """The rows in `x`: sparse rows as they are, anything else as an array, a view where that can be.

    Raises:
        BadInput: a tensor that is not in the processor's memory or not dense; a frame with a column that is not numbers or has
            missing values; what numpy cannot read.
    """
    if isinstance(x, SparseRows | np.ndarray):
        return x
    if hasattr(x, "dtypes") and hasattr(x, "columns") and hasattr(x, "to_numpy"):
        return _frame(name, x)
    if hasattr(x, "__dlpack_device__"):
        return _tensor(name, x)
    return _read(name, x)


def array_of(name: str, x: Any) -> NDArray[Any]:
    """As `rows_of`, for what belongs to rows and is never sparse: targets, weights, groups."""
    rows = rows_of(name, x)
    return rows[:] if isinstance(rows, SparseRows) else rows


def _tensor(name: str, x: Any) -> NDArray[Any]:
    """A torch tensor, or another library's array that says where it lies."""
    if getattr(x, "layout", None) is not None and not str(x.layout).endswith("strided"):
        raise BadInput.of(name, f"a tensor of layout {x.layout}", "a dense one: call to_dense()")
    device = getattr(x, "device", "another device")
    where = getattr(device, "type", None) or ("cpu" if x.__dlpack_device__()[0] == _CPU else str(device))
    if where != "cpu":
        raise BadInput.of(name, f"on {device}", "a tensor in the processor's memory: call cpu()")
    if getattr(x, "requires_grad", False):
        x = x.detach()
    if str(getattr(x, "dtype", "")) == "torch.bfloat16":  # numpy has no such type, and every value of it is a float32
        x = x.float()
    return _read(name, x)


def _frame(name: str, frame: Any) -> NDArray[Any]:
    """A pandas frame, whose columns are features; one array of the columns' common type."""
    numeric = True
    for column, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if getattr(dtype, "kind", "O") not in "biuf":
            raise BadInput.of(f"column {column!r} of {name}", f"of type {dtype}", "numbers")
        numeric = numeric and isinstance(dtype, np.dtype)
    missing = frame.isna().to_numpy()
    if missing.any():
        row, i = np.argwhere(missing)[0]
        count = int(missing[:, i].sum())
        found = f"missing in {count} row{'s' if count > 1 else ''}, the first at position {row}"
        raise BadInput.of(f"column {frame.columns[i]!r} of {name}", found, "a number in every row")
    # Types of pandas' own, Int64 say, would become an array of objects.
    return np.asarray(frame.to_numpy() if numeric else frame.to_numpy(dtype=np.float64))


def _read(name: str, x: Any) -> NDArray[Any]:
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, arrays of other devices
        raise BadInput.of(name, type(x).__name__, f"what numpy can read: {error}") from error
