"""The rate alerts of deploy/prometheus/cutpoint.rules.yml in numpy: what they say of a year in a second.

The expressions are those of the rules, step for step; tests/deploy/test_alerting.py holds them against promtool. Arrays are
[time], one value per scrape, and a rule is evaluated at every scrape.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Window:
    """One of the windows over which positives are compared with what was expected.

    Attributes:
        name: as in the rules.
        hours: its length.
        high: limit of z over the dispersion, above which the rate is too high.
        low: the same for too low.
        expected: positives that have to be expected in it before it says anything.
        tells: positives that have to be expected in it for an alert to end when it shows nothing; infinity where it never does.
    """

    name: str
    hours: int
    high: float
    low: float
    expected: float
    tells: float


WINDOWS = (
    Window("1h", 1, 5.0, 4.5, 10, 10),
    Window("6h", 6, 5.0, 4.5, 10, 10),
    Window("1d", 24, 4.75, 4.25, 10, 5),
    Window("7d", 168, 4.25, 4.0, 0.5, np.inf),
)
EFFECT, ENDING_EFFECT, FEWEST = 1.5, 1.2, 5
FOR_S = {"high": 600, "low": 1800}
KEEP_S = 7200
LAG_HOURS, SWING_CAP, PRIOR_HOURS, WEEK_HOURS = 3, 16.0, 24, 168
DISPERSION = (1.0, 3.0)


@dataclass(frozen=True)
class Live:
    """Counters of one label: positives and expected positives since its series began, one value per scrape."""

    positives: Array
    expected: Array
    rse: float
    step_s: int

    @property
    def per_hour(self) -> int:
        """Scrapes an hour."""
        return 3600 // self.step_s


@dataclass(frozen=True)
class Recorded:
    """What the recording rules make of it: counts in each window by its name, and the dispersion."""

    positives: dict[str, Array]
    expected: dict[str, Array]
    dispersion: Array
    rse: float

    def z(self, window: str) -> Array:
        """`model_version_label:cutpoint_positives:z*`; 0 where nothing is expected."""
        expected = self.expected[window]
        return deviance(self.positives[window], expected) / np.sqrt(1 + expected * self.rse**2)


def increase(counter: Array, steps: int) -> Array:
    """`increase(counter[steps])` of a counter that starts at 0 and is scraped when the rule is evaluated."""
    result = counter - counter[0]
    result[steps:] = counter[steps:] - counter[:-steps]
    return result


def deviance(found: Array, expected: Array) -> Array:
    """Signed root of the Poisson deviance, with half an event of continuity correction: normal down to few events.

    Args:
        found: events.
        expected: their mean; the result is 0 where it is 0.
    """
    excess = found - expected
    moved = expected + np.sign(excess) * np.maximum(np.abs(excess) - 0.5, 0)
    known = np.where(expected > 0, expected, 1.0)
    moved = np.where(expected > 0, moved, 1.0)
    inner: Array = 2 * (moved * np.log(moved / known) - (moved - known))
    return np.sign(excess) * np.sqrt(np.maximum(inner, 0))


def record(live: Live) -> Recorded:
    """All that the recording rules say of a label, at every scrape."""
    count, hour = len(live.positives), live.per_hour

    def each_scrape(hourly: Array) -> Array:
        return np.repeat(hourly, hour)[:count]

    def windows(counter: Array) -> dict[str, Array]:
        short = {window.name: increase(counter, window.hours * hour) for window in WINDOWS if window.hours <= 6}
        whole_hours = short["1h"][::hour]
        return short | {w.name: each_scrape(over(whole_hours, w.hours)) for w in WINDOWS if w.hours > 6}

    positives, expected = windows(live.positives), windows(live.expected)
    dispersion = each_scrape(dispersion_of(positives["1h"][::hour], expected["1h"][::hour]))
    return Recorded(positives, expected, dispersion, live.rse)


def over(hourly: Array, hours: int) -> Array:
    """`sum_over_time` of a value an hour over the last `hours`."""
    sums = np.concatenate([[0.0], np.cumsum(hourly)])
    end = np.arange(1, len(hourly) + 1)
    result: Array = sums[end] - sums[np.maximum(end - hours, 0)]
    return result


def dispersion_of(positives: Array, expected: Array) -> Array:
    """`dispersion7d`, from a value an hour: how much wider than Poisson's the counts of hours spread.

    Of each hour and that `LAG_HOURS` before, the positives of both are split by what was expected in each: binomial, whatever
    the rate, so that neither drift nor a wrong calibration looks like dispersion.
    """
    squared, variance = np.zeros_like(positives), np.zeros_like(positives)
    now, then = slice(LAG_HOURS, None), slice(None, -LAG_HOURS)
    both = expected[now] + expected[then]
    share = expected[now] / np.where(both > 0, both, 1)
    total = positives[now] + positives[then]
    variance[now] = total * share * (1 - share)
    squared[now] = np.minimum((positives[now] - total * share) ** 2, SWING_CAP * variance[now])
    hours = over((np.arange(len(positives)) > LAG_HOURS) * 1.0, WEEK_HOURS)
    of = over(variance, WEEK_HOURS)
    ratio = np.where(of > 1e-9, over(squared, WEEK_HOURS) / np.where(of > 1e-9, of, 1), 1.0)
    ratio = (PRIOR_HOURS + hours * ratio) / (PRIOR_HOURS + hours)
    return np.clip(np.sqrt(ratio), *DISPERSION)


def holds(recorded: Recorded, side: str) -> Mask:
    """Whether the expression of the alert for a rate that is "high" or "low" holds, at every scrape."""
    high = side == "high"
    result = np.zeros(len(recorded.dispersion), bool)
    for window in reversed(WINDOWS):
        found, expected = recorded.positives[window.name], recorded.expected[window.name]
        over = found < ENDING_EFFECT * expected if high else found > expected / ENDING_EFFECT
        result &= ~(over & (expected >= window.tells))  # it ends what longer windows say
        beyond = found > EFFECT * expected if high else found < expected / EFFECT
        at = np.flatnonzero(beyond & (expected >= window.expected) & (found >= (FEWEST if high else 0)))
        few = Recorded({window.name: found[at]}, {window.name: expected[at]}, recorded.dispersion[at], recorded.rse)
        z = few.z(window.name) / few.dispersion  # logarithms only where the rest holds
        result[at] |= z > window.high if high else z < -window.low
    return result


def firing(expression: Mask, for_s: int, keep_s: int, step_s: int) -> list[tuple[int, int]]:
    """Stretches [start, end) in which an alert fires: the expression held `for_s`, and until it has not for `keep_s`."""
    edges = np.diff(np.concatenate([[0], expression.astype(np.int8), [0]]))
    wait, keep = -(-for_s // step_s), keep_s // step_s
    stretches: list[tuple[int, int]] = []
    for begin, end in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        if stretches and begin <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], int(end) + keep)
        elif end - begin > wait:
            stretches.append((int(begin) + wait, int(end) + keep))
    return stretches


def fired(live: Live, side: str, rule: Callable[[Recorded, str], Mask] = holds) -> list[tuple[int, int]]:
    """When the alert fires for a label."""
    return firing(rule(record(live), side), FOR_S[side], KEEP_S, live.step_s)
