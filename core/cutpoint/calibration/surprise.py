"""How surprising a number of positives is beside the number that the calibration expects of the same decisions.

Positives are rare and independent, so their number is Poisson; the expected number has an error of its own, since the
calibration counted positives too. Both together are a negative binomial: a Poisson whose mean is gamma distributed around the
expected number with the calibration's relative standard error, which is the exact test of two Poisson rates (Przyborowski and
Wilenski 1940) in other words.

Streams whose positives come in clusters vary more than that; nothing here knows.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Counts up to which the tail is added up, term by term, whatever was expected. Beyond it an approximation does, which says too
# little rather than too much: of 6 standard deviations up to 2 % less at an rse of 0.2, 5 % at 0.3, 25 % at 1.
_SUMMED = 200
# What the rate alerts of deploy/prometheus/cutpoint.rules.yml ask of a week, where they ask least: of too many, and of too few.
HIGH_Z, LOW_Z = 4.25, 4.0
# Terms of the upper tail; what follows them is taken as geometric.
_TERMS = 300
_ANSCOMBE = 0.375
_STEPS, _SMALLEST = 20, 1e-300
_NORMAL = NormalDist()
_SMALLEST_LOG = -700.0  # of a probability that float64 can hold


def deviance_z(positives: ArrayLike, expected: ArrayLike, rse: ArrayLike = 0.0) -> Floats:
    """The signed root of the Poisson deviance with half an event of continuity correction, as the Prometheus rules compute it.

    From some events on it is nearly `surprise`. Of rare labels it says less: one positive where 0.001 were expected is 2.3,
    while its probability, one in a thousand, is that of 3.1.

    Args:
        positives: counted, from 0; any shape.
        expected: of the same decisions, from 0; of that shape.
        rse: relative standard error of the expected rate, from 0; NaN is taken as 0.

    Returns:
        sqrt(2 (y ln(y / expected) - y + expected)) / sqrt(1 + expected rse^2) with y half an event nearer to `expected` than
        `positives`, and 0 where that is less than half; positive for too many. 0 where nothing was expected.
    """
    x, mu, v = _taken(positives, expected, rse)
    excess, some = x - mu, mu > 0
    mean = np.where(some, mu, 1.0)
    moved = np.where(some, mu + np.sign(excess) * np.maximum(np.abs(excess) - 0.5, 0), 1.0)
    deviance = 2 * (moved * np.log(moved / mean) - (moved - mean))
    z: Floats = np.sign(excess) * np.sqrt(np.maximum(deviance, 0) / (1 + mu * v))
    return z


def smallest_factors(rse: ArrayLike, high_z: float = HIGH_Z, low_z: float = LOW_Z) -> tuple[Floats, Floats]:
    """How many times as high and as low a rate has to be for `deviance_z` to pass a limit, however many decisions there are.

    With the number of decisions the z of r times the expected rate grows towards sqrt(2 (r ln r - r + 1)) / rse and stays
    below: what the calibration does not know of the rate, no traffic tells.

    Args:
        rse: relative standard error of the expected rate, from 0, finite; any shape; NaN where the rate is not known at all.
        high_z: limit of z for too many, above 0.
        low_z: of -z for too few, above 0.

    Returns:
        (up, down) of that shape: `up` from 1, `down` from 1 to 0; `down` is NaN where not even no positives at all are found,
        and both are where `rse` is.
    """
    e = np.asarray(rse, np.float64)
    of_high, of_low = ((e * limit) ** 2 / 2 for limit in (high_z, low_z))
    up = _factor_of(of_high, 1 + np.sqrt(2 * of_high) + of_high)
    possible = of_low < 1  # is what no positives at all give
    of_low = np.where(possible, of_low, 0.0)
    down = _factor_of(of_low, np.maximum(1 - np.sqrt(2 * of_low), _SMALLEST))
    return up, np.where(possible, down, np.nan)


def surprise(positives: ArrayLike, expected: ArrayLike, rse: ArrayLike = 0.0) -> Floats:
    """The exact tail probability of a count, as a signed number of standard deviations; good for any expected number.

    Args:
        positives: counted, from 0, rounded to whole ones; any shape.
        expected: of the same decisions, from 0; of that shape.
        rse: relative standard error of the expected rate, from 0; NaN is taken as 0.

    Returns:
        z with P(Z >= z) = P(X >= positives) where there are more than expected, the negative likewise where there are fewer,
        and 0 where that tail is half or more of the whole. Counts above 200 by the cube root of an F variate (Paulson 1942),
        which says a little less than there is: 2 % of 6 standard deviations at an rse of 0.2.
        Where nothing at all was expected no tail can be said; it is what so many are beside none on the scale of the square
        root, where counts vary alike: 2 (sqrt(positives + 3/8) - sqrt(3/8)) (Anscombe 1948).
    """
    x, mu, v = _taken(positives, expected, rse)
    x = np.rint(x)
    many = x > _SUMMED
    z = np.zeros(x.shape)
    z[many] = _by_cube_root(x[many], mu[many], v[many])
    z[~many] = _exact(x[~many], mu[~many], v[~many])
    return z


def expected_range(expected: ArrayLike, rse: ArrayLike = 0.0, z: float = 1.96) -> tuple[Floats, Floats]:
    """Numbers of positives between which a count is to be expected, those `z` standard deviations away.

    Args:
        expected: number, from 0; any shape.
        rse: relative standard error of the expected rate, from 0; NaN is taken as 0.
        z: 1.96 for 95 %.

    Returns:
        (low, high) from 0, not whole, on the scale of asinh(rse sqrt(number + 3/8)) / rse (Anscombe 1948).
    """
    _, mu, v = _taken(expected, expected, rse)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(v)
        at = np.where(v > 0, np.arcsinh(np.sqrt((mu + _ANSCOMBE) * v)) / np.where(v > 0, root, 1), np.sqrt(mu + _ANSCOMBE))

    def back(point: Floats) -> Floats:
        point = np.maximum(point, 0)
        bent = np.sinh(np.minimum(point * root, 300.0)) / np.where(v > 0, root, 1)
        found: Floats = np.maximum(np.where(v > 0, bent, point) ** 2 - _ANSCOMBE, 0)
        return found

    return back(at - z / 2), back(at + z / 2)


def relative(error: ArrayLike, expected: ArrayLike) -> Floats:
    """The `rse` of numbers expected with a standard error, each summed over the same decisions; 0 where nothing is expected.

    Of one policy it is that of its rate, of several never less than it is: as if their errors were one and the same.
    """
    sigma, mu = np.broadcast_arrays(np.asarray(error, np.float64), np.asarray(expected, np.float64))
    found: Floats = np.divide(sigma, mu, out=np.zeros(mu.shape), where=mu > 0)
    return found


def _taken(positives: ArrayLike, expected: ArrayLike, rse: ArrayLike) -> tuple[Floats, Floats, Floats]:
    x, mu, e = np.broadcast_arrays(*(np.asarray(each, np.float64) for each in (positives, expected, rse)))
    return np.maximum(x, 0), np.maximum(mu, 0), np.square(np.nan_to_num(e, nan=0.0, posinf=0.0))


def _factor_of(half_deviance: Floats, start: Floats) -> Floats:
    """The r with r ln r - r + 1 = half_deviance, by Newton's steps from `start`, farther from 1: no step leads beyond it."""
    r = start
    for _ in range(_STEPS):
        slope = np.log(r)
        r = np.where(slope == 0, r, r - (r * slope - r + 1 - half_deviance) / np.where(slope == 0, 1, slope))
    return r


