"""How often the rate alerts are wrong, and how soon they are right: `make bench-alarms`, five minutes.

A year of traffic in steps of a minute for each of 512 labels, a fifth of them at each rate; there is 60 % more of it by day
than on average and as much less by night. Poisson: positives are independent. Clustered: they come in clusters of geometric
size, two on average, spread over some minutes, so that the variance of a count is three times its mean. Each label is
calibrated on 100 alerts of such traffic, unless said otherwise, and has that error all year. Rates are positives expected an
hour: 300 is a busy label (one row in ten of an hour's 3000), 0.03 is five positives a week.

    false alarms   a label and year, of a rate that is too high and of one that is too low; in brackets the share of labels that
                   had any. An alarm that comes back within two hours is the same one.
    found after    hours from the doubling or halving of the rate, at a random time of day after two weeks as calibrated, until
                   the alert fires: median (90th percentile); "-" where it is more than 31 days.
    p-chart        the live rate of every whole hour outside three binomial standard deviations of the expected one.
    z > 4          (x - m) / sqrt(m) over the last hour beyond 4, for ten minutes: no dispersion, no error of the calibration.

The rules are evaluated by tests/alerting.py, which says what promtool says of deploy/prometheus/cutpoint.rules.yml.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from claims import Claim, report
from cutpoint.calibration.surprise import HIGH_Z, LOW_Z, deviance_z
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from alerting import FOR_S, KEEP_S, WEEK_HOURS, Live, Mask, Recorded, firing, holds, over, record

RATES = (0.03, 0.3, 3.0, 30.0, 300.0)
KINDS = ("Poisson", "clustered")
SIDES = ("high", "low")
LABELS, CHANGES, PRECISION_LABELS, SEED = 512, 100, 300, 0
HOUR, DAY = 60, 1440
YEAR_DAYS, BEFORE_DAYS, AFTER_DAYS = 365, 14, 31
CLUSTER_SIZE, CLUSTER_MINUTES, SWING = 2.0, 3.0, 0.6


@dataclass(frozen=True)
class Traffic:
    """Positives of a label: so many an hour, of this kind, calibrated on so many alerts."""

    rate: float
    kind: str
    alerts: float = 100

    def live(self, rng: np.random.Generator, days: int, change: int = 0, factor: float = 1.0) -> Live:
        """Counters of so many days; from minute `change` on the rate is `factor` times what it was."""
        minutes = np.arange(days * DAY)
        mean = self.rate / HOUR * (1 + SWING * np.sin(2 * np.pi * minutes / DAY + rng.uniform(0, 2 * np.pi)))
        actual = np.where(minutes >= change, factor * mean, mean) if change else mean
        if self.kind == "Poisson":
            positives = rng.poisson(actual)
        else:
            begins = np.repeat(minutes, rng.poisson(actual / CLUSTER_SIZE))
            members = np.repeat(begins, rng.geometric(1 / CLUSTER_SIZE, len(begins)))
            members = members + rng.exponential(CLUSTER_MINUTES, len(members)).astype(int)
            positives = np.bincount(members[members < len(minutes)], minlength=len(minutes))
        found = self._calibrated(rng)
        # The first scrape finds what was counted since the series began.
        return Live(np.cumsum(positives) * 1.0, np.cumsum(mean) * found / self.alerts, 1 / np.sqrt(found), 60)

    def _calibrated(self, rng: np.random.Generator) -> float:
        """Alerts that the calibration found where `alerts` were to be expected; at least one."""
        if self.kind == "Poisson":
            return max(1.0, float(rng.poisson(self.alerts)))
        return max(1.0, float(rng.geometric(1 / CLUSTER_SIZE, rng.poisson(self.alerts / CLUSTER_SIZE)).sum()))


Rule = Callable[[Recorded, str], list[tuple[int, int]]]


def ours(recorded: Recorded, side: str) -> list[tuple[int, int]]:
    """The shipped rules."""
    return firing(holds(recorded, side), FOR_S[side], KEEP_S, 60)


def p_chart(recorded: Recorded, side: str) -> list[tuple[int, int]]:
    """Whole hours outside three standard deviations."""
    at = np.arange(HOUR, len(recorded.dispersion), HOUR)
    beyond = _beyond(recorded.positives["1h"][at], recorded.expected["1h"][at], side, 3)
    return [(int(minute), int(minute) + 1) for minute in at[beyond]]


def plain_z(recorded: Recorded, side: str) -> list[tuple[int, int]]:
    """The last hour beyond four standard deviations, for ten minutes."""
    return firing(_beyond(recorded.positives["1h"], recorded.expected["1h"], side, 4), 600, KEEP_S, 60)


def _beyond(found: NDArray[np.float64], expected: NDArray[np.float64], side: str, limit: float) -> Mask:
    excess = found - expected if side == "high" else expected - found
    result: Mask = (excess > limit * np.sqrt(expected)) & (expected > 0)
    return result


RULES: dict[str, Rule] = {"ours": ours, "p-chart": p_chart, "z > 4": plain_z}


def false_alarms(traffic: Traffic, labels: int, seed: int) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Alarms in a year [label] by rule and side, with nothing changed."""
    counts = {(rule, side): np.zeros(labels) for rule in RULES for side in SIDES}
    for i in range(labels):
        recorded = record(traffic.live(np.random.default_rng((SEED, seed, i)), YEAR_DAYS))
        for (rule, side), found in counts.items():
            found[i] = len(RULES[rule](recorded, side))
    return counts


