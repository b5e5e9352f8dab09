"""Average precision under bootstrap draws of whole groups of rows.

Rows of one group (windows of a sequence, recordings of a patient) are not independent of each other, so groups are drawn, as
many as there are, with replacement (Efron 1979; Field and Welsh 2007). Two models that are judged on the same draws can be
subtracted draw by draw: what the rows have in common then cancels.
"""

from typing import Final

import numpy as np
from cutpoint.dataset import Dataset
from numpy.typing import NDArray
from scipy.sparse import coo_matrix

Floats = NDArray[np.float64]

# More groups are dealt into so many at random: of independent ones that changes no interval, and bounds memory.
MOST_GROUPS: Final = 4096
# Distinct scores of positives; neighbours beyond it are pooled, which moves AP in the fourth digit.
_MOST_CUTS: Final = 4096
_DRAWS_AT_ONCE: Final = 250


def drawn_units(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """What is drawn as one: the group of each row, or the row itself where the data have no groups; int64 [row], from 0."""
    if dataset.group is None:
        return np.arange(len(rows))
    return np.unique(dataset.group[rows], return_inverse=True)[1].reshape(-1).astype(np.int64)


def average_precision_draws(
    logits: NDArray[np.floating], targets: NDArray[np.uint8], units: NDArray[np.int64], draws: int = 500, seed: int = 0
) -> Floats:
    """Average precision of every label in every draw, float64 [draw, label], 0 to 1; NaN where no positive was drawn.

    Args:
        logits: [row, label] or [sequence, window, label].
        targets: 0, 1 or `UNLABELLED`, the same shape.
        units: [row], from 0: what is drawn as one.
        draws: how many.
        seed: the same seed, draws and units give the same draws, whatever the logits.
    """
    labels = logits.shape[-1]
    flat, y = logits.reshape(-1, labels), targets.reshape(-1, labels)
    times = _times_drawn(units, draws, seed)
    unit = np.repeat(_at_most(units, seed), len(flat) // max(1, len(units)))
    found = np.empty((draws, labels))
    for i in range(labels):
        found[:, i] = _precision_draws(flat[:, i], y[:, i], unit, times)
    return found


def interval_of(value: float, draws: Floats, confidence: float = 0.95) -> tuple[float, float] | None:
    """The percentile interval of draws, moved by twice their bias; as of everything by bootstrap, it is about right.

    Average precision is too high in a sample, and higher still in a draw from it, by about as much: rows drawn twice stand
    together. The interval therefore moves down by both; the plain percentile interval of a mean over many labels would mostly
    miss. With hardly a positive none is to be trusted. The figure itself is always within.

    Args:
        value: of the rows as they are.
        draws: of the same figure, [draw]; NaN is left out.
        confidence: between 0 and 1.

    Returns:
        None where over a tenth of the draws are NaN, as with hardly a positive.
    """
    known = np.sort(draws[~np.isnan(draws)])
    if len(known) < 0.9 * len(draws) or not len(known):
        return None
    outside = int((1 - confidence) / 2 * len(known))
    moved = 2 * (float(known.mean()) - value)
    low, high = float(known[outside]) - moved, float(known[len(known) - 1 - outside]) - moved
    return min(low, value), max(high, value)


def mean_over_labels(values: Floats) -> Floats:
    """The mean of [draw, label] over labels that are not NaN, [draw]; NaN where all are."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def _at_most(units: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    count = int(units.max(initial=-1)) + 1
    if count <= MOST_GROUPS:
        return units
    dealt = np.random.default_rng([seed, 1]).permutation(count) % MOST_GROUPS
    return np.asarray(dealt[units])


def _times_drawn(units: NDArray[np.int64], draws: int, seed: int) -> NDArray[np.float32]:
    """How often each unit is in each draw, [unit, draw]."""
    count = min(MOST_GROUPS, int(units.max(initial=-1)) + 1)
    rng = np.random.default_rng([seed, 0])
    times = np.empty((count, draws), np.float32)
    for draw in range(draws):
        times[:, draw] = np.bincount(rng.integers(0, count, count), minlength=count)
    return times


def _precision_draws(
    scores: NDArray[np.floating], y: NDArray[np.uint8], unit: NDArray[np.int64], times: NDArray[np.float32]
) -> Floats:
    draws = times.shape[1]
    cuts = np.unique(scores[y == 1])  # ascending
    if not len(cuts):
        return np.full(draws, np.nan)
    if len(cuts) > _MOST_CUTS:
        cuts = cuts[np.linspace(0, len(cuts) - 1, _MOST_CUTS).astype(np.int64)]
    # A row alerts from the highest cut that is not above it; what is below all cuts adds nothing to a precision that counts.
    at = len(cuts) - np.searchsorted(cuts, scores, side="right")  # 0 is the highest cut
    rows, hits = np.flatnonzero((y <= 1) & (at < len(cuts))), np.flatnonzero(y == 1)
    shape = (len(cuts), len(times))
    counted, positive = (
        coo_matrix((np.ones(len(which), np.float32), (at[which], unit[which])), shape).tocsr() for which in (rows, hits)
    )
    found = np.empty(draws)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        part = slice(start, start + _DRAWS_AT_ONCE)
        step = (positive @ times[:, part]).astype(np.float64)
        tp, alerts = np.cumsum(step, axis=0), np.cumsum(counted @ times[:, part], axis=0, dtype=np.float64)
        total = tp[-1]
        area = (step * tp / np.maximum(alerts, 1)).sum(axis=0)
        found[part] = np.where(total > 0, area / np.maximum(total, 1), np.nan)
    return found
