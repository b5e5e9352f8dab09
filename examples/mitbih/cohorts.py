"""Who calibrates, and whom is streamed: sequences of calm patients, and those of patients with far more events."""

from dataclasses import dataclass

import numpy as np
from cutpoint.dataset import Dataset
from cutpoint.errors import BadData
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Counts = NDArray[np.int64]
Shares = NDArray[np.float64]
BUSY = 0.25
# Of a calm sequence at most so many windows are positive for a label: otherwise one patient alone may be an alert.
CALM_MOST = 1 / 3
_STARTS = 20


@dataclass(frozen=True)
class Cohorts:
    """Held-out sequences that are streamed: rows of a dataset.

    Attributes:
        calm: those chosen that together have the rates, or the shares of events, of the calibration.
        surge: the others of busy patients.
        label: index of the label whose share of events grows most from the calibration to the surge.
    """

    calm: Rows
    surge: Rows
    label: int


def calibrating(dataset: Dataset, valid: Rows) -> Rows:
    """The validation sequences of patients who are not busy.

    Raises:
        BadData: there are none, or no labels or groups.
    """
    busy = _busy(dataset)
    rows = np.array([row for row in valid if _group(dataset)[row] not in busy], np.int64)
    if len(rows) == 0:
        raise BadData.of(f"{dataset.path}: validation sequences", "none of a calm patient", f"a share of events up to {BUSY}")
    return rows


def cohorts(
    dataset: Dataset, calibration: Rows, test: Rows, calm: int, alerts: Counts | None = None, promised: Shares | None = None
) -> Cohorts:
    """Choose whom to stream.

    Args:
        dataset: with labels [row, window, label] and the patient as group.
        calibration: rows that calibrated.
        test: held-out rows.
        calm: how many calm sequences to stream.
        alerts: [row of test, label], how many windows are positive by decision; None to go by events.
        promised: [label], with `alerts`: share of positives that the calm ones have to have together; without, it is the
            calibration's share of events.

    Raises:
        BadData: too few held-out sequences, or none left of a busy patient.
    """
    y = _labels(dataset)
    shares = y[calibration].mean(axis=(0, 1))
    counts, wanted = y[test].sum(axis=1).astype(float), shares
    if alerts is not None and promised is not None:
        counts, wanted = alerts.astype(float), promised
    able = np.flatnonzero((counts <= CALM_MOST * y.shape[1]).all(axis=1))
    if len(able) < calm:
        raise BadData.of(
            f"{dataset.path}: split", f"{len(able)} calm held-out sequences",
            f"{calm} or more (examples/mitbih/monitor.yaml has such a split)",
        )  # fmt: skip
    chosen = test[able[_nearest(counts[able], wanted * y.shape[1], calm)]]
    busy = _busy(dataset)
    surge = np.array([row for row in test if row not in chosen and _group(dataset)[row] in busy], np.int64)
    if len(surge) == 0:
        raise BadData.of(f"{dataset.path}: held-out sequences", "none left of a busy patient", f"a share of events over {BUSY}")
    growth = y[surge].mean(axis=(0, 1)) / np.maximum(shares, 1e-9)
    return Cohorts(chosen, surge, int(np.argmax(growth)))


def _labels(dataset: Dataset) -> NDArray[np.uint8]:
    if dataset.y is None:
        raise BadData.of(f"{dataset.path}: keys", "no y", "labels")
    return np.asarray(dataset.y)


def _group(dataset: Dataset) -> NDArray[np.str_]:
    if dataset.group is None:
        raise BadData.of(f"{dataset.path}: keys", "no group", "the patient of each sequence")
    return np.asarray(dataset.group)


def _busy(dataset: Dataset) -> set[str]:
    """Patients of whose windows over a quarter hold an event of some label."""
    y, group = _labels(dataset), _group(dataset)
    return {patient for patient in np.unique(group) if y[group == patient].mean(axis=(0, 1)).max() > BUSY}


def _nearest(counts: NDArray[np.float64], each: Shares, many: int) -> Rows:
    """Indices of `many` of the rows whose sum of counts [row, column] is near to `many` times `each`: exchanged one by one."""
    goal = np.maximum(each * many, 1.0)
    rng = np.random.default_rng(0)

    def distance(inside: list[int]) -> float:
        return float((np.square(counts[inside].sum(axis=0) - goal) / goal).sum())  # chi-square, over the columns

    best: tuple[float, list[int]] | None = None
    for _ in range(_STARTS):
        order = [int(row) for row in rng.permutation(len(counts))]
        inside, outside = order[:many], order[many:]
        found, moved = distance(inside), True
        while moved:
            moved = False
            for i in range(len(inside)):
                for j in range(len(outside)):
                    inside[i], outside[j] = outside[j], inside[i]
                    if (tried := distance(inside)) < found - 1e-9:
                        found, moved = tried, True
                    else:
                        inside[i], outside[j] = outside[j], inside[i]
        if best is None or found < best[0]:
            best = found, sorted(inside)
    assert best is not None
    return np.array(best[1], np.int64)
