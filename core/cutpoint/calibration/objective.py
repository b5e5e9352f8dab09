"""Objectives: what a cut is chosen for.

One notation everywhere (commands, configuration, wire, policies): `name=value`.

    max_fbeta=1              the cut with the largest F-beta, here F1
    precision_at_least=0.9   of the cuts with at least this precision, the one with the largest recall
    recall_at_least=0.9      of the cuts with at least this recall, the one with the fewest alerts
    alert_rate_at_most=0.01  of the cuts that alert on at most this share of rows, the one that alerts most

Each is exact over all cuts of a curve. Where no cut will do, the answer is an `Infeasible` that says what is lacking, never a
cut that happens to come out of an argmax.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .curve import Curve


@dataclass(frozen=True)
class Infeasible:
    """No cut meets the objective.

    Attributes:
        status: INSUFFICIENT when there is too little data to say, INFEASIBLE when the data say no.
        reason: what is lacking, for a person.
        needs_positives: how many labelled positives it would take at least, where that can be said.
    """

    status: Literal["INSUFFICIENT", "INFEASIBLE"]
    reason: str
    needs_positives: int | None = None


@dataclass(frozen=True)
class Objective:
    """Chooses one cut of a curve; `value` is the parameter in the notation `name=value`."""

    value: float
    name: ClassVar[str]
    expected: ClassVar[str] = "more than 0 and at most 1"
    needs_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self._allowed():
            raise BadInput.of(f"objective {self.name}", self.value, f"a number, {self.expected}")

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}" if float(f"{self.value:g}") == self.value else f"{self.name}={self.value!r}"

    def _allowed(self) -> bool:
        return 0 < self.value <= 1

    def choose(self, curve: Curve, min_positives: int = 0) -> int | Infeasible:
        """The index of the chosen cut in `curve.cuts`, or why there is none.

        Args:
            curve: of one label.
            min_positives: with fewer labelled positives than this (or 1, where labels are needed) nothing is chosen.
        """
        if curve.rows == 0:
            return Infeasible("INSUFFICIENT", "no labelled rows", max(1, min_positives))
        least = max(1, min_positives) if self.needs_labels else min_positives
        if curve.positives < least:
            lacking = f"{curve.positives} labelled positives; needs at least {least}"
            return Infeasible("INSUFFICIENT", lacking, least)
        if self.needs_labels and curve.negatives == 0:
            return Infeasible("INSUFFICIENT", "0 labelled negatives; needs at least 1")
        return self._best(curve)

    @abstractmethod
    def _best(self, curve: Curve) -> int | Infeasible: ...


class MaxFBeta(Objective):
    """Largest F-beta, (1 + b^2) TP / (PP + b^2 P); on a tie the highest cut, which alerts least."""

    name = "max_fbeta"
    expected = "more than 0 and at most 1000 (1 weighs precision and recall alike, 2 favours recall)"

    def _allowed(self) -> bool:
        return 0 < self.value <= 1000  # beyond it floats cannot tell the cuts apart

    def _best(self, curve: Curve) -> int | Infeasible:
        weight = self.value**2
        scores = (1 + weight) * curve.tp / (curve.tp + curve.fp + weight * curve.positives)
        return int(np.argmax(scores))


class PrecisionAtLeast(Objective):
    """Largest recall among the cuts with at least this precision; of those, the highest cut."""

    name = "precision_at_least"

    def _best(self, curve: Curve) -> int | Infeasible:
        meets = curve.tp >= _product(self.value, curve.tp + curve.fp)
        meets &= curve.tp > 0
        if meets.any():
            return int(np.argmax(np.where(meets, curve.tp, -1)))
        best = int(np.argmax(curve.tp / (curve.tp + curve.fp)))
        tp, fp = int(curve.tp[best]), int(curve.fp[best])
        reason = f"the best precision of any cut is {tp}/{tp + fp} = {tp / (tp + fp):.4g}"
        if self.value == 1:
            return Infeasible("INFEASIBLE", f"{reason}; it needs a positive that scores above every negative")
        # At any cut with its fp, precision p takes fp p / (1 - p) true positives: the least further number over all cuts.
        more = int((_product(self.value / (1 - self.value), curve.fp) - curve.tp).min())
        needs = curve.positives + more
        return Infeasible(
            "INFEASIBLE",
            f"{reason}; {more} more positives above those negatives would do, or one above every negative",
            needs,
        )


class RecallAtLeast(Objective):
    """Fewest alerts among the cuts with at least this recall: the k-th highest positive, k the smallest that will do."""

    name = "recall_at_least"

    def _best(self, curve: Curve) -> int | Infeasible:
        return int(np.argmax(curve.tp >= _product(self.value, curve.positives)))


class AlertRateAtMost(Objective):
    """Most alerts within the budget, a share of all rows. Needs no labels of either class."""

    name = "alert_rate_at_most"
    expected = "more than 0 and less than 1"
    needs_labels = False

    def _allowed(self) -> bool:
        return 0 < self.value < 1

    def _best(self, curve: Curve) -> int | Infeasible:
        alerts = curve.tp + curve.fp
        within = int((alerts <= self.value * curve.rows * (1 + 1e-12)).sum())
        if within > 0:
            return within - 1
        least = int(alerts[0])
        return Infeasible(
            "INFEASIBLE",
            f"the highest score alone alerts on {least} of {curve.rows} rows; it needs at least "
            f"{math.ceil(least / self.value)} rows, or scores without ties",
        )


OBJECTIVES: dict[str, type[Objective]] = {c.name: c for c in (MaxFBeta, PrecisionAtLeast, RecallAtLeast, AlertRateAtMost)}


def parse_objective(text: str) -> Objective:
    """Read the notation `name=value`, as in `recall_at_least=0.9`.

    Raises:
        BadInput: an unknown name, or a value out of range; the message lists what is known.
    """
    name, _, value = text.strip().partition("=")
    kind = OBJECTIVES.get(name.strip())
    if kind is None:
        raise BadInput.of("objective", repr(text), "one of " + ", ".join(f"{known}=VALUE" for known in OBJECTIVES))
    try:
        number = float(value)
    except ValueError:
        raise BadInput.of(f"objective {kind.name}", repr(value), f"a number, {kind.expected}") from None
    return kind(number)


def _product(share: float, count: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """The smallest whole number of rows that is at least `share` of `count`; 0.9 of 10 is 9, whatever floats make of it."""
    return np.ceil(np.asarray(share * np.asarray(count) * (1 - 1e-12))).astype(np.int64)
