"""Precision, recall and prevalence without labels: the recording rules' formulas in numpy, and scores with a known truth.

Scores are one feature: standard normal where the event is not, and shifted where it is, the shift being another for each part
of the events. Their probabilities are exact for the prevalence of the calibration.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Array = NDArray[np.float64]
PRIOR = 0.01


@dataclass(frozen=True)
class Scores:
    """A kind of scores: the shifts of equal parts of the events, and the recall that its cut has."""

    name: str
    shifts: tuple[float, ...]
    recall: float

    def draw(self, rng: np.random.Generator, rows: int, prevalence: float) -> tuple[Array, NDArray[np.bool_]]:
        """Probabilities, as calibrated, and classes of so many rows."""
        events = rng.random(rows) < prevalence
        x = rng.normal(size=rows) + np.where(events, rng.choice(self.shifts, rows), 0)
        return self.probability(x), events

    def probability(self, x: Array) -> Array:
        """Of the event, at the calibration's prevalence."""
        event = PRIOR * np.mean([norm.pdf(x - shift) for shift in self.shifts], axis=0)
        result: Array = event / (event + (1 - PRIOR) * norm.pdf(x))
        return result

    def cut(self) -> tuple[float, float, float]:
        """The probability at which it cuts, and its true and false positive rates; from the densities, not from rows."""
        x = np.linspace(-8, 14, 40001)
        order = np.argsort(-self.probability(x))
        event = np.mean([norm.pdf(x - shift) for shift in self.shifts], axis=0)[order] * (x[1] - x[0])
        at = int(np.searchsorted(np.cumsum(event), self.recall))
        other = np.cumsum(norm.pdf(x)[order] * (x[1] - x[0]))
        return float(self.probability(x)[order][at]), float(np.cumsum(event)[at]), float(other[at])


KINDS = (
    Scores("weak", (1.5,), 0.3),
    Scores("strong", (3.0,), 0.8),
    Scores("two kinds of events, one of them plain", (1.5, 6.0), 0.8),
)


@dataclass(frozen=True)
class Sums:
    """What the counters say: decisions, positives, the probability of all and of the positives."""

    decisions: float
    positives: float
    probability: float
    alerted_probability: float

    @classmethod
    def of(cls, probability: Array, cut: float) -> "Sums":
        """Of rows decided at a cut."""
        alerted = probability >= cut
        return cls(len(probability), float(alerted.sum()), float(probability.sum()), float(probability[alerted].sum()))

    def prevalence(self, tpr: float, fpr: float) -> float:
        """Rogan and Gladen's."""
        return float(np.clip((self.positives / self.decisions - fpr) / (tpr - fpr), 0, 1))

    def precision(self, tpr: float, fpr: float) -> float:
        """Bayes's, at that prevalence: what the rules record as estimated."""
        return min(1.0, tpr * self.prevalence(tpr, fpr) * self.decisions / self.positives)

    def cbpe(self) -> tuple[float, float]:
        """Precision and recall by the probabilities as they are."""
        return self.alerted_probability / self.positives, self.alerted_probability / self.probability

    def moved(self, tpr: float, fpr: float) -> float:
        """Precision by the mean probability of the positives, moved to the prevalence as if all of them had it."""
        now = self.prevalence(tpr, fpr)
        yes = now * (1 - PRIOR) * self.alerted_probability
        return yes / (yes + (1 - now) * PRIOR * (self.positives - self.alerted_probability))


def moved_each(probability: Array, cut: float, prevalence: float) -> float:
    """Precision by the probabilities of the positives, each moved to the prevalence (Saerens 2002): what sums cannot tell."""
    alerted = probability[probability >= cut]
    odds = prevalence * (1 - PRIOR) / ((1 - prevalence) * PRIOR)
    known = np.minimum(alerted, 1 - 1e-12)
    return float(np.mean(odds * known / (odds * known + 1 - known)))
