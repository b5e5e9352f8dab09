"""The best classes of each row, as Triton answers the `classification` parameter of an output."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from cutpoint.errors import BadRequest
from cutpoint.wire import datatype_of
from numpy.typing import NDArray


def classify(array: NDArray[Any], k: int, labels: Sequence[str] = (), *, batched: bool = True) -> NDArray[np.object_]:
    """The `k` highest elements of each row, highest first, each as `score:index` or `score:index:label` in UTF-8.

    Scores are written as C's `%f` and integers as they are. Of equal ones the lower index is first; NaN is last.

    Args:
        array: [batch, ...] of integers or floats; a row is everything behind the batch, flattened, and `index` counts in it.
        k: how many; a row with fewer gives all it has.
        labels: names along the last axis; where the last axis has another size, none are written.
        batched: the first axis is the batch; without it the whole array is one row and the result is [k].

    Returns:
        bytes [batch, min(k, row)].

    Raises:
        BadRequest: `k` is below 1, or the elements have no order (BOOL, BYTES).
    """
    if k < 1:
        raise BadRequest.of("classification", str(k), "1 or more classes")
    if array.dtype.kind not in "iuf":
        raise BadRequest(f"class result not available for output due to unsupported type '{datatype_of(array.dtype)}'")
    width = int(np.prod(array.shape[1:] if batched else array.shape))
    rows = array.reshape(array.shape[0] if batched else 1, width)
    ranked = np.where(np.isnan(rows), -np.inf, rows) if rows.dtype.kind == "f" else rows
    # A stable sort of the reversed row, read backwards: descending, and equal ones in their order.
    order = (width - 1 - np.argsort(ranked[:, ::-1], axis=1, kind="stable"))[:, ::-1][:, :k]
    names = list(labels) if array.ndim and array.shape[-1] == len(labels) else []
    form = "%f:%d" if rows.dtype.kind == "f" else "%d:%d"
    scores = np.take_along_axis(rows, order, axis=1).tolist()
    result = np.empty(order.shape, np.object_)
    for i, (best, at) in enumerate(zip(scores, order.tolist(), strict=True)):
        texts = [form % pair for pair in zip(best, at, strict=True)]
        if names:
            texts = [f"{text}:{names[index % len(names)]}" for text, index in zip(texts, at, strict=True)]
        result[i] = [text.encode() for text in texts]
    return result if batched else result[0]
