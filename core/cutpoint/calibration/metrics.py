"""Metrics for rare events, from curves."""

import numpy as np

from .curve import Curve


def average_precision(curve: Curve) -> float:
    """Average precision, sum over cuts of (recall step) x precision, 0 to 1; NaN without positives.

    The step form, as scikit-learn's `average_precision_score`: no interpolation, which flatters. Its value for random scores is
    the prevalence, so compare it with that and never across different prevalences.
    """
    if curve.positives == 0:
        return float("nan")
    steps = np.diff(curve.tp, prepend=0) / curve.positives
    return min(1.0, float(np.sum(steps * curve.tp / (curve.tp + curve.fp))))  # steps of 1/58 sum to more than 1
