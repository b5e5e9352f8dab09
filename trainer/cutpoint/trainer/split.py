"""Which rows train, which validate and which test.

Nothing is decided on rows that trained the model: the validation rows stop the training and later set the thresholds, the
test rows are for the final figures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cutpoint.dataset import SPLITS, Dataset
from cutpoint.errors import BadData
from cutpoint.terminal import SHOWN_LABELS, plain_table
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from .config import GivenSplit, SharedSplit

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Row indices, int64 and ascending; no row is in two of them. `test` may be empty.

    Attributes:
        notes: what is thin but not wrong, for a person: labels without a positive in valid or test, groups on both sides.
    """

    train: Rows
    valid: Rows
    test: Rows
    notes: tuple[str, ...] = ()

    def items(self) -> Iterator[tuple[str, Rows]]:
        """Name and rows of each, in order."""
        return zip(SPLITS, (self.train, self.valid, self.test), strict=True)


def split_rows(dataset: Dataset, settings: GivenSplit | SharedSplit, seed: int) -> Split:
    """Split the rows as asked.

    Args:
        dataset: with labels.
        settings: how.
        seed: of the order in which groups are placed and rows are dealt, where `settings` have none of their own.

    Raises:
        BadData: the data lack what the split needs (indices, group, time, labels); splits overlap or are empty; given splits
            share a group; a label has no positive or no negative in train; valid has no positive at all.
    """
    if dataset.y is None:
        raise BadData.of(f"{dataset.path}: keys", "without 'y'", "'y', the labels to learn")
    if isinstance(settings, GivenSplit):
        parts = _given(dataset)
    else:
        order = np.random.default_rng(seed if settings.seed is None else settings.seed)
        shares = np.array([settings.train, settings.valid, settings.test])
        if settings.by == "group":
            parts = _by_group(dataset, dataset.y, shares, order)
        elif settings.by == "time":
            parts = _by_time(dataset, shares)
        else:
            parts = _at_random(dataset.y, shares, order)
        for name, rows, share in zip(SPLITS, parts, shares, strict=True):
            if share > 0 and len(rows) == 0:
                raise BadData(
                    f"{dataset.path}: split by {settings.by} leaves {name} empty; expected more rows or a larger share"
                )
    train, valid, test = (np.sort(rows) for rows in parts)
    notes = _check_labels(dataset, dataset.y, train, valid, test)
    shared = _shared_group(dataset, (train, valid, test))
    if shared is not None:
        where = f"{shared[0]!r} in {SPLITS[shared[1]]} and in {SPLITS[shared[2]]}"
        notes = (*notes, f"groups lie on both sides, {where} for one: what is measured is worth less than with split.by group")
    return Split(train, valid, test, notes)


def split_table(dataset: Dataset, split: Split) -> Table:
    """Rows of each split and the positives of each label in it; of more than 20 labels the rarest in train."""
    table = plain_table("", *SPLITS, title="data")
    table.add_row("rows", *(f"{len(rows)}" for _, rows in split.items()))
    assert dataset.y is not None  # split_rows refuses data without
    y = dataset.y
    positives = np.array([(y[rows] == 1).sum(axis=tuple(range(y.ndim - 1))) for _, rows in split.items()])  # [split, label]
    for i in np.argsort(positives[0], kind="stable")[:SHOWN_LABELS] if y.shape[-1] > SHOWN_LABELS else range(y.shape[-1]):
        table.add_row(f"positives of {escape(dataset.label_names[i])}", *(f"{count}" for count in positives[:, i]))
    return table


def _given(dataset: Dataset) -> tuple[Rows, Rows, Rows]:
    for name in ("train", "valid"):
        if name not in dataset.splits or len(dataset.splits[name]) == 0:
            raise BadData.of(f"{dataset.path}: split {name}", "missing or empty", f"row indices under the key {name!r}")
    none = np.empty(0, np.int64)
    parts = dataset.splits["train"], dataset.splits["valid"], dataset.splits.get("test", none)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = np.intersect1d(parts[i], parts[j])
        if len(both):
            raise BadData.of(
                f"{dataset.path}: {SPLITS[i]} and {SPLITS[j]}",
                f"overlapping in {len(both)} rows, the first is row {both[0]}",
                "each row in one split at most",
            )
    shared = _shared_group(dataset, parts)
    if shared is not None:
        raise BadData.of(
            f"{dataset.path}: group", f"{shared[0]!r} in {SPLITS[shared[1]]} and in {SPLITS[shared[2]]}",
            "each group in one split: what is learnt of it in training would be judged on it (split.by group shares them out)",
        )  # fmt: skip
    return parts


