"""A calibrator: the map from a label's raw logits to honest log-odds, its fit from a curve, and all labels' maps at once.

Every map is monotone, so that none changes the order of two rows: decisions are made on raw logits, and probabilities are
for costs, priors and monitoring. Only fitting needs scipy, and only two kinds of it.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any, Final, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import model_validator

from ..errors import BadConfig, BadData
from ..validation import Record
from .curve import Curve
from .isotonic import isotonic, knots, venn_abers
from .logistic import beta, fit_form, line
from .points import Floats, Points, gather_points, pool_points

Kind = Literal["none", "temperature", "platt", "beta", "isotonic", "venn_abers"]

_SIZES: Final[dict[str, int]] = {"temperature": 1, "platt": 2, "beta": 3}
# From how many positives a kind is better than the one before it, measured on rare events: with fewer, temperature costs least
# once the prior shift is undone, and isotonic regression is behind beta calibration to beyond 1000.
_AUTO: Final[tuple[tuple[int, Kind], ...]] = ((100, "beta"), (30, "platt"), (10, "temperature"))
_MOST_POINTS: Final = 16384
_MOST_VENN_ABERS: Final = 4096  # its steps are taken one by one


class Calibrator(Record):
    """What turns one label's raw logits into log-odds: a shift, then a monotone map.

    Attributes:
        kind: the map's form. "none" is the plain sigmoid: exported graphs have the prior undone.
        shift: log-odds subtracted from the raw logit first: the prior's shift, where the graph has not undone it (Elkan 2001).
        coefficients: temperature (a): a z; platt (a, b): a z + b (Platt 1999); beta (a, b, c): a log s(z) - b log(1 - s(z))
            + c, s the sigmoid (Kull, Silva Filho and Flach 2017). Slopes, all but platt's b and beta's c, are not negative.
        x: isotonic, venn_abers: knots, shifted logits, strictly ascending.
        y: calibrated log-odds at the knots, not decreasing; linear between them and constant outside.
        why: for a person: why this kind, and how much it was shrunk.
    """

    kind: Kind = "none"
    shift: float = 0.0
    coefficients: tuple[float, ...] = ()
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    why: str = ""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        size = _SIZES.get(self.kind, 0)
        if len(self.coefficients) != size:
            raise ValueError(f"coefficients is {self.coefficients}; expected {size} numbers for kind {self.kind}")
        slopes = self.coefficients[: max(1, size - 1)]
        if any(slope < 0 for slope in slopes):
            raise ValueError(f"coefficients is {self.coefficients}; expected slopes from 0")
        stepped = self.kind in ("isotonic", "venn_abers")
        if len(self.x) != len(self.y) or (len(self.x) > 0) != stepped:
            expected = "as many of each, at least one" if stepped else "none"
            raise ValueError(f"x and y have {len(self.x)} and {len(self.y)} knots; expected {expected} for kind {self.kind}")
        if stepped and not (np.diff(self.x) > 0).all():
            raise ValueError(f"x is {str(self.x)[:100]}; expected strictly ascending numbers")
        if stepped and not (np.diff(self.y) >= 0).all():
            raise ValueError(f"y is {str(self.y)[:100]}; expected numbers that do not decrease")
        return self

    def log_odds(self, logits: ArrayLike) -> Floats:
        """Calibrated log-odds, float64 of the same shape, of raw logits; infinities map to their limits, NaN to NaN."""
        return self._mapped(np.asarray(np.asarray(logits, np.float64) - self.shift))

    def inverse(self, log_odds: float) -> float:
        """The lowest float32 raw logit whose calibrated log-odds are at least `log_odds`; -inf for all, inf for none."""

        def reached(ordinal: int) -> bool:
            return bool(self.log_odds(_float32_at(ordinal)) >= log_odds)

        low, high = -_INF_ORDINAL, _INF_ORDINAL
        if reached(low):
            return -math.inf
        while high - low > 1:  # halve the float32 numbers between: one search for every kind, right to the last bit
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        return float(_float32_at(high))

    def _mapped(self, z: Floats) -> Floats:
        """Log-odds of shifted logits."""
        if self.kind == "none":
            return z
        if self.x:
            return _between(z, np.array(self.x), np.array(self.y))
        if self.kind == "beta":
            return beta(z, *self.coefficients)
        a, b = (*self.coefficients, 0.0)[:2]
        return line(z, np.asarray(a), np.asarray(b))

    def _slopes(self, z: float) -> tuple[float, float]:
        """The map's slopes towards -inf and inf, 1 where it has none; of a straight line both are the same."""
        if self.kind == "beta":
            return self.coefficients[0], self.coefficients[1]
        return (self.coefficients[0], self.coefficients[0]) if self.coefficients else (1.0, 1.0)

    def _slope(self, z: float) -> float:
        """The slope at z, 1 for knots, where it is no one number."""
        (left, right), right_part = self._slopes(z), float(probabilities(np.asarray(z)))
        return left * (1 - right_part) + right * right_part


