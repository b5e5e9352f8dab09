"""The first thing the graph does to its input, with figures measured on the training split."""

from collections.abc import Callable

import numpy as np
import torch
from cutpoint.dataset import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn

from .config import Preprocessing

CHUNK_BYTES = 64 << 20
LOG_FLOOR = 1e-3  # of the root mean square

Values = NDArray[np.float64]


class Preprocess(nn.Module):
    """x [batch, ...] to (log(|x| + floor) or x, less `mean`, over `std`); the figures broadcast from the right.

    Buffers, so that they are saved with the weights and exported with the graph.
    """

    def __init__(self, log: bool, floor: Tensor, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.log = log
        for name, value in (("floor", floor), ("mean", mean), ("std", std)):
            self.register_buffer(name, value.float())
        self.floor: Tensor
        self.mean: Tensor
        self.std: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Float32, the shape of x."""
        if self.log:
            x = torch.log(x.abs() + self.floor)
        return (x - self.mean) / self.std


def figure_shape(x_shape: tuple[int, ...], windows: bool) -> tuple[int, ...]:
    """The shape of the figures for rows of `x_shape`: [feature], [channel, 1] for windows with channels, else []."""
    if windows:
        return (x_shape[-2], 1) if len(x_shape) == 3 else ()
    return x_shape if len(x_shape) == 1 else ()


def blank_preprocess(settings: Preprocessing, x_shape: tuple[int, ...], windows: bool) -> Preprocess:
    """One whose figures change nothing, to be loaded with saved ones."""
    shape = figure_shape(x_shape, windows)
    return Preprocess(settings.log_input, torch.zeros(shape), torch.zeros(shape), torch.ones(shape))


def measure_preprocess(settings: Preprocessing, dataset: Dataset, rows: NDArray[np.int64], windows: bool) -> Preprocess:
    """Measure on `rows`, read in chunks; the mean and the deviation of constant input are kept as mean and 1.

    Args:
        settings: what to do.
        dataset: whose x [row, ...] is measured.
        rows: of the training split.
        windows: x is [sequence, window, (channel,) sample].
    """
    x_shape = tuple(dataset.x.shape[1:])
    shape = figure_shape(x_shape, windows)
    blank = blank_preprocess(settings, x_shape, windows)
    floor = np.zeros(shape)
    if settings.log_input:
        _, square = _moments(dataset, rows, shape, lambda x: x)
        floor = np.maximum(LOG_FLOOR * np.sqrt(square), np.finfo(np.float32).tiny)

    def logged(x: Values) -> Values:
        return np.asarray(np.log(np.abs(x) + floor)) if settings.log_input else x

    mean, std = np.zeros(shape), np.ones(shape)
    if settings.normalize == "standard":
        mean, _ = _moments(dataset, rows, shape, logged)
        # The second pass measures from the mean: the difference of two large squares would lose a small deviation.
        _, square = _moments(dataset, rows, shape, lambda x: logged(x) - mean)
        std = np.sqrt(square)
        std = np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-30), std, 1.0)
    return Preprocess(blank.log, *(torch.from_numpy(np.asarray(value)) for value in (floor, mean, std)))


def describe(settings: Preprocessing, x_shape: tuple[int, ...], windows: bool) -> str:
    """What it does, in words, for the manifest."""
    steps = []
    if settings.log_input:
        steps.append("log(|x| + floor)")
    if settings.normalize == "standard":
        of = {0: "of all samples", 1: "of each feature", 2: "of each channel"}[len(figure_shape(x_shape, windows))]
        steps.append(f"minus the mean {of} and divided by its standard deviation, as measured on the training split")
    return ", ".join(steps) or "none"


def _moments(
    dataset: Dataset, rows: NDArray[np.int64], shape: tuple[int, ...], change: Callable[[Values], Values]
) -> tuple[Values, Values]:
    """Mean and mean square of `change(x)` in float64, of `shape`."""
    total, square, count = np.zeros(shape), np.zeros(shape), 0
    size = max(1, CHUNK_BYTES // (8 * int(np.prod(dataset.x.shape[1:]))))
    for _, batch in dataset.batches(rows, size):
        x = change(batch.astype(np.float64))
        # Sum over every axis but the one that figures are kept for: the last for [feature], the last but one for [channel, 1].
        keep = {0: None, 1: x.ndim - 1, 2: x.ndim - 2}[len(shape)]
        axes = tuple(axis for axis in range(x.ndim) if axis != keep)
        total += x.sum(axis=axes).reshape(shape)
        square += (x**2).sum(axis=axes).reshape(shape)
        count += x.size // max(1, int(np.prod(shape)))
    return total / count, square / count