def hours_to_find(traffic: Traffic, factor: float, seed: int, rules: tuple[str, ...] = tuple(RULES)) -> dict[str, str]:
    """Median and 90th percentile by rule, as text."""
    hours: dict[str, list[float]] = {rule: [] for rule in rules}
    for i in range(CHANGES):
        rng = np.random.default_rng((SEED, seed, i))
        change = BEFORE_DAYS * DAY + int(rng.integers(DAY))
        recorded = record(traffic.live(rng, BEFORE_DAYS + AFTER_DAYS, change, factor))
        for rule, kept in hours.items():
            fires = RULES[rule](recorded, "high" if factor > 1 else "low")
            kept.append(min((max(begin - change, 0) / HOUR for begin, end in fires if end > change), default=np.inf))
    return {rule: _ranks(kept) for rule, kept in hours.items()}


def _ranks(found: list[float]) -> str:
    """Median and, in brackets, 90th percentile."""
    ranks = (sorted(found)[int(share * len(found))] for share in (0.5, 0.9))
    median, late = ("-" if value == np.inf else f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in ranks)
    return f"{median} ({late})"


def precision_alarms(per_week: float, before: float, after: float, target: float, days: int) -> list[list[float]]:
    """Days after the first 14 at which CutpointPrecisionBelowTarget fires [label][alarm]; precision is another from then on."""
    first, found = 14 * 24, []
    for i in range(PRECISION_LABELS):
        rng = np.random.default_rng((SEED, 99, int(per_week), i))
        outcomes = rng.poisson(per_week / WEEK_HOURS, first + days * 24)
        right = rng.binomial(outcomes, np.where(np.arange(len(outcomes)) < first, before, after))
        reviewed, true = (over(counts * 1.0, WEEK_HOURS) for counts in (outcomes, right))
        known = np.maximum(reviewed, 1)
        upper = (true + 6.125 + 3.5 * np.sqrt(true * (1 - true / known) + 3.0625)) / (reviewed + 12.25)
        holds_at = (reviewed >= 10) & (upper < target)
        found.append([(begin - first) / 24 for begin, _ in firing(holds_at, 3600, 24 * 3600, 3600) if begin >= first])
    return found


