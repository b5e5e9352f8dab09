"""What an epoch is worth: its figures on the validation rows, and whether its weights are the ones to keep."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cutpoint.calibration import average_precision, exact_curve
from cutpoint.dataset import UNLABELLED
from numpy.typing import NDArray
from torch import Tensor

from .run import Epoch


def average_precisions(logits: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.float64]:
    """Average precision per label over all rows and windows, [..., label] to [label]; NaN for labels without positives."""
    labels = logits.shape[-1]
    flat, y = logits.reshape(-1, labels), targets.reshape(-1, labels)
    return np.array([average_precision(exact_curve(flat[:, i], y[:, i])) for i in range(labels)])


def log_loss(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """Mean binary log loss of logits [..., label] in nats per labelled entry, in float64; exact for large logits."""
    on = targets != UNLABELLED
    z, y = logits[on].astype(np.float64), targets[on]
    return float(np.logaddexp(0, np.where(y == 1, -z, z)).mean())


class Keeper:
    """The history so far, and the weights of the epoch to keep.

    That is the one with the best validation AP, and among epochs as good, the one whose probabilities have the lowest log
    loss: AP sees only the ranking, which is often learnt long before the probabilities are. As good means within a quarter
    of the standard error of the best AP, sqrt(AP (1 - AP) / positives), since epochs are compared on the same rows.

    Args:
        positives: labelled ones among the validation entries, at least 1.
        patience: epochs without one to keep before it is `tired`; None keeps the last epoch instead and is never tired.
    """

    def __init__(self, positives: int, patience: int | None) -> None:
        self.positives, self.patience = positives, patience
        self.history: list[Epoch] = []
        self.best_ap = -1.0
        self.kept: Epoch | None = None
        self.weights: dict[str, Tensor] = {}

    def add(self, epoch: Epoch, weights: Mapping[str, Tensor], settled: bool) -> bool:
        """Remember `epoch`, and its weights if they are to be kept, which is returned; never one that is not `settled`."""
        self.history.append(epoch)
        if not settled or not self._is_better(epoch):
            return False
        self.kept = epoch
        self.weights = {name: value.detach().cpu().clone() for name, value in weights.items()}
        return True

    @property
    def tired(self) -> bool:
        """Whether `patience` epochs have passed since the one that is kept."""
        if self.kept is None or self.patience is None:
            return False
        return self.history[-1].epoch - self.kept.epoch >= self.patience

    def state(self) -> dict[str, Any]:
        """All of it, for a checkpoint."""
        return {
            "history": [epoch.model_dump() for epoch in self.history],
            "best_ap": self.best_ap,
            "kept": None if self.kept is None else self.kept.epoch,
            "weights": self.weights,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.history = [Epoch.model_validate(epoch) for epoch in state["history"]]
        self.best_ap, self.weights = state["best_ap"], state["weights"]
        self.kept = next((epoch for epoch in self.history if epoch.epoch == state["kept"]), None)

    def _is_better(self, epoch: Epoch) -> bool:
        if self.patience is None:
            return True
        self.best_ap = max(self.best_ap, epoch.valid_ap)
        enough = self.best_ap - math.sqrt(self.best_ap * (1 - self.best_ap) / self.positives) / 4
        if self.kept is None or self.kept.valid_ap < enough:
            return epoch.valid_ap >= enough
        return epoch.valid_ap >= enough and epoch.valid_loss < self.kept.valid_loss


def suspects(logits: Sequence[NDArray[Any]] | NDArray[Any], names: Sequence[str]) -> str:
    """The labels with a logit [..., label] that is not finite, in words; "" when there is none."""
    bad = ~np.isfinite(np.concatenate([part.reshape(-1, len(names)) for part in logits])).all(axis=0)
    found = [repr(names[i]) for i in np.flatnonzero(bad).tolist()]
    if not found:
        return ""
    return f"label {found[0]}" if len(found) == 1 else f"{len(found)} of {len(names)} labels, the first is {found[0]}"
