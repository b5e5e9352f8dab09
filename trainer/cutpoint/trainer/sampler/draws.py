"""How often each training row is expected in an epoch, for every kind of sampler.

A row is what is split: one example, or one whole sequence with all its windows. It holds a label when any of its entries of
that label is positive; what is not labelled is not positive.
"""

import math

import numpy as np
from cutpoint.dataset import UNLABELLED
from cutpoint.errors import BadConfig
from numpy.typing import NDArray

from ..config.sampler import (
    LabelSetSampler,
    NoSampler,
    OverSampler,
    RepeatFactorSampler,
    Sampler,
    WeightedSampler,
)
from .order import Order

Rows = NDArray[np.bool_]
Draws = NDArray[np.float64]


def build_order(settings: Sampler, y: NDArray[np.uint8], seed: int) -> Order:
    """The order of the training rows that `settings` ask for.

    Args:
        settings: of the sampler.
        y: uint8 [row, label] or [sequence, window, label] of the training split only.
        seed: of the order.

    Raises:
        BadConfig: there is nothing to sample by: no row, or every row, holds a positive; a ratio is what the rows have already;
            no label is rarer than the threshold.
    """
    return Order(len(y), seed, expected_draws(settings, y))


def expected_draws(settings: Sampler, y: NDArray[np.uint8]) -> Draws | None:
    """How often each row is expected in an epoch, float64 [row] with a whole sum; None for every row once."""
    if isinstance(settings, NoSampler):
        return None
    holds = (y == 1).any(axis=tuple(range(1, y.ndim - 1)))  # [row, label]
    if isinstance(settings, RepeatFactorSampler):
        labelled = (y != UNLABELLED).any(axis=tuple(range(1, y.ndim - 1)))
        return repeat_factor(holds, labelled, settings.threshold)
    if isinstance(settings, LabelSetSampler):
        return label_set(holds, settings.power)
    positive = holds.any(axis=1)
    if positive.all() or not positive.any():
        found = f"{int(positive.sum())} of {len(positive)} training rows hold a positive"
        raise BadConfig.of("sampler", settings.kind, f"none: {found}")
    if isinstance(settings, WeightedSampler):
        return weighted(positive, settings.share)
    return over(positive, settings.ratio) if isinstance(settings, OverSampler) else under(positive, settings.ratio)


def weighted(positive: Rows, share: float) -> Draws:
    """As many draws as rows, a `share` of them of rows that hold a positive; [row], sums to the number of rows."""
    rows, some = len(positive), int(positive.sum())
    return np.where(positive, share * rows / some, (1 - share) * rows / (rows - some))


def label_set(holds: NDArray[np.bool_], power: float) -> Draws:
    """As many draws as rows; a set of labels that n rows hold is drawn in proportion to n^(1 - power).

    With power 1 all sets that occur, the empty one among them, are drawn equally often.

    Args:
        holds: bool [row, label].
        power: from 0, which changes nothing, to 1.
    """
    member = _set_numbers(holds)
    size = np.bincount(member).astype(np.float64)
    if len(size) == 1:
        raise BadConfig.of("sampler", "label_set", "none: all training rows hold the same labels")
    share = size ** (1 - power)
    return np.asarray((share / share.sum() * len(holds) / size)[member])


def repeat_factor(holds: NDArray[np.bool_], labelled: NDArray[np.bool_], threshold: float) -> Draws:
    """The largest of max(1, sqrt(threshold / f)) over the labels that a row holds (Gupta 2019, LVIS, appendix).

    f is the share of the rows labelled for a label that hold it. The factors are raised together by less than one row in all,
    so that an epoch has a whole number of rows.

    Args:
        holds: bool [row, label].
        labelled: bool [row, label], whether the row has a labelled entry of the label.
        threshold: labels less frequent than this are repeated, 0 to 1.
    """
    frequency = holds.sum(axis=0) / np.maximum(labelled.sum(axis=0), 1)
    factor = np.sqrt(np.maximum(1, threshold / np.where(frequency > 0, frequency, np.inf)))
    if factor.max() == 1:
        least = float(frequency[frequency > 0].min()) if frequency.any() else 0.0
        raise BadConfig.of("sampler.threshold", threshold, f"more than {least:.3g}, the frequency of the rarest label")
    draws = np.where(holds, factor, 1.0).max(axis=1)
    total = float(draws.sum())
    return np.asarray(draws * (math.ceil(total - 1e-6) / total))


def over(positive: Rows, ratio: float) -> Draws:
    """Every other row once, and rows that hold a positive so often that there are `ratio` of them to one that does not."""
    some, others = int(positive.sum()), int((~positive).sum())
    wanted = round(ratio * others)
    if wanted <= some:
        raise BadConfig.of("sampler.ratio", ratio, f"more than {some / others:.4g}, what the training rows have")
    return np.where(positive, wanted / some, 1.0)


def under(positive: Rows, ratio: float) -> Draws:
    """Every row that holds a positive once, and so many of the others that there are `ratio` to one of these."""
    some, others = int(positive.sum()), int((~positive).sum())
    wanted = max(1, round(some / ratio))
    if wanted >= others:
        raise BadConfig.of("sampler.ratio", ratio, f"more than {some / others:.4g}, what the training rows have")
    return np.where(positive, 1.0, wanted / others)


def _set_numbers(holds: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each row, [row], the same for the same set of labels; 64 labels at a time, for any number of rows."""
    number = np.zeros(len(holds), np.int64)
    for start in range(0, holds.shape[1], 64):
        packed = np.packbits(holds[:, start : start + 64], axis=1)
        words = np.pad(packed, ((0, 0), (0, 8 - packed.shape[1]))).view(np.uint64)[:, 0]
        known, word = np.unique(words, return_inverse=True)
        number = np.unique(number * len(known) + word, return_inverse=True)[1] if start else word
    return number
