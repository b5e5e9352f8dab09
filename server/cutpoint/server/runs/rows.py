"""Rows to try a session with, and whether a row's outputs depend on the rows beside it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cutpoint.errors import BadBundle
from numpy.typing import NDArray

from .cost import padded_size
from .session import Session, TensorSpec
from .turns import in_turns

Arrays = Mapping[str, NDArray[Any]]


def example_rows(inputs: Sequence[TensorSpec], rows: int, *, free: int = 8, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Arrays that a graph with these inputs takes, different from row to row and the same for a seed.

    Args:
        inputs: what the graph takes.
        rows: size of a first axis that is free; a fixed one stays.
        free: size of every other axis that is free.
        seed: of the numbers.

    Returns:
        By name: standard normal numbers for floats, 0 to 9 for integers, booleans, and the digits as text.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for spec in inputs:
        shape = tuple((rows if axis == 0 else free) if size < 0 else size for axis, size in enumerate(spec.shape))
        if spec.dtype.kind == "f":
            found[spec.name] = rng.normal(size=shape).astype(spec.dtype)
        elif spec.dtype.kind == "O":
            found[spec.name] = rng.integers(0, 10, shape).astype(str).astype(object)
        else:
            found[spec.name] = rng.integers(0, 2 if spec.dtype.kind == "b" else 10, shape).astype(spec.dtype)
    return found


def pad_rows(arrays: Arrays, size: int) -> dict[str, NDArray[Any]]:
    """The arrays with their last row repeated until there are `size` rows; those that have as many already are not copied.

    A copy of a real row costs no more than zeros and cannot be a case that the graph fails on.

    Args:
        arrays: by name, one row or more each.
        size: rows wanted, at least those there are.
    """
    padded = {}
    for name, array in arrays.items():
        more = size - len(array)
        padded[name] = array if not more else np.concatenate([array, np.broadcast_to(array[-1:], (more, *array.shape[1:]))])
    return padded


def sharing_cost(
    session: Session,
    one: Arrays,
    rows: int,
    doubt: tuple[float, float],
    *,
    limit_s: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """What a row costs in a run of `rows`, beside a run of its own: below 1 rows gain by sharing a run.

    On a core a larger batch is often slower, once what it computes no longer fits in the cache. Both are measured in turns,
    each by its least time, and with what it takes to lay the rows beside each other.

    Args:
        session: what computes.
        one: inputs of one row.
        rows: of the larger run.
        doubt: costs, (low, high), between which three turns do not say what the caller wants to know.
        limit_s: no further turn is begun after this, in seconds; two always are.
        clock: seconds, increasing.
    """
    alone, together = in_turns(
        lambda: session.run(one),
        lambda: session.run({name: np.concatenate([array] * rows) for name, array in one.items()}),
        (doubt[0] * rows, doubt[1] * rows),
        least=3,
        limit_s=limit_s,
        clock=clock,
    )
    return together / (rows * alone)


def row_invariance(
    session: Session,
    example: Arrays,
    sizes: Sequence[int],
    *,
    padding: tuple[int, ...] = (),
    limit_s: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """The largest difference of an output between a row alone and the same row in batches of `sizes`.

    At most four rows of the example are run alone, then a batch of each size in which they take turns, in another order each.

    Args:
        session: what computes.
        example: a row or more for every input; real ones if there are.
        sizes: numbers of rows, the most important first.
        padding: numbers of rows that runs are padded to, increasing, as they will be where requests share them.
        limit_s: no further size is begun after this, in seconds; the first one always is.
        clock: seconds, increasing.

    Returns:
        0.0 where every bit agrees; infinity where NaN, an infinity, an integer or a text differs.

    Raises:
        BadBundle: an output has not a row for each row in, so requests cannot share a run.
    """
    started = clock()
    count = min(4, max(sizes), *(len(array) for array in example.values()))

    def padded(arrays: Arrays) -> dict[str, NDArray[Any]]:
        rows = len(next(iter(arrays.values())))
        wanted = padded_size(rows, padding)
        found = session.run(pad_rows(arrays, wanted))
        for name, array in found.items():
            if array.ndim == 0 or len(array) != wanted:
                raise BadBundle.of(f"output '{name}'", list(array.shape), f"{wanted} rows for {wanted} rows in")
        return {name: array[:rows] for name, array in found.items()}

    alone = [padded({name: array[i : i + 1] for name, array in example.items()}) for i in range(count)]
    largest = 0.0
    for turn, size in enumerate(sizes):
        if turn and clock() - started > limit_s:
            break
        order = (np.arange(size) + turn) % count
        together = padded({name: np.ascontiguousarray(array[order]) for name, array in example.items()})
        for name, found in together.items():
            for i, row in enumerate(order):
                largest = max(largest, _difference(found[i], alone[row][name][0]))
    return largest


def _difference(a: NDArray[Any], b: NDArray[Any]) -> float:
    if np.asarray(a).dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else math.inf
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(a.astype(np.float64) - b.astype(np.float64))[~same]
    return float(np.max(np.where(np.isnan(apart), math.inf, apart)))
