from pathlib import Path

import numpy as np
import pytest
from cutpoint.dataset import Dataset
from cutpoint.errors import BadData
from cutpoint.trainer import split_rows
from cutpoint.trainer.config import GivenSplit, SharedSplit
from cutpoint.trainer.split import split_table


def dataset(y: np.ndarray, **more: object) -> Dataset:
    names = tuple(str(i) for i in range(y.shape[-1]))
    return Dataset(Path("d.npz"), np.zeros((len(y), 2), np.float32), y.astype(np.uint8), names, **more)


def rare(rows: int, labels: int = 1, rate: float = 0.05, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((rows, labels)) < rate).astype(np.uint8)


def together(split) -> np.ndarray:
    return np.sort(np.concatenate([rows for _, rows in split.items()]))


@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_whole_and_positives_are_shared(seed):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 60, 2000)
    y = (rng.random((2000, 3)) < np.where(group < 12, 0.4, 0.005)[:, None] * [1, 0.5, 0.2]).astype(np.uint8)
    split = split_rows(dataset(y, group=np.array([f"g{g}" for g in group])), SharedSplit(by="group"), seed)
    assert (together(split) == np.arange(2000)).all()
    sides = [set(group[rows]) for _, rows in split.items()]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
    for (_, rows), share in zip(split.items(), (0.6, 0.2, 0.2), strict=True):
        assert len(rows) / 2000 == pytest.approx(share, abs=0.06)
        assert (y[rows].sum(axis=0) / y.sum(axis=0)).tolist() == pytest.approx([share] * 3, abs=0.08)
    again = split_rows(dataset(y, group=group), SharedSplit(by="group"), seed)
    assert len(again.train) == len(split.train)


def test_time_orders_and_equal_times_stay_together():
    rng = np.random.default_rng(1)
    time = rng.integers(0, 25, 500).astype(float)
    split = split_rows(dataset(rare(500, rate=0.2), time=time), SharedSplit(by="time", train=0.5, valid=0.3, test=0.2), 0)
    assert (together(split) == np.arange(500)).all()
    assert time[split.train].max() < time[split.valid].min()
    assert time[split.valid].max() < time[split.test].min()
    assert len(split.train) == pytest.approx(250, abs=20)
    without = split_rows(dataset(rare(500, rate=0.2), time=time), SharedSplit(by="time", train=0.8, valid=0.2, test=0), 0)
    assert len(without.test) == 0
    with pytest.raises(BadData, match="leaves valid empty"):
        split_rows(dataset(rare(500), time=np.zeros(500)), SharedSplit(by="time"), 0)


def test_random_shares_every_label_and_repeats():
    y = rare(5000, 8, 0.01)
    split = split_rows(dataset(y), SharedSplit(by="random", train=0.7, valid=0.3, test=0), 3)
    assert (together(split) == np.arange(5000)).all()
    assert len(split.train) / 5000 == pytest.approx(0.7, abs=0.005)
    assert (y[split.train].sum(axis=0) / y.sum(axis=0)).tolist() == pytest.approx([0.7] * 8, abs=0.1)
    assert (split.train == split_rows(dataset(y), SharedSplit(by="random", train=0.7, valid=0.3, test=0), 3).train).all()
    assert not np.array_equal(
        split.train, split_rows(dataset(y), SharedSplit(by="random", train=0.7, valid=0.3, test=0), 4).train
    )
    # With one label and few positives, the positives are shared, not only the rows.
    few = np.zeros((4000, 1), np.uint8)
    few[::400] = 1
    for seed in range(20):
        split = split_rows(dataset(few), SharedSplit(by="random"), seed)
        train, valid, test = (int(few[rows].sum()) for _, rows in split.items())
        assert train in (5, 6, 7)
        assert min(valid, test) >= 1


