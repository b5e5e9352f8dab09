"""The rows that an imported graph is checked on."""

import numpy as np
from numpy.typing import NDArray

from ..dataset import Dataset
from ..errors import BadConfig, BadData
from .source import Source

ROWS = 64
EXTREMES = 8  # besides, those of the largest magnitude
_CHUNK_BYTES = 16 << 20


def data_rows(source: Source, dataset: Dataset, labels: tuple[str, ...]) -> NDArray[np.float32]:
    """Rows from all over the data, and those of the largest magnitude.

    Raises:
        BadData: x is not what the graph takes, or not finite, or the labels are others.
    """
    sizes = dataset.x.shape
    fits = len(sizes) == len(source.shape) and all(w in (-1, n) for w, n in zip(source.shape[1:], sizes[1:], strict=True))
    if not fits:
        raise BadData.of(f"{dataset.path}: x", f"of shape {list(sizes)}", f"{list(source.shape)}, what the graph takes")
    if dataset.y is not None and dataset.label_names != labels:
        raise BadData.of(f"{dataset.path}: label_names", list(dataset.label_names[:5]), f"{list(labels[:5])}, as given")
    dataset.check_finite()
    every = np.arange(len(dataset), dtype=np.int64)
    size = dataset.rows_in(_CHUNK_BYTES)
    largest = np.concatenate([np.abs(x).reshape(len(x), -1).max(axis=1) for _, x in dataset.batches(every, size)])
    spread = np.linspace(0, len(dataset) - 1, min(ROWS, len(dataset))).astype(np.int64)
    chosen = np.unique(np.concatenate([spread, np.argsort(-largest, kind="stable")[:EXTREMES]]))
    return next(x for _, x in dataset.batches(chosen, len(chosen)))


def random_rows(source: Source, open_axes: int) -> NDArray[np.float32]:
    """Rows drawn from the standard normal distribution, the same at every call.

    Args:
        source: the graph.
        open_axes: how many axes, from the first on, may be of any size: the batch, and of windows their number.

    Raises:
        BadConfig: the graph does not say the size of another axis.
    """
    unknown = [axis for axis in range(open_axes, len(source.shape)) if source.shape[axis] < 0]
    if unknown:
        raise BadConfig.of("data", "missing", f"some: the graph does not say the size of axes {unknown} of its input, x does")
    sizes = (ROWS, *(3 if size < 0 else size for size in source.shape[1:]))
    return np.random.default_rng(0).standard_normal(sizes, np.float32)