class ProbabilityMap:
    """The calibrated probabilities of all labels at once, prepared for many calls; thread-safe."""

    def __init__(self, calibrators: Sequence[Calibrator]) -> None:
        """Prepare the maps of labels in the order of the logits' last axis."""
        self._labels = len(calibrators)
        self._plain = all(each.kind == "none" and each.shift == 0 for each in calibrators)
        self._shift = np.array([each.shift for each in calibrators])
        lines = [(*each.coefficients, 0.0)[:2] if each.kind in ("temperature", "platt") else (1.0, 0.0) for each in calibrators]
        self._line = np.array(lines).reshape(-1, 2).T
        self._beta_at = np.array([i for i, each in enumerate(calibrators) if each.kind == "beta"], np.intp)
        self._beta = np.array([calibrators[i].coefficients for i in self._beta_at]).reshape(-1, 3).T
        self._knots = [(i, np.array(each.x), np.array(each.y)) for i, each in enumerate(calibrators) if each.x]

    def __call__(self, logits: NDArray[Any]) -> NDArray[np.float32]:
        """Probabilities, float32 0 to 1, of raw logits [..., label]; of plain calibrators exactly `probabilities`.

        Raises:
            BadData: the last axis does not have the labels.
        """
        logits = np.asarray(logits)
        if logits.ndim < 1 or logits.shape[-1] != self._labels:
            raise BadData.of("shape of logits", list(logits.shape), f"[..., {self._labels} labels]")
        if self._plain:
            return probabilities(logits)
        z = logits - self._shift
        odds = line(z, *self._line)
        if len(self._beta_at):
            odds[..., self._beta_at] = beta(z[..., self._beta_at], *self._beta)
        for i, x, y in self._knots:
            odds[..., i] = _between(z[..., i], x, y)
        # Float32 has nothing between 0 and e**-104: the clip only keeps the cast from overflowing.
        return probabilities(np.clip(odds, -1e30, 1e30))


def probabilities(logits: NDArray[Any]) -> NDArray[np.float32]:
    """Calibrated probabilities, float32 0 to 1, of logits of any shape: their sigmoid."""
    z = np.asarray(logits, np.float32)
    # The form that never overflows: exp of a non-positive number only.
    e = np.exp(-np.abs(z))
    result: NDArray[np.float32] = np.where(z >= 0, np.float32(1), e) / (1 + e)
    return result


def fit_calibrator(
    curve: Curve,
    kind: Kind | Literal["auto"] = "auto",
    *,
    shift: float = 0.0,
    pooled: Calibrator | None = None,
    shrink: float = 5.0,
) -> Calibrator:
    """Fit one label's calibrator from its curve.

    Args:
        curve: with all cuts: at cuts of positives only, it does not say where the negatives score. Weighted rows count
            as the effective number of positives (Kish) does; a histogram's rows score in the middle of their bin.
        kind: "auto" takes, by the number of positives: under 10 `pooled` or none, under 30 temperature, under 100 platt, from
            there beta. Any other kind is fitted whatever the number.
        shift: log-odds to subtract from raw logits first; known from training, it saves the data that would show it.
        pooled: what to shrink towards, such as `fit_pooled` of all labels: a map of shifted logits, whose own shift is not
            used. None is the identity: the plain sigmoid.
        shrink: how many positives' worth the fit is held to `pooled`; 0 is maximum likelihood, which runs to a step where the
            classes are separated. Venn-Abers is not shrunk: its two fits already say how little is known.

    Returns:
        The calibrator; `pooled` or "none", with this shift, where the curve has no labels, no positives or no negatives.

    Raises:
        BadConfig: an unknown kind, a shift that is not finite, a shrink that is negative or not finite.
    """
    _check(kind, shift, shrink)
    return _fit(gather_points(curve, shift), kind, shift, pooled, shrink)


