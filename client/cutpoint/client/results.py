"""What the client gives back."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from cutpoint.calibration.policy import Policy
from cutpoint.errors import BadInput
from numpy.typing import NDArray

T = TypeVar("T")

# What a response may hold of what the protocol calls outputs.
OUTPUTS = ("logits", "scores", "decisions", "labels")


class Scores:
    """One array scored; of the outputs, those that were asked for.

    Attributes:
        model: name.
        model_version: the version that answered.
        policy_version: the policy that decided; None while the model has none.
        undecided_labels: how many labels have no threshold under that policy: their decisions are always False.
    """

    def __init__(
        self,
        *,
        logits: NDArray[np.float32] | None = None,
        scores: NDArray[np.float32] | None = None,
        decisions: NDArray[np.bool_] | None = None,
        labels: tuple[str, ...] | None = None,
        model: str,
        model_version: int,
        policy_version: int | None,
        undecided_labels: int,
    ) -> None:
        self.model = model
        self.model_version = model_version
        self.policy_version = policy_version
        self.undecided_labels = undecided_labels
        self._logits = logits
        self._scores = scores
        self._decisions = decisions
        self._labels = labels

    @property
    def logits(self) -> NDArray[np.float32]:
        """Float32 [row, ..., label]."""
        return _asked("logits", self._logits)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Calibrated probabilities, float32 [row, ..., label], 0 to 1."""
        return _asked("scores", self._scores)

    @property
    def decisions(self) -> NDArray[np.bool_] | None:
        """Bool [row, ..., label]; None while the model has no policy."""
        return None if self.policy_version is None else _asked("decisions", self._decisions)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of the last axis."""
        return _asked("labels", self._labels)

    def __len__(self) -> int:
        """How many rows; 0 where labels are all that was asked for."""
        arrays = (self._logits, self._scores, self._decisions)
        return next((len(array) for array in arrays if array is not None), 0)

    def __repr__(self) -> str:
        by = "no policy" if self.policy_version is None else f"policy {self.policy_version}"
        return f"Scores({len(self)} rows, {self.model}/{self.model_version}, {by})"


def _asked(name: str, value: T | None) -> T:
    if value is None:
        raise BadInput.of(f"output {name}", "not there", "one that was asked for, see `outputs`")
    return value


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
