"""Confirmed rates: exact where outcomes weigh the same, and covering the truth as often as they say where they do not."""

import numpy as np
import pytest
from cutpoint.server.outcomes.confirmed import Confirmed, most_share
from cutpoint.server.outcomes.store import LABEL
from scipy.stats import binomtest


def rows(decided: np.ndarray, target: np.ndarray, weight: np.ndarray) -> np.ndarray:
    found = np.zeros((len(decided), 1), LABEL)
    found["decided"], found["target"], found["weight"] = decided[:, None], target[:, None], weight[:, None]
    return found


@pytest.mark.parametrize("weight", [1.0, 20.0])
@pytest.mark.parametrize(("found", "missed"), [(0, 1), (1, 0), (3, 5), (40, 2), (200, 0), (0, 200)])
def test_recall_of_outcomes_that_weigh_the_same_is_clopper_and_pearsons(found: int, missed: int, weight: float) -> None:
    decided = np.repeat([1, 0, 0], [found, missed, 7])
    target = np.repeat([1, 1, 0], [found, missed, 7])
    recall = Confirmed(1).add_all([rows(decided, target, np.full(len(target), weight))]).recall(0)
    exact = binomtest(found, found + missed).proportion_ci(method="exact")
    assert recall is not None
    np.testing.assert_allclose(
        [recall.value, recall.low, recall.high], [found / (found + missed), exact.low, exact.high], atol=1e-9
    )


@pytest.mark.parametrize(("alerts", "misses", "probability"), [(150, 80, 0.05), (40, 10, 0.2), (300, 30, 0.1), (20, 200, 0.02)])
def test_recall_from_all_alerts_and_a_sample_of_the_rest_covers_the_truth(alerts: int, misses: int, probability: float) -> None:
    """Alerts and misses come as Poisson; of the misses each is seen with a probability. 4000 reviews each, seeded."""
    rng = np.random.default_rng(0)
    truth, trials = alerts / (alerts + misses), 4000
    covered = told = 0
    for found, seen in zip(rng.poisson(alerts, trials), rng.poisson(misses * probability, trials), strict=True):
        confirmed = Confirmed(1)
        decided, target = np.repeat([1, 0, 0], [found, seen, 1]), np.repeat([1, 1, 0], [found, seen, 1])
        confirmed.add(rows(decided, target, np.where(decided == 1, 1.0, 1 / probability)))
        recall = confirmed.recall(0)
        if recall is not None:
            told += 1
            covered += recall.low <= truth <= recall.high
    assert told == trials
    assert covered / told >= 0.94


def test_without_a_miss_it_is_what_one_weighs_that_bounds_recall() -> None:
    """150 alerts, all right; 1 in 20 of the rest was looked at, and nothing found: there may be 3.7 x 20 misses."""
    confirmed = Confirmed(1)
    confirmed.add(rows(np.repeat([1, 0], [150, 500]), np.repeat([1, 0], [150, 500]), np.repeat([1.0, 20.0], [150, 500])))
    recall = confirmed.recall(0)
    assert recall is not None and (recall.value, recall.high) == (1, 1)
    assert 150 / (150 + 5 * 20) < recall.low < 150 / (150 + 3 * 20)


def test_there_is_no_recall_without_a_look_at_what_did_not_alert() -> None:
    confirmed = Confirmed(1)
    assert confirmed.recall_reason(0) == "no outcome of a decision"
    confirmed.add(rows(np.array([1, 0]), np.array([0, 0]), np.array([1.0, 1.0])))
    assert confirmed.recall_reason(0) == "no outcome was positive"
    confirmed = Confirmed(1)
    confirmed.add(rows(np.array([1, 1, 0]), np.array([1, 1, 0]), np.array([1.0, 1.0, 0.0])))
    assert confirmed.recall(0) is None
    assert confirmed.recall_reason(0).startswith("no positive outcome is of a review that has seen what did not alert")


def test_shares_are_within_bounds() -> None:
    assert most_share(5, 0, 5, 0, 1) == 1
    assert 0 < most_share(0, 1e-9, 0, 1e-18, 1e6) <= 1
    assert 0 < most_share(0, 1e9, 0, 1e9, 1) < 1e-8
