"""Exact intervals of proportions and of rates."""

from ..errors import BadConfig


def clopper_pearson(count: float, of: float, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided Clopper-Pearson interval of a proportion (Clopper and Pearson 1934), (low, high) in 0 to 1.

    Counts need not be whole: of weighted or clustered rows they are effective numbers (Korn and Graubard 1998). A count outside
    0 to `of`, where rounding may put one, is taken as the nearer of both.

    At 0 of n the low end is 0, at n of n the high end is 1; with `of` 0 it is (0, 1).
    """
    from scipy.special import betaincinv  # the client reads policies without scipy installed

    tail = (1 - confidence) / 2
    count = min(max(count, 0.0), of)
    low = 0.0 if count <= 0 else float(betaincinv(count, of - count + 1, tail))
    high = 1.0 if count >= of else float(betaincinv(count + 1, of - count, 1 - tail))
    return low, high


def poisson_interval(count: float, exposure: float, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of the rate of a Poisson process (Garwood 1936), (low, high) from 0.

    Args:
        count: events seen, from 0; need not be whole, as in `clopper_pearson`.
        exposure: what they were seen in, from 0, in any unit: hours give a rate per hour.
        confidence: between 0 and 1.

    Returns:
        At 0 events the low end is 0; with exposure 0 it is (0, inf).
    """
    from scipy.special import gammainccinv, gammaincinv

    if exposure <= 0:
        return 0.0, float("inf")
    tail = (1 - confidence) / 2
    low = 0.0 if count <= 0 else float(gammaincinv(count, tail))
    return low / exposure, float(gammainccinv(max(count, 0.0) + 1, tail)) / exposure


def check_confidence(confidence: float) -> None:
    """Raise BadConfig unless it is between 0 and 1."""
    if not 0 < confidence < 1:
        raise BadConfig.of("confidence", confidence, "a number between 0 and 1")
