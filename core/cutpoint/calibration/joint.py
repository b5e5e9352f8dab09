"""Objectives of several labels together: what one label gets depends on what the others need."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .curve import Curve
from .objective import NEVER, Choice, MaxFBeta, Objective


class Joint(Objective):
    """An objective of all the labels that have it; those without a class of their own get no cut and take no part."""

    joint = True
    constraint = False

    def choose_jointly(self, curves: Sequence[Curve], min_positives: int = 0) -> list[Choice]:
        """A choice for every label; NEVER where its alerts cost the others more than they bring."""
        lacking = [self.lacking(curve, min_positives) for curve in curves]
        taking_part = [curve.at_positives() for curve, lack in zip(curves, lacking, strict=True) if lack is None]
        chosen = iter(self._best_of_all(taking_part) if taking_part else [])
        return [lack if lack is not None else _where(curve, next(chosen)) for curve, lack in zip(curves, lacking, strict=True)]

    def _best(self, curve: Curve) -> Choice:
        (choice,) = self.choose_jointly([curve])
        return choice

    @abstractmethod
    def _best_of_all(self, curves: Sequence[Curve]) -> list[float | None]:
        """For each label the chosen cut (a score), None for no alerts; the curves are at positives."""


class MaxMicroFBeta(Joint):
    """Largest F-beta of all labels' decisions counted together, exactly: Dinkelbach's method (1967).

    F is a ratio of sums over labels, so for a given value l of it the best cuts are found label by label, as those with the
    largest (1 + b^2) TP - l PP; the F of these cuts is the next l, and once it no longer grows they are optimal.
    """

    name = "max_micro_fbeta"
    expected = MaxFBeta.expected

    def _allowed(self) -> bool:
        return 0 < self.value <= 1000

    def _best_of_all(self, curves: Sequence[Curve]) -> list[float | None]:
        weight = self.value**2
        positives = sum(curve.positives for curve in curves)
        f = 0.0
        while True:
            tp = alerts = 0.0
            cuts: list[float | None] = []
            for curve in curves:
                gains = (1 + weight) * curve.tp - f * curve.alerts
                best = int(np.argmax(gains))
                take = gains[best] > 0
                cuts.append(float(curve.cuts[best]) if take else None)
                tp, alerts = tp + take * float(curve.tp[best]), alerts + take * float(curve.alerts[best])
            found = (1 + weight) * tp / (alerts + weight * positives)
            if found <= f * (1 + 1e-14):
                return cuts
            f = found


@dataclass
class _Share:
    """One label's curve as shares of its rows, and how far it is taken."""

    alerts: NDArray[np.float64]  # [cut] alerts a row
    found: NDArray[np.float64]  # [cut] positives found a row
    taken: int = NEVER

    @property
    def spent(self) -> float:
        return float(self.alerts[self.taken]) if self.taken >= 0 else 0.0


class AlertBudget(Joint):
    """At most `value` alerts a row over all labels together, shared so as to find the most positives.

    The labels' concave hulls are taken in order of their slope, which is the precision of the next alerts, while they fit: the
    optimum but for what is left of the budget at the end. That rest is then spent, label by label in the same order, on the
    cuts between that still fit. (To fill it at best is a knapsack problem.)
    """

    name = "alert_budget"
    expected = "more than 0 (alerts a row, all labels together)"

    def _allowed(self) -> bool:
        return 0 < self.value < np.inf

    def _best_of_all(self, curves: Sequence[Curve]) -> list[float | None]:
        shares = [_Share(curve.alerts / curve.rows, curve.tp / curve.rows) for curve in curves]
        steps = []
        for label, share in enumerate(shares):
            at = NEVER
            for corner in _hull(share.alerts, share.found):
                cost = share.alerts[corner] - (share.alerts[at] if at >= 0 else 0.0)
                gain = share.found[corner] - (share.found[at] if at >= 0 else 0.0)
                steps.append((-gain / cost, cost, label, corner))
                at = corner
        steps.sort()  # of equal slopes the cheaper first; a label's own steps have falling slopes, so they stay in order
        left = self.value * (1 + 1e-12)
        blocked: list[int] = []
        for _, cost, label, corner in steps:
            if label in blocked:
                continue
            if cost <= left:
                shares[label].taken = corner
                left -= cost
            else:
                blocked.append(label)
        for label in blocked:
            share = shares[label]
            fits = int(np.searchsorted(share.alerts, share.spent + left, side="right")) - 1
            if fits > share.taken:
                left -= share.alerts[fits] - share.spent
                share.taken = fits
        return [
            float(curve.cuts[share.taken]) if share.taken >= 0 else None for curve, share in zip(curves, shares, strict=True)
        ]


def _hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """Indices of the corners of the upper concave hull of (0, 0) and the points, x ascending, without (0, 0)."""
    corners: list[int] = []
    for i in range(len(x)):
        while corners:
            top = corners[-1]
            x0, y0 = (x[corners[-2]], y[corners[-2]]) if len(corners) > 1 else (0.0, 0.0)
            if (y[top] - y0) * (x[i] - x0) > (y[i] - y0) * (x[top] - x0):
                break
            corners.pop()
        corners.append(i)
    return corners


def _where(curve: Curve, cut: float | None) -> Choice:
    return NEVER if cut is None else curve.index_at(cut)
