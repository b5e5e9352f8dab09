"""How common the positives are now, without labels: maximum likelihood over the probabilities of a recent window.

Under prior shift, where only the share of positives changes and positives and negatives each score as they did, a row's density
at prevalence q is proportional to q L + 1 - q. L is the likelihood ratio that its calibrated probability p says:
L = p / (1 - p) * (1 - q0) / q0, with q0 the prevalence that the probabilities are honest for. Saerens, Latinne and Decaestecker
(2002) climb the likelihood by EM; it is concave in q, so its maximum, EM's fixed point, is found here by Newton's method, which
takes a few steps where EM takes hundreds. Where p is not honest at q0 (the calibration data were enriched and nothing undid it,
or more than the share of positives changed: new machines, another sensor), the estimate is wrong, and nothing in it says so:
uncorrected outputs of a model trained with pos_weight 99 gave 1.0 for a truth of 0.02.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# Bins of log L: from a score that makes a positive 3000 times less likely to one that makes it 160,000 times more likely. So
# narrow that what they cost is a tenth of the standard error of 20,000 rows.
BINS, _LOWEST, _WIDTH = 128, -8.0, 0.15625
RATIOS: Doubles = np.exp(_LOWEST + _WIDTH * (np.arange(BINS) + 0.5))
_HALF_S = 1800.0
_LEAST_ROWS = 100
_MOST_STEPS = 60


class Window:
    """Counts of log likelihood ratios by label, over the last 30 to 60 minutes: two halves, of which the older is dropped."""

    def __init__(self, labels: int, half_s: float = _HALF_S, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing was seen yet. `half_s` are the seconds of a half, of `clock`."""
        self._labels, self._half_s, self._clock = labels, half_s, clock
        self._base = (BINS * np.arange(labels, dtype=np.intp))[None]
        self._offset = np.zeros(labels, np.float32)
        self._known = np.zeros(labels, bool)
        self._prior = np.full(labels, np.nan)
        self.clear(self._prior)

    def clear(self, prior: Doubles) -> None:
        """Forget what was seen, and count by the probabilities of another policy from here on.

        Args:
            prior: [label], the prevalence that they are honest for; NaN, 0 and 1 for labels where that says nothing.
        """
        self._prior, self._known = prior, (prior > 0) & (prior < 1)
        inside = np.where(self._known, prior, 0.5)
        # A row's bin is (log-odds - log-odds of the prior - lowest) / width.
        self._offset = ((np.log1p(-inside) - np.log(inside) - _LOWEST) / _WIDTH).astype(np.float32)
        self._halves: list[Doubles] = [np.zeros(0), np.zeros(0)]  # made when first needed: BINS numbers a label each
        self._weights, self._seen = [0.0, 0.0], [0, 0]
        self._began = self._clock()

    def add(self, negative_odds: NDArray[np.float32], weights: Doubles) -> None:
        """Count rows [row, label], given as minus their calibrated log-odds; each stands for `weights` [row] rows."""
        self._turn()
        if not len(self._halves[0]):
            self._halves[0] = np.zeros(BINS * self._labels)
        at = negative_odds * np.float32(-1 / _WIDTH)
        np.add(at, self._offset, out=at)
        np.fmax(at, np.float32(0), out=at)  # of NaN, which an infinite logit may become, the lowest bin
        np.fmin(at, np.float32(BINS - 1), out=at)
        bins = (at.astype(np.intp) + self._base).reshape(-1)
        same = float(weights[0]) if (weights == weights[0]).all() else np.repeat(weights, self._labels)
        np.add.at(self._halves[0], bins, same)
        self._weights[0] += float(weights.sum())
        self._seen[0] += len(at)

    @property
    def rows(self) -> float:
        """How many rows are in the window, counting each for as many as it stands for."""
        self._turn()
        return sum(self._weights)

    def counts(self) -> tuple[Doubles, Doubles, float]:
        """A copy of the window: counts [label, bin], the prior [label], and how many rows stand for one each."""
        self._turn()
        halves = [half for half in self._halves if len(half)]
        counts = sum(halves, np.zeros(BINS * self._labels)).reshape(self._labels, BINS)
        return counts, np.where(self._known, self._prior, np.nan), float(sum(self._seen)) / max(sum(self._weights), 1.0)

    def _turn(self) -> None:
        passed = self._clock() - self._began
        if passed < self._half_s:
            return
        empty = passed >= 2 * self._half_s
        self._halves = [np.zeros(0), np.zeros(0) if empty else self._halves[0]]
        self._weights, self._seen = [0.0, 0.0 if empty else self._weights[0]], [0, 0 if empty else self._seen[0]]
        self._began += self._half_s * (passed // self._half_s)


def estimate(counts: Doubles, prior: Doubles, share: float = 1.0) -> Doubles:
    """The prevalence of each label that makes what was seen most likely.

    Args:
        counts: [label, bin] of log likelihood ratios, as `Window` has them.
        prior: [label], the prevalence that the probabilities are honest for; NaN where there is none.
        share: rows that were looked at, of those that they stand for, 0 to 1.

    Returns:
        float64 [label], 0 to 1; NaN where there is too little to say: under 100 rows, or a standard error (of the observed
        information) above both the prior and a third of the estimate.
    """
    found = np.full(len(counts), np.nan)
    asked = np.flatnonzero((counts.sum(axis=1) * share >= _LEAST_ROWS) & ~np.isnan(prior))
    if not len(asked):
        return found
    n, prior = counts[asked], prior[asked]
    used = np.flatnonzero(n.any(axis=0))
    n, gain = n[:, used], RATIOS[used] - 1  # the density is 1 + q * gain
    at_least, at_most = n @ (gain / (1 + gain)) >= 0, n @ gain <= 0  # the likelihood rises up to 1, falls from 0 on
    q = np.where(at_most, 0.0, np.where(at_least, 1.0, prior))
    low, high = np.where(at_most | at_least, q, 0.0), np.where(at_most | at_least, q, 1.0)
    for _ in range(_MOST_STEPS):
        slopes = gain / (1 + q[:, None] * gain)
        rise, fall = np.einsum("lb,lb->l", n, slopes), np.einsum("lb,lb,lb->l", n, slopes, slopes)
        low, high = np.where(rise > 0, q, low), np.where(rise > 0, high, q)
        step = q + rise / np.maximum(fall, 1e-300)
        following = np.where((step > low) & (step < high), step, (low + high) / 2)
        done = np.abs(following - q) <= 1e-12 + 1e-6 * q
        q = following
        if done.all():
            break
    slopes = gain / (1 + q[:, None] * gain)
    error = 1 / np.sqrt(np.maximum(share * np.einsum("lb,lb,lb->l", n, slopes, slopes), 1e-300))
    found[asked] = np.where(error <= np.maximum(prior, q / 3), q, np.nan)
    return found
