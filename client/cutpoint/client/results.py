"""What the client gives back."""

from dataclasses import dataclass

import numpy as np
from cutpoint.calibration.policy import Policy
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """One array scored.

    Attributes:
        logits: float32 [row, ..., label].
        scores: calibrated probabilities, float32 [row, ..., label], 0 to 1.
        decisions: bool [row, ..., label]; None while the model has no policy.
        labels: label names, in the order of the last axis.
        model: name.
        model_version: the version that answered.
        policy_version: the policy that decided; None while the model has none.
        undecided_labels: how many labels have no threshold under that policy: their decisions are always False.
    """

    logits: NDArray[np.float32]
    scores: NDArray[np.float32]
    decisions: NDArray[np.bool_] | None
    labels: tuple[str, ...]
    model: str
    model_version: int
    policy_version: int | None
    undecided_labels: int

    def __len__(self) -> int:
        return len(self.logits)


@dataclass(frozen=True)
class PolicySummary:
    """One line of a list of policies."""

    version: int
    active: bool
    created: str
    author: str
    objectives: tuple[str, ...]
    labels: int
    undecided_labels: int


@dataclass(frozen=True)
class Calibration:
    """The policy that a calibration made, and whether it decides now."""

    policy: Policy
    activated: bool
