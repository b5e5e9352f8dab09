"""Objectives: what a cut is chosen for, and those that maximise something; those that keep a bound are in bounds.py.

One notation everywhere (commands, configuration, wire, policies): `name=value`.

    max_fbeta=1              the cut with the largest F-beta, here F1
    precision_at_least=0.9   of the cuts with at least this precision, the one with the largest recall
    recall_at_least=0.9      of the cuts with at least this recall, the one with the fewest alerts
    fpr_at_most=0.01         of the cuts that alert on at most this share of negatives, the one that alerts most
    alert_rate_at_most=0.01  of the cuts that alert on at most this share of rows, the one that alerts most
    min_cost=50              least expected cost where a miss costs 50 false alarms; min_cost=50@0.001 at that prevalence

and for several labels jointly (joint.py):

    max_micro_fbeta=1        the cuts with the largest F-beta of all labels' decisions together
    alert_budget=0.05        at most this many alerts a row, all labels together, shared so as to find the most positives

Each is exact over all cuts of a curve. Where no cut will do, the answer is an `Infeasible` that says what is lacking, never a
cut that happens to come out of an argmax. Where the best is not to alert at all, the answer is the index -1.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import BadInput
from .curve import Counted, Curve
from .guarantee import RateName

Units = Literal["positives", "negatives", "rows", "groups with positives", "groups with negatives", "groups"]
NEVER = -1  # the index of the cut that alerts on no row


@dataclass(frozen=True)
class Infeasible:
    """No cut meets the objective.

    Attributes:
        status: INSUFFICIENT when there is too little data to say, INFEASIBLE when the data say no.
        reason: what is lacking, for a person.
        needs: how many labelled units it would take at least, where that can be said.
        of: what `needs` counts.
    """

    status: Literal["INSUFFICIENT", "INFEASIBLE"]
    reason: str
    needs: int | None = None
    of: Units = "positives"


Choice = int | Infeasible


@dataclass(frozen=True)
class Objective:
    """Chooses one cut of a curve; `value` is the parameter in the notation `name=value`."""

    value: float
    name: ClassVar[str]
    expected: ClassVar[str] = "more than 0 and at most 1"
    needs: ClassVar[tuple[str, ...]] = ("positives", "negatives")
    # The cuts to choose among: those at positives are enough where a cut between two of them is never better.
    cuts: ClassVar[Literal["all", "positives"]] = "positives"
    rate: ClassVar[RateName | None] = None  # that it bounds
    joint: ClassVar[bool] = False  # whether the cuts of several labels are chosen together
    constraint: ClassVar[bool] = True  # whether `value` is a bound, which a cut moved a little would break

    def __post_init__(self) -> None:
        if not self._allowed():
            raise BadInput.of(f"objective {self.name}", self._given(), f"a number, {self.expected}")

    def __str__(self) -> str:
        return f"{self.name}={number(self.value)}"

    def _given(self) -> str:
        return str(self.value)

    def _allowed(self) -> bool:
        return 0 < self.value <= 1

    @classmethod
    def read(cls, text: str) -> Self:
        """From what stands behind `name=`; BadInput where it is no number in range."""
        return cls(_number(cls, text))

    def choose(self, curve: Curve, min_positives: int = 0) -> Choice:
        """The index of the chosen cut in `curve.cuts`, or why there is none.

        Args:
            curve: of one label.
            min_positives: with fewer labelled positives than this (or 1, where labels are needed) nothing is chosen.
        """
        lacking = self.lacking(curve, min_positives)
        return lacking if lacking is not None else self._best(curve)

    def choose_jointly(self, curves: Sequence[Curve], min_positives: int = 0) -> list[Choice]:
        """A choice for every label; each by itself, unless the objective is a joint one."""
        return [self.choose(curve, min_positives) for curve in curves]

    def choose_surely(self, curve: Curve, delta: float, units: str = "rows") -> Choice:
        """As `choose`, such that the bound holds for new data with probability 1 - delta.

        Args:
            curve: of independent units, unweighted; of all cuts.
            delta: probability with which the bound may be broken.
            units: "rows" or "groups", which the curve counts.

        Raises:
            BadInput: no guarantee can be given for this objective, or for weighted units.
        """
        self.check_guarantee()
        if curve.effective is not None:
            raise BadInput(
                f"guarantee for {self}: the rows are weighted, and then no exact bound is known; "
                "expected rows without weights, or no guarantee"
            )
        return self._surely(curve, delta, units)

    def bracket(self, coarse: Curve, delta: float | None = None) -> tuple[int, int] | None:
        """Where the best cut is, given the curve of a histogram of the same scores.

        Args:
            coarse: exact at its cuts, the lower edges of bins; unweighted.
            delta: of a guarantee, None without.

        Returns:
            First and last index of the bins (`coarse.cuts`) that can hold the cut that `choose`, or `choose_surely`, takes;
            None where that takes the curve of all scores.
        """
        return None

    def check_guarantee(self) -> None:
        """Raise BadInput where this objective has no bound that could be guaranteed."""
        if self.rate is None:
            bounds = "recall_at_least, precision_at_least, fpr_at_most or alert_rate_at_most"
            raise BadInput.of("guarantee for objective", str(self), f"{bounds}: nothing else has a bound to keep")

    def lacking(self, curve: Curve, min_positives: int) -> Infeasible | None:
        """What the curve lacks for this objective, if anything."""
        if curve.rows == 0:
            wanted: Units = "positives" if "positives" in self.needs or min_positives else "negatives" if self.needs else "rows"
            return Infeasible("INSUFFICIENT", "no labelled rows", max(1, min_positives), wanted)
        least = max(1, min_positives) if "positives" in self.needs else min_positives
        positives = curve.positives if curve.effective is None else curve.effective[0]
        if positives < least * (1 - 1e-12):
            unknown = "" if curve.labelled else " (no classes are known)"
            lacking = f"{number(positives)} labelled positives{unknown}; needs at least {least}"
            return Infeasible("INSUFFICIENT", lacking, least)
        if "negatives" in self.needs and (curve.negatives == 0 or not curve.labelled):
            return Infeasible("INSUFFICIENT", "0 labelled negatives; needs at least 1", 1, "negatives")
        if "positives" in self.needs and (len(curve.tp) == 0 or curve.tp[-1] == 0):
            return Infeasible("INFEASIBLE", reached(curve))  # a histogram's, whose positives are all below its grid
        return None

    @abstractmethod
    def _best(self, curve: Curve) -> Choice: ...

    def _surely(self, curve: Curve, delta: float, units: str) -> Choice:
        raise AssertionError(f"{self.name} has no bound")  # `check_guarantee` says so first


class MaxFBeta(Objective):
    """Largest F-beta, (1 + b^2) TP / (PP + b^2 P); on a tie the highest cut, which alerts least."""

    name = "max_fbeta"
    expected = "more than 0 and at most 1000 (1 weighs precision and recall alike, 2 favours recall)"
    constraint = False

    def _allowed(self) -> bool:
        return 0 < self.value <= 1000  # beyond it floats cannot tell the cuts apart

    def bracket(self, coarse: Curve, delta: float | None = None) -> tuple[int, int] | None:
        """See `Objective`."""
        return outermost(self._scores(coarse, coarse.tp, before(coarse.fp)) >= self._scores(coarse, coarse.tp, coarse.fp).max())

    def _best(self, curve: Curve) -> Choice:
        return int(np.argmax(self._scores(curve, curve.tp, curve.fp)))

    def _scores(self, curve: Curve, tp: Counted, fp: Counted) -> NDArray[np.float64]:
        weight = self.value**2
        scores: NDArray[np.float64] = (1 + weight) * tp / np.maximum(tp + fp + weight * curve.positives, 1e-300)
        return scores


@dataclass(frozen=True)
class MinCost(Objective):
    """Least expected cost of a row, where a miss costs `value` false alarms; on a tie the highest cut.

    The cost is FPR (1 - q) + value (1 - recall) q with q the prevalence: that of the labelled rows, or the one given, where the
    rows were labelled or sampled at another rate than the live one.
    """

    prevalence: float | None = None
    name = "min_cost"
    expected = (
        "more than 0 and at most 1e9 (what a miss costs, in false alarms), and if wanted @ and a prevalence behind it, "
        "more than 0 and less than 1"
    )
    constraint = False

    def __str__(self) -> str:
        return super().__str__() + ("" if self.prevalence is None else f"@{number(self.prevalence)}")

    def _given(self) -> str:
        return super()._given() if self.prevalence is None else str(self).removeprefix(f"{self.name}=")

    @classmethod
    def read(cls, text: str) -> Self:
        """From `ratio` or `ratio@prevalence`; BadInput where one is no number in range."""
        value, at, prevalence = text.partition("@")
        return cls(_number(cls, value, text), _number(cls, prevalence, text) if at else None)

    def _allowed(self) -> bool:
        return 0 < self.value <= 1e9 and (self.prevalence is None or 0 < self.prevalence < 1)

    def bracket(self, coarse: Curve, delta: float | None = None) -> tuple[int, int] | None:
        """See `Objective`."""
        least = self._costs(coarse, coarse.tp, coarse.fp).min()
        if least >= self._costs(coarse, 0, 0):
            return None  # it may be best never to alert
        return outermost(self._costs(coarse, coarse.tp, before(coarse.fp)) <= least)

    def _best(self, curve: Curve) -> Choice:
        costs = self._costs(curve, curve.tp, curve.fp)
        best = int(np.argmin(costs))
        return best if costs[best] < self._costs(curve, 0, 0) else NEVER

    def _costs(self, curve: Curve, tp: Counted | int, fp: Counted | int) -> NDArray[np.float64]:
        # In units of a false alarm among negatives, so that whole counts stay whole where no prevalence is given.
        miss = self.value
        if self.prevalence is not None:
            miss *= self.prevalence / (1 - self.prevalence) * curve.negatives / curve.positives
        return np.asarray(fp + miss * (curve.positives - tp), np.float64)


def number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    value = float(value)
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def before(counts: Counted) -> Counted:
    """The counts one cut higher: the fewest that any cut within a bin may have."""
    shifted: Counted = np.concatenate([counts[:1] * 0, counts[:-1]])
    return shifted


def outermost(possible: NDArray[np.bool_]) -> tuple[int, int]:
    """The first and the last index where it holds."""
    at = np.flatnonzero(possible)
    return int(at[0]), int(at[-1])


def least_of(share: float, count: Counted | float) -> NDArray[np.float64]:
    """The least that is at least `share` of `count`, whole where counts are: 0.9 of 10 is 9, whatever floats make of it."""
    counts = np.asarray(count)
    wanted: NDArray[np.float64] = np.asarray(share * counts * (1 - 1e-12), np.float64)
    return wanted if counts.dtype.kind == "f" else np.ceil(wanted)


def reached(curve: Curve) -> str:
    """In words, how many positives the lowest cut finds."""
    found = number(curve.tp[-1]) if len(curve.tp) else "0"
    return f"the lowest cut offered finds {found} of {number(curve.positives)} positives: others score below it"


def _number(kind: type[Objective], text: str, whole: str | None = None) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput.of(f"objective {kind.name}", repr(whole or text), f"a number, {kind.expected}") from None
