"""Curves, average precision, intervals and probabilities against brute force, scikit-learn and scipy."""

import math

import numpy as np
import pytest
from cutpoint.calibration import (
    Counts,
    Curve,
    ScoreHistogram,
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

QUICK = settings(deadline=None, max_examples=60, database=None)
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


@st.composite
def weighted(draw: st.DrawFn, weights: st.SearchStrategy[float], finite: bool = False) -> tuple[np.ndarray, ...]:
    scores, targets = draw(labelled(finite))
    return scores, targets, np.array(draw(st.lists(weights, min_size=len(scores), max_size=len(scores))), np.float64)


# Sums of quarters are exact in any order.
QUARTERS = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 3.0, 1000.0])


def counts_at(scores: np.ndarray, targets: np.ndarray, threshold: float) -> tuple[int, int]:
    alerts = scores >= np.float32(threshold)
    return int((alerts & (targets == 1)).sum()), int((alerts & (targets == 0)).sum())


def one_lower(x: float) -> float:
    """The next lower float32."""
    with np.errstate(over="ignore"):
        return float(np.nextafter(np.float32(x), np.float32(-np.inf)))


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


@QUICK
@given(labelled())
def test_the_lowest_threshold_alerts_on_the_same_rows_and_no_lower_one_does(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = data
    curve = exact_curve(scores, targets)
    for i, cut in enumerate(curve.cuts):
        lowest = curve.lowest_threshold(i)
        assert float(np.float32(lowest)) == lowest <= curve.threshold(i) <= cut
        assert counts_at(scores, targets, lowest) == (curve.tp[i], curve.fp[i])
        lower = scores[(targets != 255) & (scores < cut)]
        if len(lower) and (np.isfinite(lower.max()) or not np.isfinite(cut)):  # above -inf it keeps near the cut
            assert sum(counts_at(scores, targets, one_lower(lowest))) > curve.alerts[i]


@QUICK
@given(labelled(), st.one_of(st.floats(width=32, allow_nan=False), st.sampled_from(EXTREMES), st.integers(-4, 4)))
def test_any_threshold_alerts_on_the_rows_of_the_cut_it_is_at(data: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    scores, targets = data
    curve = exact_curve(scores, targets)
    beside = [float(x) for cut in curve.cuts for x in (cut, one_lower(cut), -one_lower(-cut))]
    for t in (threshold, *beside):
        at = curve.index_at(t)
        assert counts_at(scores, targets, t) == ((curve.tp[at], curve.fp[at]) if at >= 0 else (0, 0))
    for i in range(len(curve.cuts)):
        assert curve.index_at(curve.threshold(i)) == curve.index_at(curve.lowest_threshold(i)) == i


def test_a_threshold_below_the_lowest_score_alerts_on_it_where_floats_are_far_apart() -> None:
    largest = float(np.finfo(np.float32).max)
    for lowest in (1e8, -1e8, largest, -largest, -np.inf):  # less 1 they are the same float
        curve = exact_curve(np.array([lowest, np.inf], np.float32), np.array([1, 0]))
        assert curve.lowest_threshold(1) <= curve.threshold(1) == lowest
    curve = exact_curve(np.array([-1.0, np.nextafter(np.float32(-1), np.float32(0))], np.float32), np.array([1, 0]))
    assert curve.below[1] < curve.lowest_threshold(1) <= curve.threshold(1) == -1  # its gap above is half of that below it


def test_a_threshold_below_infinity_is_finite_where_a_finite_one_separates() -> None:
    for others in ([1e9], [-np.inf], [], [3.4e38], [-3.4e38]):
        scores = np.array([np.inf, *others], np.float32)
        curve = exact_curve(scores, np.ones(len(scores)))
        assert math.isfinite(curve.threshold(0))
        assert counts_at(scores, np.ones(len(scores)), curve.threshold(0)) == (1, 0)
    assert exact_curve(np.array([np.inf, np.finfo(np.float32).max], np.float32), np.ones(2)).threshold(0) == np.inf


def test_a_threshold_above_all_alerts_on_none() -> None:
    largest = float(np.finfo(np.float32).max)
    for top in (3.0, 0.0, -1e-45, 16777216.0, 1e9, largest, -largest, -1e9, np.inf):
        for weights in (None, np.ones(2)):
            curve = exact_curve(np.array([top, -np.inf], np.float32), np.ones(2), weights)
            threshold = curve.threshold(-1)
            assert float(np.float32(threshold)) == threshold and (threshold > top or top == np.inf)
            assert math.isfinite(threshold) == (top < largest)
            assert curve.counts_at(-1) == (0, 0) and curve.counts_at(1) == (2, 0)
    assert exact_curve(np.array([3.0]), np.array([1])).threshold(-1) == 3.5
    assert exact_curve(np.zeros(0), np.zeros(0)).threshold(-1) == np.inf


@QUICK
@given(labelled())
def test_a_binned_curve_is_that_of_a_histogram(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = data
    curve = exact_curve(scores, targets).binned(bits=1, limit=3)
    histogram = ScoreHistogram(["a"], bits=1, limit=3)
    histogram.update(scores[:, None], targets[:, None])
    counted = histogram.curve(0)
    for name in ("cuts", "tp", "fp", "below") if len(counted.cuts) else ("cuts",):
        np.testing.assert_array_equal(getattr(curve, name), getattr(counted, name), err_msg=name)
    assert (curve.positives, curve.negatives) == (counted.positives, counted.negatives)
    for i, cut in enumerate(curve.cuts):
        assert (curve.tp[i], curve.fp[i]) == counts_at(scores, targets, cut)


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
    given_ = (targets[known], scores[known].astype(np.float64))  # scikit-learn sums them, which overflows float32
    precision, recall, cuts = precision_recall_curve(*given_)
    np.testing.assert_array_equal(cuts[::-1], curve.cuts)
    np.testing.assert_allclose((curve.tp / (curve.tp + curve.fp))[::-1], precision[:-1])
    np.testing.assert_allclose((curve.tp / curve.positives)[::-1], recall[:-1])
    assert average_precision(curve) == pytest.approx(average_precision_score(*given_))


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


@QUICK
@given(weighted(QUARTERS))
def test_a_weighted_curve_sums_the_weights_of_what_every_cut_alerts_on(data: tuple[np.ndarray, ...]) -> None:
    scores, targets, weights = data
    curve = exact_curve(scores, targets, weights)
    counted = (targets != 255) & (weights > 0)
    assert curve.cuts.tolist() == sorted(set(scores[counted].tolist()), reverse=True)
    assert curve.effective is not None and (curve.tp.dtype, curve.fp.dtype) == (np.float64, np.float64)
    for i, cut in enumerate(curve.cuts):
        for t in (float(cut), curve.threshold(i), curve.lowest_threshold(i)):
            alerts = scores >= np.float32(t)
            assert (curve.tp[i], curve.fp[i]) == tuple(math.fsum(weights[alerts & (targets == c)]) for c in (1, 0))
    for total, number, c in ((curve.positives, curve.effective[0], 1), (curve.negatives, curve.effective[1], 0)):
        chosen = weights[targets == c].tolist()
        assert total == math.fsum(chosen)
        square = math.fsum(w * w for w in chosen)
        assert number == pytest.approx(math.fsum(chosen) ** 2 / square if square else 0.0)
        assert number <= sum(w > 0 for w in chosen) * (1 + 1e-12)


@QUICK
@given(weighted(st.integers(0, 4).map(float)))
def test_whole_weights_are_rows_repeated(data: tuple[np.ndarray, ...]) -> None:
    scores, targets, weights = data
    curve = exact_curve(scores, targets, weights)
    repeated = exact_curve(np.repeat(scores, weights.astype(int)), np.repeat(targets, weights.astype(int)))
    same_points(curve, repeated)
    assert (curve.positives, curve.negatives) == (repeated.positives, repeated.negatives)
    assert repeated.effective is None


@QUICK
@given(weighted(st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), finite=True))
def test_weighted_precision_and_recall_are_scikit_learns(data: tuple[np.ndarray, ...]) -> None:
    scores, targets, weights = data
    known = targets != 255
    if not ((targets == 1) & (weights > 0)).any():
        return
    curve = exact_curve(scores, targets, weights)
    given_ = (targets[known], scores[known].astype(np.float64))
    precision, recall, cuts = precision_recall_curve(*given_, sample_weight=weights[known])
    np.testing.assert_array_equal(cuts[::-1], curve.cuts)
    np.testing.assert_allclose((curve.tp / curve.alerts)[::-1], precision[:-1])
    np.testing.assert_allclose((curve.tp / curve.positives)[::-1], recall[:-1])
    expected = pytest.approx(average_precision_score(*given_, sample_weight=weights[known]))
    assert average_precision(curve) == expected
    assert average_precision(exact_curve(scores, targets, weights, cuts="positives")) == expected


@pytest.mark.parametrize(
    "weights",
    [np.array([1, -0.5]), np.array([1, np.nan]), np.array([np.inf, 1]), np.ones(3), np.ones((2, 1)), 1.0, ["a", "b"]],
)
def test_bad_weights_are_refused(weights: object) -> None:
    with pytest.raises(BadData, match="weights"):
        exact_curve(np.zeros(2), np.array([0, 1]), weights)  # type: ignore[arg-type]


def test_a_row_of_weight_0_is_left_out_whatever_its_score() -> None:
    curve = exact_curve(np.array([np.nan, 2, 1]), np.array([1, 1, 0]), np.array([0, 0.5, 2]))
    assert (curve.cuts.tolist(), curve.tp.tolist(), curve.fp.tolist()) == ([2, 1], [0.5, 0.5], [0, 2])
    with pytest.raises(BadData, match="NaN in 1 of 2"):
        exact_curve(np.array([np.nan, 2, 1]), np.array([1, 1, 255]), np.array([0.1, 0.5, 2]))
    for targets in (np.array([0, 1, 255]), None):
        nothing = exact_curve(np.zeros(3), targets, np.zeros(3))
        assert (len(nothing.cuts), nothing.rows, nothing.effective) == (0, 0, (0.0, 0.0))


def same_points(one: Curve, other: Curve) -> None:
    for name in ("cuts", "tp", "fp", "below"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


@QUICK
@given(weighted(QUARTERS), st.booleans())
def test_cuts_at_positives_are_those_of_the_whole_curve(data: tuple[np.ndarray, ...], with_weights: bool) -> None:
    scores, targets, weights = data
    each = weights if with_weights else None
    positive = (targets == 1) & ((weights > 0) | (not with_weights))
    whole, some = exact_curve(scores, targets, each), exact_curve(scores, targets, each, cuts="positives")
    assert some.cuts.tolist() == sorted(set(scores[positive].tolist()), reverse=True)
    same_points(some, whole.at_positives())
    same_points(some, some.at_positives())
    assert (some.positives, some.negatives, some.effective) == (whole.positives, whole.negatives, whole.effective)
    index = [whole.cuts.tolist().index(cut) for cut in some.cuts.tolist()]
    for i, j in enumerate(index):
        assert (some.tp[i], some.fp[i]) == (whole.tp[j], whole.fp[j])
        assert (some.threshold(i), some.lowest_threshold(i)) == (whole.threshold(j), whole.lowest_threshold(j))
    if whole.positives:
        assert average_precision(some) == pytest.approx(average_precision(whole))
    if not with_weights:
        for i, cut in enumerate(some.cuts):
            assert (some.tp[i], some.fp[i]) == counts_at(scores, targets, cut)


def test_cuts_at_positives_by_hand() -> None:
    scores, targets = np.array([9, 5, 5, 5, 3, 2, 2, 1.0]), np.array([0, 1, 0, 1, 0, 1, 0, 0])
    curve = exact_curve(scores, targets, cuts="positives")
    assert (curve.cuts.tolist(), curve.tp.tolist(), curve.fp.tolist()) == ([5, 2], [2, 3], [2, 4])
    assert [curve.threshold(i) for i in range(2)] == [4.0, 1.5]  # midway to the next score of any class
    assert len(exact_curve(scores, np.zeros(8), cuts="positives").cuts) == 0
    assert exact_curve(scores, np.zeros(8), cuts="positives").negatives == 8


@QUICK
@given(weighted(QUARTERS), st.booleans())
def test_rows_of_unknown_class_are_counted_as_they_alert(data: tuple[np.ndarray, ...], with_weights: bool) -> None:
    scores, _, weights = data
    curve = exact_curve(scores, None, weights if with_weights else None)
    each = weights if with_weights else np.ones(len(scores))
    assert not curve.labelled and exact_curve(scores, np.zeros(len(scores))).labelled
    assert curve.cuts.tolist() == sorted(set(scores[each > 0].tolist()), reverse=True)
    assert curve.fp.tolist() == curve.alerts.tolist() == [math.fsum(each[scores >= cut]) for cut in curve.cuts]
    assert not curve.tp.any() and len(curve.tp) == len(curve.cuts)
    assert (curve.positives, curve.negatives, curve.rows) == (0, each.sum(), each.sum())
    assert len(exact_curve(scores, None, cuts="positives").cuts) == len(curve.at_positives().cuts) == 0
