"""Objectives of several labels together: what one label gets depends on what the others need."""

import heapq
from abc import abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

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
        steps = [_steps(curve, label) for label, curve in enumerate(curves)]
        queue = [next(each) for each in steps]  # a label's next step comes in when the one before is taken, whatever its slope
        heapq.heapify(queue)
        taken, blocked = [NEVER] * len(curves), []
        left = self.value * (1 + 1e-12)
        while queue:
            _, cost, label, corner = heapq.heappop(queue)
            if cost > left:
                blocked.append(label)
                continue
            taken[label] = corner
            left -= cost
            if (step := next(steps[label], None)) is not None:
                heapq.heappush(queue, step)
        for label in blocked:
            curve = curves[label]
            costs = (curve.alerts - sum(curve.counts_at(taken[label]))) / curve.rows
            fits = int(np.searchsorted(costs, left, side="right")) - 1
            if fits > taken[label]:
                left -= float(costs[fits])
                taken[label] = fits
        return [float(curve.cuts[i]) if i >= 0 else None for curve, i in zip(curves, taken, strict=True)]


def _steps(curve: Curve, label: int) -> Iterator[tuple[float, float, int, int]]:
    """The edges of a curve's hull in order, as (-slope, alerts a row, label, index of the corner at the end)."""
    alerts, tp = curve.alerts.tolist(), curve.tp.tolist()  # Python's whole numbers: no rounding, and no overflow
    x = y = 0
    for corner in _hull(alerts, tp):
        more = alerts[corner] - x
        yield (y - tp[corner]) / more, more / curve.rows, label, corner
        x, y = alerts[corner], tp[corner]


def _hull(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Indices of the corners of the upper concave hull of (0, 0) and the points, without (0, 0) and points on its edges.

    x and y ascending. Exact for whole numbers.
    """
    corners: list[int] = []
    for i in range(len(x)):
        while corners:
            top = corners[-1]
            x0, y0 = (x[corners[-2]], y[corners[-2]]) if len(corners) > 1 else (0, 0)
            if (y[top] - y0) * (x[i] - x0) > (y[i] - y0) * (x[top] - x0):
                break
            corners.pop()
        corners.append(i)
    return corners


def _where(curve: Curve, cut: float | None) -> Choice:
    return NEVER if cut is None else curve.index_at(cut)