def fit_pooled(
    curves: Iterable[Curve],
    kind: Kind | Literal["auto"] = "auto",
    *,
    shifts: Sequence[float] | float = 0.0,
    shrink: float = 5.0,
) -> Calibrator:
    """Fit one calibrator to the rows of all labels together, each label's shift undone first.

    Args:
        curves: one for each label; those without known classes are left out.
        kind: as for `fit_calibrator`, by the positives of all labels.
        shifts: for each label, or one for all.
        shrink: how many positives' worth the fit is held to the plain sigmoid.

    Returns:
        The calibrator. Its shift is that of the labels where they have one in common; else it is 0, and the map is for logits
        already shifted, as `fit_calibrator(pooled=...)` reads it.

    Raises:
        BadConfig: as `fit_calibrator`.
        BadData: not as many shifts as curves.
    """
    parts, each_shift = [], repeat(float(shifts)) if isinstance(shifts, int | float) else iter(shifts)
    used = set()
    for i, curve in enumerate(curves):
        shift = next(each_shift, None)
        if shift is None:
            raise BadData.of("shifts", f"{i} numbers", "one for each curve")
        _check(kind, shift, shrink)
        used.add(shift)
        parts.append(pool_points(gather_points(curve, shift), _MOST_POINTS))
    if not isinstance(shifts, int | float) and next(each_shift, None) is not None:
        raise BadData.of("shifts", f"{len(shifts)} numbers", f"one for each of {len(parts)} curves")
    z, hits, misses = (np.concatenate([part[i] for part in parts] or [np.zeros(0)]) for i in range(3))
    order = np.argsort(z)
    points = Points(z[order], hits[order], misses[order])
    made = _fit(points, kind, used.pop() if len(used) == 1 else 0.0, None, shrink)
    return made.model_copy(update={"why": f"{len(parts)} labels together: {made.why}"})


def _check(kind: str, shift: float, shrink: float) -> None:
    kinds = ("auto", *get_args(Kind))
    if kind not in kinds:
        raise BadConfig.of("calibrator", repr(kind), " or ".join(kinds))
    if not math.isfinite(shift):
        raise BadConfig.of("shift", shift, "finite log-odds")
    if not (math.isfinite(shrink) and shrink >= 0):
        raise BadConfig.of("shrink", shrink, "a finite number of positives from 0")


def _fit(points: Points, kind: Kind | Literal["auto"], shift: float, pooled: Calibrator | None, shrink: float) -> Calibrator:
    target = pooled or Calibrator()
    name = "the plain sigmoid" if pooled is None else f"the pooled fit ({pooled.kind})"
    positives, negatives = float(points.hits.sum()), float(points.misses.sum())
    counted = f"{positives:.6g} positives and {negatives:.6g} negatives"
    # Sums of weights are right to rounding only.
    chosen: Kind = next((each for least, each in _AUTO if positives >= least - 1e-6), "none") if kind == "auto" else kind
    if kind == "none":
        return Calibrator(shift=shift, why="none, as asked for")
    if chosen == "none" or not positives or not negatives:
        expected = f"at least {_AUTO[-1][0]} and some" if kind == "auto" else "some of both"
        return target.model_copy(update={"shift": shift, "why": f"{name}: {counted}, where a fit takes {expected}"})
    held = f"shrunk by {shrink:g} positives' worth towards {name}" if shrink and chosen != "venn_abers" else "not shrunk"
    why = f"{chosen}{', by the number of positives' if kind == 'auto' else ''}: fitted to {counted}, {held}"
    points = pool_points(points, _MOST_VENN_ABERS if chosen == "venn_abers" else _MOST_POINTS)
    if chosen in _SIZES:
        return Calibrator(kind=chosen, shift=shift, coefficients=_parameters(chosen, points, target, shrink), why=why)
    if chosen == "isotonic":
        y = (positives * isotonic(points.hits, points.misses) + shrink * target._mapped(points.z)) / (positives + shrink)
    else:
        p0, p1 = venn_abers(*points)
        y = np.log(p1) - np.log1p(-p0)  # the odds of p1 / (1 - p0 + p1), which minimises the worst regret of log-loss
    x, y = knots(points.z, np.maximum.accumulate(y))
    return Calibrator(kind=chosen, shift=shift, x=tuple(x.tolist()), y=tuple(y.tolist()), why=why)


def _parameters(kind: Kind, points: Points, target: Calibrator, shrink: float) -> tuple[float, ...]:
    def level_at(z: float) -> float:
        return float(target._mapped(np.asarray(z)))

    def slopes_at(z: float) -> tuple[float, ...]:
        return target._slopes(z) if kind == "beta" else (target._slope(z),)

    return fit_form(kind, points, level_at, slopes_at, shrink)


def _between(z: Floats, x: Floats, y: Floats) -> Floats:
    """Interpolated between knots, constant outside; NaN stays NaN, which numpy forgets where there is one knot."""
    return np.where(np.isnan(z), np.nan, np.interp(z, x, y))


_INF_ORDINAL: Final = 0x7F800000


def _float32_at(ordinal: int) -> np.float32:
    """The float32 number of an ordinal that rises with it; 0 is 0.0, +-0x7F800000 are the infinities."""
    size = np.int32(abs(ordinal)).view(np.float32)
    return np.float32(-size if ordinal < 0 else size)