def test_given_indices():
    rows = {"train": np.arange(60), "valid": np.arange(60, 80)}
    y = rare(100, rate=0.3)
    split = split_rows(dataset(y, splits={**rows, "test": np.arange(80, 100)[::-1]}), GivenSplit(), 0)
    assert (split.test == np.arange(80, 100)).all()
    assert len(split_rows(dataset(y, splits=rows), GivenSplit(), 0).test) == 0
    with pytest.raises(BadData, match=r"train and valid is overlapping in 10 rows, the first is row 50"):
        split_rows(dataset(y, splits={"train": np.arange(60), "valid": np.arange(50, 80)}), GivenSplit(), 0)
    with pytest.raises(BadData, match="split valid is missing or empty"):
        split_rows(dataset(y, splits={"train": np.arange(60)}), GivenSplit(), 0)


def test_a_group_that_leaks_is_named():
    group = np.array([f"g{i // 10}" for i in range(100)])
    rows = {"train": np.arange(65), "valid": np.arange(65, 80), "test": np.arange(80, 100)}
    wanted = r"d.npz: group is 'g6' in train and in valid; expected each group in one split"
    with pytest.raises(BadData, match=wanted):
        split_rows(dataset(rare(100, rate=0.3), splits=rows, group=group), GivenSplit(), 0)
    rows = {"train": np.arange(60), "valid": np.arange(60, 80), "test": np.arange(80, 100)}
    assert split_rows(dataset(rare(100, rate=0.3), splits=rows, group=group), GivenSplit(), 0).notes == ()
    (note,) = split_rows(dataset(rare(100, rate=0.3), group=group), SharedSplit(by="random"), 0).notes
    assert note.startswith("groups lie on both sides, 'g0' in train and in valid for one")


def test_a_table_of_rows_and_positives():
    y = rare(200, 3, 0.2)
    y[0, 0] = 255
    split = split_rows(dataset(y), SharedSplit(by="random"), 0)
    table = split_table(dataset(y), split)
    shown = [list(column.cells) for column in table.columns]
    assert shown[0] == ["rows", *(f"positives of {i}" for i in range(3))]
    for column, (_, rows) in zip(shown[1:], split.items(), strict=True):
        assert column == [str(len(rows)), *map(str, (y[rows] == 1).sum(axis=0))]
    many = rare(400, 30, 0.3)
    split = split_rows(dataset(many), SharedSplit(by="random"), 0)
    assert split_table(dataset(many), split).row_count == 21


@pytest.mark.parametrize("by", ["group", "time"])
def test_what_the_split_needs(by):
    with pytest.raises(BadData, match=f"without '{by}'"):
        split_rows(dataset(rare(100)), SharedSplit(by=by), 0)


def test_both_classes_of_every_label_train_and_some_positive_validates():
    y = rare(100, 2, 0.3)
    rows = {"train": np.arange(60), "valid": np.arange(60, 80), "test": np.arange(80, 100)}
    none = y.copy()
    none[:60, 1] = 0
    with pytest.raises(BadData, match=r"positives of label '1' in split train is 0; expected at least 1 \(1 of 2 labels"):
        split_rows(dataset(none, splits=rows), GivenSplit(), 0)
    every = y.copy()
    every[:60, 0] = 1
    with pytest.raises(BadData, match="negatives of label '0' in split train"):
        split_rows(dataset(every, splits=rows), GivenSplit(), 0)
    hidden = y.copy()
    hidden[60:80] = 0
    with pytest.raises(BadData, match="positives of any label in split valid"):
        split_rows(dataset(hidden, splits=rows), GivenSplit(), 0)
    hidden[60, 0] = 1
    assert split_rows(dataset(hidden, splits=rows), GivenSplit(), 0).notes == (
        "split valid has no positive of 1 of 2 labels: 1",
    )
    with pytest.raises(BadData, match="without 'y'"):
        split_rows(Dataset(Path("d.npz"), np.zeros((4, 2), np.float32)), GivenSplit(), 0)