def _by_cube_root(x: Floats, mu: Floats, v: Floats) -> Floats:
    """P(X >= x) is P(F <= mu / x) with 2x and 2 / rse^2 degrees of freedom, whose cube root is nearly normal."""

    def below(count: Floats) -> Floats:
        count = np.maximum(count, 1.0)
        root = np.cbrt(mu / count)
        z: Floats = ((1 - v / 9) * root - 1 + 1 / (9 * count)) / np.sqrt(v / 9 * root**2 + 1 / (9 * count))
        return z

    return np.where(x > mu, np.maximum(-below(x), 0.0), np.minimum(-below(x + 1), 0.0))


def _exact(x: Floats, mu: Floats, v: Floats) -> Floats:
    """Tails by their terms, from the count outwards; [label]."""
    if not x.size:
        return np.zeros(0)
    above = x > mu
    beside = np.ones(x.shape)
    beside[above] = _above(x[above], mu[above], v[above])
    beside[~above] = _below(x[~above], mu[~above], v[~above])
    log_tail = _log_probability(x, mu, v) + np.log(beside)
    z = np.array([_z_of(each) for each in np.minimum(log_tail, 0.0)])
    z = np.where(above, z, -z)
    return np.where(mu > 0, z, 2 * (np.sqrt(x + _ANSCOMBE) - math.sqrt(_ANSCOMBE)))


def _log_probability(x: Floats, mu: Floats, v: Floats) -> Floats:
    """The log of P(X = x) of the negative binomial with mean mu and variance mu + v mu^2; Poisson where v is 0."""
    steps = np.arange(_SUMMED)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(steps + 1.0))])[x.astype(int)]
    rising = np.where(steps < x[:, None], np.log1p(v[:, None] * steps), 0.0).sum(axis=1)
    spread = np.where(v > 0, np.log1p(mu * v) / np.where(v > 0, v, 1), mu)
    log_mean = np.log(np.where(mu > 0, mu, 1.0))
    found: Floats = x * log_mean - factorials + rising - spread - x * np.log1p(mu * v)
    return found


def _above(x: Floats, mu: Floats, v: Floats) -> Floats:
    """P(X >= x) / P(X = x), for x above mu."""
    steps = x[:, None] + np.arange(_TERMS)
    ratios = mu[:, None] * (1 + v[:, None] * steps) / ((steps + 1) * (1 + mu * v)[:, None])
    terms, last = np.cumprod(ratios, axis=1), ratios[:, -1]
    found: Floats = 1 + terms.sum(axis=1) + terms[:, -1] * last / (1 - last)
    return found


def _below(x: Floats, mu: Floats, v: Floats) -> Floats:
    """P(X <= x) / P(X = x), for x up to mu."""
    steps = x[:, None] - np.arange(_SUMMED)
    mean = np.where(mu > 0, mu, 1.0)[:, None]
    ratios = np.where(steps > 0, steps * (1 + mean * v[:, None]) / (mean * (1 + v[:, None] * np.maximum(steps - 1, 0))), 0.0)
    found: Floats = 1 + np.cumprod(ratios, axis=1).sum(axis=1)
    return found


def _z_of(log_tail: float) -> float:
    """Standard deviations from 0 up that leave a tail of this probability."""
    if log_tail >= math.log(0.5):
        return 0.0
    if log_tail > _SMALLEST_LOG:
        return -_NORMAL.inv_cdf(math.exp(log_tail))
    z = math.sqrt(-2 * log_tail)
    for _ in range(4):  # of log P(Z >= z) = -z^2 / 2 - log(z sqrt(2 pi)), which is good to 1 / z^2
        z = math.sqrt(-2 * (log_tail + math.log(z * math.sqrt(2 * math.pi))))
    return z
