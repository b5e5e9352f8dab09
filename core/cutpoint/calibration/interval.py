"""Exact binomial intervals."""


def clopper_pearson(count: int, of: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided Clopper-Pearson interval of a proportion (Clopper and Pearson 1934), (low, high) in 0 to 1.

    At 0 of n the low end is 0, at n of n the high end is 1; with `of` 0 it is (0, 1).
    """
    from scipy.special import betaincinv  # the client reads policies without scipy installed

    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else float(betaincinv(count, of - count + 1, tail))
    high = 1.0 if count == of else float(betaincinv(count + 1, of - count, 1 - tail))
    return low, high
