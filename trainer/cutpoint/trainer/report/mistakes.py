"""The worst mistakes of a label: the negatives that score highest and the positives that score lowest, fit to be looked at."""

import base64
from typing import Any, Final

import numpy as np
from cutpoint.dataset import Dataset
from numpy.typing import NDArray

from ..config import Preprocessing
from ..preprocess import LOG_FLOOR

EACH: Final = 4  # of either kind; of sequences, which take room, half as many
MOST_SEQUENCES: Final = 120  # drawn with their signal in one page
_FEATURES, _LEAST = 6, 3  # shown of a row; beyond the least only what is a deviation away
_COLUMNS: Final = 700  # of a drawn signal
_CHUNK_ROWS: Final = 4096
_MOST_ROWS: Final = 100_000  # that a feature's usual value is measured on

Floats = NDArray[np.float64]


class RowMistakes:
    """Mistakes among rows [row, feature], each with the features that are farthest from their mean over the training rows."""

    def __init__(self, dataset: Dataset, rows: NDArray[np.int64], usual: NDArray[np.int64]) -> None:
        """`rows` are judged; the mean and the deviation of a feature are those of the rows `usual`."""
        self.dataset, self.rows = dataset, rows
        self.figures = _figures(dataset, usual) if len(dataset.x.shape) == 2 else None

    def of_label(self, label: int, logits: NDArray[np.float32], targets: NDArray[np.uint8]) -> dict[str, Any]:
        """Of logits and targets [row] of one label."""
        missed, false = worst(logits, targets, EACH)
        return {
            "kind": "rows",
            "missed": [self._row(at, logits) for at in missed],
            "false": [self._row(at, logits) for at in false],
        }

    def _row(self, at: int, logits: NDArray[np.float32]) -> dict[str, Any]:
        row = int(self.rows[at])
        found: dict[str, Any] = {"row": row, "score": round(float(logits[at]), 4), **_group(self.dataset, row)}
        if self.figures is not None:
            x = np.asarray(self.dataset.x[self.rows[at : at + 1]], np.float64)[0]
            mean, deviation = self.figures
            far = np.divide(x - mean, deviation, out=np.zeros_like(x), where=deviation > 0)
            order = np.argsort(-np.abs(far), kind="stable")[:_FEATURES].tolist()
            chosen = [i for n, i in enumerate(order) if abs(far[i]) >= 1 or n < _LEAST]
            found["features"] = [[i, float(f"{x[i]:.4g}"), round(float(far[i]), 1)] for i in chosen if far[i] != 0]
        return found


class SequenceMistakes:
    """Mistakes among the windows of sequences, each with its whole sequence: the signal, the scores, the true windows."""

    def __init__(self, dataset: Dataset, rows: NDArray[np.int64], model: Preprocessing | None, labels: int) -> None:
        """`rows` are judged; with `model.log_input` the signal is drawn as the model sees it."""
        self.dataset, self.rows = dataset, rows
        self.log = model is not None and model.log_input
        self.drawn: dict[int, dict[str, Any]] = {}
        self.each = max(1, min(EACH // 2, MOST_SEQUENCES // (2 * labels)))

    def of_label(self, label: int, logits: NDArray[np.float32], targets: NDArray[np.uint8]) -> dict[str, Any]:
        """Of logits and targets [sequence, window] of one label."""
        inf = np.float32(np.inf)
        high, low = np.where(targets == 0, logits, -inf), np.where(targets == 1, logits, inf)
        false = [at for at in np.argsort(-high.max(axis=1), kind="stable")[: self.each] if (targets[at] == 0).any()]
        missed = [at for at in np.argsort(low.min(axis=1), kind="stable")[: self.each] if (targets[at] == 1).any()]
        return {
            "kind": "windows",
            "missed": [self._sequence(int(at), int(low[at].argmin()), logits, targets) for at in missed],
            "false": [self._sequence(int(at), int(high[at].argmax()), logits, targets) for at in false],
        }

    def _sequence(self, at: int, window: int, logits: NDArray[np.float32], targets: NDArray[np.uint8]) -> dict[str, Any]:
        row = int(self.rows[at])
        if row not in self.drawn and len(self.drawn) < MOST_SEQUENCES and (drawn := self._signal(row)) is not None:
            self.drawn[row] = drawn
        return {
            "row": row,
            "window": window,
            "score": round(float(logits[at, window]), 4),
            "scores": [float(f"{score:.3g}") for score in logits[at].tolist()],
            "true": np.flatnonzero(targets[at] == 1).tolist(),
            "unknown": np.flatnonzero(targets[at] > 1).tolist(),
            **_group(self.dataset, row),
        }

    def _signal(self, row: int) -> dict[str, Any] | None:
        """The lowest and highest sample of each of some hundred columns, in 256 steps, base64; None for what is no signal."""
        x = np.asarray(self.dataset.x[row : row + 1], np.float64)[0]
        channels = x.shape[1] if x.ndim == 3 else 1
        if x.ndim not in (2, 3):
            return None
        points = (x[:, 0] if x.ndim == 3 else x).ravel()
        if self.log:
            points = np.log(np.abs(points) + LOG_FLOOR * np.sqrt(np.mean(points**2)) + 1e-30)
        starts = np.unique(np.linspace(0, len(points), min(_COLUMNS, len(points)), endpoint=False).astype(np.int64))
        low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
        bottom, top = float(low.min()), float(high.max())
        steps = 255 / (top - bottom) if top > bottom else 0.0
        parts = (np.rint((each - bottom) * steps).astype(np.uint8) for each in (low, high))
        return {
            "bottom": float(f"{bottom:.4g}"),
            "top": float(f"{top:.4g}"),
            "channels": channels,
            "log": self.log,
            "columns": base64.b64encode(b"".join(part.tobytes() for part in parts)).decode(),
        }


def worst(logits: NDArray[np.float32], targets: NDArray[np.uint8], count: int) -> tuple[list[int], list[int]]:
    """Positions of the `count` positives that score lowest, and of the negatives that score highest; worst first."""
    missed, false = np.flatnonzero(targets == 1), np.flatnonzero(targets == 0)
    missed = missed[np.argsort(logits[missed], kind="stable")[:count]]
    false = false[np.argsort(-logits[false], kind="stable")[:count]]
    return missed.tolist(), false.tolist()


def _figures(dataset: Dataset, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of every feature, over no more than 100,000 of the rows."""
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_ROWS)).astype(np.int64)]
    count, total, square = len(rows), 0.0, 0.0
    origin: Any = 0.0
    for i, (_, x) in enumerate(dataset.batches(rows, _CHUNK_ROWS)):
        origin = x[0].astype(np.float64) if i == 0 else origin  # squares of large offsets would lose all digits
        away = x.astype(np.float64) - origin
        total, square = total + away.sum(axis=0), square + (away**2).sum(axis=0)
    mean = np.asarray(total / count)
    return mean + origin, np.sqrt(np.maximum(square / count - mean**2, 0))


def _group(dataset: Dataset, row: int) -> dict[str, str]:
    return {} if dataset.group is None else {"group": str(dataset.group[row])}
