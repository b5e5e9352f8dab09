"""Which training rows a step sees, and how often."""

from collections.abc import Iterator, Sized
from typing import cast

import numpy as np
import torch
from cutpoint.errors import BadConfig
from numpy.typing import NDArray
from torch.utils.data import RandomSampler, Sampler, WeightedRandomSampler

TORCH_LIMIT = 2**24  # WeightedRandomSampler refuses more rows (pytorch issue 2576)


def balanced_weights(y: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Weights with which rows (or whole sequences) that hold a positive are drawn as often as those that hold none.

    Args:
        y: uint8 [row, label] or [sequence, window, label] of the training split only; unlabelled entries are not positives.

    Returns:
        float64 [row], which sum to 1; a half falls to either side.

    Raises:
        BadConfig: one of the two sides is empty, so there is nothing to balance.
    """
    holds = (y == 1).any(axis=tuple(range(1, y.ndim)))
    positive = int(holds.sum())
    if positive in (0, len(holds)):
        raise BadConfig.of("sampler", "weighted", f"none: {positive} of {len(holds)} training rows hold a positive")
    return np.where(holds, 0.5 / positive, 0.5 / (len(holds) - positive))


class CumulativeSampler(Sampler[int]):
    """Draw `len(weights)` rows with replacement, of any number of rows: what WeightedRandomSampler does up to its limit."""

    def __init__(self, weights: NDArray[np.float64], generator: torch.Generator) -> None:
        self.edges = torch.from_numpy(np.cumsum(weights, dtype=np.float64))
        self.generator = generator

    def __len__(self) -> int:
        return len(self.edges)

    def __iter__(self) -> Iterator[int]:
        at = torch.rand(len(self), dtype=torch.float64, generator=self.generator) * self.edges[-1]
        drawn = torch.searchsorted(self.edges, at, right=True).clamp(max=len(self) - 1)
        return iter(drawn.tolist())


def row_sampler(rows: int, weights: NDArray[np.float64] | None, seed: int) -> Sampler[int]:
    """The order of one epoch: every row once when `weights` is None, else as many rows drawn by weight with replacement.

    Args:
        rows: how many training rows there are.
        weights: [row], or None.
        seed: of the order; each epoch goes on where the last one ended.
    """
    generator = torch.Generator().manual_seed(seed)
    if weights is None:
        return RandomSampler(cast(Sized, range(rows)), generator=generator)
    if rows > TORCH_LIMIT:
        return CumulativeSampler(weights, generator)
    return WeightedRandomSampler(cast("list[float]", weights), rows, generator=generator)
