"""Every guarantee against known truth, in the quick form; `make bench-validity` has the full table."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import norm
from validity import DELTA, Outcome, Setting, draw, limit, true_rates, violations

DRAWS = 1000
RECALL, FPR, ALERTS, PRECISION = "recall_at_least=0.9", "fpr_at_most=0.05", "alert_rate_at_most=0.05", "precision_at_least=0.5"
# Groups of both classes. The means are so near that windows beside an event often alert: taken for it, or forgotten, they show.
RECORDINGS = Setting(RECALL, 60, unit="group", correlation=0.5, recordings=True, separation=0.25, prevalence=0.5)

# With each setting: the least share of labels with a threshold, and how much the guarantee may cost. For recall that is a true
# false-positive rate at most, for the others a true recall at least. With the worst ties a cell of the grid is just beyond the
# bound: true rates 0.8944, 0.0668, 0.0680 and 0.4401. With few units one miss more than is allowed would show.
SETTINGS = {
    "recall, 30 positives": (Setting(RECALL, 30), 1, 0.55),
    "recall, 100 positives": (Setting(RECALL), 1, 0.38),
    "recall, worst ties": (Setting("recall_at_least=0.896", tied=True), 1, 0.40),
    "recall, histogram": (Setting(RECALL, histogram=True), 1, 0.38),
    "recall, events": (Setting(RECALL, unit="group", correlation=0.5), 1, 0.28),
    "recall, 8 labels": (Setting(RECALL, labels=8), 1, 0.46),
    "fpr, 90 negatives": (Setting(FPR, 30, prevalence=0.25), 1, 0.42),
    "fpr": (Setting(FPR, 30), 1, 0.55),
    "fpr, worst ties, histogram": (Setting("fpr_at_most=0.066", tied=True, histogram=True), 1, 0.58),
    "fpr, events, histogram": (Setting(FPR, 30, histogram=True, unit="group", correlation=0.9), 1, 0.57),
    "alert rate, 80 rows": (Setting(ALERTS, 24, prevalence=0.3), 1, 0.03),
    "alert rate": (Setting(ALERTS), 1, 0.45),
    "alert rate, worst ties": (Setting("alert_rate_at_most=0.0675", tied=True), 1, 0.48),
    "alert rate, histogram": (Setting(ALERTS, histogram=True), 1, 0.45),
    "alert rate, events": (Setting(ALERTS, 30, unit="group", correlation=0.5), 1, 0.46),
    "precision, 30 positives": (Setting(PRECISION, 30), 0.4, 0.30),
    "precision, 100 positives": (Setting(PRECISION), 0.88, 0.36),
    "precision, worst ties": (Setting("precision_at_least=0.445", tied=True), 0.88, 0.40),
    "precision, histogram": (Setting(PRECISION, histogram=True), 0.88, 0.36),
    "precision, events": (Setting(PRECISION, unit="group", correlation=0.5), 0.95, 0.52),
    "recall, recordings": (RECORDINGS, 1, 0.94),
    "fpr, recordings": (replace(RECORDINGS, guarantee=FPR), 1, 0.03),
    "alert rate, recordings": (replace(RECORDINGS, guarantee=ALERTS, positives=150, separation=0), 1, 0.01),
    "precision, recordings": (
        replace(RECORDINGS, guarantee="precision_at_least=0.6", positives=300, separation=0.75),
        0.35,
        0.15,
    ),
    "precision, 8 labels": (Setting(PRECISION, labels=8), 0.58, 0.31),
}


@cache
def outcome_of(setting: Setting) -> Outcome:
    return violations(setting, DRAWS, seed=1)


@pytest.mark.parametrize(("setting", "found", "price"), SETTINGS.values(), ids=SETTINGS)
def test_a_guaranteed_bound_breaks_no_more_often_than_delta(setting: Setting, found: float, price: float) -> None:
    outcome = outcome_of(setting)
    assert outcome.broken <= limit(DRAWS)
    assert outcome.found >= found
    assert outcome.price <= price if setting.guarantee.startswith("recall") else outcome.price >= price


@pytest.mark.parametrize("tied", [False, True])
def test_precision_is_hardly_ever_found_where_scores_tell_nothing(tied: bool) -> None:
    # Every cut's true precision is just below the bound: the hardest case for a test at many ranks.
    outcome = outcome_of(Setting(PRECISION, tied=tied, separation=0, prevalence=0.4999))
    assert outcome.broken == outcome.found <= limit(DRAWS)
    assert outcome.plug_in > 0.9


@pytest.mark.parametrize("positives", [30, 100])
def test_without_a_guarantee_recall_breaks_in_about_half_of_the_draws(positives: int) -> None:
    assert outcome_of(Setting(RECALL, positives)).plug_in > 0.3


def test_too_few_positives_break_nothing_and_find_nothing() -> None:
    outcome = violations(Setting(RECALL, 21), 50, seed=1)  # it takes ln 0.1 / ln 0.9 = 21.9
    assert outcome.found == outcome.broken == outcome.broken_of_found == 0


def test_windows_of_events_counted_as_rows_break_more_often_than_delta() -> None:
    # Why there are guarantees by group: the same data, and a bound on the recall of windows.
    assert outcome_of(Setting(RECALL, correlation=0.9)).broken > limit(DRAWS) > DELTA


@pytest.mark.parametrize(
    "setting",
    [
        Setting(ALERTS, 100_000),
        Setting(ALERTS, 100_000, tied=True),
        Setting(ALERTS, 100_000, unit="group", correlation=0.5),
        Setting(ALERTS, 100_000, tied=True, unit="group", correlation=0.9),
        Setting(ALERTS, 100_000, correlation=0.9),
        replace(RECORDINGS, guarantee=ALERTS, positives=100_000),
        replace(RECORDINGS, guarantee=ALERTS, positives=100_000, tied=True, correlation=0.9),
    ],
)
def test_the_true_rates_are_those_of_many_scores(setting: Setting) -> None:
    scores, classes = (each[0] if setting.unit == "group" else each[0].reshape(-1, 1)
                       for each in draw(setting, 1, np.random.default_rng(0)))  # fmt: skip
    positive, negative = (classes == 1).any(axis=1), (classes == 0).any(axis=1)
    for threshold in (0.9, 1.8, 2.0):
        hits, false = (((scores >= threshold) & (classes == c)).any(axis=1) for c in (1, 0))
        alerts = hits | false
        seen = {
            "recall": (hits[positive].mean(), positive.sum()),
            "fpr": (false[negative].mean(), negative.sum()),
            "alert_rate": (alerts.mean(), len(alerts)),
            "precision": (hits[alerts].mean(), alerts.sum()),
        }
        for name, rate in true_rates(setting, np.array([threshold])).items():
            value, n = seen[name]
            assert value == pytest.approx(rate[0], abs=4 * np.sqrt(3 * 0.25 / n)), name


def test_independent_windows_are_found_together_as_a_power() -> None:
    rates = true_rates(Setting(RECALL, unit="group", correlation=0.0), np.array([1.0]))
    assert rates["recall"][0] == pytest.approx(1 - norm.cdf(-1) ** 3, abs=1e-9)
    assert rates["fpr"][0] == pytest.approx(1 - norm.cdf(1) ** 3, abs=1e-9)