def main() -> None:
    """Print the tables and the claims."""
    shares = [LABELS // len(RATES) + (i < LABELS % len(RATES)) for i in range(len(RATES))]
    sums: dict[tuple[str, str], float] = {}
    claims = []
    head = "| traffic | expected an hour | false alarms high | low | doubled, found after | halved |"
    for rule in RULES:
        head += "" if rule == "ours" else f" {rule}: false alarms | doubled | halved |"
    print(head)
    print("|" + " --- |" * (head.count("|") - 1), flush=True)
    for kind in KINDS:
        for i, rate in enumerate(RATES):
            traffic = Traffic(rate, kind)
            alarms = false_alarms(traffic, shares[i], i)
            doubled, halved = hours_to_find(traffic, 2, 10 + i), hours_to_find(traffic, 0.5, 20 + i)
            cells = [kind, f"{rate:g}"]
            for rule in RULES:
                sides = [alarms[rule, side] for side in SIDES]
                sums[kind, rule] = sums.get((kind, rule), 0.0) + float(np.sum(sides))
                if rule == "ours":
                    cells += [f"{found.mean():.2f} ({np.mean(found > 0):.0%})" for found in sides]
                else:
                    cells.append(f"{np.sum(sides) / shares[i]:.3g}")
                cells += [doubled[rule], halved[rule]]
            print("| " + " | ".join(cells) + " |", flush=True)
            worst = float(np.sum([alarms["ours", side] for side in SIDES])) / shares[i]
            claims.append(
                Claim(f"false alarms a label and year, {kind}, {rate:g} an hour", worst, 1, _target(kind), "", least=False)
            )
    print("\n| a model of 512 labels, alarms a year | " + " | ".join(RULES) + " |\n|" + " --- |" * (1 + len(RULES)))
    for kind in KINDS:
        print(f"| {kind} | " + " | ".join(f"{sums[kind, rule]:.3g}" for rule in RULES) + " |")
        claims.append(
            Claim(f"false alarms a label and year, {kind}, all", sums[kind, "ours"] / LABELS, 1, _target(kind), "", least=False)
        )
    print("\n| alerts in the calibration (30 expected an hour) | Poisson: doubled | halved | clustered: doubled | halved |")
    print("|" + " --- |" * 5)
    for alerts in (25, 100, 400, 1600):
        cells = [
            hours_to_find(Traffic(30.0, kind, alerts), factor, 30, ("ours",))["ours"] for kind in KINDS for factor in (2, 0.5)
        ]
        print(f"| {alerts} | " + " | ".join(cells) + " |", flush=True)
    print_never_found()
    print("\n| outcomes of positives a week | alarms a year while precision is the target | halved, found after days |")
    print("|" + " --- |" * 3)
    for per_week in (10, 30, 100, 300):
        false = sum(map(len, precision_alarms(per_week, 0.5, 0.5, 0.5, YEAR_DAYS))) / PRECISION_LABELS
        days = [alarms[0] if alarms else np.inf for alarms in precision_alarms(per_week, 0.5, 0.25, 0.5, 60)]
        print(f"| {per_week} | {false:.2f} | {_ranks(days)} |")
    print(flush=True)
    report(claims)


def print_never_found() -> None:
    """The relative standard error of the expected rate from which on no traffic shows that it is so many times as high."""
    factors = {"1.5": 1.5, "2": 2, "3": 3, "5": 5, "10": 10, "20": 20, "2/3": 2 / 3, "1/2": 0.5, "1/4": 0.25, "0": 0}
    print("\n| rate, times the expected one | " + " | ".join(factors) + " |\n|" + " --- |" * (1 + len(factors)))
    many = 1e15
    for name, high, low in (
        ("an hour or six (limits 5 and 4.5)", 5.0, 4.5),
        (f"a week ({HIGH_Z:g} and {LOW_Z:g})", HIGH_Z, LOW_Z),
    ):
        # Of so many expected events z is one over the error, times what is not said of it here.
        least = [
            abs(float(deviance_z(factor * many, many, 1.0))) / (high if factor > 1 else low) for factor in factors.values()
        ]
        print(f"| rse below, for {name} | " + " | ".join(f"{each:.3f}" for each in least) + " |", flush=True)


def _target(kind: str) -> float:
    return 0.1 if kind == "Poisson" else 1.0


if __name__ == "__main__":
    main()
