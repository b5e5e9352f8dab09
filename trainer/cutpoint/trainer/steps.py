"""The rows of every step: read a batch at a time from arrays that may be larger than memory, shared out over processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from cutpoint.dataset import UNLABELLED, Dataset
from numpy.typing import NDArray
from torch import Tensor

from .sampler import Order

Batch = tuple[Tensor, Tensor]
Augment = Callable[[Tensor, Tensor, torch.Generator], Batch]


def read_batch(dataset: Dataset, rows: NDArray[np.int64]) -> Batch:
    """Float32 x [batch, ...] and uint8 y [batch, ..., label] of `rows`."""
    assert dataset.y is not None  # split_rows refuses data without
    x = np.ascontiguousarray(dataset.x[rows], dtype=np.float32)
    return torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(dataset.y[rows]))


def seed_of(*numbers: int) -> int:
    """A seed, 64 bits, that is a pure function of whole numbers >= 0 and differs for different ones."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Steps:
    """The training rows, cut into the optimiser steps of each epoch.

    Attributes:
        dataset: with y.
        rows: indices of the training rows.
        order: of them, in each epoch.
        size: rows a step, over all processes; the last step of an epoch may have fewer.
        seed: of what is random in a batch.
        augment: the model's own hook (x, y, generator) to (x, y), or None.
    """

    dataset: Dataset
    rows: NDArray[np.int64]
    order: Order
    size: int
    seed: int
    augment: Augment | None = None

    @property
    def count(self) -> int:
        """Steps an epoch."""
        return -(-len(self.order) // self.size)

    def batches(self, epoch: int, start: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The batches of process `rank` of `world` in `epoch`, from step `start`; both from 0.

        What they hold is a pure function of the arguments and the seed. A process for which a short last step has no row gets
        one with nothing labelled, so that every process takes every step.
        """
        drawn = self.rows[self.order.epoch(epoch)]
        for step in range(start, self.count):
            batch = drawn[step * self.size : (step + 1) * self.size]
            mine = batch[rank::world]
            x, y = read_batch(self.dataset, mine if len(mine) else batch[:1])
            if self.augment is not None:
                x, y = self.augment(x, y, torch.Generator().manual_seed(seed_of(self.seed, epoch, step, rank)))
            yield x, y if len(mine) else torch.full_like(y, UNLABELLED)


@dataclass(frozen=True)
class Slices:
    """The validation rows, in slices of equal length for all processes.

    Attributes:
        dataset: with y.
        rows: indices of the validation rows.
        size: rows a process scores at once.
    """

    dataset: Dataset
    rows: NDArray[np.int64]
    size: int

    def batches(self, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """The batches of process `rank` of `world`: rows rank, rank + world, ..., the last again where they are too few."""
        mine = np.minimum(np.arange(rank, -(-len(self.rows) // world) * world, world), len(self.rows) - 1)
        for start in range(0, len(mine), self.size):
            yield read_batch(self.dataset, self.rows[mine[start : start + self.size]])

    def join(self, logits: Tensor) -> NDArray[np.float32]:
        """What the processes found, [world, slice, ..., label], as [row, ..., label] in the order of the rows."""
        return logits.transpose(0, 1).flatten(0, 1)[: len(self.rows)].cpu().numpy()


class Fresh:
    """An iterable that begins anew each time it is iterated over; without a length, since that may be within an epoch."""

    def __init__(self, begin: Callable[[], Iterator[Batch]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()
