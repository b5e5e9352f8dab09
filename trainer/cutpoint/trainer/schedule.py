"""The learning rate, a pure function of the step."""

import math

from .config import Fit


def rate_share(settings: Fit, step: int, steps: int) -> float:
    """The share of the highest learning rate, 0 to 1, that step `step` (from 0) of `steps` is taken with.

    A straight rise over the warm-up, then as it is, or along half a cosine that would reach 0 one step after the last.
    """
    rise = math.ceil(settings.warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    if settings.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - rise) / (steps - rise))) / 2