def _shared_group(dataset: Dataset, parts: tuple[Rows, Rows, Rows]) -> tuple[object, int, int] | None:
    """The first group that has rows in two splits, with the numbers of these; None when there is none."""
    if dataset.group is not None:
        for i, j in ((0, 1), (0, 2), (1, 2)):
            both = np.intersect1d(dataset.group[parts[i]], dataset.group[parts[j]])
            if len(both):
                return both[0].item(), i, j
    return None


def _by_group(
    dataset: Dataset, y: NDArray[np.uint8], shares: NDArray[np.float64], order: np.random.Generator
) -> tuple[Rows, Rows, Rows]:
    """Place whole groups, the heaviest first, where rows and positives of every label then come closest to the shares."""
    if dataset.group is None:
        raise BadData.of(f"{dataset.path}: keys", "without 'group'", "'group', for a split by group")
    names, member = np.unique(dataset.group, return_inverse=True)
    positives = (y == 1).sum(axis=tuple(range(1, y.ndim - 1)))  # [row, label]
    counts = np.zeros((len(names), 1 + y.shape[-1]))
    np.add.at(counts, member, np.column_stack([np.ones(len(y)), positives]))
    counts /= np.maximum(counts.sum(axis=0), 1)
    open_ = shares > 0
    placed = np.zeros((3, counts.shape[1]))
    home = np.empty(len(names), np.int64)
    weight = (counts**2).sum(axis=1)
    for g in np.lexsort((order.permutation(len(names)), -weight)):
        # The increase of sum((placed - share)^2 / share) if this group joins each split.
        increase = (counts[g] * (2 * (placed - shares[:, None]) + counts[g])).sum(axis=1) / np.where(open_, shares, 1)
        home[g] = int(np.argmin(np.where(open_, increase, np.inf)))
        placed[home[g]] += counts[g]
    train, valid, test = (np.flatnonzero(home[member] == s) for s in range(3))
    return train, valid, test


def _by_time(dataset: Dataset, shares: NDArray[np.float64]) -> tuple[Rows, Rows, Rows]:
    if dataset.time is None:
        raise BadData.of(f"{dataset.path}: keys", "without 'time'", "'time', for a split by time")
    rows = np.argsort(dataset.time, kind="stable")
    ordered = dataset.time[rows]
    # Only where the time changes may a cut lie; the ends are candidates too, for a share of 0.
    changes = np.concatenate([[0], np.flatnonzero(np.diff(ordered) > 0) + 1, [len(rows)]])
    wanted = np.cumsum(shares)[:2] * len(rows)
    first, second = (int(changes[np.argmin(np.abs(changes - cut))]) for cut in wanted)
    return rows[:first], rows[first:second], rows[second:]


def _at_random(y: NDArray[np.uint8], shares: NDArray[np.float64], order: np.random.Generator) -> tuple[Rows, Rows, Rows]:
    """Deal rows out, stratified by the rarest label that is positive in each."""
    positive = (y == 1).any(axis=tuple(range(1, y.ndim - 1)))  # [row, label]
    rarest_first = np.argsort(positive.sum(axis=0), kind="stable")
    ranked = positive[:, rarest_first]
    stratum = np.where(ranked.any(axis=1), ranked.argmax(axis=1), ranked.shape[1])
    rows = np.lexsort((order.permutation(len(y)), stratum))
    # Multiples of the golden ratio modulo 1 fill [0, 1) evenly over every run, so every stratum is shared about as asked.
    place = np.modf(order.random() + np.arange(len(rows)) * (np.sqrt(5) - 1) / 2)[0]
    home = np.searchsorted(np.cumsum(shares)[:2], place, side="right")
    train, valid, test = (rows[home == s] for s in range(3))
    return train, valid, test


def _check_labels(dataset: Dataset, y: NDArray[np.uint8], train: Rows, valid: Rows, test: Rows) -> tuple[str, ...]:
    axes = tuple(range(y.ndim - 1))
    for value, kind in ((1, "positive"), (0, "negative")):
        lacking = np.flatnonzero((y[train] == value).sum(axis=axes) == 0)
        if len(lacking):
            raise BadData.of(
                f"{dataset.path}: {kind}s of label {dataset.label_names[lacking[0]]!r} in split train",
                0, f"at least 1 ({len(lacking)} of {y.shape[-1]} labels have none)",
            )  # fmt: skip
    if not (y[valid] == 1).any():
        raise BadData.of(f"{dataset.path}: positives of any label in split valid", 0, "at least 1; it stops the training")
    notes = []
    for name, rows in (("valid", valid), ("test", test)):
        lacking = np.flatnonzero((y[rows] == 1).sum(axis=axes) == 0) if len(rows) else np.empty(0, np.int64)
        if len(lacking):
            shown = ", ".join(dataset.label_names[i] for i in lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            notes.append(f"split {name} has no positive of {len(lacking)} of {y.shape[-1]} labels: {shown}")
    return tuple(notes)
