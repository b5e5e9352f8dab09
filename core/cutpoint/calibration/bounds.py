"""Objectives that keep a bound, on the labelled rows or, with a guarantee, for new ones."""

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from .curve import Counted, Curve
from .guarantee import least_hits, least_needed, most_allowed, sure_precision
from .objective import Choice, Infeasible, Objective, Units, before, least_of, number, outermost, reached


class PrecisionAtLeast(Objective):
    """Largest recall among the cuts with at least this precision; of those, the highest cut."""

    name = "precision_at_least"
    cuts = "all"  # what is lacking where none will do depends on all of them
    rate = "precision"

    def bracket(self, coarse: Curve, delta: float | None = None) -> tuple[int, int] | None:
        """See `Objective`."""
        surely = coarse.tp >= least_of(self.value, coarse.alerts)
        found = coarse.tp[surely].max(initial=0)
        if delta is not None or found == 0:
            return None  # it may be infeasible, and then all cuts count
        possibly = coarse.tp >= least_of(self.value, coarse.tp + before(coarse.fp))
        return outermost(possibly & (coarse.tp >= found))

    def _best(self, curve: Curve) -> Choice:
        meets = curve.tp >= least_of(self.value, curve.alerts)
        meets &= curve.tp > 0
        if meets.any():
            return int(np.argmax(np.where(meets, curve.tp, -1)))
        reason = self._best_of_any(curve)
        if self.value == 1:
            return Infeasible("INFEASIBLE", f"{reason}; it needs a positive that scores above every negative")
        # At any cut with its fp, precision p takes fp p / (1 - p) true positives: the least further number over all cuts.
        more = math.ceil((least_of(self.value / (1 - self.value), curve.fp) - curve.tp).min())
        return Infeasible(
            "INFEASIBLE",
            f"{reason}; {more} more positives above those negatives would do, or one above every negative",
            math.ceil(curve.positives) + more,
        )

    def _surely(self, curve: Curve, delta: float, units: str) -> Choice:
        of: Units = "groups with positives" if units == "groups" else "positives"
        index = sure_precision(curve, self.value, delta)
        if index >= 0:
            return index
        least = least_hits(self.value, delta)
        if least is None:
            return Infeasible("INFEASIBLE", "no number of rows makes a precision of 1 sure")
        if curve.positives < least:
            lacking = f"{curve.positives} {of}; at delta {delta:g} it takes at least {least}, which score above the others"
            return Infeasible("INSUFFICIENT", lacking, least, of)
        return Infeasible("INFEASIBLE", f"{self._best_of_any(curve)}, which at no declared rank is sure at delta {delta:g}")

    def _best_of_any(self, curve: Curve) -> str:
        best = int(np.argmax(curve.tp / curve.alerts))
        tp, alerts = curve.tp[best], curve.alerts[best]
        return f"the best precision of any cut is {number(tp)}/{number(alerts)} = {tp / alerts:.4g}"


class RecallAtLeast(Objective):
    """Fewest alerts among the cuts with at least this recall: the k-th highest positive, k the smallest that will do."""

    name = "recall_at_least"
    rate = "recall"

    def bracket(self, coarse: Curve, delta: float | None = None) -> tuple[int, int] | None:
        """See `Objective`."""
        wanted: float = float(least_of(self.value, coarse.positives))
        if delta is not None:
            wanted = coarse.positives - most_allowed(int(coarse.positives), 1 - self.value, delta)
        first = int(np.searchsorted(coarse.tp, wanted))
        return (first, first) if first < len(coarse.tp) else None

    def _best(self, curve: Curve) -> Choice:
        return self._first(curve, curve.tp >= least_of(self.value, curve.positives))

    def _surely(self, curve: Curve, delta: float, units: str) -> Choice:
        allowed = most_allowed(int(curve.positives), 1 - self.value, delta)
        if allowed < 0:
            of: Units = "groups with positives" if units == "groups" else "positives"
            least = least_needed(1 - self.value, delta)
            at_least = "no number is enough for a recall of 1" if least is None else f"it takes at least {least}"
            return Infeasible("INSUFFICIENT", f"{curve.positives} {of}; at delta {delta:g} {at_least}", least, of)
        return self._first(curve, curve.positives - curve.tp <= allowed)

    def _first(self, curve: Curve, meets: NDArray[np.bool_]) -> Choice:
        if meets.any():
            return int(np.argmax(meets))
        return Infeasible("INFEASIBLE", reached(curve))


class _AtMost(Objective):
    """Most alerts of some rows within a share of them."""

    cuts = "all"

    def _allowed(self) -> bool:
        return 0 < self.value < 1

    @abstractmethod
    def _of(self, curve: Curve) -> tuple[Counted, int | float]: ...

    def bracket(self, coarse: Curve, delta: float | None = None) -> tuple[int, int] | None:
        """See `Objective`."""
        counted, rows = self._of(coarse)
        allowed = self.value * rows * (1 + 1e-12) if delta is None else most_allowed(int(rows), self.value, delta)
        within = int(np.searchsorted(counted, allowed, side="right"))  # the cut is in this bin, or at the edge before it
        return max(0, within - 1), within

    def _best(self, curve: Curve) -> Choice:
        counted, rows = self._of(curve)
        within = int((counted <= self.value * rows * (1 + 1e-12)).sum())
        if within > 0:
            return within - 1
        least = counted[0] if len(counted) else rows
        needed = math.ceil(least / self.value * (1 - 1e-12))
        return Infeasible(
            "INFEASIBLE",
            f"the highest score alone alerts on {number(least)} of {number(rows)} {self.of}; it needs at least "
            f"{needed} {self.of}, or scores without ties",
            needed,
            self.of,
        )

    def _surely(self, curve: Curve, delta: float, units: str) -> Choice:
        of: Units = self.of if units == "rows" else self.of_groups
        counted, rows = self._of(curve)
        within = int((counted <= most_allowed(int(rows), self.value, delta)).sum())
        if within > 0:
            return within - 1
        if len(counted) == 0:
            return Infeasible("INFEASIBLE", "every score is below the lowest cut offered")
        first = int(counted[0])
        least = least_needed(self.value, delta, first)
        alone = f", since the highest score alone alerts on {first}" if first else ""
        return Infeasible("INSUFFICIENT", f"{rows} {of}; at delta {delta:g} it takes at least {least}{alone}", least, of)

    of: ClassVar[Units]
    of_groups: ClassVar[Units]


class FprAtMost(_AtMost):
    """Most alerts among the cuts with at most this false-positive rate (Neyman-Pearson). Needs no positives."""

    name = "fpr_at_most"
    expected = "more than 0 and less than 1"
    needs = ("negatives",)
    rate = "fpr"
    of = "negatives"
    of_groups = "groups with negatives"

    def _of(self, curve: Curve) -> tuple[Counted, int | float]:
        return curve.fp, curve.negatives


class AlertRateAtMost(_AtMost):
    """Most alerts within the budget, a share of all rows. Needs no labels of either class."""

    name = "alert_rate_at_most"
    expected = "more than 0 and less than 1"
    needs = ()
    rate = "alert_rate"
    of = "rows"
    of_groups = "groups"

    def _of(self, curve: Curve) -> tuple[Counted, int | float]:
        return curve.alerts, curve.rows
