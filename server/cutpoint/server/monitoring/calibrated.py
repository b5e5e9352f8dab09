"""Calibrated log-odds of many rows in float32, into memory that is there already: for sums, at a tenth of the cost.

`ProbabilityMap` answers callers, in float64. Here the same maps are worked out for all labels at once: each is
`d * softplus(z) + a * z + c` of the shifted logit z, but those with knots.
"""

from collections.abc import Sequence

import numpy as np
from cutpoint.calibration import Calibrator, LabelPolicy
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# What a number costs beside one of a straight line: measured, rounded up.
_OF_BETA, _OF_KNOTS = 3.0, 20.0


class NegativeOdds:
    """From logits [row, label] to minus the calibrated log-odds, whose exponential is (1 - p) / p.

    Attributes:
        cost: of a number, in numbers that a straight line maps.
    """

    def __init__(self, labels: Sequence[LabelPolicy]) -> None:
        """The maps of these labels, in the order of the logits' last axis."""
        calibrators = [label.calibrator for label in labels]
        at = [i for i, each in enumerate(calibrators) if each.x]
        self._knots = _Knots(at, calibrators) if at else None
        self._shift = np.array([each.shift for each in calibrators], np.float64)
        slope, bend, level = np.ones(len(labels)), np.zeros(len(labels)), np.zeros(len(labels))
        for i, each in enumerate(calibrators):
            if each.kind in ("temperature", "platt"):
                slope[i], level[i] = (*each.coefficients, 0.0)[:2]
            elif each.kind == "beta":
                # a log s(z) - b log s(-z) + c, with log s(-z) = -softplus(z) and log s(z) = z - softplus(z).
                a, b, level[i] = each.coefficients
                slope[i], bend[i] = a, b - a
        self._bends = bool(bend.any())
        self._plain = not self._bends and bool((slope == 1).all() and (level == self._shift).all())
        shifted = self._shift if not self._bends else 0.0  # of straight lines the shift is part of the level
        self._slope, self._bend = (-slope).astype(np.float32), (-bend).astype(np.float32)
        self._level = (slope * shifted - level).astype(np.float32)
        self._shift32 = self._shift.astype(np.float32)
        self.cost = (_OF_BETA if self._bends else 1.0) + _OF_KNOTS * len(at) / max(1, len(labels))

    def __call__(self, logits: Floats, out: Floats) -> Floats:
        """Fill `out`, [row, label] like `logits`, and give it; NaN where an infinite logit meets a slope of 0."""
        if self._plain:
            np.negative(logits, out=out)
        elif not self._bends:
            np.multiply(logits, self._slope, out=out)
            np.add(out, self._level, out=out)
        else:
            z = logits - self._shift32
            np.abs(z, out=out)
            np.negative(out, out=out)
            np.exp(out, out=out)
            np.add(out, np.float32(1), out=out)
            np.log(out, out=out)
            np.add(out, np.maximum(z, np.float32(0)), out=out)  # softplus(z), which never overflows so
            np.multiply(out, self._bend, out=out)
            np.multiply(z, self._slope, out=z)
            np.add(out, z, out=out)
            np.add(out, self._level, out=out)
        if self._knots is not None:
            self._knots.fill(logits, out)
        return out


class _Knots:
    """Straight lines between knots, of several labels: one search for all, each label's knots in a stretch of its own."""

    def __init__(self, at: Sequence[int], calibrators: Sequence[Calibrator]) -> None:
        """For the labels `at` these places."""
        self._at = np.array(at, np.intp)
        x, y = [np.array(calibrators[i].x) for i in at], [np.array(calibrators[i].y) for i in at]
        self._first, self._last = np.array([each[0] for each in x]), np.array([each[-1] for each in x])
        self._shift = np.array([calibrators[i].shift for i in at])
        self._stretch = np.arange(len(at)) * (float(self._last.max() - self._first.min()) + 2) - self._first.min()
        self._keys = np.concatenate([each + start for each, start in zip(x, self._stretch, strict=True)])
        self._x, self._y = np.concatenate(x), np.concatenate(y)
        rises = [np.append(np.diff(b) / np.diff(a), 0.0) for a, b in zip(x, y, strict=True)]
        self._rises = np.concatenate(rises)

    def fill(self, logits: Floats, out: Floats) -> None:
        """Minus the log-odds of these labels in `out`."""
        z = np.fmin(np.fmax(logits[:, self._at] - self._shift, self._first), self._last)  # constant outside the knots
        left = np.searchsorted(self._keys, z + self._stretch, side="right") - 1
        out[:, self._at] = -(self._y[left] + (z - self._x[left]) * self._rises[left])
