"""How far a graph is from what it was made from, and whether a row is answered alike in any company."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cutpoint.bundle import Parity
from cutpoint.dataset import Dataset
from cutpoint.errors import BadBundle
from numpy.typing import NDArray
from torch import nn

from ..score import batch_size_of, open_session

TOLERANCE = 1e-4  # of a logit, times the largest logit when that is above 1
SIZES = (1, 2, 5)
LARGE = 256  # rows of the large batch, fewer where they are big
EXTREMES = 8
ALONE = 8  # rows that are also run alone

Batch = NDArray[np.float32]
Answer = Callable[[Batch], NDArray[np.float32]]


def parity_batches(dataset: Dataset, rows: NDArray[np.int64], any_windows: bool) -> list[Batch]:
    """Batches of `rows` to compare on: of 1, 2, 5 and many rows, and the rows of the largest magnitude.

    Where any number of windows will do, also batches of one window, half as many and twice as many. Fewer rows than a batch
    takes are repeated.
    """
    sizes = (*SIZES, min(LARGE, batch_size_of(dataset)))
    chosen = [rows[(np.arange(size) + i) % len(rows)] for i, size in enumerate(sizes)]
    largest = np.concatenate(
        [np.abs(x).reshape(len(x), -1).max(axis=1) for _, x in dataset.batches(rows, batch_size_of(dataset))]
    )
    chosen.append(rows[np.argsort(-largest, kind="stable")[:EXTREMES]])
    batches = [x for part in chosen for _, x in dataset.batches(part, len(part))]
    if any_windows:
        pair = batches[1]
        batches += [np.ascontiguousarray(pair[:, :count]) for count in sorted({1, max(1, pair.shape[1] // 2)})]
        batches.append(np.concatenate([pair, pair], axis=1))
    return batches


def measure_parity(served: nn.Module, file: Path, batches: list[Batch], tolerance: float = TOLERANCE) -> Parity:
    """Compare the logits of torch and onnxruntime on each batch, and of rows alone and in the largest batch.

    Raises:
        BadBundle: shapes differ, a logit is not finite, or a difference is above the tolerance.
    """
    theirs = answer_of(file)

    def ours(x: Batch) -> NDArray[np.float32]:
        with torch.no_grad():
            return served(torch.from_numpy(x)).numpy()  # type: ignore[no-any-return]

    worst, largest = compare(ours, theirs, batches)
    allowed = tolerance * max(1.0, largest)
    if worst > allowed:
        raise BadBundle.of(
            "parity of torch and onnxruntime", f"{worst:.3g} apart", f"at most {allowed:.3g}; nothing was written"
        )
    counts = {x.shape[1] for x in batches}
    return Parity(
        max_abs_difference=worst,
        tolerance=allowed,
        batch_sizes=tuple(sorted({len(x) for x in batches})),
        window_counts=tuple(sorted(counts)) if len(counts) > 1 else (),
        rows=sum(len(x) for x in batches),
        batch_difference=measure_batch_difference(theirs, batches, allowed),
    )


def answer_of(file: Path) -> Answer:
    """The logits of a graph as a function of a batch."""
    session = open_session(file)
    name = session.get_inputs()[0].name

    def answer(x: Batch) -> Any:
        return session.run(["logits"], {name: x})[0]

    return answer


def compare(ours: Answer, theirs: Answer, batches: list[Batch], name: str = "onnxruntime's logits") -> tuple[float, float]:
    """The largest difference of a logit over all batches, and the largest logit of `ours`; `name` is what `theirs` are.

    Raises:
        BadBundle: `theirs` has another shape or type, or a logit is not finite.
    """
    worst, largest = 0.0, 0.0
    for x in batches:
        wanted, found = ours(x), theirs(x)
        if found.shape != wanted.shape or found.dtype != np.float32:
            raise BadBundle.of(name, f"{found.dtype} {list(found.shape)}", f"float32 {list(wanted.shape)}")
        difference = np.abs(wanted.astype(np.float64) - found)
        if not np.isfinite(difference).all():
            raise BadBundle.of(
                name, "not finite", "finite numbers on the rows of the run, the largest among them; nothing was written"
            )
        worst, largest = max(worst, float(difference.max())), max(largest, float(np.abs(wanted).max()))
    return worst, largest


def measure_batch_difference(answer: Answer, batches: list[Batch], allowed: float) -> float:
    """The largest difference of a logit between rows alone and the same rows in the largest batch.

    Raises:
        BadBundle: it is above `allowed`: a row's score would depend on who asks at the same moment.
    """
    batch = max(batches, key=len)
    together = answer(batch)
    some = np.unique(np.linspace(0, len(batch) - 1, min(ALONE, len(batch))).astype(int))
    alone = np.concatenate([answer(batch[i : i + 1]) for i in some])
    found = float(np.abs(alone.astype(np.float64) - together[some]).max())
    if found > allowed:
        raise BadBundle.of(
            "logits of a row alone and in a batch", f"{found:.3g} apart",
            f"at most {allowed:.3g}: a row may not depend on the others of its batch; nothing was written",
        )  # fmt: skip
    return found
