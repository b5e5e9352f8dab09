"""The parametric maps of log-odds, temperature, Platt's and beta's, and their fit: penalised logistic regression."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .points import Floats, Points


def fit_form(
    kind: str, points: Points, level_at: Callable[[float], float], slopes_at: Callable[[float], Sequence[float]], shrink: float
) -> tuple[float, ...]:
    """Coefficients of a parametric kind: a logistic regression on fixed features, penalised towards another map.

    Args:
        kind: temperature, platt or beta.
        points: with some positives and some negatives.
        level_at: log-odds of the other map at a logit.
        slopes_at: its slopes there: one for a line, two, towards -inf and inf, for beta.
        shrink: how many positives' worth the fit is held to it.

    The penalty is `shrink` times the squared difference to the target's level at the positives' mean logit, and that to its
    slopes times the variance of the logits. For a line this is `shrink` times the mean squared difference of log-odds where
    the positives are, which is where a rare event's Fisher information p (1 - p) lies: a prior worth that many positives, a
    unit-information prior (Kass and Wasserman 1995) times `shrink`. Beta's slopes are each held by themselves: the right
    one says nothing at negative logits, and unheld would make anything of the first score beyond the data.
    """
    z, hits, misses = points
    rows = hits + misses
    centre = float(z @ hits / hits.sum())
    spread = max(float(((z - z @ rows / rows.sum()) ** 2) @ rows / rows.sum()), 1e-2)
    x = features(kind, z)
    level = features(kind, np.array([centre]))[:, 0]
    wanted, slopes = level_at(centre), slopes_at(centre)
    held = np.vstack([level, np.eye(len(x))[: len(slopes)]])  # [held, coefficient]
    at = np.array([wanted, *slopes])
    weight = shrink * np.array([1.0] + [spread] * len(slopes))
    start = np.append(slopes, [0.0] * (len(x) - len(slopes)))
    if len(x) > len(slopes):
        start[-1] = wanted - level @ start
    best, least = start, math.inf
    # The loss is convex, so the best of those optima whose slopes are not negative is the optimum with slopes held from 0.
    for zero in ((), (0,), (1,), (0, 1))[: 1 << len(slopes)]:
        free = [i for i in range(len(x)) if i not in zero]
        found = np.zeros(len(x))
        found[free], loss = _minimise(x[free], hits, rows, held[:, free], at, weight, start[free])
        if (found[: len(slopes)] >= 0).all() and loss < least:
            best, least = found, loss
            if not zero:
                break
    return tuple(best.tolist())


def _minimise(
    x: Floats, hits: Floats, rows: Floats, held: Floats, at: Floats, weight: Floats, start: Floats
) -> tuple[Floats, float]:
    """The coefficients that minimise log-loss plus sum(weight (held @ c - at)^2) / 2, and the minimum; x is [feature, point].

    Newton's method, each step halved until the loss falls (Boyd and Vandenberghe 2004, 9.5): whole steps diverge when a few
    positives are far from where the start expects them. Rows so far on the wrong side that p (1 - p) is lost count with the
    curvature 1 / 2|f| of the quadratic that bounds their loss (Jaakkola and Jordan 2000), or steps would have no measure.
    """

    def loss_at(c: Floats) -> tuple[float, Floats, Floats]:
        f = c @ x
        e = np.exp(-np.abs(f))
        loss = rows @ (np.maximum(f, 0) + np.log1p(e)) - hits @ f + weight @ (held @ c - at) ** 2 / 2
        curvature = rows * e / (1 + e) ** 2
        if len(lost := np.flatnonzero(np.abs(f) > 20)):
            wrong = np.where(f[lost] > 0, rows[lost] - hits[lost], hits[lost])
            curvature[lost] += wrong / (2 * np.abs(f[lost]))
        return float(loss), np.where(f >= 0, 1.0, e) / (1 + e), curvature

    c = start
    loss, p, curvature = loss_at(c)
    for _ in range(60 if len(c) else 0):
        gradient = x @ (rows * p - hits) + held.T @ (weight * (held @ c - at))
        hessian = (x * curvature) @ x.T + (held.T * weight) @ held
        # Scaled to a diagonal of 1, and a trace added to it: features that say the same leave it singular.
        scale = 1 / np.sqrt(np.maximum(np.diag(hessian), 1e-300))
        step = scale * np.linalg.solve(hessian * np.outer(scale, scale) + 1e-10 * np.eye(len(c)), scale * gradient)
        falls = float(gradient @ step)
        for size in 0.5 ** np.arange(40):
            trial = loss_at(c - size * step)
            if trial[0] <= loss - 1e-4 * size * falls + 1e-13 * abs(loss):
                c, (loss, p, curvature) = c - size * step, trial
                break
        else:
            break
        if falls < 1e-12:
            break
    return c, loss


def features(kind: str, z: Floats) -> Floats:
    """Of each logit what a kind is linear in, [coefficient, point]."""
    if kind == "temperature":
        return z[None]
    if kind == "platt":
        return np.stack([z, np.ones_like(z)])
    return np.stack([-softplus(-z), softplus(z), np.ones_like(z)])


def softplus(z: Floats) -> Floats:
    """log(1 + e**z), without overflow."""
    result: Floats = np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
    return result


def line(z: Floats, a: Floats, b: Floats) -> Floats:
    """The line a z + b, [..., label]; b where a is 0, for infinite z too."""
    with np.errstate(over="ignore", invalid="ignore"):
        result: Floats = np.where((a == 0) & ~np.isnan(z), b, a * z + b)
    return result


def beta(z: Floats, a: Any, b: Any, c: Any) -> Floats:
    """Beta calibration's log-odds, [..., label]."""
    return line(-softplus(-z), np.asarray(a), np.asarray(0.0)) + line(softplus(z), np.asarray(b), np.asarray(c))
