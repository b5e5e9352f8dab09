"""The first thing the graph does to its input, with figures measured on the training split."""

from collections.abc import Callable

import numpy as np
import torch
from cutpoint.dataset import Dataset, SparseRows
from numpy.typing import NDArray
from torch import Tensor, nn

from .config import MLPModel, Preprocessing
from .embedding import PiecewiseLinear, quantile_bins

CHUNK_BYTES = 32 << 20  # of float32; the figures are taken in float64
LOG_FLOOR = 1e-3  # of the root mean square
QUANTILE_ROWS = 100_000  # an edge is then off by about 0.1 % of the rows
BINS, MOST_ENCODED = 16, 256  # of `bins: auto`: how many of each feature, and up to how many features

Values = NDArray[np.float64]


class Preprocess(nn.Module):
    """x [batch, ...] to (log(|x| + floor) or x, less `mean`, over `std`), then the encoding beside it, if there is one.

    The figures broadcast from the right; they are buffers, so that they are saved with the weights and exported with the graph.
    """

    def __init__(self, log: bool, floor: Tensor, mean: Tensor, std: Tensor, encoding: PiecewiseLinear | None = None) -> None:
        super().__init__()
        self.log, self.encoding = log, encoding
        for name, value in (("floor", floor), ("mean", mean), ("std", std)):
            self.register_buffer(name, value.float())
        self.floor: Tensor
        self.mean: Tensor
        self.std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Float32, the shape of x, or [batch, feature + feature * bin] with an encoding."""
        if self.log:
            x = torch.log(x.abs() + self.floor)
        z = (x - self.mean) / self.std
        # The encoding measures from x itself: next to an outlier, normalised values are too close for float32.
        return z if self.encoding is None else torch.cat([z, self.encoding(x)], dim=1)


def figure_shape(x_shape: tuple[int, ...], windows: bool) -> tuple[int, ...]:
    """The shape of the figures for rows of `x_shape`: [feature], [channel, 1] for windows with channels, else []."""
    if windows:
        return (x_shape[-2], 1) if len(x_shape) == 3 else ()
    return x_shape if len(x_shape) == 1 else ()


def bins_of(settings: Preprocessing, x_shape: tuple[int, ...]) -> int:
    """How many bins each feature is encoded with; 0 for no encoding, as where rows are not [feature]."""
    if not isinstance(settings, MLPModel) or len(x_shape) != 1:
        return 0
    return (BINS if x_shape[0] <= MOST_ENCODED else 0) if settings.bins == "auto" else settings.bins


def blank_preprocess(settings: Preprocessing, x_shape: tuple[int, ...], windows: bool) -> Preprocess:
    """One whose figures change nothing, to be loaded with saved ones."""
    shape, bins = figure_shape(x_shape, windows), bins_of(settings, x_shape)
    encoding = PiecewiseLinear(torch.zeros(x_shape[0], bins), torch.zeros(x_shape[0], bins)) if bins else None
    return Preprocess(settings.log_input, torch.zeros(shape), torch.zeros(shape), torch.ones(shape), encoding)


def measure_preprocess(settings: Preprocessing, dataset: Dataset, rows: NDArray[np.int64], windows: bool) -> Preprocess:
    """Measure on `rows`, read in chunks; the mean and the deviation of constant input are kept as mean and 1.

    Args:
        settings: what to do.
        dataset: whose x [row, ...] is measured.
        rows: of the training split.
        windows: x is [sequence, window, (channel,) sample].
    """
    x_shape = tuple(dataset.x.shape[1:])
    shape, bins = figure_shape(x_shape, windows), bins_of(settings, x_shape)
    floor = np.zeros(shape)
    if settings.log_input:
        square = _mean(dataset, rows, shape, np.square)
        floor = np.maximum(LOG_FLOOR * np.sqrt(square), np.finfo(np.float32).tiny)

    def logged(x: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.log(np.abs(x) + floor.astype(x.dtype)) if settings.log_input else x

    mean, std = np.zeros(shape), np.ones(shape)
    if settings.normalize == "scale" or (settings.normalize == "auto" and isinstance(dataset.x, SparseRows)):
        # Of rows all features together: in sparse ones a feature's size says how much it tells.
        over = shape if windows else ()
        filled = _mean(dataset, rows, over, lambda x: np.asarray(logged(x) != 0, np.float64))
        square = _mean(dataset, rows, over, lambda x: np.square(logged(x)))
        std = np.broadcast_to(np.sqrt(square / np.where(filled > 0, filled, 1)), shape)
        std = np.where(std > 0, std, 1.0)
    elif settings.normalize != "none":
        mean = _mean(dataset, rows, shape, logged)
        # The second pass measures from the mean: the difference of two large squares would lose a small deviation.
        std = np.sqrt(_mean(dataset, rows, shape, lambda x: np.square(logged(x) - mean)))
        std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-30), std, 1.0)
    encoding = None
    if bins:
        encoding = quantile_bins(np.asarray(logged(_sample(dataset, rows)), np.float32), bins)
    figures = [torch.from_numpy(np.array(value)) for value in (floor, mean, std)]
    return Preprocess(settings.log_input, figures[0], figures[1], figures[2], encoding)


def describe(settings: Preprocessing, x_shape: tuple[int, ...], windows: bool) -> str:
    """What it does, in words, for the manifest."""
    steps = []
    if settings.log_input:
        steps.append("log(|x| + floor)")
    if settings.normalize == "scale":
        steps.append("divided by the root mean square of what is not 0 in the training split")
    elif settings.normalize != "none":
        of = {0: "of all samples", 1: "of each feature", 2: "of each channel"}[len(figure_shape(x_shape, windows))]
        steps.append(f"minus the mean {of} and divided by its standard deviation, as measured on the training split")
        if settings.normalize == "auto" and not windows:
            steps[-1] += " (sparse rows: divided by the root mean square of what is not 0)"
    bins = bins_of(settings, x_shape)
    if bins:
        steps.append(f"and beside it each feature in {bins} piecewise-linear bins between quantiles of the training split")
    return ", ".join(steps) or "none"


def _sample(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """[row, feature] of at most QUANTILE_ROWS of `rows`, always the same ones, in order."""
    if len(rows) > QUANTILE_ROWS:
        rows = rows[np.sort(np.random.default_rng(0).choice(len(rows), QUANTILE_ROWS, replace=False, shuffle=False))]
    return np.concatenate([x for _, x in dataset.batches(rows, dataset.rows_in(CHUNK_BYTES))])


def _mean(
    dataset: Dataset, rows: NDArray[np.int64], shape: tuple[int, ...], change: Callable[[Values], NDArray[np.floating]]
) -> Values:
    """Mean of `change(x)` in float64, of `shape`."""
    total, count = np.zeros(shape), 0
    for _, batch in dataset.batches(rows, dataset.rows_in(CHUNK_BYTES)):
        x = change(batch.astype(np.float64))
        # Sum over every axis but the one that figures are kept for: the last for [feature], the last but one for [channel, 1].
        keep = {0: None, 1: x.ndim - 1, 2: x.ndim - 2}[len(shape)]
        axes = tuple(axis for axis in range(x.ndim) if axis != keep)
        total += x.sum(axis=axes).reshape(shape)
        count += x.size // max(1, int(np.prod(shape)))
    return total / count
