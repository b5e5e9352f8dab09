"""The intervals of weighted and of grouped rows, against their formulas written out."""

import numpy as np
import pytest
from cutpoint.calibration import Counts, expected_at
from cutpoint.calibration.expected import expected_of_groups
from cutpoint.calibration.policy import Rate
from scipy.stats import beta, t


def at(value: float, rows: float) -> tuple[float, float, float]:
    """A share with the interval of Clopper and Pearson at so many rows."""
    hits = value * rows
    low = beta.ppf(0.025, hits, rows - hits + 1) if hits > 0 else 0.0
    high = beta.ppf(0.975, hits + 1, rows - hits) if hits < rows else 1.0
    return value, low, high


def given(rate: Rate | None) -> tuple[float, float, float]:
    assert rate is not None
    return rate.value, rate.low, rate.high


def test_of_weighted_rows_each_class_counts_its_effective_part() -> None:
    counts = Counts(positives=40, negatives=200, tp=30, fp=10)
    found = expected_at(counts, (20.0, 50.0))  # half of the positives, a quarter of the negatives
    assert given(found.recall) == pytest.approx(at(30 / 40, 20))
    assert given(found.fpr) == pytest.approx(at(10 / 200, 50))
    assert given(found.precision) == pytest.approx(at(30 / 40, 30 / 2 + 10 / 4))
    assert given(found.alert_rate) == pytest.approx(at(40 / 240, 40 / 2 + 200 / 4))


def recall_of(groups: list[tuple[int, int]], weights: list[float] | None = None) -> tuple[float, float, float]:
    """Expected recall of groups of positives, each given as how many there are and how many of them alert."""
    scores = np.concatenate([np.arange(rows) < alerts for rows, alerts in groups]).astype(np.float32)
    codes = np.repeat(np.arange(len(groups)), [rows for rows, _ in groups])
    # One group more, of a negative: it takes no part in recall.
    scores, codes = np.append(scores, np.float32(0)), np.append(codes, len(groups))
    targets = np.append(np.ones(len(scores) - 1, np.uint8), np.uint8(0))
    each = None if weights is None else np.append(weights, 1.0)
    return given(expected_of_groups(scores, targets, each, codes, 0.5).recall)


def t_ratio(rows: float, groups: int) -> float:
    """What few groups take of the effective rows."""
    return float((t.ppf(0.975, rows - 1) / t.ppf(0.975, groups - 1)) ** 2)


def test_rows_of_groups_that_are_alike_count_for_fewer() -> None:
    # 6 of 10. The residuals alerts - 0.6 rows: 4 - 2.4, 2 - 1.8, 0 - 1.2, 0 - 0.6.
    variance = (1.6**2 + 0.2**2 + 1.2**2 + 0.6**2) / 10**2 * 4 / 3
    effective = 0.6 * 0.4 / variance * t_ratio(10, 4)
    assert effective < 3  # so it is not the number of groups, nor of rows
    assert recall_of([(4, 4), (3, 2), (2, 0), (1, 0)]) == pytest.approx(at(0.6, effective))


def test_rows_of_groups_that_are_unlike_count_for_no_more_than_they_are() -> None:
    # 5 of 9. The residuals alerts - 5/9 rows: 1 - 10/9 three times, 2 - 15/9.
    variance = (3 * (1 / 9) ** 2 + (1 / 3) ** 2) / 9**2 * 4 / 3
    assert 5 / 9 * 4 / 9 / variance * t_ratio(9, 4) > 9
    assert recall_of([(2, 1), (2, 1), (2, 1), (3, 2)]) == pytest.approx(at(5 / 9, 9))


def test_where_no_variance_is_seen_groups_are_counted() -> None:
    assert recall_of([(4, 4), (3, 3), (2, 2)]) == pytest.approx(at(1.0, 3))
    assert recall_of([(5, 2)]) == pytest.approx(at(0.4, 1))  # of one group there is none


def test_rows_of_groups_and_weights_count_for_their_effective_number_at_most() -> None:
    # Groups of weights 1, 3 | 2, 2 | 4, of which 1 | 2 | 4 alert: 7 of 12.
    weights = [1.0, 3.0, 2.0, 2.0, 4.0]
    value, rows = 7 / 12, 12**2 / (1 + 9 + 4 + 4 + 16)
    residuals = [1 - 4 * value, 2 - 4 * value, 4 - 4 * value]
    variance = sum(each**2 for each in residuals) / 12**2 * 3 / 2
    effective = value * (1 - value) / variance * t_ratio(rows, 3)
    assert effective < rows
    assert recall_of([(2, 1), (2, 1), (1, 1)], weights) == pytest.approx(at(value, effective))
    # Of two groups that are nearly alike, 4.5 of 9 | 4 of 9, it would be more than the rows' effective number.
    rows = 18**2 / (4.5**2 + 4.5**2 + 4**2 + 5**2)
    assert recall_of([(2, 1), (2, 1)], [4.5, 4.5, 4.0, 5.0]) == pytest.approx(at(8.5 / 18, rows))
