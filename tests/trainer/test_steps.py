"""Every row once, in the order's order, whoever reads it."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from cutpoint.dataset import Dataset
from cutpoint.trainer.sampler import Order
from cutpoint.trainer.steps import Fresh, Slices, Steps


@pytest.fixture
def dataset() -> Dataset:
    x = np.arange(60, dtype=np.float64).reshape(30, 2)
    return Dataset(Path("d.npz"), x, (np.arange(30) % 3 == 0).astype(np.uint8)[:, None], ("a",))


def steps(dataset: Dataset, **changes: object) -> Steps:
    return Steps(**{"dataset": dataset, "rows": np.arange(3, 28), "order": Order(25, 4), "size": 7, "seed": 4} | changes)


def rows_of(batches) -> list[list[int]]:
    return [(x[:, 0] / 2).int().tolist() for x, _ in batches]


def test_an_epoch_is_cut_in_order(dataset):
    found = rows_of(steps(dataset).batches(2, 0))
    assert [len(batch) for batch in found] == [7, 7, 7, 4]
    assert list(chain(*found)) == (3 + Order(25, 4).epoch(2)).tolist()
    assert rows_of(steps(dataset).batches(2, 3)) == found[3:]
    assert steps(dataset).count == 4
    x, y = next(steps(dataset).batches(0, 0))
    assert (x.dtype, y.dtype, y.shape) == (torch.float32, torch.uint8, (7, 1))


@pytest.mark.parametrize("world", [2, 5, 6])
def test_processes_share_every_step(dataset, world):
    whole = rows_of(steps(dataset).batches(0, 0))
    parts = [list(steps(dataset).batches(0, 0, rank, world)) for rank in range(world)]
    for number, batch in enumerate(whole):
        labelled = [part[number] for part in parts if (part[number][1] != 255).all()]
        assert sorted(chain(*rows_of(labelled))) == sorted(batch)
        assert len(labelled) == min(world, len(batch))  # the others have one row with nothing labelled
        assert all(len(part[number][0]) for part in parts)
        for rank in range(min(world, len(batch))):
            assert rows_of([parts[rank][number]]) == [batch[rank::world]]


def test_augmentation_is_a_function_of_seed_epoch_step_and_process(dataset):
    def augment(x, y, generator):
        return x + torch.rand(x.shape, generator=generator), y

    def first(epoch: int, start: int, rank: int = 0, seed: int = 4) -> torch.Tensor:
        return next(steps(dataset, augment=augment, seed=seed).batches(epoch, start, rank, 1))[0] % 1

    assert (first(1, 2) == first(1, 2)).all()
    for other in ((0, 2), (1, 1), (1, 2, 1), (1, 2, 0, 5)):
        found = first(*other)
        assert len(found) == 0 or (found[:4] != first(1, 2)[:4]).all()


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_slices_are_equal_and_joined_in_order(dataset, world):
    slices = Slices(dataset, np.arange(5, 15), 2)
    found = [torch.cat([x for x, _ in slices.batches(rank, world)]) for rank in range(world)]
    assert len({len(each) for each in found}) == 1
    assert (slices.join(torch.stack(found)) == dataset.x[5:15]).all()


def test_an_iterable_begins_anew(dataset):
    place = [0]
    batches = Fresh(lambda: steps(dataset).batches(0, place[0]))
    assert len(list(batches)) == 4
    place[0] = 2
    assert len(list(batches)) == 2
