"""Curves, average precision, intervals and probabilities against brute force, scikit-learn and scipy."""

import math

import numpy as np
import pytest
from cutpoint.calibration import (
    Counts,
    Curve,
    average_precision,
    clopper_pearson,
    exact_curve,
    expected_at,
    probabilities,
)
from cutpoint.errors import BadData
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, precision_recall_curve

QUICK = settings(deadline=None, max_examples=100, database=None)
EXTREMES = [-np.inf, np.inf, 0.0, -0.0, 3.4028235e38, -3.4028235e38, 1e-45, -1e-45, 16.7, -104.0]


@st.composite
def labelled(draw: st.DrawFn, finite: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rows = draw(st.integers(0, 40))
    ties = st.integers(-3, 3).map(float)
    any_float = st.floats(width=32, allow_nan=False, allow_infinity=not finite)
    extremes = [x for x in EXTREMES if not finite or math.isfinite(x)]
    scores = draw(st.lists(st.one_of(ties, any_float, st.sampled_from(extremes)), min_size=rows, max_size=rows))
    targets = draw(hnp.arrays(np.uint8, rows, elements=st.sampled_from([0, 0, 1, 255])))
    return np.array(scores, np.float32), targets


def counts_at(scores: np.ndarray, targets: np.ndarray, threshold: float) -> tuple[int, int]:
    alerts = scores >= np.float32(threshold)
    return int((alerts & (targets == 1)).sum()), int((alerts & (targets == 0)).sum())


@QUICK
@given(labelled())
def test_a_curve_counts_what_every_cut_alerts_on(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = data
    curve = exact_curve(scores, targets)
    assert curve.cuts.tolist() == sorted(set(scores[targets != 255].tolist()), reverse=True)
    for cut, tp, fp in zip(curve.cuts, curve.tp, curve.fp, strict=True):
        assert (tp, fp) == counts_at(scores, targets, cut)
    assert (curve.positives, curve.negatives) == ((targets == 1).sum(), (targets == 0).sum())
    assert curve.rows == (targets != 255).sum()
    assert (curve.cuts.dtype, curve.tp.dtype, curve.fp.dtype) == (np.float32, np.int64, np.int64)


@QUICK
@given(labelled())
def test_a_threshold_alerts_on_exactly_the_rows_counted(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = data
    curve = exact_curve(scores, targets)
    for i, cut in enumerate(curve.cuts):
        threshold = curve.threshold(i)
        assert float(np.float32(threshold)) == threshold
        assert counts_at(scores, targets, threshold) == (curve.tp[i], curve.fp[i])
        below = curve.cuts[i + 1] if i + 1 < len(curve.cuts) else np.float32(-np.inf)
        if np.isfinite([below, cut]).all() and np.nextafter(below, cut) < cut:
            assert below < threshold < cut, "strictly between two scores, so that neither flips by a last bit"
        if np.isfinite(cut):
            assert math.isfinite(threshold)


def test_thresholds_by_hand() -> None:
    curve = exact_curve(np.array([5.0, 3, 3, -1], np.float32), np.array([1, 0, 1, 0]))
    assert [curve.threshold(i) for i in range(3)] == [4.0, 1.0, -1.5]  # below the lowest: half of at most 1
    near = exact_curve(np.array([1.0, 0.75], np.float32), np.array([1, 0]))
    assert near.threshold(1) == 0.75 - 0.125
    assert exact_curve(np.array([2.0], np.float32), np.array([1])).threshold(0) == 1.5


def test_thresholds_beside_infinity_are_finite_where_they_can_be() -> None:
    curve = exact_curve(np.array([np.inf, 2, 2, 1, -np.inf], np.float32), np.array([1, 1, 0, 0, 0]))
    assert [curve.threshold(i) for i in range(4)] == [2.5, 1.5, 0.5, -np.inf]


def test_ties_at_infinity_are_one_cut() -> None:
    curve = exact_curve(np.array([np.inf, np.inf, -np.inf, -np.inf], np.float32), np.array([1, 0, 1, 0]))
    assert curve.cuts.tolist() == [np.inf, -np.inf]
    assert curve.tp.tolist() == [1, 2]
    assert curve.fp.tolist() == [1, 2]


def test_a_score_is_compared_as_float32() -> None:
    curve = exact_curve(np.array([1.0, 1.0 + 1e-12]), np.array([1, 0]))
    assert curve.cuts.tolist() == [1.0]


def test_no_labelled_rows_give_an_empty_curve() -> None:
    for curve in (exact_curve(np.zeros(3), np.full(3, 255)), exact_curve(np.zeros(0), np.zeros(0))):
        assert (len(curve.cuts), curve.rows) == (0, 0)


def test_nan_and_mismatched_lengths_are_refused() -> None:
    with pytest.raises(BadData, match="NaN in 1 of 2 labelled rows"):
        exact_curve(np.array([np.nan, 1, np.nan]), np.array([1, 0, 255]))
    exact_curve(np.array([np.nan, 1]), np.array([255, 0]))  # an unlabelled row may be anything
    for scores, targets in ((np.zeros(3), np.zeros(2)), (np.zeros((2, 2)), np.zeros((2, 2)))):
        with pytest.raises(BadData, match="scores and targets"):
            exact_curve(scores, targets)


@QUICK
@given(labelled(finite=True))
def test_precision_and_recall_are_scikit_learns(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = data
    known = targets != 255
    if not (targets[known] == 1).any():
        return
    curve = exact_curve(scores, targets)
    precision, recall, cuts = precision_recall_curve(targets[known], scores[known])
    np.testing.assert_array_equal(cuts[::-1], curve.cuts)
    np.testing.assert_allclose((curve.tp / (curve.tp + curve.fp))[::-1], precision[:-1])
    np.testing.assert_allclose((curve.tp / curve.positives)[::-1], recall[:-1])
    assert average_precision(curve) == pytest.approx(average_precision_score(targets[known], scores[known]))


def test_average_precision_of_rare_events_and_of_none() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random(50_000) < 0.002).astype(np.uint8)
    scores = (rng.normal(size=50_000) + 2 * targets).astype(np.float32).round(2)  # rounded: many ties
    assert average_precision(exact_curve(scores, targets)) == pytest.approx(average_precision_score(targets, scores))
    assert math.isnan(average_precision(exact_curve(scores, np.zeros(50_000))))


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (0, 500), (500, 500), (3, 500), (1, 2), (7, 90_000), (250, 500)])
@pytest.mark.parametrize("confidence", [0.95, 0.5, 0.999])
def test_clopper_pearson_is_scipys(count: int, of: int, confidence: float) -> None:
    exact = binomtest(count, of).proportion_ci(confidence, method="exact")
    assert clopper_pearson(count, of, confidence) == pytest.approx((exact.low, exact.high), rel=1e-9, abs=1e-15)


def test_clopper_pearson_of_nothing_is_everything() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_expected_rates_follow_from_counts() -> None:
    expected = expected_at(Counts(positives=20, negatives=180, tp=15, fp=5))
    assert expected.precision is not None and expected.recall is not None and expected.fpr is not None
    assert (expected.precision.value, expected.recall.value) == (0.75, 0.75)
    assert (expected.fpr.value, expected.alert_rate.value) == (5 / 180, 0.1)
    exact = binomtest(20, 200).proportion_ci(method="exact")
    assert (expected.alert_rate.low, expected.alert_rate.high) == pytest.approx((exact.low, exact.high))
    one_class = expected_at(Counts(positives=0, negatives=10, tp=0, fp=1))
    assert one_class.recall is None and one_class.fpr is not None
    with pytest.raises(BadData, match="no rows"):
        expected_at(Counts(positives=0, negatives=0, tp=0, fp=0))


def test_probabilities_are_a_sigmoid_without_overflow() -> None:
    z = np.array([*np.linspace(-110, 110, 4001), 0, -0.0, 3.4e38, -3.4e38, np.inf, -np.inf], np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = probabilities(z)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expit(z.astype(np.float64)), rtol=3e-7, atol=1e-45)
    assert found.min() == 0 and found.max() == 1
    assert (np.diff(found[:4001]) >= 0).all()


def test_average_precision_of_a_perfect_ranking_is_1_for_any_number_of_positives() -> None:
    for positives in range(1, 400):  # steps of 1/58 sum to more than 1 in float64
        targets = np.array([1] * positives + [0], np.uint8)
        assert average_precision(exact_curve(np.arange(len(targets), 0, -1.0), targets)) <= 1


def test_curve_of_512_labels_worth_of_rows_is_exact_at_every_cut() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=2000).astype(np.float32).round(1)
    targets = rng.choice([0, 1, 255], 2000).astype(np.uint8)
    curve: Curve = exact_curve(scores, targets)
    assert [(int(t), int(f)) for t, f in zip(curve.tp, curve.fp, strict=True)] == [
        counts_at(scores, targets, cut) for cut in curve.cuts
    ]
